"""The releases of jax with known faults on a CPU. pyproject.toml leaves them out; the changelog has the evidence."""

_HANGS = "QR batched by vmap, as in flax's orthogonal initializer, hangs for good on a CPU"

WRONG_RELEASES = {
    "0.10.0": _HANGS,
    "0.10.1": _HANGS,
    "0.10.2": f"{_HANGS}; and sums of matrix @ row under vmap are wrong from 32,769 rows on (jax#39103)",
    "0.11.0": _HANGS,
    "0.11.1": "a scan with stacked outputs takes time quadratic in its length on a CPU (jax#40101)",
}

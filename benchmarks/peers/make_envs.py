"""A virtual environment for each peer, from the package index.

    python3.12 benchmarks/peers/make_envs.py FOLDER [purejaxrl rejax sb3 sbx]

Makes FOLDER/purejaxrl and so on. Needs Python 3.12 or later, for which there is the release of jax that all are
compared on. PureJaxRL is no package: clone it, and give its path to benchmarks/peers.py.
"""

import argparse
import subprocess
import sys
import venv
from pathlib import Path

_JAX = "jax==0.11.2"
_OLD_GYMNAX = "gymnax==0.0.9"  # its step returns five values

REQUIREMENTS = {
    "purejaxrl": (_JAX, _OLD_GYMNAX, "flax==0.12.12", "optax==0.2.8", "distrax==0.1.9"),
    "rejax": (_JAX, _OLD_GYMNAX, "rejax==0.1.3", "flax==0.12.12", "optax==0.2.8"),
    "sb3": ("stable-baselines3==2.9.2", "torch", "gymnasium==1.4.0", "mujoco", "imageio", "packaging"),
    "sbx": (_JAX, "sbx-rl==0.28.0", "stable-baselines3==2.9.2", "torch", "gymnasium==1.4.0"),
}


def interpreter(folder: Path, name: str) -> Path:
    """Of a peer's environment."""
    return folder / name / "bin" / "python"


def make_env(folder: Path, name: str) -> None:
    """Makes the environment of a peer anew. Raises CalledProcessError where a requirement cannot be installed."""
    venv.create(folder / name, with_pip=True, clear=True)
    command = [str(interpreter(folder, name)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, *REQUIREMENTS[name]], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"{', '.join(REQUIREMENTS)} (default all)")
    options = parser.parse_args()
    for name in options.peers:
        if name not in REQUIREMENTS:
            parser.error(f"{name!r} is no peer; take from {', '.join(REQUIREMENTS)}")
    if sys.version_info < (3, 12):
        parser.error(f"Python {sys.version.split()[0]} has no {_JAX}; run this with 3.12 or later")
    for name in options.peers or REQUIREMENTS:
        make_env(options.folder, name)
        print(f"{name}: {interpreter(options.folder, name)}", flush=True)


if __name__ == "__main__":
    main()

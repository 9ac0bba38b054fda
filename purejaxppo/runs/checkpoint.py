"""A pytree on disk: its leaves in one .npz, and a manifest with the shape, dtype and checksum of each."""

import hashlib
import io
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.types import PPOError, PyTree


def save_tree(folder: Path, tree: PyTree) -> None:
    """Writes `tree` to the new folder `folder`, which appears whole or not at all."""
    leaves = {name: _to_numpy(leaf) for name, leaf in _named_leaves(tree)}
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        np.savez(temporary / "leaves.npz", allow_pickle=False, **leaves)
        manifest = {name: _entry(leaf) for name, leaf in leaves.items()}
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1))
        for path in (*temporary.iterdir(), temporary):
            _to_disk(path)
        os.chmod(temporary, 0o755)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def load_tree(folder: Path, like: PyTree) -> PyTree:
    """The tree of `folder`, in the structure, shapes and dtypes of `like` (arrays or ShapeDtypeStructs).

    Raises PPOError where the folder cannot be read, a checksum does not fit, or a leaf is not as in `like`.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        content = io.BytesIO((folder / "leaves.npz").read_bytes())
        with np.load(content, allow_pickle=False) as file:
            leaves = {name: file[name] for name in file.files}
    except Exception as error:  # whatever a damaged zip or JSON file makes its reader raise
        raise PPOError(f"checkpoint {str(folder)!r} cannot be read: {error}") from error
    wanted = list(_named_leaves(like))
    names = {name for name, _ in wanted}
    if names != set(leaves) or names != set(manifest):
        differing = sorted((names ^ set(leaves)) | (names ^ set(manifest)))
        raise PPOError(f"checkpoint {str(folder)!r} holds another state: {differing[0]} is only on one side")
    for name, leaf in leaves.items():
        if _entry(leaf) != manifest[name]:
            raise PPOError(f"checkpoint {str(folder)!r} is damaged: {name} does not fit its checksum")
    return jax.tree.unflatten(
        jax.tree.structure(like), [_from_numpy(folder, name, leaves[name], leaf) for name, leaf in wanted]
    )


def _named_leaves(tree: PyTree) -> list[tuple[str, Any]]:
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_numpy(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _from_numpy(folder: Path, name: str, stored: np.ndarray, like: Any) -> jax.Array:
    leaf = jax.random.wrap_key_data(jnp.asarray(stored)) if _is_key(like) else jnp.asarray(stored)
    if (leaf.shape, leaf.dtype) != (like.shape, like.dtype):
        raise PPOError(
            f"checkpoint {str(folder)!r}: {name} is {leaf.dtype}{list(leaf.shape)}, "
            f"and {like.dtype}{list(like.shape)} is wanted; the config is another one"
        )
    return leaf


def _entry(leaf: np.ndarray) -> dict[str, Any]:
    digest = hashlib.sha256(np.ascontiguousarray(leaf).tobytes()).hexdigest()
    return {"shape": list(leaf.shape), "dtype": str(leaf.dtype), "sha256": digest}


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""Files and pytrees on disk: each appears whole or not at all, and each leaf of a pytree has a checksum."""

import hashlib
import io
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.types import PPOError, PyTree


def as_path(name: str, value: Any) -> Path:
    """The path that the argument `name` gives. Raises PPOError where it is none."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value) or "\0" in str(value):
        raise PPOError(f"{name} = {value!r} is no path; give that of a folder")
    return Path(value)


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Calls `write` with a file beside `path`, and puts it in place when it is complete and on the disk."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def write_json(path: Path, content: dict[str, Any]) -> None:
    """A number that is not finite is written as null: JSON has none."""
    text = json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def read_json(path: Path) -> dict[str, Any]:
    """Raises PPOError for a file that is not there, no JSON, or holds no names and values."""
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise PPOError(f"{path} cannot be read: {error.strerror}; is {str(path.parent)!r} a finished run?") from None
    except (ValueError, RecursionError) as error:
        raise PPOError(f"{path} is no JSON: {error}; write the file anew, or take another folder") from None
    if not isinstance(content, dict):
        raise PPOError(f"{path} holds a {type(content).__name__}, and no names and values; take another folder")
    return content


def save_tree(folder: Path, tree: PyTree) -> None:
    """Writes `tree` to the new folder `folder`: its leaves in one .npz, and a manifest with what each has to be.

    The folder appears whole or not at all.
    """
    leaves = {name: np.asarray(leaf) for name, leaf in _named_leaves(to_host(tree))}
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
    manifest, leaves = _read(folder, None)
    wanted = list(_named_leaves(like))
    names = {name for name, _ in wanted}
    if names != set(leaves) or names != set(manifest):
        differing = sorted((names ^ set(leaves)) | (names ^ set(manifest)))
        raise PPOError(f"checkpoint {str(folder)!r} holds another state: {differing[0]} is only on one side")
    for name in leaves:
        _check_entry(folder, name, leaves, manifest)
    return jax.tree.unflatten(
        jax.tree.structure(like), [_from_numpy(folder, name, leaves[name], leaf) for name, leaf in wanted]
    )


def load_leaf(folder: Path, name: str) -> np.ndarray:
    """One leaf of the tree of `folder`, without the others. Raises PPOError as `load_tree` does."""
    manifest, leaves = _read(folder, name)
    if name not in leaves or name not in manifest:
        raise PPOError(f"checkpoint {str(folder)!r} holds no {name}")
    _check_entry(folder, name, leaves, manifest)
    return leaves[name]


def to_host(tree: PyTree) -> PyTree:
    """NumPy arrays in the place of arrays, and the data of keys in that of typed keys."""
    return jax.tree.map(lambda x: np.asarray(jax.random.key_data(x) if is_key(x) else x), tree)


def is_key(leaf: Any) -> bool:
    """Whether a leaf is of typed keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _read(folder: Path, only: str | None) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        manifest = read_json(folder / "manifest.json")
        path = folder / "leaves.npz"
        # Read at once: a zip file that is damaged where nobody looks must not pass for a good one.
        with np.load(io.BytesIO(path.read_bytes()) if only is None else path, allow_pickle=False) as file:
            return manifest, {name: file[name] for name in file.files if only in (None, name)}
    except Exception as error:  # whatever a damaged zip or JSON file makes its reader raise
        raise PPOError(f"checkpoint {str(folder)!r} cannot be read: {error}") from error


def _check_entry(folder: Path, name: str, leaves: dict[str, np.ndarray], manifest: dict[str, Any]) -> None:
    if _entry(leaves[name]) != manifest[name]:
        raise PPOError(f"checkpoint {str(folder)!r} is damaged: {name} does not fit its checksum")


def _named_leaves(tree: PyTree) -> list[tuple[str, Any]]:
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _from_numpy(folder: Path, name: str, stored: np.ndarray, like: Any) -> jax.Array:
    leaf = jax.random.wrap_key_data(jnp.asarray(stored)) if is_key(like) else jnp.asarray(stored)
    if (leaf.shape, leaf.dtype) != (like.shape, like.dtype):
        raise PPOError(
            f"checkpoint {str(folder)!r}: {name} is {leaf.dtype}{list(leaf.shape)}, "
            f"and {like.dtype}{list(like.shape)} is wanted; the config is another one"
        )
    return leaf


def _entry(leaf: np.ndarray) -> dict[str, Any]:
    digest = hashlib.sha256(np.ascontiguousarray(leaf).data).hexdigest()
    return {"shape": list(leaf.shape), "dtype": str(leaf.dtype), "sha256": digest}


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _finite(x: Any) -> Any:
    if isinstance(x, dict):
        return {key: _finite(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [_finite(value) for value in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x

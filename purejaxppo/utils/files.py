"""Files and pytrees on disk. Each appears whole or not at all, and each leaf of a pytree has a checksum."""

import contextlib
import hashlib
import io
import json
import math
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.utils.errors import NotWritten, PPOError
from purejaxppo.utils.tree import PyTree

ABSENT = "not installed"
LEAVES, MANIFEST = "leaves.npz", "manifest.json"
# How leaves end that earlier versions did not write, and what they count as.
ADDED = {
    ".episode.return_low": 0,
    ".mean_low": 0,
    ".episode.last_return": 0,
    ".episode.has_finished": 0,  # an environment has finished no episode that we know of
    ".last_return_mean": math.nan,
}
_VERSIONS_OF = ("purejaxppo", "jax", "jaxlib", "flax", "optax", "gymnax", "numpy")
_VERSIONS_OF_EXTRAS = ("brax", "mujoco", "jumanji", "craftax", "xminigrid", "navix", "pgx", "playground")


def as_path(name: str, value: Any) -> Path:
    """The argument `name` as a Path. Raises PPOError if it is not a path."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value) or "\0" in str(value):
        raise PPOError(f"{name} = {value!r} is not a path; give that of a folder")
    return Path(value)


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Calls `write` with a file beside `path`, and puts it in place when it is complete and on the disk.

    Raises NotWritten where the disk or the folder does not take it; what was at `path` is then still there.
    """
    with written_or_said(path):
        drop_abandoned(path)
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


@contextlib.contextmanager
def written_or_said(path: Path) -> Iterator[None]:
    """Raises NotWritten instead of an OSError, and instead of the errors that one causes in a writer of zip files."""
    try:
        yield
    except Exception as error:
        reason: BaseException | None = error
        while reason is not None and not isinstance(reason, OSError):
            reason = reason.__context__
        if reason is None or isinstance(error, PPOError):
            raise
        raise NotWritten(
            f"{path} could not be written: {reason.strerror or reason}; make room for it, set its permissions, or "
            "choose another folder; what was written before is kept"
        ) from error


def make_folder(folder: Path) -> None:
    """Creates a folder and its parents if they do not exist. Raises NotWritten if that fails."""
    with written_or_said(folder):
        folder.mkdir(parents=True, exist_ok=True)


def drop_abandoned(path: Path) -> None:
    """Removes half-written files that a killed process left beside `path`. One process writes there at a time."""
    for entry in path.parent.iterdir():
        if entry.name.startswith(f".{path.name}."):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file. A number that is not finite is written as null."""
    text = json.dumps(finite(content), indent=2, allow_nan=False) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object. Raises PPOError if the file is missing, is not JSON or holds something else."""
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise PPOError(f"{path} cannot be read: {error.strerror}; is {str(path.parent)!r} a finished run?") from None
    except (ValueError, RecursionError) as error:
        raise PPOError(f"{path} is not JSON: {error}; write the file anew, or take another folder") from None
    if not isinstance(content, dict):
        raise PPOError(f"{path} holds a {type(content).__name__} instead of names and values; take another folder")
    return content


def save_tree(folder: Path, tree: PyTree, about: Mapping[str, Any] | None = None) -> None:
    """Writes a pytree to a new folder: its leaves in one .npz, and a manifest with their shapes and checksums.

    about: identifies what the tree belongs to, in JSON; it goes into the manifest. The folder appears whole or not at
    all. Raises NotWritten if the disk or the folder does not accept it.
    """
    leaves = {name: np.asarray(leaf) for name, leaf in _named_leaves(to_host(tree))}
    with written_or_said(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        drop_abandoned(folder)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            np.savez(temporary / LEAVES, allow_pickle=False, **leaves)
            (temporary / MANIFEST).write_text(json.dumps(make_manifest(leaves, about or {}), indent=1))
            for path in (*temporary.iterdir(), temporary):
                _to_disk(path)
            os.chmod(temporary, 0o755)
            os.replace(temporary, folder)
            _to_disk(folder.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def load_tree(
    folder: Path,
    like: PyTree,
    about: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
    on_host: bool = False,
) -> PyTree:
    """Reads a pytree in the structure, shapes and dtypes of `like` (arrays or ShapeDtypeStructs).

    defaults: values of the names that the folder's dicts in `about` lack; on_host: arrays of NumPy, except for keys
    A leaf that an earlier version did not write has its value in `ADDED`.
    Raises PPOError if the folder cannot be read, a checksum does not fit, or a leaf or `about` differs.
    """
    manifest, leaves = _read(folder, None, about, defaults)
    wanted = dict(_named_leaves(like))
    for name in wanted.keys() - manifest["leaves"].keys() - leaves.keys():
        if (value := added(name)) is not None:
            leaves[name] = np.full(wanted[name].shape, value, wanted[name].dtype)
    if differing := sorted(wanted.keys() ^ leaves.keys()):
        raise PPOError(
            f"checkpoint {str(folder)!r} holds another state: {differing[0]} is only on one side; "
            "another version of purejaxppo or another config has written it"
        )
    restored = []
    for name, leaf in wanted.items():
        stored = leaves[name] if on_host else jnp.asarray(leaves[name])
        restored.append(stored := as_key(stored, leaf) if is_key(leaf) else stored)
        if (stored.shape, stored.dtype) != (leaf.shape, leaf.dtype):
            raise PPOError(
                f"checkpoint {str(folder)!r}: {name} is {stored.dtype}{list(stored.shape)}, "
                f"and {leaf.dtype}{list(leaf.shape)} is wanted; the config is another one"
            )
    return jax.tree.unflatten(jax.tree.structure(like), restored)


def load_leaf(
    folder: Path,
    name: str,
    about: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
) -> np.ndarray:
    """Reads one leaf of a pytree without the others. Raises PPOError as `load_tree` does."""
    leaves = _read(folder, name, about, defaults)[1]
    if name not in leaves:
        raise PPOError(f"checkpoint {str(folder)!r} does not hold {name}")
    return leaves[name]


def added(name: str) -> float | None:
    """The value of a leaf that an earlier version did not write; None for one that every version has written."""
    return next((value for end, value in ADDED.items() if name.endswith(end)), None)


def check_tree(folder: Path) -> None:
    """Raises PPOError if a pytree on disk cannot be read, or a checksum does not fit."""
    _read(folder, None)


def leaf_names(folder: Path) -> list[str]:
    """The names of the leaves of a pytree on disk. Raises PPOError if its manifest cannot be read."""
    with _readable(folder):
        return list(_read_manifest(folder)["leaves"])


def leaf_shape(folder: Path, name: str) -> tuple[int, ...]:
    """The shape of one leaf of a pytree on disk. Raises PPOError if its manifest cannot be read or lacks the leaf."""
    with _readable(folder):
        return tuple(_read_manifest(folder)["leaves"][name]["shape"])


def completed(about: Mapping[str, Any], defaults: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`about` of an older folder, with the defaults of names that its dicts lack."""
    filled = {name: {**values, **about[name]} for name, values in defaults.items() if isinstance(about.get(name), dict)}
    return {**about, **filled}


def make_manifest(leaves: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> dict[str, Any]:
    """The shapes and checksums of the leaves, what they belong to, the versions, and a checksum of all of that."""
    content = {
        "about": dict(about),
        "versions": versions(),
        "leaves": {name: _entry(leaf) for name, leaf in leaves.items()},
    }
    return {"sha256": _digest_of(content), **content}


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that a file is written with."""
    found = {"python": platform.python_version()} | dict.fromkeys(_VERSIONS_OF, ABSENT)
    for name in (*_VERSIONS_OF, *_VERSIONS_OF_EXTRAS):
        with contextlib.suppress(metadata.PackageNotFoundError):  # as in a checkout that is not installed
            found[name] = metadata.version(name)
    return found


def to_host(tree: PyTree) -> PyTree:
    """The pytree with NumPy arrays for its arrays, and the key data for its typed keys."""
    return jax.tree.map(lambda x: np.asarray(jax.random.key_data(x) if is_key(x) else x), tree)


def is_key(leaf: Any) -> bool:
    """True for an array of typed keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def plain(value: Any) -> Any:
    """A hyperparameter as JSON gives it back: an array without axes is a number, and a list a tuple."""
    if isinstance(value, np.generic | np.ndarray | jax.Array) and np.ndim(value) == 0 and not is_key(value):
        return value.item()
    return tuple(map(plain, value)) if isinstance(value, tuple | list) else value


def as_key(data: Any, like: Any) -> jax.Array:
    """Typed keys from their data, for the generator of `like`: keys, or their ShapeDtypeStruct."""
    generators: list[Any] = []
    jax.eval_shape(lambda key: generators.append(jax.random.key_impl(key)), like)
    return jax.random.wrap_key_data(jnp.asarray(data), impl=generators[0])


def bytes_of(array: np.ndarray) -> memoryview:
    """The bytes of an array; also of bfloat16, which NumPy itself does not know."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _read(
    folder: Path,
    only: str | None,
    about: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Reads the manifest and all leaves, or only the one with that name, and checks them against it."""
    with _readable(folder):
        manifest = _read_manifest(folder)
        path, entries = folder / LEAVES, manifest["leaves"]
        # Read at once: a zip file that is damaged where nobody looks must not pass for a good one.
        with np.load(io.BytesIO(path.read_bytes()) if only is None else path, allow_pickle=False) as file:
            leaves = {name: typed(file[name], entries.get(name)) for name in file.files if only in (None, name)}
    held = completed(manifest["about"], defaults or {})
    for name, value in (about or {}).items():
        known = held.get(name)
        if isinstance(value, dict) and isinstance(known, dict):
            known = {each: known[each] for each in value if each in known}  # what is not asked for may be anything
        if known != value:
            raise PPOError(
                f"checkpoint {str(folder)!r} is of another run: its {name} is {held.get(name)}, "
                f"and {value} is wanted; it does not belong here"
            )
    for name in entries if only is None else leaves:
        if name not in leaves:
            raise PPOError(f"checkpoint {str(folder)!r} is damaged: {name} is missing")
        if _entry(leaves[name]) != entries.get(name):
            raise PPOError(f"checkpoint {str(folder)!r} is damaged: {name} does not fit its checksum")
    return manifest, leaves


def _read_manifest(folder: Path) -> dict[str, Any]:
    manifest = read_json(folder / MANIFEST)
    if manifest.pop("sha256") != _digest_of(manifest):
        raise ValueError(f"{MANIFEST} does not fit its checksum")
    return manifest


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Raises PPOError instead of whatever a damaged zip or JSON file makes its reader raise."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PPOError(f"checkpoint {str(folder)!r} cannot be read: {reason}") from error


def _digest_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _named_leaves(tree: PyTree) -> list[tuple[str, Any]]:
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _entry(leaf: np.ndarray) -> dict[str, Any]:
    digest = hashlib.sha256(bytes_of(leaf)).hexdigest()
    return {"shape": list(leaf.shape), "dtype": str(leaf.dtype), "sha256": digest}


def typed(stored: np.ndarray, entry: Mapping[str, Any] | None) -> np.ndarray:
    """An array as it was saved: NumPy reads those of a type that it does not know, such as bfloat16, as bytes."""
    return stored.view(entry["dtype"]) if stored.dtype.kind == "V" and entry is not None else stored


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def finite(x: Any) -> Any:
    """A value that JSON can hold: None replaces each number that is not finite."""
    if isinstance(x, dict):
        return {key: finite(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [finite(value) for value in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x

"""Imports the user's code by name: `module:name` or `path/to/file.py:name`."""

import ast
import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from purejaxppo.envs import names_own_code, register_env
from purejaxppo.utils.devices import use_all_cores
from purejaxppo.utils.errors import PPOError, in_one_line
from purejaxppo.utils.suggest import unknown


def bring_env(text: str | None) -> None:
    """Registers the user's environment under the text that names it. Ignores any other text.

    This is the only place that imports the user's environment, and only from the command line: a run folder never does.
    """
    if text is not None and (names_own_code(text) or text.endswith(".py")):
        use_all_cores()  # before the module starts JAX
        register_env(text, make_own_env(find_own("env", text)))


def make_own_env(found: Any) -> Any:
    """An environment, or the one that its factory returns. Raises PPOError if the factory raises."""
    if not is_factory(found, ("reset", "step")):
        return found
    try:
        return found()
    except PPOError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise PPOError(f"{found.__name__}() raises {in_one_line(error)}") from error


def find_own(what: str, text: str) -> Any:
    """The object that `text` names. Searches the working folder for modules too. Raises PPOError if it is missing."""
    place, colon, name = text.rpartition(":")
    if not colon:
        if text.endswith(".py"):
            raise PPOError(needs_name(what, text))
        raise PPOError(f"{what} {text!r} has no colon; give module:factory or file.py:factory")
    module = _import(what, place)
    if not hasattr(module, name):
        known = [other for other in vars(module) if not other.startswith("_")]
        raise PPOError(unknown(f"{what} in {place}", name, known or ["nothing: it is empty"]))
    return getattr(module, name)


def needs_name(what: str, path: str) -> str:
    """The line that refuses a file given without a name, and lists the names that it defines. Imports nothing."""
    try:
        body = ast.parse(Path(path).read_bytes()).body
    except OSError as error:
        return (
            f"{what} {path!r} cannot be read: {error.strerror}; give {path}:NAME, the path of a file and a name in it"
        )
    except (SyntaxError, ValueError):
        body = []
    defined = [node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    public = [name for name in defined if not name.startswith("_")]
    found = f", such as {' or '.join(f'{path}:{name}' for name in public[:4])}" if public else ""
    return f"{what} {path!r} is a file; name what is in it as {path}:NAME{found}"


def _import(what: str, place: str) -> ModuleType:
    """Imports a module by name or file. Raises PPOError if it does not exist, or raises on import."""
    is_file = place.endswith(".py")
    if is_file and not Path(place).is_file():
        raise PPOError(f"{what}: there is no file {place!r}")
    folder = str(Path(place).absolute().parent if is_file else Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return _import_file(Path(place).absolute()) if is_file else importlib.import_module(place)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise PPOError(f"{what}: {place!r} cannot be imported: {in_one_line(error)}") from error


def _import_file(path: Path) -> ModuleType:
    """Imports a file, unless it is imported already."""
    name = module_name(str(path))
    if name not in sys.modules:
        spec: Any = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[name])
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def module_name(place: str) -> str:
    """The name in `sys.modules` of a module, or of a FILE.py: its own name, unless that is another module's."""
    path = Path(place)
    if path.suffix != ".py":
        return place
    if path.is_file() and ("." in path.stem or is_another(sys.modules.get(path.stem), path)):
        return f"{path.stem.replace('.', '_')}_{hashlib.sha256(bytes(path.resolve())).hexdigest()[:8]}"
    return path.stem


def is_another(module: ModuleType | None, path: Path) -> bool:
    """True for a module that was not imported from this file."""
    if module is None:
        return False
    source = getattr(module, "__file__", None)
    return source is None or Path(source).resolve() != path.resolve()


def is_factory(thing: Any, methods: tuple[str, ...]) -> bool:
    """True for something to call first: it is callable, and does not have these methods itself."""
    return callable(thing) and (isinstance(thing, type) or not all(hasattr(thing, name) for name in methods))

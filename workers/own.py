"""One's own: a model, a data set or a loss of the user's, in the place of one of ours.

    package.module:attribute    imported, from a folder of `path` if it is found nowhere else
    pickle:DIGEST               what no import gives (from a script, a notebook): a file in a folder of `path`, that of
                                the run, and in this process what was handed over

A user's folder goes last on the import path. Our packages have common names (ps, workers, cluster); a user's folders of
these names are put behind ours, so that `workers.mine` is found in theirs and `workers.models` stays ours.

A pickle is code: it is read from the run's own directory and from nowhere else.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
import traceback
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

from ps.errors import BadInput, nearest

PICKLE = "pickle"
SUFFIX = ".pickle"
PACKAGES = ("ps", "workers", "cluster", "distbelief")

_kept: dict[str, tuple[object, bytes]] = {}  # what this process was handed over, by name


def is_own(name: str) -> bool:
    """Whether a setting names something of the user's."""
    return ":" in name


def is_pickle(name: str) -> bool:
    return name.startswith(f"{PICKLE}:")


def called(name: str) -> str:
    """A setting's value as a person reads it: what no import gives has no name but a digest."""
    return "one of your own" if is_pickle(name) else name


def resolve(key: str, name: str, path: str) -> Any:
    """The object that a setting names.

    Args:
        key: The setting, for messages.
        name: As at the head of this file.
        path: Folders to find it in, as in $PATH; none for the current one.

    Raises:
        BadInput: It cannot be had; one line that says why.
    """
    module, _, attribute = name.partition(":")
    if is_pickle(name):
        return _kept[name][0] if name in _kept else _unpickled(key, attribute + SUFFIX, path)
    for folder in folders(path) or [os.getcwd()]:
        reach(folder)
    try:
        found: Any = import_module(module)
    except Exception as error:
        raise BadInput(f"{key}: got {name}, {_why(error, module, path)}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            where = getattr(found, "__file__", module)
            raise BadInput(f"{key}: got {name}, expected {part!r} in {where}{nearest(part, dir(found))}")
        found = getattr(found, part)
    return found


def folders(path: str) -> list[str]:
    """The folders in a path."""
    return [folder for folder in path.split(os.pathsep) if folder]


def joined(*paths: str) -> str:
    """One path of several, every folder once."""
    return os.pathsep.join(dict.fromkeys(folder for path in paths for folder in folders(path)))


def reach(folder: str) -> None:
    """Let the modules in this folder be imported, after everything else that can be."""
    if folder not in sys.path:
        sys.path.append(folder)
    for name in PACKAGES:
        package, theirs = sys.modules.get(name), os.path.join(folder, name)
        if package is not None and os.path.isdir(theirs) and not _holds(package, theirs):
            package.__path__.append(theirs)


def named(thing: Any, path: str) -> tuple[str, str]:
    """Name and path for an object that a program hands over.

    Args:
        thing: What `resolve` shall give elsewhere.
        path: Folder of the program, whose modules its pickle may need.

    Raises:
        BadInput: It can be neither imported nor pickled.
    """
    module, attribute = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if module and attribute and module != "__main__" and "<" not in attribute:
        found: Any = sys.modules.get(module)
        for part in attribute.split("."):
            found = getattr(found, part, None)
        if found is thing:
            return f"{module}:{attribute}", home(module)
    try:
        data = pickle.dumps((path, cloudpickle.dumps(thing)))
    except Exception as error:
        raise BadInput(
            f"got {type(thing).__name__} that cannot be sent to the workers ({type(error).__name__}: {error}), "
            "expected one that can be pickled, or a function in a module that makes it"
        ) from error
    name = f"{PICKLE}:{_digest(data)}"
    _kept[name] = (thing, data)
    return name, path


def pickled(name: str) -> tuple[str, bytes] | None:
    """File name and content of an object that was handed over to this process; None for others."""
    return (name.partition(":")[2] + SUFFIX, _kept[name][1]) if name in _kept else None


def home(module: str) -> str:
    """The folder that an imported module is found in."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return ""
    package = Path(file).name == "__init__.py"
    return str(Path(file).absolute().parents[module.count(".") + package])


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _holds(package: ModuleType, folder: str) -> bool:
    return os.path.realpath(folder) in {os.path.realpath(place) for place in package.__path__}


def _why(error: Exception, module: str, path: str) -> str:
    """Why a module cannot be imported."""
    if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
        taken = module.split(".")[0] in PACKAGES
        rename = f"; {module.split('.')[0]} is also ours: a module of yours in it needs a name that ours lacks"
        return f"expected a module {error.name} in {path or os.getcwd()} or installed{rename if taken else ''}"
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{place.filename}, line {place.lineno}"
    if isinstance(error, SyntaxError):
        where = f"{error.filename}, line {error.lineno}"
    return f"whose import raised {type(error).__name__}: {error} ({where})"


def _unpickled(key: str, file_name: str, path: str) -> Any:
    places = [Path(folder) / file_name for folder in folders(path)] or [Path(file_name)]
    file = next((place for place in places if place.exists()), places[-1])
    try:
        content = file.read_bytes()
    except OSError as error:
        raise BadInput(
            f"{key}: cannot read {file}: {error.strerror}; it belongs to the run whose config.toml names it"
        ) from error
    if _digest(content) + SUFFIX != file_name:
        raise BadInput(f"{key}: {file} is not what its name says; expected the file that the run was started with")
    try:
        program, data = pickle.loads(content)
        reach(program)
        return pickle.loads(data)
    except Exception as error:
        raise BadInput(f"{key}: cannot unpickle {file}: {type(error).__name__}: {error}") from error

"""What you run: commands, configuration and presets, launching, evaluation and reports.

import distbelief
summary = distbelief.launch({"cluster.workers": 32})
"""

from __future__ import annotations

import sys
import time  # noqa: TID251 -- when a person asked for what runs
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distbelief.config import Config
    from distbelief.launcher import launch

__all__ = ["Config", "launch"]

# When this program began, seconds since 1970. Its process may be older: a shell gives its own to the last command.
BEGAN = time.time() - time.process_time()

_HOMES = {"Config": "distbelief.config", "launch": "distbelief.launcher"}


def _claim(name: str) -> None:
    """Make this name ours, whatever else is called so: a user's folder `workers` beside the program that imports us
    comes before ours on the import path. What it holds is found all the same, behind ours.
    """
    ours = Path(__file__).parent.with_name(name)
    package = sys.modules.get(name)
    if package is None:
        found = spec_from_file_location(name, ours / "__init__.py", submodule_search_locations=[str(ours)])
        assert found is not None
        assert found.loader is not None
        package = sys.modules[name] = module_from_spec(found)
        found.loader.exec_module(package)
    if not hasattr(package, "__path__"):
        where = getattr(package, "__file__", "elsewhere")
        raise ImportError(f"distbelief: the name {name} is taken by {where}; import distbelief before it")
    behind = [Path(folder or ".").absolute() / name for folder in sys.path]
    theirs = [*package.__path__, *(str(place) for place in behind if place.is_dir())]
    package.__path__ = [str(ours), *(place for place in dict.fromkeys(theirs) if place != str(ours))]


for _name in ("ps", "workers", "cluster"):
    _claim(_name)


def __getattr__(name: str) -> Any:
    """Import on first use, so that `distbelief --help` and machines without Ray load neither torch nor Ray."""
    if name not in _HOMES:
        raise AttributeError(f"module 'distbelief' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)

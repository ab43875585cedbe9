"""What you run: commands, configuration and presets, launching, evaluation and reports.

import distbelief
summary = distbelief.launch(distbelief.Config.of({"run.preset": "digits", "cluster.workers": 32}))
"""

from __future__ import annotations

import time  # noqa: TID251 -- when a person asked for what runs
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distbelief.config import Config
    from distbelief.launcher import launch

__all__ = ["Config", "launch"]

# When this program began, seconds since 1970. Its process may be older: a shell gives its own to the last command.
BEGAN = time.time() - time.process_time()

_HOMES = {"Config": "distbelief.config", "launch": "distbelief.launcher"}


def __getattr__(name: str) -> Any:
    """Import on first use, so that `distbelief --help` and machines without Ray load neither torch nor Ray."""
    if name not in _HOMES:
        raise AttributeError(f"module 'distbelief' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)

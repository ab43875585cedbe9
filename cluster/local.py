"""A Ray of the run's own, on this machine: what has to be settled before Ray is imported, and cleaned up after its
last process is gone.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.reaper import Reaper

# What such a Ray must not do: report usage, gather metrics that nobody reads, let everything else go before the run.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_worker_niceness": "0",
    "GRPC_VERBOSITY": "ERROR",
}


@contextmanager
def private_ray() -> Iterator[Path]:
    """The temporary directory of a Ray that this process is about to start; it and all its processes are gone
    afterwards, however this ends.

    Ray listens on all interfaces, so it gets a token that nobody else knows. It reads that setting once, when it is
    imported: a program that imported it before goes on with the setting it had.
    """
    settings = dict(_QUIET)
    if "ray" not in sys.modules:
        settings |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    earlier = {name: os.environ.get(name) for name in settings}
    with Reaper() as reaper:
        os.environ.update(settings)
        try:
            yield reaper.folder
        finally:
            for name, value in earlier.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

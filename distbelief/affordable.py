"""Affordable: the policy's momentum per worker is a vector per worker. Where memory is too small for that, the run goes
without, and its person is told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cluster.spec import RunSpec
from distbelief import memory
from distbelief.config import Config
from distbelief.draft import Draft


def affordable(config: Config, drafted: Draft, needed_bytes: Callable[[RunSpec], int]) -> tuple[Config, Draft]:
    """Both as they are; or without a momentum per worker, if this was the policy's choice and does not fit.

    Args:
        needed_bytes: What a run takes on this machine.
    """
    without = config.without_vectors_per_worker()
    if without is config:
        return config, drafted
    needed, available = needed_bytes(drafted.spec), memory.available_bytes()
    if needed <= available:
        return config, drafted
    note = (
        f"a momentum for each of {config.cluster.workers} workers would need about {needed / 2**30:.1f} GiB, "
        f"{available / 2**30:.1f} GiB are free: the run has one for all, as with --correction none"
    )
    spec = replace(drafted.spec, correction=without.correction, schedule=without.schedule, rule=without.rule)
    return without, replace(drafted, spec=spec, notes=(*drafted.notes, note))

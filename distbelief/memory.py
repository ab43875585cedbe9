"""Memory: what a run will take, and whether this machine has it, before anything is started."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil

from cluster.spec import RunSpec
from cluster.vectors import shareable
from ps.errors import BadInput
from ps.samples import WAITING_SAMPLES

FLOAT_BYTES = 4
PROCESS_BYTES = 200 << 20  # a process with torch and Ray, measured as its share of memory (PSS)
RAY_BYTES = 450 << 20  # Ray's own processes, likewise
SHARE_FOR_VERSIONS = 4  # at most one part in so many of what is free
CONTROL_GROUP = Path("/sys/fs/cgroup")
SIMULATED_VECTORS = 6  # initial weights, what is read, weights and gradient in hand, the model and its gradients
CALLS_PER_SHARD = 4  # mailboxes in use at once, each a gradient and a weight vector


def needed_bytes(spec: RunSpec, turns: int) -> int:
    """Memory that a run on one machine takes, without the images and activations of its batches."""
    vectors = 1 + len(spec.rule.build().slots) + WAITING_SAMPLES + 2 * CALLS_PER_SHARD  # the shards'
    vectors += spec.correction.vectors(spec.cluster.workers, spec.program.pulls)
    vectors += spec.cluster.workers if spec.consistency.in_rounds else 0  # gradients that wait for their round
    replicas = 1 + spec.cluster.replicas
    vectors *= replicas
    vectors += 1  # the averager's
    vectors += spec.cluster.workers * (spec.program.pulls + spec.program.vectors_per_worker)
    vectors += turns * 5  # the hosts': model, gradients in flight
    vectors += 0 if spec.pace is None else spec.cluster.workers  # gradients that take their time
    processes = spec.layout.shards * replicas + 2 + turns + 2
    return vectors * spec.layout.size * FLOAT_BYTES + processes * PROCESS_BYTES + RAY_BYTES


def simulated_bytes(spec: RunSpec) -> int:
    """Memory that a simulated run with gradients takes, likewise; of the versions that its workers pulled, and of their
    gradients, what may stay in memory.
    """
    workers, program = spec.cluster.workers, spec.program
    vectors = 1 + len(spec.rule.build().slots) + WAITING_SAMPLES + spec.correction.vectors(workers, program.pulls)
    vectors += workers if spec.consistency.in_rounds else 0  # gradients that wait for their round
    vectors *= 1 + spec.cluster.replicas
    vectors += 1 + SIMULATED_VECTORS  # the averager's
    size_bytes, kept = spec.layout.size * FLOAT_BYTES, workers * (1 + program.pulls + program.vectors_per_worker)
    versions_bytes = min(kept * size_bytes, for_versions()) if shareable(spec) else kept * size_bytes
    return vectors * size_bytes + versions_bytes + 2 * PROCESS_BYTES


def available_bytes() -> int:
    """Memory that is free on this machine and within this control group's limit; what only caches files counts as
    free.
    """
    available = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError, KeyError):  # no such group, or one without a limit: "max"
        limit = int((CONTROL_GROUP / "memory.max").read_text())
        used = int((CONTROL_GROUP / "memory.current").read_text())
        statistics = dict(line.split() for line in (CONTROL_GROUP / "memory.stat").read_text().splitlines())
        available = min(available, limit - used + int(statistics["inactive_file"]))
    return max(0, available)


def for_versions() -> int:
    """Memory for the versions of the weights that a simulated or replayed run keeps; the rest of them go to disk."""
    return available_bytes() // SHARE_FOR_VERSIONS


def check(spec: RunSpec, turns: int) -> None:
    """Raise BadInput if the run does not fit."""
    needed, available = needed_bytes(spec, turns), available_bytes()
    if needed > available:
        raise BadInput(
            f"memory: {spec.cluster.workers} workers with {spec.layout.size:,} parameters need about "
            f"{needed / 2**30:.1f} GiB, {available / 2**30:.1f} GiB are free; use fewer workers or a smaller model"
        )

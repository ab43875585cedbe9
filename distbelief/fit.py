"""Fit: the model of a cluster that behaves as a recorded run did.

compute    every worker draws from the times that one recorded worker measured: speed classes stay what they were
turns      as many gradients at once as the recorded hosts computed; of a paced run, any number
service    what one exchange occupies a shard for: the shortest that two exchanges followed one another (5th
           percentile, since the clock is coarse), so queues form where they would have formed
latency    half of what an exchange took (median) beyond that service
"""

from __future__ import annotations

from itertools import chain, pairwise
from pathlib import Path
from statistics import fmean, median, quantiles

from cluster.recording import Recording
from distbelief import rundir
from ps.errors import BadInput
from ps.journal import PullHandled, PushHandled


def fitted(run: Path) -> dict[str, object]:
    """Settings "simulate.*" that a recorded run's journals give. Raises BadInput if they give none."""
    config = rundir.config_of(run)
    recording = Recording.read(run / rundir.JOURNAL)
    if not recording.compute_seconds:
        raise BadInput(f"--from: got {run}, whose journals have no compute times; expected a run with updates")
    service_seconds = min(_service(recording, shard) for shard in range(len(recording.shards)))
    exchanges = 2 if config.program.prefetch else 1  # of a lease: then its pull is one by itself
    exchange_seconds = median(recording.exchange_seconds) / exchanges
    turns = recording.hosts
    if recording.simulated or config.cluster.paced:
        turns = config.simulate.turns if recording.simulated else 0
    return {
        "simulate.compute": "empirical",
        "simulate.compute_seconds": fmean(chain.from_iterable(recording.compute_seconds.values())),
        "simulate.source": str(run.absolute()),
        "simulate.turns": turns,
        "simulate.service_seconds": min(service_seconds, exchange_seconds),
        "simulate.latency_seconds": max(0.0, exchange_seconds - service_seconds) / 2,
        "simulate.slow_workers": 0,
    }


def _service(recording: Recording, shard: int) -> float:
    """Seconds that an exchange occupies this shard."""
    handled = [record.now for record in recording.shards[shard] if isinstance(record, PushHandled | PullHandled)]
    gaps = [later - earlier for earlier, later in pairwise(handled)]
    return max(0.0, quantiles(gaps, n=20)[0]) if len(gaps) > 1 else 0.0

"""Troubles: what is known to go wrong in asynchronous runs, said in plain words, from what a run measures of itself.

    straggler           a worker whose gradients take far longer than others'
    slow link           a worker host whose exchanges take far longer than others'
    network             exchanges take longer than gradients, everywhere
    starved shard       a shard that stays behind the others in updates
    decoding            gradients wait for their images
    staleness           gradients come later than those that rate and momentum were chosen for

Pure: measurements in, lines out. A line names what was measured and what to try, and comes once for each subject. (The
stall of a main classifier is watched by `distbelief.stall`.)

Source: the thresholds are ours: far from what healthy runs show, near enough that what they find is worth a look.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

FACTOR = 3.0  # this many times the others' median is far
LEAST_LEASES = 3  # that a worker must have done to be judged
LEAST_SECONDS = 0.005  # below it nothing is worth a word
BEHIND_SHARE = 0.5  # of the workers, in updates
ASKED_SECONDS = 0.05  # that shards may be asked for their versions apart
DECODE_SHARE = 0.2  # of a gradient's time
STALER = 1.5  # times the staleness that rate and momentum were chosen for
PATIENCE = 3  # looks in a row that must find the same


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds per lease, of one worker, by what they went into; over `leases` leases, on worker host `host`."""

    host: str
    leases: int
    lease: float
    turn: float
    decode: float
    compute: float
    exchange: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run measured of itself lately.

    Attributes:
        workers: By worker.
        versions: Updates of every shard.
        staleness: Mean, in updates, over all shards; NaN before the first.
        expected_staleness: What rate and momentum were chosen for.
        rounds: Whether updates are made in rounds: then shards cannot drift apart, and nobody's lateness counts.
        updates_per_second: Of every shard.
    """

    workers: Mapping[int, Spent]
    versions: Sequence[int]
    staleness: float
    expected_staleness: float
    rounds: bool = False
    updates_per_second: float = 0.0


Key = TypeVar("Key")
Finding = tuple[str, str]  # subject, and the line about it


def findings(measured: Measured) -> list[Finding]:
    """Everything that looks wrong now."""
    judged = {id: spent for id, spent in measured.workers.items() if spent.leases >= LEAST_LEASES}
    found = [*_stragglers(judged), *_links(judged), *_decoding(judged)]
    if not measured.rounds:
        found += [*_starved(measured), *_staleness(measured)]
    return found


class Troubles:
    """Speaks of each trouble once, when it has lasted."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self.told: dict[str, str] = {}

    def look(self, measured: Measured) -> list[str]:
        """Lines that are new, each beginning with "warning: "."""
        found = dict(findings(measured))
        self._seen = {subject: self._seen.get(subject, 0) + 1 for subject in found}
        new = {
            subject: f"warning: {line}"
            for subject, line in found.items()
            if self._seen[subject] >= PATIENCE and subject not in self.told
        }
        self.told |= new
        return list(new.values())


def _stragglers(workers: Mapping[int, Spent]) -> list[Finding]:
    return [
        (
            f"straggler {id}",
            f"worker {id} on {workers[id].host} is a straggler: {seconds:.3g} s per gradient, the others {usual:.3g} s "
            "(median); its machine is slower or busy with something else; its gradients come late and are applied all "
            "the same",
        )
        for id, seconds, usual in _far({id: spent.decode + spent.compute for id, spent in workers.items()})
    ]


def _links(workers: Mapping[int, Spent]) -> list[Finding]:
    by_host: dict[str, list[float]] = {}
    for spent in workers.values():
        by_host.setdefault(spent.host, []).append(spent.exchange)
    means = {host: sum(seconds) / len(seconds) for host, seconds in by_host.items()}
    hot: list[Finding] = [
        (
            f"link {host}",
            f"{host} takes {seconds:.3g} s per exchange, the others {usual:.3g} s (median): its network link is hot; "
            "--wire bfloat16 halves what it carries",
        )
        for host, seconds, usual in _far(means)
    ]
    exchange, compute = (_mean(workers, part) for part in (lambda s: s.exchange, lambda s: s.decode + s.compute))
    if not hot and exchange > compute and exchange >= LEAST_SECONDS:
        line = (
            f"exchanges take longer ({exchange:.3g} s) than gradients ({compute:.3g} s): the network or the shards set "
            "the pace; try a larger --batch-size, --wire bfloat16, or more --shards on other machines"
        )
        return [("network", line)]
    return hot


def _decoding(workers: Mapping[int, Spent]) -> list[Finding]:
    decode, compute = _mean(workers, lambda s: s.decode), _mean(workers, lambda s: s.compute)
    if decode < LEAST_SECONDS or decode <= DECODE_SHARE * (decode + compute):
        return []
    line = (
        f"gradients wait {decode / (decode + compute):.0%} of their time for images: decoding is slower than "
        "computing; try smaller image files, a faster disk for --data-root, or fewer gradients at once (cluster.turns)"
    )
    return [("decoding", line)]


def _starved(measured: Measured) -> list[Finding]:
    if len(measured.versions) < 2:
        return []
    behind = max(measured.versions) - min(measured.versions)
    apart = ASKED_SECONDS * measured.updates_per_second
    if behind < max(4.0, BEHIND_SHARE * (measured.expected_staleness + 1)) + apart:
        return []
    shard = min(range(len(measured.versions)), key=lambda index: measured.versions[index])
    line = (
        f"shard {shard} is starved: {behind} updates behind the others; whatever else its machine does takes the time "
        "that it needs, and every worker waits for it"
    )
    return [(f"shard {shard}", line)]


def _staleness(measured: Measured) -> list[Finding]:
    expected = max(measured.expected_staleness, 1.0)
    if not measured.staleness > STALER * expected:
        return []
    line = (
        f"gradients are {measured.staleness:.0f} updates late on average, rate and momentum were chosen for "
        f"{expected:.0f}: beyond the stable range a run diverges or crawls; try a smaller --lr or fewer workers"
    )
    return [("staleness", line)]


def _far(seconds: Mapping[Key, float]) -> list[tuple[Key, float, float]]:
    """Those far above the others' median: key, its seconds, and that median."""
    found = []
    for key, own in seconds.items():
        others = [value for other, value in seconds.items() if other != key]
        usual = median(others) if others else math.inf
        if len(others) >= 1 and own > FACTOR * usual and own >= LEAST_SECONDS:
            found.append((key, own, usual))
    return found


def _mean(workers: Mapping[int, Spent], part: Callable[[Spent], float]) -> float:
    return sum(map(part, workers.values())) / len(workers) if workers else 0.0

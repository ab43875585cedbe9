"""Placement: which machine each piece of a run goes to. A function of the machines alone: no Ray, no state.

shards             one machine after the other, so that each has its own link and memory; the driver's comes last; where
                   machines offer the resource SHARDS (a cluster file's on-demand ones do), only these
standbys           likewise, each on another machine than its shard's if there is one
ledger, averager   on the driver's machine, which the run cannot lose anyway
worker hosts       on all machines, dealt out like cards, those with GPUs first
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ps.errors import RunFailed

if TYPE_CHECKING:
    from cluster.spec import ClusterSettings

SHARDS = "distbelief_shards"


@dataclass(frozen=True, slots=True)
class Node:
    """One living machine of the cluster.

    Attributes:
        id: Ray's name for it.
        address: How the other machines reach it.
        cores, gpus: What it offers.
        keeps_shards: Whether it offers SHARDS.
        driver: Whether the driver of the run is there.
    """

    id: str
    address: str
    cores: int
    gpus: int = 0
    keeps_shards: bool = False
    driver: bool = False


@dataclass(frozen=True, slots=True)
class Seat:
    """One worker host: where, which, and its workers."""

    node: Node
    host: int
    workers: range


def for_shard(nodes: Sequence[Node], shard: int) -> Node:
    """The machine of this shard."""
    candidates = _keepers(nodes)
    return candidates[shard % len(candidates)]


def for_standby(nodes: Sequence[Node], shard: int, home: Node) -> Node:
    """The machine of this shard's standby: not the shard's own, `home`, unless there is no other."""
    keepers = _keepers(nodes)
    first = (shard + 1) % len(keepers)
    order = [*keepers[first:], *keepers[:first], *nodes]
    return next((node for node in order if node.id != home.id), home)


def for_driver(nodes: Sequence[Node]) -> Node:
    """The driver's machine, of ledger, averager and evaluator."""
    return next((node for node in nodes if node.driver), nodes[0])


def _keepers(nodes: Sequence[Node]) -> list[Node]:
    keepers = [node for node in nodes if node.keeps_shards] or list(nodes)
    return sorted(keepers, key=lambda node: (node.driver, node.address, node.id))


def rounds(node: Node, cluster: ClusterSettings) -> int:
    """Compute turns of a machine: as many as were asked for, else as its GPUs allow, if they are to be used, or else
    its cores.
    """
    if cluster.gpus_per_worker:
        fit = int(node.gpus / cluster.gpus_per_worker)
        return min(cluster.turns or fit, fit)  # Ray starts no more
    return cluster.turns or node.cores // cluster.threads


def seats(nodes: Sequence[Node], workers: int, cluster: ClusterSettings) -> list[Seat]:
    """Worker hosts: one for each compute turn, as long as there are workers for it.

    Raises:
        RunFailed: No machine has that many cores, or GPUs.
    """
    order = sorted(nodes, key=lambda node: (node.gpus == 0, node.address, node.id))
    turns = {node.id: rounds(node, cluster) for node in order}
    dealt = [node for turn in range(max(turns.values(), default=0)) for node in order if turn < turns[node.id]]
    if not dealt:
        needed = f"{cluster.threads} cores that one gradient takes"
        if cluster.gpus_per_worker:
            needed = f"{cluster.gpus_per_worker:g} GPUs that cluster.gpus_per_worker asks for"
        raise RunFailed(f"no node of the cluster has the {needed}")
    dealt = dealt[:workers]
    cuts = [workers * i // len(dealt) for i in range(len(dealt) + 1)]
    return [Seat(node, i, range(cuts[i], cuts[i + 1])) for i, node in enumerate(dealt)]

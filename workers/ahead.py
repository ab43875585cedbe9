"""Ahead: the worker program with prefetch. The weights for the next lease come while the present one is computed.

    lease 0    pull | compute at it, pull for 1 | push 0
    lease 1           compute at that, pull for 2 | push 1

So the worker waits for no weights, and its shards are asked for them while it needs nothing else of them. In turn every
gradient is staler: its weights were pulled before this worker's last push, and before the others' last ones. W workers
that take turns have a staleness of 2W - 1 updates and not W - 1. As many as 2W workers without prefetch, who hide the
push too; but those have 2W gradients in flight, and as many velocities, backups and places in a round.

A gradient is still a function of its lease and of one pull, so a replay computes it again. A bound on the workers'
clocks (ps.consistency) holds as ever, but weights that were pulled ahead are one clock older.

Source: Dean et al. 2012, algorithm 7.1 of the appendix (StartAsynchronouslyFetchingParameters); two buffers, so that no
gradient sees two versions, are ours.
Shape suffix: N = parameters of the model, all shards together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workers.program import Link, Program, Steps, Word, one_gradient

if TYPE_CHECKING:
    from torch import Tensor


def work_ahead(
    worker: int, bounds: tuple[slice, ...], buffers: tuple[Tensor, Tensor], steps: Steps = one_gradient
) -> Program:
    """The worker program: per lease one pull, begun before the gradient and collected after it, then a push.

    Args:
        worker: Logical worker, 0..W-1.
        bounds: Each shard's slice of the flat vector.
        buffers: Two of float32, shape (N,), that pulls fill in turn; the worker's own.
        steps: They must not pull.
    """
    weights_N, next_N = buffers
    link = Link(worker, bounds, weights_N, next_N)
    yield from link.pull()
    word: Word | None = None
    while (lease := (yield from link.next_lease(word))) is not None:
        yield from link.pull_ahead()
        done = yield from steps(link, lease, weights_N)
        yield from link.arrived()
        word = yield from link.deliver(lease, done.gradient_N, done.tally, done.read, pull=False)
        weights_N, next_N = next_N, weights_N

"""Stall: the main classifier learns nothing while an auxiliary one below it does.

GoogLeNet from scratch is known for it: its main loss sits at ln(classes), that of a guess, for as long as one cares to
wait, while the heads on 4a or 4d learn as they should, because the uppermost modules have died or were never reached
by a gradient worth the name. A smaller rate, or other initial weights, is what helped those who wrote about it.

Pure: losses in, a verdict out. It waits before it speaks, since the main classifier of a healthy run starts later than
the heads too; and it speaks once.

Source: BVLC/caffe pull request 1598, NVIDIA/DIGITS issue 82 (0.005 in place of 0.01 helped); the thresholds are ours.
"""

from __future__ import annotations

import math

STUCK_SHARE = 0.97  # a loss of at least this share of a guess's has learned nothing
LEARNED_SHARE = 0.90  # one of at most this share has learned something
PATIENCE_LEASES = 300  # for so long


class StallDetector:
    """Watches the losses of one run.

    Args:
        classes: Of the data; a guess among them has the loss ln(classes).
    """

    def __init__(self, classes: int) -> None:
        self._chance = math.log(classes)
        self._since: int | None = None
        self._told = False

    def stalled(self, leases: int, main: float, auxiliary: tuple[float, ...]) -> bool:
        """Whether the run has just been found to stall; True once in a run.

        Args:
            leases: Finished so far.
            main: Mean main loss of the newest leases, in nats; NaN before the first.
            auxiliary: Likewise, of each auxiliary head.
        """
        learned = any(loss <= LEARNED_SHARE * self._chance for loss in auxiliary)
        if not learned or not main >= STUCK_SHARE * self._chance:
            self._since = None
        elif self._since is None:
            self._since = leases
        if self._told or self._since is None or leases - self._since < PATIENCE_LEASES:
            return False
        self._told = True
        return True


def advice(main: float, auxiliary: tuple[float, ...], rate: float, seed: int) -> str:
    """One line for a person: what was seen, and what to try."""
    return (
        f"warning: the main classifier has learned nothing yet (loss {main:.2f}, no better than a guess) while an "
        f"auxiliary one has ({min(auxiliary):.2f}): GoogLeNet's known stall; if it stays so, start again with "
        f"--lr {rate / 2:g}, or with other weights: --seed {seed + 1}"
    )

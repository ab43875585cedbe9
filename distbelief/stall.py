"""Stall: the main classifier learns nothing while an auxiliary one below it does.

GoogLeNet from scratch is known for it: its main loss sits at ln(classes), that of a guess, for as long as one cares to
wait, while the heads on 4a or 4d learn as they should, because the uppermost modules have died or were never reached
by a gradient worth the name. A smaller rate, or other initial weights, is what helped those who wrote about it.

Where some classes are frequent a guess costs less than ln(classes). So what counts is that the main loss does not fall,
is still worth that of a guess, and is well above an auxiliary one. Healthy networks pass through this state, as the
main classifier starts later than the heads: it must last.

Pure: losses in, a verdict out. It speaks once.

Source: BVLC/caffe pull request 1598, NVIDIA/DIGITS issue 82 (0.005 in place of 0.01 helped); the thresholds are ours.
"""

from __future__ import annotations

import math

GUESS_SHARE = 0.5  # of ln(classes): a main loss below it has learned something, whatever the classes' frequencies
AHEAD_SHARE = 0.9  # an auxiliary loss of at most this share of the main one is ahead of it
FALLEN_SHARE = 0.97  # a main loss below this share of what it was has fallen
PATIENCE_LEASES = 500


class StallDetector:
    """Watches the losses of one run.

    Args:
        classes: Of the data; a guess among them has the loss ln(classes) or less.
    """

    def __init__(self, classes: int) -> None:
        self._guess = math.log(classes)
        self._since: tuple[int, float] | None = None  # leases and main loss when it last fell
        self._told = False

    def stalled(self, leases: int, main: float, auxiliary: tuple[float, ...]) -> bool:
        """Whether the run has just been found to stall; True once in a run.

        Args:
            leases: Finished so far.
            main: Mean main loss of the newest leases, in nats; NaN before the first.
            auxiliary: Likewise, of each auxiliary head.
        """
        behind = any(loss <= AHEAD_SHARE * main for loss in auxiliary)
        if not behind or not main >= GUESS_SHARE * self._guess:
            self._since = None
        elif self._since is None or main < FALLEN_SHARE * self._since[1]:
            self._since = (leases, main)
        if self._told or self._since is None or leases - self._since[0] < PATIENCE_LEASES:
            return False
        self._told = True
        return True


def advice(main: float, auxiliary: tuple[float, ...], rate: float, seed: int) -> str:
    """One line for a person: what was seen, and what to try."""
    return (
        f"warning: the main classifier learns nothing (its loss stays at {main:.2f}) while an auxiliary one does "
        f"({min(auxiliary):.2f}): GoogLeNet's known stall; if it lasts, start again with --lr {rate / 2:g}, or with "
        f"other weights: --seed {seed + 1}"
    )

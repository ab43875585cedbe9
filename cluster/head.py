"""Head: whether the machine that holds a Ray cluster together still answers.

While it does not, most calls to Ray hang, and after a minute Ray ends the process that made one. So a run looks for
itself, without Ray: before it needs the head at all, and often enough to let go of Ray in time.
"""

from __future__ import annotations

import socket
import time  # noqa: TID251 -- how long it has been silent
from collections.abc import Callable

from ps.errors import RunFailed

LOOK_SECONDS = 1.0
ANSWER_SECONDS = 1.0
NEEDED_SECONDS = 3.0  # that it may be silent when something is wanted of it
SPARED_SECONDS = 40.0  # when nothing is; Ray gives up after 60
AGAIN_SECONDS = 0.2  # between two tries while something is wanted


class HeadLost(RunFailed):
    """The run has lost its cluster; it can be taken up when the head is back.

    Args:
        head: Which does not answer.
    """

    def __init__(self, head: Head) -> None:
        super().__init__(f"the head of the Ray cluster, {head.address}, does not answer")
        self.head = head


class Head:
    """The head of one cluster.

    Args:
        address: "host:port" of its control service.
        machines: How many the cluster has, with the head's.
    """

    def __init__(self, address: str, machines: int) -> None:
        self.address = address
        self.machines = machines
        self._looked = self._heard = time.monotonic()

    def look(self) -> None:
        """Raise HeadLost if it has been silent for so long that Ray is about to give up. Cheap: looks now and then."""
        if time.monotonic() - self._looked >= LOOK_SECONDS and not self.answers():
            self._give_up_after(SPARED_SECONDS)

    def needed(self) -> None:
        """Return when it answers; raise HeadLost if it does not for a while."""
        while not self.answers():
            self._give_up_after(NEEDED_SECONDS)
            time.sleep(AGAIN_SECONDS)

    def returns(self, seconds: float, going_on: Callable[[], bool]) -> bool:
        """Wait until it answers again, for as long as `going_on`; return whether it did within so many seconds."""
        deadline = time.monotonic() + seconds
        while not self.answers():
            if time.monotonic() > deadline or not going_on():
                return False
            time.sleep(LOOK_SECONDS)
        return True

    def answers(self) -> bool:
        """Whether something listens there."""
        host, _, port = self.address.rpartition(":")
        self._looked = time.monotonic()
        try:
            socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
        except OSError:
            return False
        self._heard = self._looked
        return True

    def _give_up_after(self, seconds: float) -> None:
        if time.monotonic() - self._heard >= seconds:
            raise HeadLost(self)

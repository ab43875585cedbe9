"""Read-ahead: the batch of a lease, decoded before its gradient is due.

A batch is a pure function of its lease's id, so any thread may read it at any time, even before the lease is granted:

    granted   a worker of this host has the lease and waits for its compute turn; first come, first read
    guessed   while no granted lease waits here: the lease that a worker will most probably get next, which is its last
              one plus the stride between its last two

A wrong guess costs time and nothing else: what was granted, computed and written down is the same with read-ahead or
without. An error is kept like a batch, and raised only where that batch is asked for.

`Shelf` decides and starts no thread; `ReadAhead` has the threads and decides nothing.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from ps.leases import LeasePlan
from ps.messages import Lease
from workers.batches import Batch

LEASES_AHEAD = 2  # batches read or being read for each thread that reads
BYTES_AHEAD = 256 << 20  # of pixels in them; a single batch may be larger


@dataclass(frozen=True, slots=True)
class Read:
    """What reading a lease came to: its batch, or the error that whoever asks for the batch shall get."""

    outcome: Batch | Exception

    @property
    def size_bytes(self) -> int:
        return self.outcome.images_BCHW.nbytes if isinstance(self.outcome, Batch) else 0


class Place(Enum):
    """Where a lease's batch is when it is asked for."""

    READY = auto()  # on the shelf
    READING = auto()  # another thread is at it
    NOWHERE = auto()  # nobody has begun: whoever asks reads it


class Shelf:
    """Which lease to read next, and what lies ready. Leases are known by their id.

    Ids rise in the order in which the ledger grants, but for those that it grants again; so a guess below the newest
    granted id was wrong.

    Args:
        leases: Leases in the run.
        most: Batches on the shelf and being read, at most.
        most_bytes: Pixels in them, at most, unless it is one batch alone.
    """

    def __init__(self, leases: int, most: int, most_bytes: int) -> None:
        self._leases = leases
        self._most = most
        self._most_bytes = most_bytes
        self._waiting: deque[int] = deque()  # granted, and nobody has begun to read it
        self._granted: dict[int, int] = {}  # granted and not yet asked for, to its worker
        self._guesses: dict[int, int] = {}  # worker that computes, to the lease that it may get next
        self._last: dict[int, tuple[int, int | None]] = {}  # worker to its last lease and the stride to it
        self._newest = -1
        self._reading: set[int] = set()
        self._ready: dict[int, Read] = {}
        self._largest_bytes = 0

    def grant(self, worker: int, id: int) -> None:
        """A worker got this lease and will ask for its batch."""
        last = self._last.get(worker)
        self._last[worker] = id, (id - last[0] if last else None)
        self._guesses.pop(worker, None)
        self._granted[id] = worker
        self._newest = max(self._newest, id)
        if id not in self._ready and id not in self._reading:
            self._waiting.append(id)
        for wrong in [ready for ready in self._ready if self._is_wrong(ready)]:
            del self._ready[wrong]

    def next(self) -> int | None:
        """The lease to read now, which counts as being read from here on; None if there is none, or no room."""
        ahead = len(self._ready) + len(self._reading)
        ready_bytes = sum(read.size_bytes for read in self._ready.values())
        expected_bytes = ready_bytes + (len(self._reading) + 1) * self._largest_bytes
        if ahead >= self._most or (ahead and expected_bytes > self._most_bytes):
            return None
        if self._waiting:
            id = self._waiting.popleft()
        elif self._granted:
            return None  # its turn comes first, and the time until it ends is time enough for the next
        else:
            guesses = [id for id in self._guesses.values() if self.find(id) is Place.NOWHERE]
            if not guesses:
                return None
            id = guesses[0]
        self._reading.add(id)
        return id

    def put(self, id: int, read: Read) -> None:
        """A lease has been read. A guess that proved wrong meanwhile is dropped."""
        self._reading.discard(id)
        self._largest_bytes = max(self._largest_bytes, read.size_bytes)
        if not self._is_wrong(id):
            self._ready[id] = read

    def find(self, id: int) -> Place:
        """Where the batch of a lease is."""
        if id in self._ready:
            return Place.READY
        return Place.READING if id in self._reading else Place.NOWHERE

    def take(self, id: int) -> Read | None:
        """The lease's turn has come: take its batch off the shelf; None if it is not there. Its worker computes now,
        and what it may get next may be read.
        """
        if id in self._waiting:
            self._waiting.remove(id)
        worker = self._granted.pop(id, None)
        if worker is not None:
            self._guess(worker)
        return self._ready.pop(id, None)

    def _guess(self, worker: int) -> None:
        last, stride = self._last[worker]
        if stride is not None and stride > 0 and last + stride < self._leases:
            self._guesses[worker] = last + stride

    def _is_wrong(self, id: int) -> bool:
        return id not in self._granted and id < self._newest


class ReadAhead:
    """Reads batches on threads of its own. Safe to ask from many threads; `close` ends its own.

    Args:
        plan: Of the run.
        read: Reads one lease's batch; called from several threads at once.
        threads: That read.
        leases_ahead: Batches that lie ready or are being read, at most.
        bytes_ahead: Pixels in them, at most, unless it is one batch alone.
    """

    def __init__(
        self,
        plan: LeasePlan,
        read: Callable[[Lease], Batch],
        threads: int,
        leases_ahead: int | None = None,
        bytes_ahead: int = BYTES_AHEAD,
    ) -> None:
        self._plan = plan
        self._read = read
        self._shelf = Shelf(plan.leases, leases_ahead or LEASES_AHEAD * threads, bytes_ahead)
        self._changed = threading.Condition()
        self._closing = False
        # Daemons: they hold nothing that an exit could harm, and must not outlive a host that was never closed.
        self._threads = [threading.Thread(target=self._run, name=f"reader-{i}", daemon=True) for i in range(threads)]
        for thread in self._threads:
            thread.start()

    def granted(self, worker: int, lease: Lease) -> None:
        """A worker has this lease and will ask for its batch when its compute turn comes."""
        with self._changed:
            self._shelf.grant(worker, lease.id)
            self._changed.notify_all()

    def batch(self, lease: Lease) -> Batch:
        """The lease's batch, as `read` gives it, at once if it was read ahead. Raises what reading it raised."""
        with self._changed:
            while self._shelf.find(lease.id) is Place.READING:
                self._changed.wait()
            found = self._shelf.take(lease.id)
            self._changed.notify_all()
        if found is None:
            return self._read(lease)
        if isinstance(found.outcome, Exception):
            raise found.outcome
        return found.outcome

    def close(self) -> None:
        """End the threads, after what they read now."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (id := self._next()) is not None:
            try:
                read = Read(self._read(self._plan.lease(id, 0, 0.0)))
            except Exception as error:  # noqa: BLE001 -- it belongs to whoever asks for this batch, if anyone does
                read = Read(error)
            with self._changed:
                self._shelf.put(id, read)
                self._changed.notify_all()

    def _next(self) -> int | None:
        """Wait for the next lease to read; None at the end."""
        with self._changed:
            while not self._closing:
                if (id := self._shelf.next()) is not None:
                    return id
                self._changed.wait()
        return None

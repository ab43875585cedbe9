"""Journal records: what each actor handled, in its own order, as values. `ps.wire.files` puts them on disk.

A record says what happened, never a gradient: replay recomputes that from the lease. Times are the driver's clock in
seconds. Shards share no state, so each one's own order, with what every pull read, is enough to run everything again.

On disk a record is an array: its kind's number (`tag`), then its fields in their order. So a kind may get a field at
its end, with a default that older journals mean; its number and its other fields stay what they are.
"""

from __future__ import annotations

from msgspec import Struct

from ps.messages import Outcome, Reading, Refusal, Wire


class Entry(Struct, frozen=True, array_like=True):
    """What all records are."""


class Header(Struct, frozen=True, array_like=True):
    """What every journal begins with: whose it is."""

    run: str
    actor: str


class ShardOpened(Entry, frozen=True, tag=2):
    """A shard began (or came back): `elements` parameters at `version`, of which `samples` examples were applied.

    Attributes:
        weights_sha256: Hexadecimal, of the float32 weights, little-endian.
        snapshot: Number of the one that it came back from, 0 for its beginning.
        cut: How often the parameters were cut anew before, into another number of shards.
        promoted: It came back from none: its standby goes on, with everything that is recorded before this.
        waiting: Of a promoted one, versions that the averager had not got.
    """

    now: float
    shard: int
    shards: int
    incarnation: int
    version: int
    samples: int
    elements: int
    weights_sha256: str = ""
    snapshot: int = 0
    cut: int = 0
    promoted: bool = False
    waiting: tuple[int, ...] = ()


class ShardSaved(Entry, frozen=True, tag=21):
    """A shard's state, as of here, became part of this snapshot. `waiting`: versions that the averager had not got."""

    now: float
    snapshot: int
    version: int
    waiting: tuple[int, ...] = ()


class AveragerOpened(Entry, frozen=True, tag=22):
    """The averager began, or came back from this snapshot (0: its beginning). `cut`: as of ShardOpened."""

    now: float
    snapshot: int
    cut: int = 0


class AveragerSaved(Entry, frozen=True, tag=23):
    """The averager's state, as of here, became part of this snapshot."""

    now: float
    snapshot: int


class LedgerOpened(Entry, frozen=True, tag=16):
    """The ledger began: the plan that leases are cut from, and how many will work on it. `resumed`: the run was over,
    and is taken up without the workers that it had; `cut`: as of ShardOpened.
    """

    now: float
    workers: int
    shards: int
    examples: int
    batch_size: int
    epochs: int
    seed: int
    batches: int = 1
    resumed: bool = False
    cut: int = 0


class Arithmetic(Entry, frozen=True, tag=17):
    """What decides the bits that this actor computes, beside its inputs.

    Attributes:
        torch, pillow, libjpeg: Versions; the last two are empty where no image is read.
        processor: Its instruction sets, as far as kernels are chosen by them.
        threads: Per gradient.
        data: Fingerprint of the training set; empty where none is read.
    """

    now: float
    torch: str
    pillow: str
    libjpeg: str
    processor: str
    threads: int
    data: str


class PushHandled(Entry, frozen=True, tag=3):
    """A shard handled an exchange that carried a push.

    Attributes:
        rate: Learning rate that it was applied with, after any correction (0 if it was not applied).
        staleness: Updates between what the push read here and its arrival; -1 for a duplicate or a staged one.
        version: The shard's version afterwards.
        pulled: Whether the same exchange then pulled that version.
        wire: The type that the gradient, and the weights if it pulled, had on their way.
    """

    now: float
    worker: int
    number: int
    lease: int
    attempt: int
    samples: int
    read: tuple[Reading, ...]
    outcome: Outcome
    rate: float
    staleness: int
    version: int
    pulled: bool
    wire: Wire = Wire.FLOAT32


class RoundApplied(Entry, frozen=True, tag=18):
    """A shard applied the staged gradients of a round as one update.

    Attributes:
        leases: In the order in which their gradients were summed.
        staleness: Of each, in updates, in the same order.
        samples: Examples in all of them.
        size: What the sum was divided by.
        keep: Whether other staged gradients stayed for a later round.
        rate: Learning rate that it was applied with.
        version: The shard's version afterwards.
    """

    now: float
    leases: tuple[int, ...]
    staleness: tuple[int, ...]
    samples: int
    size: int
    keep: bool
    rate: float
    version: int


class PullHandled(Entry, frozen=True, tag=4):
    """A shard handled an exchange that only pulled."""

    now: float
    worker: int
    number: int
    version: int
    wire: Wire = Wire.FLOAT32


class ExchangeRefused(Entry, frozen=True, tag=5):
    """A shard refused an exchange before its first write. `lease` is -1 for a pull."""

    now: float
    worker: int
    number: int
    lease: int
    refusal: Refusal


class SampleSent(Entry, frozen=True, tag=6):
    """A shard copied this version for the averager."""

    now: float
    version: int


class SampleSkipped(Entry, frozen=True, tag=7):
    """A shard could not copy this version for the averager: two copies were still waiting."""

    now: float
    version: int


class LeaseGranted(Entry, frozen=True, tag=8):
    """The ledger granted a lease."""

    now: float
    worker: int
    number: int
    lease: int
    attempt: int
    deadline: float


class LeaseFinished(Entry, frozen=True, tag=9):
    """Every shard has the lease. `loss` is NaN and `worker` -1 where the shards said so after its worker was lost."""

    now: float
    worker: int
    lease: int
    attempt: int
    samples: int
    loss: float
    errors: int
    skipped: int
    auxiliary: tuple[float, ...] = ()


class LeaseFailed(Entry, frozen=True, tag=10):
    """A worker could not compute or deliver the lease's gradient."""

    now: float
    worker: int
    lease: int
    attempt: int
    finite: bool
    reason: str


class LeaseDiscarded(Entry, frozen=True, tag=19):
    """The lease's gradient was too stale, or its round was closed without it: it will be granted again."""

    now: float
    worker: int
    lease: int
    attempt: int


class RoundOrdered(Entry, frozen=True, tag=20):
    """The ledger told all shards to apply these leases as update `round`."""

    now: float
    round: int
    leases: tuple[int, ...]
    keep: bool


class LeaseReturned(Entry, frozen=True, tag=11):
    """The lease was late, lost or failed, and some shard lacks it: it will be granted again."""

    now: float
    lease: int
    attempt: int


class WorkerLeft(Entry, frozen=True, tag=24):
    """The ledger was told that this worker is lost; its id is never used again."""

    now: float
    worker: int


class WorkerQuarantined(Entry, frozen=True, tag=41):
    """The ledger grants this worker nothing more: it found this lease's gradient not finite, and another did not."""

    now: float
    worker: int
    lease: int


class ShardRejoined(Entry, frozen=True, tag=25):
    """The ledger was told that a shard came back as this incarnation. Finished leases that it lost are returned."""

    now: float
    shard: int
    incarnation: int
    version: int


class PairParted(Entry, frozen=True, tag=26):
    """The ledger let one of a shard and its standby go on without the other: the one that leads, or the standby in its
    place. `incarnation`, `pair`: as of Claim.
    """

    now: float
    shard: int
    incarnation: int
    pair: int
    leads: bool


class LedgerStopped(Entry, frozen=True, tag=12):
    """No lease is granted from here on."""

    now: float
    reason: str


class SampleAveraged(Entry, frozen=True, tag=13):
    """The averager was given a shard's weights at this version (`counted` false: they are not in the average, since it
    had that version or a later one already, or does not begin yet).
    """

    now: float
    shard: int
    incarnation: int
    version: int
    counted: bool


class WorkerExchanged(Entry, frozen=True, tag=14):
    """A worker's side of one exchange with one shard: what its pull read, and what became of its push (lease -1: it
    only pulled).
    """

    now: float
    worker: int
    number: int
    shard: int
    lease: int
    outcome: Outcome
    reading: Reading


class WorkerTimed(Entry, frozen=True, tag=15):
    """Where a worker's time for one lease went, in seconds. `decode_seconds`: until its batch was there; little of it
    if the batch was read ahead. `hidden_seconds`: that exchanges took besides, while it computed.
    """

    now: float
    worker: int
    lease: int
    lease_seconds: float
    turn_seconds: float
    decode_seconds: float
    compute_seconds: float
    exchange_seconds: float
    hidden_seconds: float = 0.0


class FaultFired(Entry, frozen=True, tag=40):
    """A planned fault struck this actor at one of its events (see cluster.faults). Written before it does.

    Attributes:
        actor: Of whose events it is: that of the journal, or a worker of that host.
        event: Which one, from 1.
        do: The kind of fault.
        message: The kind of message that it struck.
    """

    now: float
    actor: str
    event: int
    do: str
    message: str


Record = (
    ShardOpened | ShardSaved | LedgerOpened | AveragerOpened | AveragerSaved | Arithmetic | PushHandled | RoundApplied
    | PullHandled | ExchangeRefused | SampleSent | SampleSkipped | LeaseGranted | LeaseFinished | LeaseFailed
    | LeaseDiscarded | LeaseReturned | RoundOrdered | WorkerLeft | WorkerQuarantined | ShardRejoined | PairParted
    | LedgerStopped | SampleAveraged | WorkerExchanged | WorkerTimed | FaultFired
)  # fmt: skip

"""Messages: everything that crosses a boundary between workers, shards, ledger and averager.

Each is a frozen value; nothing here acts. They are Structs of msgspec rather than dataclasses, since several are made
for every update: one takes a tenth of a microsecond instead of a whole one. A tensor inside a message is a buffer that
belongs to the sender's mailbox: the receiver reads or fills it inside `handle` and keeps no reference to it afterwards,
unless the message says otherwise.

The state machines share one signature, `handle(now, message) -> Outbox`: `now` in seconds, and an outbox in which
every answer names its recipient, since an answer may be delayed and go to an earlier asker.

Shape suffix: N = parameters held by one shard.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from torch import Tensor


class Role(Enum):
    """What an address names."""

    WORKER = "worker"
    SHARD = "shard"
    LEDGER = "ledger"
    AVERAGER = "averager"
    JOURNAL = "journal"  # the sender's own journal: a record to append before any answer leaves
    STANDBY = "standby"  # of the shard with the same index


class Address(Struct, frozen=True):
    """One recipient: a role and its index (workers 0..W-1, shards and their standbys 0..S-1, else 0)."""

    role: Role
    index: int = 0

    def __str__(self) -> str:
        return f"{self.role.value}-{self.index}" if self.role in _MANY else self.role.value


_MANY = (Role.WORKER, Role.SHARD, Role.STANDBY)


LEDGER = Address(Role.LEDGER)
AVERAGER = Address(Role.AVERAGER)
JOURNAL = Address(Role.JOURNAL)


# --- leases: worker and ledger ----------------------------------------------------------------------------------------


class Lease(Struct, frozen=True):
    """The right and the duty to compute one gradient: which examples, and the name of every random number it needs.

    Attributes:
        id: Position in the run's sequence of leases, from 0. The same id always means the same examples and the same
            random numbers.
        attempt: 0 for the first grant; a lease that was lost or late is granted again with the next attempt. Never
            part of the arithmetic.
        epoch: Epoch of the examples, from 0.
        first: First position in that epoch's permutation.
        count: Number of examples.
        weight: `count` over the run's batch size; below 1 only for an epoch's short last batch. It multiplies the loss.
        deadline: Time (seconds, the driver's clock) after which the ledger may grant the lease to somebody else.
    """

    id: int
    attempt: int
    epoch: int
    first: int
    count: int
    weight: float
    deadline: float


class Finished(Struct, frozen=True):
    """A worker's word that every shard has its lease's gradient.

    Attributes:
        loss: Mean main loss of the lease's readable examples (without the auxiliary heads), in nats; 0 of none.
        errors: Examples that the main head classified wrongly.
        skipped: Examples that could not be read and were left out.
        auxiliary: Mean losses of the auxiliary heads, from the bottom up.
        incarnations: Of each shard when it said so; shards beyond the end are in their first.
    """

    lease: int
    attempt: int
    loss: float
    errors: int
    skipped: int
    auxiliary: tuple[float, ...] = ()
    incarnations: tuple[int, ...] = ()


class Failed(Struct, frozen=True):
    """A worker's word that it has no gradient for its lease.

    Attributes:
        finite: False if loss or gradient was not finite; True if a shard refused the push for another reason.
        reason: One line for a person.
    """

    lease: int
    attempt: int
    finite: bool
    reason: str


class Discarded(Struct, frozen=True):
    """A worker's word that some shard found its lease's gradient too stale, its round closed without it, or what it
    read lost with an earlier incarnation.
    """

    lease: int
    attempt: int


class NextLease(Struct, frozen=True):
    """Worker to ledger: what became of my last lease, and give me the next one.

    Attributes:
        number: Rises by one per request of a worker.
        version: The least version that the weights it holds were read at, over the shards.
    """

    worker: int
    number: int
    outcome: Finished | Failed | Discarded | None
    version: int = 0


class Granted(Struct, frozen=True):
    """Ledger to worker: the answer to request `number`.

    `pull`: the worker had to wait for it, so it pulls again before it computes.
    """

    number: int
    lease: Lease
    pull: bool = False


class NoMoreLeases(Struct, frozen=True):
    """Ledger to worker: the run is over for you; `reason` is one of ledger.Ending."""

    number: int
    reason: str


class WorkerLost(Struct, frozen=True):
    """Driver to ledger: this worker will not answer again; its lease is looked after now and not at its deadline."""

    worker: int


class Tick(Struct, frozen=True):
    """Driver to ledger: time has passed; look at the deadlines."""


class Stop(Struct, frozen=True):
    """Driver to ledger: grant no more leases. `reason` is one of ledger.Ending."""

    reason: str


class CloseRound(Struct, frozen=True):
    """Ledger to shard: apply the staged gradients of these leases as one update.

    Attributes:
        number: Of this message; numbers of inquiries and rounds are drawn from one sequence.
        round: The version that comes of it: rounds count from 1.
        leases: Ascending; every shard holds all of them.
        size: What their sum is divided by.
        keep: Whether other staged gradients stay for a later round; else they are dropped.
    """

    number: int
    round: int
    leases: tuple[int, ...]
    size: int
    keep: bool


class RoundClosed(Struct, frozen=True):
    """Shard to ledger: what CloseRound `number` asked for is done."""

    number: int
    shard: int
    incarnation: int = 0


class WhoHas(Struct, frozen=True):
    """Ledger to shard: which of these leases have you applied or staged?"""

    number: int
    leases: tuple[int, ...]


class Has(Struct, frozen=True):
    """Shard to ledger: of the leases in inquiry `number`, I have applied or staged these."""

    number: int
    shard: int
    leases: tuple[int, ...]
    incarnation: int = 0


class TakeInventory(Struct, frozen=True):
    """Ledger to shard: say all that you have. The ledger came back and does not know."""

    number: int


class Inventory(Struct, frozen=True):
    """Shard to ledger: all that I have.

    Attributes:
        number: Of the question; 0 if nobody asked: the shard came back from a snapshot as this incarnation.
        applied: Leases, as start, stop, start, stop, ... of ascending intervals.
        staged: Leases that wait for their round.
    """

    number: int
    shard: int
    incarnation: int
    version: int
    applied: tuple[int, ...]
    staged: tuple[int, ...]


# --- weights and gradients: worker and shard -------------------------------------------------------------------------


class Reading(Struct, frozen=True, array_like=True):
    """What a pull read at one shard: the version (applications so far) and the incarnation that counted it."""

    incarnation: int
    version: int


class Push(Struct, frozen=True):
    """One lease's gradient for one shard.

    Attributes:
        samples: Examples in the lease: schedules count samples.
        read: What the weights under this gradient were read from, one reading per shard of the run.
        gradient_N: float32 gradient of the lease's weighted mean loss. The shard only reads it.
    """

    lease: int
    attempt: int
    samples: int
    read: tuple[Reading, ...]
    gradient_N: Tensor


class Wire(Enum):
    """The type that vectors have on their way (see ps.rounding); at both ends they are float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Exchange(Struct, frozen=True):
    """Worker to shard: apply this push, if any; then copy the fresh weights into `weights_N`, if given (a pull).

    Attributes:
        number: Rises by one per exchange of a worker; the answer carries it back.
        weights_N: float32 buffer that the shard fills; None for a push without a pull.
        wire: The type that both vectors have on their way.
    """

    worker: int
    number: int
    shard: int
    push: Push | None
    weights_N: Tensor | None
    wire: Wire = Wire.FLOAT32


class Outcome(Enum):
    """What became of the push in an exchange."""

    NONE = "none"  # there was none
    APPLIED = "applied"
    DUPLICATE = "duplicate"  # the lease was already applied or staged; nothing changed
    STAGED = "staged"  # it waits for its round
    DISCARDED = "discarded"  # too stale; nothing changed


class Exchanged(Struct, frozen=True):
    """Shard to worker: done.

    Attributes:
        reading: Version and incarnation after the push, which is what the pull read.
        samples: Samples applied on this shard so far; schedules follow it.
        staleness: Of the push, in updates; None unless it was applied or discarded.
    """

    number: int
    shard: int
    outcome: Outcome
    reading: Reading
    samples: int
    staleness: int | None


class Refusal(Enum):
    """Why a shard refused an exchange. Definite: nothing was written."""

    SHARD = "wrong shard"
    LENGTH = "wrong length"
    DTYPE = "wrong dtype"
    READINGS = "wrong readings"
    INCARNATION = "unknown incarnation"
    FUTURE = "version from the future"
    NOT_FINITE = "not finite"
    LEASE = "impossible lease"
    FORGOTTEN = "weights no longer known"


class Refused(Struct, frozen=True):
    """Shard to worker: exchange `number` was refused before the first write."""

    number: int
    shard: int
    refusal: Refusal
    message: str


# --- copies: shard, averager and whoever reads -----------------------------------------------------------------------


class Sample(Struct, frozen=True):
    """Shard to averager: my weights at a version that the average is defined over. The buffer is the shard's until
    SampleTaken.
    """

    shard: int
    incarnation: int
    version: int
    weights_N: Tensor


class SampleTaken(Struct, frozen=True):
    """Averager to shard: the sample at this version has been taken in; its buffer is yours again."""

    shard: int
    incarnation: int
    version: int


class Read(Struct, frozen=True):
    """Anyone to shard or averager: copy what you hold for `shard` into `out_N`. Leaves no trace in any state or
    journal.
    """

    reader: Address
    number: int
    shard: int
    out_N: Tensor


class ReadDone(Struct, frozen=True):
    """The answer to a Read.

    `version`: of the newest weights in it; `samples`: how many weights it averages (1 at a shard).
    """

    number: int
    shard: int
    version: int
    samples: int


# --- standbys: a shard and the one that holds the same (see ps.standby) ----------------------------------------------


class Forward(Struct, frozen=True):
    """Shard to its standby: handle this as I did. A gradient in it stays as it is until the answer.

    Attributes:
        incarnation: The shard's.
        number: Rises by one per Forward; they are handled in this order.
        written: How many of the shard's records are in its journal for certain.
        in_step: Whether nobody hears from the shard what the standby does not hold, from here on.
        now: The time at which the shard handled it.
        message: A pull in it has no buffer that could be filled. None: nothing to handle.
    """

    shard: int
    incarnation: int
    number: int
    written: int
    in_step: bool
    now: float
    message: Exchange | CloseRound | SampleTaken | None


class Forwarded(Struct, frozen=True):
    """Standby to shard: I hold what you held after `number`; `version`: that I came to, -1 if I held it before."""

    shard: int
    number: int
    version: int


class Claim(Struct, frozen=True):
    """Shard or standby to ledger: the other of us two is gone, or does not answer; may I go on without it?

    Attributes:
        incarnation: Of both.
        pair: Which two of this incarnation: rises with every standby that the shard has had.
        leads: Whether the one that leads asks.
    """

    shard: int
    incarnation: int
    pair: int
    leads: bool


class Ruling(Struct, frozen=True):
    """Ledger to shard or standby: the answer to this Claim; if it is not granted, the other one goes on."""

    shard: int
    incarnation: int
    pair: int
    leads: bool
    granted: bool


Message = (
    NextLease | Granted | NoMoreLeases | WorkerLost | Tick | Stop | WhoHas | Has | TakeInventory | Inventory
    | CloseRound | RoundClosed | Exchange | Exchanged | Refused | Sample | SampleTaken | Read | ReadDone
    | Forward | Forwarded | Claim | Ruling
)  # fmt: skip

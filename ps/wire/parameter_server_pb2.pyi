from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_WORKER: _ClassVar[Role]
    ROLE_SHARD: _ClassVar[Role]
    ROLE_LEDGER: _ClassVar[Role]
    ROLE_AVERAGER: _ClassVar[Role]
    ROLE_JOURNAL: _ClassVar[Role]

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_NONE: _ClassVar[Outcome]
    OUTCOME_APPLIED: _ClassVar[Outcome]
    OUTCOME_DUPLICATE: _ClassVar[Outcome]
    OUTCOME_STAGED: _ClassVar[Outcome]
    OUTCOME_DISCARDED: _ClassVar[Outcome]

class Refusal(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REFUSAL_SHARD: _ClassVar[Refusal]
    REFUSAL_LENGTH: _ClassVar[Refusal]
    REFUSAL_DTYPE: _ClassVar[Refusal]
    REFUSAL_READINGS: _ClassVar[Refusal]
    REFUSAL_INCARNATION: _ClassVar[Refusal]
    REFUSAL_FUTURE: _ClassVar[Refusal]
    REFUSAL_NOT_FINITE: _ClassVar[Refusal]
    REFUSAL_LEASE: _ClassVar[Refusal]
    REFUSAL_FORGOTTEN: _ClassVar[Refusal]

class Wire(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WIRE_FLOAT32: _ClassVar[Wire]
    WIRE_BFLOAT16: _ClassVar[Wire]
    WIRE_FLOAT16: _ClassVar[Wire]
ROLE_WORKER: Role
ROLE_SHARD: Role
ROLE_LEDGER: Role
ROLE_AVERAGER: Role
ROLE_JOURNAL: Role
OUTCOME_NONE: Outcome
OUTCOME_APPLIED: Outcome
OUTCOME_DUPLICATE: Outcome
OUTCOME_STAGED: Outcome
OUTCOME_DISCARDED: Outcome
REFUSAL_SHARD: Refusal
REFUSAL_LENGTH: Refusal
REFUSAL_DTYPE: Refusal
REFUSAL_READINGS: Refusal
REFUSAL_INCARNATION: Refusal
REFUSAL_FUTURE: Refusal
REFUSAL_NOT_FINITE: Refusal
REFUSAL_LEASE: Refusal
REFUSAL_FORGOTTEN: Refusal
WIRE_FLOAT32: Wire
WIRE_BFLOAT16: Wire
WIRE_FLOAT16: Wire

class StreamRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StreamReply(_message.Message):
    __slots__ = ("port",)
    PORT_FIELD_NUMBER: _ClassVar[int]
    port: int
    def __init__(self, port: _Optional[int] = ...) -> None: ...

class Address(_message.Message):
    __slots__ = ("role", "index")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    role: Role
    index: int
    def __init__(self, role: _Optional[_Union[Role, str]] = ..., index: _Optional[int] = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ("id", "attempt", "epoch", "first", "count", "weight", "deadline")
    ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    id: int
    attempt: int
    epoch: int
    first: int
    count: int
    weight: float
    deadline: float
    def __init__(self, id: _Optional[int] = ..., attempt: _Optional[int] = ..., epoch: _Optional[int] = ..., first: _Optional[int] = ..., count: _Optional[int] = ..., weight: _Optional[float] = ..., deadline: _Optional[float] = ...) -> None: ...

class Finished(_message.Message):
    __slots__ = ("lease", "attempt", "loss", "errors", "skipped", "auxiliary", "incarnations")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    AUXILIARY_FIELD_NUMBER: _ClassVar[int]
    INCARNATIONS_FIELD_NUMBER: _ClassVar[int]
    lease: int
    attempt: int
    loss: float
    errors: int
    skipped: int
    auxiliary: _containers.RepeatedScalarFieldContainer[float]
    incarnations: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, lease: _Optional[int] = ..., attempt: _Optional[int] = ..., loss: _Optional[float] = ..., errors: _Optional[int] = ..., skipped: _Optional[int] = ..., auxiliary: _Optional[_Iterable[float]] = ..., incarnations: _Optional[_Iterable[int]] = ...) -> None: ...

class Failed(_message.Message):
    __slots__ = ("lease", "attempt", "finite", "reason")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FINITE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    lease: int
    attempt: int
    finite: bool
    reason: str
    def __init__(self, lease: _Optional[int] = ..., attempt: _Optional[int] = ..., finite: bool = ..., reason: _Optional[str] = ...) -> None: ...

class Discarded(_message.Message):
    __slots__ = ("lease", "attempt")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    lease: int
    attempt: int
    def __init__(self, lease: _Optional[int] = ..., attempt: _Optional[int] = ...) -> None: ...

class NextLease(_message.Message):
    __slots__ = ("worker", "number", "finished", "failed", "discarded", "version")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    DISCARDED_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    worker: int
    number: int
    finished: Finished
    failed: Failed
    discarded: Discarded
    version: int
    def __init__(self, worker: _Optional[int] = ..., number: _Optional[int] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ..., failed: _Optional[_Union[Failed, _Mapping]] = ..., discarded: _Optional[_Union[Discarded, _Mapping]] = ..., version: _Optional[int] = ...) -> None: ...

class Granted(_message.Message):
    __slots__ = ("number", "lease", "pull")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    PULL_FIELD_NUMBER: _ClassVar[int]
    number: int
    lease: Lease
    pull: bool
    def __init__(self, number: _Optional[int] = ..., lease: _Optional[_Union[Lease, _Mapping]] = ..., pull: bool = ...) -> None: ...

class NoMoreLeases(_message.Message):
    __slots__ = ("number", "reason")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    number: int
    reason: str
    def __init__(self, number: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class WorkerLost(_message.Message):
    __slots__ = ("worker",)
    WORKER_FIELD_NUMBER: _ClassVar[int]
    worker: int
    def __init__(self, worker: _Optional[int] = ...) -> None: ...

class Tick(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Stop(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class CloseRound(_message.Message):
    __slots__ = ("number", "round", "leases", "size", "keep")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    number: int
    round: int
    leases: _containers.RepeatedScalarFieldContainer[int]
    size: int
    keep: bool
    def __init__(self, number: _Optional[int] = ..., round: _Optional[int] = ..., leases: _Optional[_Iterable[int]] = ..., size: _Optional[int] = ..., keep: bool = ...) -> None: ...

class RoundClosed(_message.Message):
    __slots__ = ("number", "shard", "incarnation")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    number: int
    shard: int
    incarnation: int
    def __init__(self, number: _Optional[int] = ..., shard: _Optional[int] = ..., incarnation: _Optional[int] = ...) -> None: ...

class WhoHas(_message.Message):
    __slots__ = ("number", "leases")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    number: int
    leases: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, number: _Optional[int] = ..., leases: _Optional[_Iterable[int]] = ...) -> None: ...

class Has(_message.Message):
    __slots__ = ("number", "shard", "leases", "incarnation")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    number: int
    shard: int
    leases: _containers.RepeatedScalarFieldContainer[int]
    incarnation: int
    def __init__(self, number: _Optional[int] = ..., shard: _Optional[int] = ..., leases: _Optional[_Iterable[int]] = ..., incarnation: _Optional[int] = ...) -> None: ...

class TakeInventory(_message.Message):
    __slots__ = ("number",)
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    number: int
    def __init__(self, number: _Optional[int] = ...) -> None: ...

class Inventory(_message.Message):
    __slots__ = ("number", "shard", "incarnation", "version", "applied", "staged")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    STAGED_FIELD_NUMBER: _ClassVar[int]
    number: int
    shard: int
    incarnation: int
    version: int
    applied: _containers.RepeatedScalarFieldContainer[int]
    staged: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, number: _Optional[int] = ..., shard: _Optional[int] = ..., incarnation: _Optional[int] = ..., version: _Optional[int] = ..., applied: _Optional[_Iterable[int]] = ..., staged: _Optional[_Iterable[int]] = ...) -> None: ...

class Reading(_message.Message):
    __slots__ = ("incarnation", "version")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    version: int
    def __init__(self, incarnation: _Optional[int] = ..., version: _Optional[int] = ...) -> None: ...

class Push(_message.Message):
    __slots__ = ("lease", "attempt", "samples", "read")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    lease: int
    attempt: int
    samples: int
    read: _containers.RepeatedCompositeFieldContainer[Reading]
    def __init__(self, lease: _Optional[int] = ..., attempt: _Optional[int] = ..., samples: _Optional[int] = ..., read: _Optional[_Iterable[_Union[Reading, _Mapping]]] = ...) -> None: ...

class Exchange(_message.Message):
    __slots__ = ("worker", "number", "shard", "push", "pull", "elements", "wire")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    PUSH_FIELD_NUMBER: _ClassVar[int]
    PULL_FIELD_NUMBER: _ClassVar[int]
    ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    WIRE_FIELD_NUMBER: _ClassVar[int]
    worker: int
    number: int
    shard: int
    push: Push
    pull: bool
    elements: int
    wire: Wire
    def __init__(self, worker: _Optional[int] = ..., number: _Optional[int] = ..., shard: _Optional[int] = ..., push: _Optional[_Union[Push, _Mapping]] = ..., pull: bool = ..., elements: _Optional[int] = ..., wire: _Optional[_Union[Wire, str]] = ...) -> None: ...

class Memory(_message.Message):
    __slots__ = ("process", "descriptor", "name", "offset")
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTOR_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    process: int
    descriptor: int
    name: str
    offset: int
    def __init__(self, process: _Optional[int] = ..., descriptor: _Optional[int] = ..., name: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class Mail(_message.Message):
    __slots__ = ("exchange", "gradient", "weights")
    EXCHANGE_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    exchange: Exchange
    gradient: Memory
    weights: Memory
    def __init__(self, exchange: _Optional[_Union[Exchange, _Mapping]] = ..., gradient: _Optional[_Union[Memory, _Mapping]] = ..., weights: _Optional[_Union[Memory, _Mapping]] = ...) -> None: ...

class Exchanged(_message.Message):
    __slots__ = ("number", "shard", "outcome", "reading", "samples", "staleness")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    READING_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    STALENESS_FIELD_NUMBER: _ClassVar[int]
    number: int
    shard: int
    outcome: Outcome
    reading: Reading
    samples: int
    staleness: int
    def __init__(self, number: _Optional[int] = ..., shard: _Optional[int] = ..., outcome: _Optional[_Union[Outcome, str]] = ..., reading: _Optional[_Union[Reading, _Mapping]] = ..., samples: _Optional[int] = ..., staleness: _Optional[int] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("number", "shard", "refusal", "message")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    number: int
    shard: int
    refusal: Refusal
    message: str
    def __init__(self, number: _Optional[int] = ..., shard: _Optional[int] = ..., refusal: _Optional[_Union[Refusal, str]] = ..., message: _Optional[str] = ...) -> None: ...

class Sample(_message.Message):
    __slots__ = ("shard", "incarnation", "version", "elements")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    shard: int
    incarnation: int
    version: int
    elements: int
    def __init__(self, shard: _Optional[int] = ..., incarnation: _Optional[int] = ..., version: _Optional[int] = ..., elements: _Optional[int] = ...) -> None: ...

class SampleTaken(_message.Message):
    __slots__ = ("shard", "incarnation", "version")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    shard: int
    incarnation: int
    version: int
    def __init__(self, shard: _Optional[int] = ..., incarnation: _Optional[int] = ..., version: _Optional[int] = ...) -> None: ...

class Read(_message.Message):
    __slots__ = ("reader", "number", "shard", "elements")
    READER_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    reader: Address
    number: int
    shard: int
    elements: int
    def __init__(self, reader: _Optional[_Union[Address, _Mapping]] = ..., number: _Optional[int] = ..., shard: _Optional[int] = ..., elements: _Optional[int] = ...) -> None: ...

class ReadDone(_message.Message):
    __slots__ = ("number", "shard", "version", "samples")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    number: int
    shard: int
    version: int
    samples: int
    def __init__(self, number: _Optional[int] = ..., shard: _Optional[int] = ..., version: _Optional[int] = ..., samples: _Optional[int] = ...) -> None: ...

class Received(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Envelope(_message.Message):
    __slots__ = ("next_lease", "granted", "no_more_leases", "worker_lost", "tick", "stop", "who_has", "has", "exchange", "exchanged", "refused", "sample", "sample_taken", "read", "read_done", "received", "close_round", "round_closed", "inventory", "take_inventory")
    NEXT_LEASE_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    NO_MORE_LEASES_FIELD_NUMBER: _ClassVar[int]
    WORKER_LOST_FIELD_NUMBER: _ClassVar[int]
    TICK_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    WHO_HAS_FIELD_NUMBER: _ClassVar[int]
    HAS_FIELD_NUMBER: _ClassVar[int]
    EXCHANGE_FIELD_NUMBER: _ClassVar[int]
    EXCHANGED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_TAKEN_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    READ_DONE_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    CLOSE_ROUND_FIELD_NUMBER: _ClassVar[int]
    ROUND_CLOSED_FIELD_NUMBER: _ClassVar[int]
    INVENTORY_FIELD_NUMBER: _ClassVar[int]
    TAKE_INVENTORY_FIELD_NUMBER: _ClassVar[int]
    next_lease: NextLease
    granted: Granted
    no_more_leases: NoMoreLeases
    worker_lost: WorkerLost
    tick: Tick
    stop: Stop
    who_has: WhoHas
    has: Has
    exchange: Exchange
    exchanged: Exchanged
    refused: Refused
    sample: Sample
    sample_taken: SampleTaken
    read: Read
    read_done: ReadDone
    received: Received
    close_round: CloseRound
    round_closed: RoundClosed
    inventory: Inventory
    take_inventory: TakeInventory
    def __init__(self, next_lease: _Optional[_Union[NextLease, _Mapping]] = ..., granted: _Optional[_Union[Granted, _Mapping]] = ..., no_more_leases: _Optional[_Union[NoMoreLeases, _Mapping]] = ..., worker_lost: _Optional[_Union[WorkerLost, _Mapping]] = ..., tick: _Optional[_Union[Tick, _Mapping]] = ..., stop: _Optional[_Union[Stop, _Mapping]] = ..., who_has: _Optional[_Union[WhoHas, _Mapping]] = ..., has: _Optional[_Union[Has, _Mapping]] = ..., exchange: _Optional[_Union[Exchange, _Mapping]] = ..., exchanged: _Optional[_Union[Exchanged, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ..., sample: _Optional[_Union[Sample, _Mapping]] = ..., sample_taken: _Optional[_Union[SampleTaken, _Mapping]] = ..., read: _Optional[_Union[Read, _Mapping]] = ..., read_done: _Optional[_Union[ReadDone, _Mapping]] = ..., received: _Optional[_Union[Received, _Mapping]] = ..., close_round: _Optional[_Union[CloseRound, _Mapping]] = ..., round_closed: _Optional[_Union[RoundClosed, _Mapping]] = ..., inventory: _Optional[_Union[Inventory, _Mapping]] = ..., take_inventory: _Optional[_Union[TakeInventory, _Mapping]] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShardStatus(_message.Message):
    __slots__ = ("shard", "incarnation", "version", "samples", "rate", "duplicates", "refused", "skipped_samples", "waiting_samples", "staleness", "discarded", "staged", "kernel")
    class StalenessEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    SHARD_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    WAITING_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    STALENESS_FIELD_NUMBER: _ClassVar[int]
    DISCARDED_FIELD_NUMBER: _ClassVar[int]
    STAGED_FIELD_NUMBER: _ClassVar[int]
    KERNEL_FIELD_NUMBER: _ClassVar[int]
    shard: int
    incarnation: int
    version: int
    samples: int
    rate: float
    duplicates: int
    refused: int
    skipped_samples: int
    waiting_samples: int
    staleness: _containers.ScalarMap[int, int]
    discarded: int
    staged: int
    kernel: str
    def __init__(self, shard: _Optional[int] = ..., incarnation: _Optional[int] = ..., version: _Optional[int] = ..., samples: _Optional[int] = ..., rate: _Optional[float] = ..., duplicates: _Optional[int] = ..., refused: _Optional[int] = ..., skipped_samples: _Optional[int] = ..., waiting_samples: _Optional[int] = ..., staleness: _Optional[_Mapping[int, int]] = ..., discarded: _Optional[int] = ..., staged: _Optional[int] = ..., kernel: _Optional[str] = ...) -> None: ...

class LedgerStatus(_message.Message):
    __slots__ = ("leases", "granted", "finished", "reissued", "outstanding", "samples", "skipped", "workers", "loss", "recent_loss", "recent_error", "ending", "message", "recent_auxiliary", "next_worker", "quarantined")
    LEASES_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    REISSUED_FIELD_NUMBER: _ClassVar[int]
    OUTSTANDING_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    RECENT_LOSS_FIELD_NUMBER: _ClassVar[int]
    RECENT_ERROR_FIELD_NUMBER: _ClassVar[int]
    ENDING_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RECENT_AUXILIARY_FIELD_NUMBER: _ClassVar[int]
    NEXT_WORKER_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    leases: int
    granted: int
    finished: int
    reissued: int
    outstanding: int
    samples: int
    skipped: int
    workers: int
    loss: float
    recent_loss: float
    recent_error: float
    ending: str
    message: str
    recent_auxiliary: _containers.RepeatedScalarFieldContainer[float]
    next_worker: int
    quarantined: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, leases: _Optional[int] = ..., granted: _Optional[int] = ..., finished: _Optional[int] = ..., reissued: _Optional[int] = ..., outstanding: _Optional[int] = ..., samples: _Optional[int] = ..., skipped: _Optional[int] = ..., workers: _Optional[int] = ..., loss: _Optional[float] = ..., recent_loss: _Optional[float] = ..., recent_error: _Optional[float] = ..., ending: _Optional[str] = ..., message: _Optional[str] = ..., recent_auxiliary: _Optional[_Iterable[float]] = ..., next_worker: _Optional[int] = ..., quarantined: _Optional[_Iterable[int]] = ...) -> None: ...

class AveragerStatus(_message.Message):
    __slots__ = ("versions", "counts")
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedScalarFieldContainer[int]
    counts: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, versions: _Optional[_Iterable[int]] = ..., counts: _Optional[_Iterable[int]] = ...) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("shard", "ledger", "averager", "unauthenticated", "by_memory", "by_network")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    LEDGER_FIELD_NUMBER: _ClassVar[int]
    AVERAGER_FIELD_NUMBER: _ClassVar[int]
    UNAUTHENTICATED_FIELD_NUMBER: _ClassVar[int]
    BY_MEMORY_FIELD_NUMBER: _ClassVar[int]
    BY_NETWORK_FIELD_NUMBER: _ClassVar[int]
    shard: ShardStatus
    ledger: LedgerStatus
    averager: AveragerStatus
    unauthenticated: int
    by_memory: int
    by_network: int
    def __init__(self, shard: _Optional[_Union[ShardStatus, _Mapping]] = ..., ledger: _Optional[_Union[LedgerStatus, _Mapping]] = ..., averager: _Optional[_Union[AveragerStatus, _Mapping]] = ..., unauthenticated: _Optional[int] = ..., by_memory: _Optional[int] = ..., by_network: _Optional[int] = ...) -> None: ...

class Header(_message.Message):
    __slots__ = ("format", "run", "actor")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    format: int
    run: str
    actor: str
    def __init__(self, format: _Optional[int] = ..., run: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class ShardOpened(_message.Message):
    __slots__ = ("now", "shard", "shards", "incarnation", "version", "samples", "elements", "weights_sha256", "snapshot", "cut")
    NOW_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_SHA256_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    now: float
    shard: int
    shards: int
    incarnation: int
    version: int
    samples: int
    elements: int
    weights_sha256: str
    snapshot: int
    cut: int
    def __init__(self, now: _Optional[float] = ..., shard: _Optional[int] = ..., shards: _Optional[int] = ..., incarnation: _Optional[int] = ..., version: _Optional[int] = ..., samples: _Optional[int] = ..., elements: _Optional[int] = ..., weights_sha256: _Optional[str] = ..., snapshot: _Optional[int] = ..., cut: _Optional[int] = ...) -> None: ...

class ShardSaved(_message.Message):
    __slots__ = ("now", "snapshot", "version", "waiting")
    NOW_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    now: float
    snapshot: int
    version: int
    waiting: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, now: _Optional[float] = ..., snapshot: _Optional[int] = ..., version: _Optional[int] = ..., waiting: _Optional[_Iterable[int]] = ...) -> None: ...

class AveragerOpened(_message.Message):
    __slots__ = ("now", "snapshot", "cut")
    NOW_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    now: float
    snapshot: int
    cut: int
    def __init__(self, now: _Optional[float] = ..., snapshot: _Optional[int] = ..., cut: _Optional[int] = ...) -> None: ...

class AveragerSaved(_message.Message):
    __slots__ = ("now", "snapshot")
    NOW_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    now: float
    snapshot: int
    def __init__(self, now: _Optional[float] = ..., snapshot: _Optional[int] = ...) -> None: ...

class LedgerOpened(_message.Message):
    __slots__ = ("now", "workers", "shards", "examples", "batch_size", "epochs", "seed", "batches", "resumed", "cut")
    NOW_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    now: float
    workers: int
    shards: int
    examples: int
    batch_size: int
    epochs: int
    seed: int
    batches: int
    resumed: bool
    cut: int
    def __init__(self, now: _Optional[float] = ..., workers: _Optional[int] = ..., shards: _Optional[int] = ..., examples: _Optional[int] = ..., batch_size: _Optional[int] = ..., epochs: _Optional[int] = ..., seed: _Optional[int] = ..., batches: _Optional[int] = ..., resumed: bool = ..., cut: _Optional[int] = ...) -> None: ...

class Arithmetic(_message.Message):
    __slots__ = ("now", "torch", "pillow", "libjpeg", "processor", "threads", "data")
    NOW_FIELD_NUMBER: _ClassVar[int]
    TORCH_FIELD_NUMBER: _ClassVar[int]
    PILLOW_FIELD_NUMBER: _ClassVar[int]
    LIBJPEG_FIELD_NUMBER: _ClassVar[int]
    PROCESSOR_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    now: float
    torch: str
    pillow: str
    libjpeg: str
    processor: str
    threads: int
    data: str
    def __init__(self, now: _Optional[float] = ..., torch: _Optional[str] = ..., pillow: _Optional[str] = ..., libjpeg: _Optional[str] = ..., processor: _Optional[str] = ..., threads: _Optional[int] = ..., data: _Optional[str] = ...) -> None: ...

class PushHandled(_message.Message):
    __slots__ = ("now", "worker", "number", "lease", "attempt", "samples", "read", "outcome", "rate", "staleness", "version", "pulled", "wire")
    NOW_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    STALENESS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PULLED_FIELD_NUMBER: _ClassVar[int]
    WIRE_FIELD_NUMBER: _ClassVar[int]
    now: float
    worker: int
    number: int
    lease: int
    attempt: int
    samples: int
    read: _containers.RepeatedCompositeFieldContainer[Reading]
    outcome: Outcome
    rate: float
    staleness: int
    version: int
    pulled: bool
    wire: Wire
    def __init__(self, now: _Optional[float] = ..., worker: _Optional[int] = ..., number: _Optional[int] = ..., lease: _Optional[int] = ..., attempt: _Optional[int] = ..., samples: _Optional[int] = ..., read: _Optional[_Iterable[_Union[Reading, _Mapping]]] = ..., outcome: _Optional[_Union[Outcome, str]] = ..., rate: _Optional[float] = ..., staleness: _Optional[int] = ..., version: _Optional[int] = ..., pulled: bool = ..., wire: _Optional[_Union[Wire, str]] = ...) -> None: ...

class RoundApplied(_message.Message):
    __slots__ = ("now", "leases", "staleness", "samples", "size", "keep", "rate", "version")
    NOW_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    STALENESS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    now: float
    leases: _containers.RepeatedScalarFieldContainer[int]
    staleness: _containers.RepeatedScalarFieldContainer[int]
    samples: int
    size: int
    keep: bool
    rate: float
    version: int
    def __init__(self, now: _Optional[float] = ..., leases: _Optional[_Iterable[int]] = ..., staleness: _Optional[_Iterable[int]] = ..., samples: _Optional[int] = ..., size: _Optional[int] = ..., keep: bool = ..., rate: _Optional[float] = ..., version: _Optional[int] = ...) -> None: ...

class PullHandled(_message.Message):
    __slots__ = ("now", "worker", "number", "version", "wire")
    NOW_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WIRE_FIELD_NUMBER: _ClassVar[int]
    now: float
    worker: int
    number: int
    version: int
    wire: Wire
    def __init__(self, now: _Optional[float] = ..., worker: _Optional[int] = ..., number: _Optional[int] = ..., version: _Optional[int] = ..., wire: _Optional[_Union[Wire, str]] = ...) -> None: ...

class ExchangeRefused(_message.Message):
    __slots__ = ("now", "worker", "number", "lease", "refusal")
    NOW_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    now: float
    worker: int
    number: int
    lease: int
    refusal: Refusal
    def __init__(self, now: _Optional[float] = ..., worker: _Optional[int] = ..., number: _Optional[int] = ..., lease: _Optional[int] = ..., refusal: _Optional[_Union[Refusal, str]] = ...) -> None: ...

class SampleSent(_message.Message):
    __slots__ = ("now", "version")
    NOW_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    now: float
    version: int
    def __init__(self, now: _Optional[float] = ..., version: _Optional[int] = ...) -> None: ...

class SampleSkipped(_message.Message):
    __slots__ = ("now", "version")
    NOW_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    now: float
    version: int
    def __init__(self, now: _Optional[float] = ..., version: _Optional[int] = ...) -> None: ...

class LeaseGranted(_message.Message):
    __slots__ = ("now", "worker", "number", "lease", "attempt", "deadline")
    NOW_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    now: float
    worker: int
    number: int
    lease: int
    attempt: int
    deadline: float
    def __init__(self, now: _Optional[float] = ..., worker: _Optional[int] = ..., number: _Optional[int] = ..., lease: _Optional[int] = ..., attempt: _Optional[int] = ..., deadline: _Optional[float] = ...) -> None: ...

class LeaseFinished(_message.Message):
    __slots__ = ("now", "worker", "lease", "attempt", "samples", "loss", "errors", "skipped", "auxiliary")
    NOW_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    AUXILIARY_FIELD_NUMBER: _ClassVar[int]
    now: float
    worker: int
    lease: int
    attempt: int
    samples: int
    loss: float
    errors: int
    skipped: int
    auxiliary: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, now: _Optional[float] = ..., worker: _Optional[int] = ..., lease: _Optional[int] = ..., attempt: _Optional[int] = ..., samples: _Optional[int] = ..., loss: _Optional[float] = ..., errors: _Optional[int] = ..., skipped: _Optional[int] = ..., auxiliary: _Optional[_Iterable[float]] = ...) -> None: ...

class LeaseFailed(_message.Message):
    __slots__ = ("now", "worker", "lease", "attempt", "finite", "reason")
    NOW_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FINITE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    now: float
    worker: int
    lease: int
    attempt: int
    finite: bool
    reason: str
    def __init__(self, now: _Optional[float] = ..., worker: _Optional[int] = ..., lease: _Optional[int] = ..., attempt: _Optional[int] = ..., finite: bool = ..., reason: _Optional[str] = ...) -> None: ...

class LeaseDiscarded(_message.Message):
    __slots__ = ("now", "worker", "lease", "attempt")
    NOW_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    now: float
    worker: int
    lease: int
    attempt: int
    def __init__(self, now: _Optional[float] = ..., worker: _Optional[int] = ..., lease: _Optional[int] = ..., attempt: _Optional[int] = ...) -> None: ...

class RoundOrdered(_message.Message):
    __slots__ = ("now", "round", "leases", "keep")
    NOW_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    now: float
    round: int
    leases: _containers.RepeatedScalarFieldContainer[int]
    keep: bool
    def __init__(self, now: _Optional[float] = ..., round: _Optional[int] = ..., leases: _Optional[_Iterable[int]] = ..., keep: bool = ...) -> None: ...

class LeaseReturned(_message.Message):
    __slots__ = ("now", "lease", "attempt")
    NOW_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    now: float
    lease: int
    attempt: int
    def __init__(self, now: _Optional[float] = ..., lease: _Optional[int] = ..., attempt: _Optional[int] = ...) -> None: ...

class WorkerLeft(_message.Message):
    __slots__ = ("now", "worker")
    NOW_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    now: float
    worker: int
    def __init__(self, now: _Optional[float] = ..., worker: _Optional[int] = ...) -> None: ...

class WorkerQuarantined(_message.Message):
    __slots__ = ("now", "worker", "lease")
    NOW_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    now: float
    worker: int
    lease: int
    def __init__(self, now: _Optional[float] = ..., worker: _Optional[int] = ..., lease: _Optional[int] = ...) -> None: ...

class ShardRejoined(_message.Message):
    __slots__ = ("now", "shard", "incarnation", "version")
    NOW_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    now: float
    shard: int
    incarnation: int
    version: int
    def __init__(self, now: _Optional[float] = ..., shard: _Optional[int] = ..., incarnation: _Optional[int] = ..., version: _Optional[int] = ...) -> None: ...

class LedgerStopped(_message.Message):
    __slots__ = ("now", "reason")
    NOW_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    now: float
    reason: str
    def __init__(self, now: _Optional[float] = ..., reason: _Optional[str] = ...) -> None: ...

class SampleAveraged(_message.Message):
    __slots__ = ("now", "shard", "incarnation", "version", "counted")
    NOW_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    COUNTED_FIELD_NUMBER: _ClassVar[int]
    now: float
    shard: int
    incarnation: int
    version: int
    counted: bool
    def __init__(self, now: _Optional[float] = ..., shard: _Optional[int] = ..., incarnation: _Optional[int] = ..., version: _Optional[int] = ..., counted: bool = ...) -> None: ...

class WorkerExchanged(_message.Message):
    __slots__ = ("now", "worker", "number", "shard", "lease", "outcome", "reading")
    NOW_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    READING_FIELD_NUMBER: _ClassVar[int]
    now: float
    worker: int
    number: int
    shard: int
    lease: int
    outcome: Outcome
    reading: Reading
    def __init__(self, now: _Optional[float] = ..., worker: _Optional[int] = ..., number: _Optional[int] = ..., shard: _Optional[int] = ..., lease: _Optional[int] = ..., outcome: _Optional[_Union[Outcome, str]] = ..., reading: _Optional[_Union[Reading, _Mapping]] = ...) -> None: ...

class WorkerTimed(_message.Message):
    __slots__ = ("now", "worker", "lease", "lease_seconds", "turn_seconds", "decode_seconds", "compute_seconds", "exchange_seconds")
    NOW_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TURN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DECODE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    EXCHANGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    now: float
    worker: int
    lease: int
    lease_seconds: float
    turn_seconds: float
    decode_seconds: float
    compute_seconds: float
    exchange_seconds: float
    def __init__(self, now: _Optional[float] = ..., worker: _Optional[int] = ..., lease: _Optional[int] = ..., lease_seconds: _Optional[float] = ..., turn_seconds: _Optional[float] = ..., decode_seconds: _Optional[float] = ..., compute_seconds: _Optional[float] = ..., exchange_seconds: _Optional[float] = ...) -> None: ...

class FaultFired(_message.Message):
    __slots__ = ("now", "actor", "event", "do", "message")
    NOW_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    DO_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    now: float
    actor: str
    event: int
    do: str
    message: str
    def __init__(self, now: _Optional[float] = ..., actor: _Optional[str] = ..., event: _Optional[int] = ..., do: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Record(_message.Message):
    __slots__ = ("header", "shard_opened", "push_handled", "pull_handled", "exchange_refused", "sample_sent", "sample_skipped", "lease_granted", "lease_finished", "lease_failed", "lease_returned", "ledger_stopped", "sample_averaged", "worker_exchanged", "worker_timed", "ledger_opened", "arithmetic", "round_applied", "lease_discarded", "round_ordered", "shard_saved", "averager_opened", "averager_saved", "worker_left", "shard_rejoined", "fault_fired", "worker_quarantined")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    SHARD_OPENED_FIELD_NUMBER: _ClassVar[int]
    PUSH_HANDLED_FIELD_NUMBER: _ClassVar[int]
    PULL_HANDLED_FIELD_NUMBER: _ClassVar[int]
    EXCHANGE_REFUSED_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_SENT_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_SKIPPED_FIELD_NUMBER: _ClassVar[int]
    LEASE_GRANTED_FIELD_NUMBER: _ClassVar[int]
    LEASE_FINISHED_FIELD_NUMBER: _ClassVar[int]
    LEASE_FAILED_FIELD_NUMBER: _ClassVar[int]
    LEASE_RETURNED_FIELD_NUMBER: _ClassVar[int]
    LEDGER_STOPPED_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_AVERAGED_FIELD_NUMBER: _ClassVar[int]
    WORKER_EXCHANGED_FIELD_NUMBER: _ClassVar[int]
    WORKER_TIMED_FIELD_NUMBER: _ClassVar[int]
    LEDGER_OPENED_FIELD_NUMBER: _ClassVar[int]
    ARITHMETIC_FIELD_NUMBER: _ClassVar[int]
    ROUND_APPLIED_FIELD_NUMBER: _ClassVar[int]
    LEASE_DISCARDED_FIELD_NUMBER: _ClassVar[int]
    ROUND_ORDERED_FIELD_NUMBER: _ClassVar[int]
    SHARD_SAVED_FIELD_NUMBER: _ClassVar[int]
    AVERAGER_OPENED_FIELD_NUMBER: _ClassVar[int]
    AVERAGER_SAVED_FIELD_NUMBER: _ClassVar[int]
    WORKER_LEFT_FIELD_NUMBER: _ClassVar[int]
    SHARD_REJOINED_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIRED_FIELD_NUMBER: _ClassVar[int]
    WORKER_QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    header: Header
    shard_opened: ShardOpened
    push_handled: PushHandled
    pull_handled: PullHandled
    exchange_refused: ExchangeRefused
    sample_sent: SampleSent
    sample_skipped: SampleSkipped
    lease_granted: LeaseGranted
    lease_finished: LeaseFinished
    lease_failed: LeaseFailed
    lease_returned: LeaseReturned
    ledger_stopped: LedgerStopped
    sample_averaged: SampleAveraged
    worker_exchanged: WorkerExchanged
    worker_timed: WorkerTimed
    ledger_opened: LedgerOpened
    arithmetic: Arithmetic
    round_applied: RoundApplied
    lease_discarded: LeaseDiscarded
    round_ordered: RoundOrdered
    shard_saved: ShardSaved
    averager_opened: AveragerOpened
    averager_saved: AveragerSaved
    worker_left: WorkerLeft
    shard_rejoined: ShardRejoined
    fault_fired: FaultFired
    worker_quarantined: WorkerQuarantined
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., shard_opened: _Optional[_Union[ShardOpened, _Mapping]] = ..., push_handled: _Optional[_Union[PushHandled, _Mapping]] = ..., pull_handled: _Optional[_Union[PullHandled, _Mapping]] = ..., exchange_refused: _Optional[_Union[ExchangeRefused, _Mapping]] = ..., sample_sent: _Optional[_Union[SampleSent, _Mapping]] = ..., sample_skipped: _Optional[_Union[SampleSkipped, _Mapping]] = ..., lease_granted: _Optional[_Union[LeaseGranted, _Mapping]] = ..., lease_finished: _Optional[_Union[LeaseFinished, _Mapping]] = ..., lease_failed: _Optional[_Union[LeaseFailed, _Mapping]] = ..., lease_returned: _Optional[_Union[LeaseReturned, _Mapping]] = ..., ledger_stopped: _Optional[_Union[LedgerStopped, _Mapping]] = ..., sample_averaged: _Optional[_Union[SampleAveraged, _Mapping]] = ..., worker_exchanged: _Optional[_Union[WorkerExchanged, _Mapping]] = ..., worker_timed: _Optional[_Union[WorkerTimed, _Mapping]] = ..., ledger_opened: _Optional[_Union[LedgerOpened, _Mapping]] = ..., arithmetic: _Optional[_Union[Arithmetic, _Mapping]] = ..., round_applied: _Optional[_Union[RoundApplied, _Mapping]] = ..., lease_discarded: _Optional[_Union[LeaseDiscarded, _Mapping]] = ..., round_ordered: _Optional[_Union[RoundOrdered, _Mapping]] = ..., shard_saved: _Optional[_Union[ShardSaved, _Mapping]] = ..., averager_opened: _Optional[_Union[AveragerOpened, _Mapping]] = ..., averager_saved: _Optional[_Union[AveragerSaved, _Mapping]] = ..., worker_left: _Optional[_Union[WorkerLeft, _Mapping]] = ..., shard_rejoined: _Optional[_Union[ShardRejoined, _Mapping]] = ..., fault_fired: _Optional[_Union[FaultFired, _Mapping]] = ..., worker_quarantined: _Optional[_Union[WorkerQuarantined, _Mapping]] = ...) -> None: ...

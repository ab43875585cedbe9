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
    ROLE_STANDBY: _ClassVar[Role]

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
ROLE_STANDBY: Role
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

class Forward(_message.Message):
    __slots__ = ("shard", "incarnation", "number", "written", "in_step", "now", "exchange", "close_round", "sample_taken")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_FIELD_NUMBER: _ClassVar[int]
    IN_STEP_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    EXCHANGE_FIELD_NUMBER: _ClassVar[int]
    CLOSE_ROUND_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_TAKEN_FIELD_NUMBER: _ClassVar[int]
    shard: int
    incarnation: int
    number: int
    written: int
    in_step: bool
    now: float
    exchange: Exchange
    close_round: CloseRound
    sample_taken: SampleTaken
    def __init__(self, shard: _Optional[int] = ..., incarnation: _Optional[int] = ..., number: _Optional[int] = ..., written: _Optional[int] = ..., in_step: bool = ..., now: _Optional[float] = ..., exchange: _Optional[_Union[Exchange, _Mapping]] = ..., close_round: _Optional[_Union[CloseRound, _Mapping]] = ..., sample_taken: _Optional[_Union[SampleTaken, _Mapping]] = ...) -> None: ...

class Forwarded(_message.Message):
    __slots__ = ("shard", "number", "version")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    shard: int
    number: int
    version: int
    def __init__(self, shard: _Optional[int] = ..., number: _Optional[int] = ..., version: _Optional[int] = ...) -> None: ...

class Claim(_message.Message):
    __slots__ = ("shard", "incarnation", "pair", "leads")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    PAIR_FIELD_NUMBER: _ClassVar[int]
    LEADS_FIELD_NUMBER: _ClassVar[int]
    shard: int
    incarnation: int
    pair: int
    leads: bool
    def __init__(self, shard: _Optional[int] = ..., incarnation: _Optional[int] = ..., pair: _Optional[int] = ..., leads: bool = ...) -> None: ...

class Ruling(_message.Message):
    __slots__ = ("shard", "incarnation", "pair", "leads", "granted")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    PAIR_FIELD_NUMBER: _ClassVar[int]
    LEADS_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    shard: int
    incarnation: int
    pair: int
    leads: bool
    granted: bool
    def __init__(self, shard: _Optional[int] = ..., incarnation: _Optional[int] = ..., pair: _Optional[int] = ..., leads: bool = ..., granted: bool = ...) -> None: ...

class Received(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Envelope(_message.Message):
    __slots__ = ("next_lease", "granted", "no_more_leases", "worker_lost", "tick", "stop", "who_has", "has", "exchange", "exchanged", "refused", "sample", "sample_taken", "read", "read_done", "received", "close_round", "round_closed", "inventory", "take_inventory", "forward", "forwarded", "claim", "ruling")
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
    FORWARD_FIELD_NUMBER: _ClassVar[int]
    FORWARDED_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    RULING_FIELD_NUMBER: _ClassVar[int]
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
    forward: Forward
    forwarded: Forwarded
    claim: Claim
    ruling: Ruling
    def __init__(self, next_lease: _Optional[_Union[NextLease, _Mapping]] = ..., granted: _Optional[_Union[Granted, _Mapping]] = ..., no_more_leases: _Optional[_Union[NoMoreLeases, _Mapping]] = ..., worker_lost: _Optional[_Union[WorkerLost, _Mapping]] = ..., tick: _Optional[_Union[Tick, _Mapping]] = ..., stop: _Optional[_Union[Stop, _Mapping]] = ..., who_has: _Optional[_Union[WhoHas, _Mapping]] = ..., has: _Optional[_Union[Has, _Mapping]] = ..., exchange: _Optional[_Union[Exchange, _Mapping]] = ..., exchanged: _Optional[_Union[Exchanged, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ..., sample: _Optional[_Union[Sample, _Mapping]] = ..., sample_taken: _Optional[_Union[SampleTaken, _Mapping]] = ..., read: _Optional[_Union[Read, _Mapping]] = ..., read_done: _Optional[_Union[ReadDone, _Mapping]] = ..., received: _Optional[_Union[Received, _Mapping]] = ..., close_round: _Optional[_Union[CloseRound, _Mapping]] = ..., round_closed: _Optional[_Union[RoundClosed, _Mapping]] = ..., inventory: _Optional[_Union[Inventory, _Mapping]] = ..., take_inventory: _Optional[_Union[TakeInventory, _Mapping]] = ..., forward: _Optional[_Union[Forward, _Mapping]] = ..., forwarded: _Optional[_Union[Forwarded, _Mapping]] = ..., claim: _Optional[_Union[Claim, _Mapping]] = ..., ruling: _Optional[_Union[Ruling, _Mapping]] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShardStatus(_message.Message):
    __slots__ = ("shard", "incarnation", "version", "samples", "rate", "duplicates", "refused", "skipped_samples", "waiting_samples", "staleness", "discarded", "staged", "kernel", "standby")
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
    STANDBY_FIELD_NUMBER: _ClassVar[int]
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
    standby: str
    def __init__(self, shard: _Optional[int] = ..., incarnation: _Optional[int] = ..., version: _Optional[int] = ..., samples: _Optional[int] = ..., rate: _Optional[float] = ..., duplicates: _Optional[int] = ..., refused: _Optional[int] = ..., skipped_samples: _Optional[int] = ..., waiting_samples: _Optional[int] = ..., staleness: _Optional[_Mapping[int, int]] = ..., discarded: _Optional[int] = ..., staged: _Optional[int] = ..., kernel: _Optional[str] = ..., standby: _Optional[str] = ...) -> None: ...

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

"""Codec: messages to protobuf and back, and vectors to raw frames.

A protobuf message has the name and the fields of its Struct, so one pair of functions serves all of them. Only
messages that carry vectors differ: their buffers travel as frames behind the envelope and are handed in again when the
message is rebuilt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from google.protobuf.message import DecodeError
from msgspec import Struct

from ps import messages
from ps.averager import AveragerStatus
from ps.errors import WireError
from ps.ledger import LedgerStatus
from ps.messages import Exchange, Forward, Message, NextLease, Push, Read, Role, Sample, Wire
from ps.shard import ShardStatus
from ps.wire import parameter_server_pb2 as pb

if TYPE_CHECKING:
    from torch import Tensor

FRAME_BYTES = 3 << 19
WHOLE_BYTES = 1 << 20  # vectors up to this size travel in one piece with their message
Status = ShardStatus | LedgerStatus | AveragerStatus

_CLASSES: dict[str, Any] = {
    name: value
    for name, value in vars(messages).items()
    if isinstance(value, type) and value.__module__ == messages.__name__
}
_CLASSES |= {c.__name__: c for c in (ShardStatus, LedgerStatus, AveragerStatus)}


# --- values ----------------------------------------------------------------------------------------------------------


def _encode(value: Any) -> Any:
    proto = getattr(pb, type(value).__name__)()
    for name in value.__struct_fields__:
        if hasattr(proto, name):
            _put(proto, name, getattr(value, name))
    return proto


def _put(proto: Any, name: str, item: Any) -> None:
    if item is None:
        return
    if isinstance(item, Enum):
        prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", type(item).__name__).upper()
        setattr(proto, name, getattr(pb, f"{prefix}_{item.name}"))
    elif isinstance(item, tuple):
        getattr(proto, name).extend([_encode(x) if isinstance(x, Struct) else x for x in item])
    elif isinstance(item, dict):
        getattr(proto, name).update(item)
    elif isinstance(item, Struct):
        getattr(proto, name).CopyFrom(_encode(item))
    else:
        setattr(proto, name, item)


@cache
def _enums(name: str) -> dict[str, dict[int, Enum]]:
    """Per enum field of this message: protobuf number to Python member."""
    found = {}
    for field in getattr(pb, name).DESCRIPTOR.fields:
        if field.enum_type is not None:
            members = _CLASSES[field.enum_type.name]
            start = len(re.sub(r"(?<!^)(?=[A-Z])", "_", members.__name__)) + 1
            found[field.name] = {v.number: members[v.name[start:]] for v in field.enum_type.values}
    return found


def _decode(proto: Any, **vectors: Any) -> Any:
    """The Struct of this protobuf message; `vectors` gives the fields that protobuf does not carry."""
    name = proto.DESCRIPTOR.name
    cls = _CLASSES[name]
    enums = _enums(name)
    values = dict(vectors)
    for field in cls.__struct_fields__:
        if field in values:
            continue
        item = getattr(proto, field)
        if field in enums:
            if item not in enums[field]:
                raise WireError(f"{name}.{field}: got enum value {item}, expected one of {sorted(enums[field])}")
            item = enums[field][item]
        elif hasattr(item, "DESCRIPTOR"):
            if not proto.HasField(field):
                raise WireError(f"{name}.{field}: got none, expected one")
            item = _decode(item)
        elif hasattr(item, "keys"):
            item = dict(item)
        elif hasattr(item, "extend"):
            item = tuple(_decode(x) if hasattr(x, "DESCRIPTOR") else x for x in item)
        elif proto.DESCRIPTOR.fields_by_name[field].containing_oneof is not None and not proto.HasField(field):
            item = None
        values[field] = item
    return cls(**values)


# --- messages --------------------------------------------------------------------------------------------------------


def to_envelope(message: Message) -> pb.Envelope:
    """The message without its vectors."""
    proto = _encode(message)
    match message:
        case Exchange():
            vector_N = message.weights_N if message.push is None else message.push.gradient_N
            proto.pull = message.weights_N is not None
            proto.elements = 0 if vector_N is None else vector_N.numel()
        case Sample():
            proto.elements = message.weights_N.numel()
        case Read():
            proto.elements = message.out_N.numel()
        case NextLease(outcome=outcome) if outcome is not None:
            _put(proto, type(outcome).__name__.lower(), outcome)
        case Forward(message=forwarded) if forwarded is not None:
            inner = to_envelope(forwarded)
            kind = inner.WhichOneof("message")
            getattr(proto, kind).CopyFrom(getattr(inner, kind))
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(message).__name__).lower()
    return pb.Envelope(**{name: proto})


@dataclass(frozen=True, slots=True)
class Payload:
    """What travels behind an envelope and behind its answer: elements of this shard's vector, or None."""

    shard: int
    incoming: int | None
    outgoing: int | None
    wire: Wire = Wire.FLOAT32


def payload(envelope: pb.Envelope) -> Payload:
    """Vectors that go with this request. Raises WireError for a message that carries none."""
    match envelope.WhichOneof("message"):
        case "exchange":
            proto = envelope.exchange
            elements: int = proto.elements
            pushed, pulled = proto.HasField("push"), proto.pull
            return Payload(proto.shard, elements if pushed else None, elements if pulled else None, _wire(proto))
        case "forward":
            exchange = envelope.forward.exchange
            incoming = exchange.elements if exchange.HasField("push") else None
            return Payload(envelope.forward.shard, incoming, None, _wire(exchange))
        case "sample":
            return Payload(envelope.sample.shard, envelope.sample.elements, None)
        case "read":
            return Payload(envelope.read.shard, None, envelope.read.elements)
        case name:
            raise WireError(f"got {name or 'no message'}, expected one that carries a vector: call Ask")


def _wire(exchange: pb.Exchange) -> Wire:
    known = _enums("Exchange")["wire"]
    if exchange.wire not in known:
        raise WireError(f"Exchange.wire: got enum value {exchange.wire}, expected one of {sorted(known)}")
    wire = known[exchange.wire]
    assert isinstance(wire, Wire)
    return wire


def parse_envelope(data: bytes) -> pb.Envelope:
    """An envelope from its bytes. Raises WireError if they are none."""
    try:
        return pb.Envelope.FromString(data)
    except DecodeError as error:
        raise WireError(f"got {len(data)} bytes that are no envelope: {error}") from error


def from_envelope(envelope: pb.Envelope, incoming_N: Tensor | None = None, outgoing_N: Tensor | None = None) -> Message:
    """Rebuild a message, with the buffers its vectors were received in or shall be written to.

    Raises:
        WireError: The envelope is empty or holds no message that this program knows.
    """
    name = envelope.WhichOneof("message")
    if name is None:
        raise WireError("empty envelope: got no message, expected one (another version of distbelief?)")
    proto = getattr(envelope, name)
    match name:
        case "exchange":
            push = _decode(proto.push, gradient_N=incoming_N) if proto.HasField("push") else None
            assert push is None or isinstance(push, Push)
            weights_N = outgoing_N if proto.pull else None
            return Exchange(proto.worker, proto.number, proto.shard, push, weights_N, _wire(proto))
        case "sample":
            decoded = _decode(proto, weights_N=incoming_N)
        case "read":
            decoded = _decode(proto, out_N=outgoing_N)
            if decoded.reader.role is Role.JOURNAL:
                raise WireError("Read.reader: got a journal, expected an actor")
        case "forward":
            kind, forwarded = proto.WhichOneof("message"), None
            if kind is not None:
                inner = pb.Envelope(**{kind: getattr(proto, kind)})
                forwarded = from_envelope(inner, incoming_N, torch.empty(0))
            decoded = _decode(proto, message=forwarded)
        case "next_lease":
            outcome = proto.WhichOneof("outcome")
            decoded = _decode(proto, outcome=_decode(getattr(proto, outcome)) if outcome else None)
        case _:
            decoded = _decode(proto)
    message: Message = decoded
    return message


# --- status ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Traffic:
    """What a server has let in and kept out.

    Attributes:
        unauthenticated: Calls without the run's token.
        by_memory: Exchanges whose vectors lay in memory that the worker shares with the shard.
        by_network: Exchanges whose vectors came and went over the network.
    """

    unauthenticated: int = 0
    by_memory: int = 0
    by_network: int = 0


def encode_status(status: Status, traffic: Traffic) -> pb.StatusReply:
    """What an actor tells about itself and its server."""
    name = type(status).__name__.removesuffix("Status").lower()
    return pb.StatusReply(**{name: _encode(status)}, **asdict(traffic))


def decode_traffic(reply: pb.StatusReply) -> Traffic:
    """The traffic of an actor's server."""
    return Traffic(reply.unauthenticated, reply.by_memory, reply.by_network)


def decode_status(reply: pb.StatusReply) -> Status:
    """The status of an actor. Raises WireError if there is none in it."""
    name = reply.WhichOneof("status")
    if name is None:
        raise WireError("empty status: got none, expected one (another version of distbelief?)")
    status: Status = _decode(getattr(reply, name))
    return status


# --- vectors ---------------------------------------------------------------------------------------------------------


def bytes_of(vector_N: Tensor) -> memoryview:
    """The vector's own memory."""
    narrow = vector_N.element_size() == 2  # numpy knows no bfloat16
    array: Any = (vector_N.view(torch.int16) if narrow else vector_N).numpy()
    return memoryview(array).cast("B") if array.size else memoryview(bytearray())  # an empty one cannot be cast


def frames(vector_N: Tensor) -> Iterator[bytes]:
    """The vector's bytes in frames of at most FRAME_BYTES."""
    view = bytes_of(vector_N)
    for start in range(0, len(view), FRAME_BYTES):
        yield bytes(view[start : start + FRAME_BYTES])


def pack(envelope: pb.Envelope, vector_N: Tensor | None) -> bytes:
    """A message with its vector in one piece: envelope length (uint32, little-endian), envelope, the vector's bytes."""
    header = envelope.SerializeToString()
    parts = [len(header).to_bytes(4, "little"), header]
    if vector_N is not None:
        parts.append(bytes(bytes_of(vector_N)))
    return b"".join(parts)


def unpack(data: bytes) -> tuple[pb.Envelope, memoryview]:
    """The envelope and the vector's bytes of what `pack` made. Raises WireError if it is cut short."""
    stop = 4 + int.from_bytes(data[:4], "little")
    if len(data) < max(4, stop):
        raise WireError(f"message of {len(data)} bytes, expected at least {max(4, stop)}")
    return parse_envelope(data[4:stop]), memoryview(data)[stop:]


class FrameSink:
    """Fills a vector from frames. Raises WireError if they are more or fewer bytes than it has; then it is torn."""

    def __init__(self, vector_N: Tensor) -> None:
        self._view = bytes_of(vector_N)
        self._filled = 0

    def add(self, frame: bytes | memoryview) -> None:
        stop = self._filled + len(frame)
        if stop > len(self._view):
            raise WireError(f"vector of {len(self._view)} bytes announced, got at least {stop}")
        self._view[self._filled : stop] = frame
        self._filled = stop

    def close(self) -> None:
        if self._filled != len(self._view):
            raise WireError(
                f"vector of {len(self._view)} bytes announced, got {self._filled}: the stream was cut short"
            )

"""Every message and record to bytes and back; bytes that are not what they claim to be are refused."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

from ps import messages
from ps.averager import AveragerStatus
from ps.errors import WireError
from ps.ledger import LedgerStatus
from ps.messages import (
    LEDGER,
    Address,
    Claim,
    CloseRound,
    Discarded,
    Exchange,
    Exchanged,
    Failed,
    Finished,
    Forward,
    Forwarded,
    Granted,
    Has,
    Inventory,
    Lease,
    Message,
    NextLease,
    NoMoreLeases,
    Outcome,
    Push,
    Read,
    ReadDone,
    Reading,
    Refusal,
    Refused,
    Role,
    RoundClosed,
    Ruling,
    Sample,
    SampleTaken,
    Stop,
    TakeInventory,
    Tick,
    WhoHas,
    Wire,
    WorkerLost,
)
from ps.shard import ShardStatus
from ps.wire import parameter_server_pb2 as pb
from ps.wire.codec import (
    FRAME_BYTES,
    FrameSink,
    Payload,
    Traffic,
    decode_status,
    decode_traffic,
    encode_status,
    frames,
    from_envelope,
    parse_envelope,
    payload,
    to_envelope,
)

READ = (Reading(0, 0), Reading(2, 1 << 40))
PLAIN = [
    NextLease(3, 1, None),
    NextLease(0, 0, Finished(0, 0, 0.0, 0, 0)),
    NextLease(3, 2, Finished(7, 1, 0.25, 3, 1, (0.5, 0.75))),
    NextLease(3, 2, Finished(7, 1, 0.25, 3, 1, (), (0, 2))),
    NextLease(3, 3, Failed(0, 0, False, "")),
    NextLease(3, 4, Failed(8, 2, True, "wrong length: 3 \u2260 4")),
    NextLease(3, 5, Discarded(8, 2), 1 << 40),
    Granted(0, Lease(0, 0, 0, 0, 0, 0.0, 0.0), True),
    Granted(2, Lease(9, 1, 3, 128, 32, 0.1, 1234.5)),
    Granted(0, Lease(0, 0, 0, 0, 0, 0.0, 0.0)),
    NoMoreLeases(4, "completed"),
    WorkerLost(0),
    WorkerLost(31),
    Tick(),
    Stop("signal"),
    WhoHas(5, ()),
    WhoHas(5, (0, 3, 1 << 60)),
    Has(5, 1, ()),
    Has(5, 0, (0, 2), 3),
    TakeInventory(7),
    Inventory(7, 1, 2, 70, (0, 68, 70, 72), (69,)),
    Inventory(0, 0, 1, 0, (), ()),
    CloseRound(6, 2, (0, 3, 1 << 60), 4, True),
    CloseRound(6, 2, (), 1, False),
    RoundClosed(6, 1, 2),
    *[Exchanged(2, 1, outcome, Reading(1, 99), 640, 31) for outcome in Outcome],
    Exchanged(0, 0, Outcome.APPLIED, Reading(0, 0), 0, 0),
    Exchanged(2, 1, Outcome.NONE, Reading(0, 0), 0, None),
    *[Refused(2, 1, refusal, "got 3, expected 4") for refusal in Refusal],
    SampleTaken(1, 0, 8),
    ReadDone(3, 1, 12, 4),
    Forwarded(1, 7, 0),
    Forwarded(1, 1 << 40, -1),
    Claim(1, 2, 1 << 40, True),
    Claim(0, 0, 0, False),
    Ruling(1, 2, 1 << 40, True, False),
    Ruling(0, 0, 0, False, True),
]

STATUSES = [
    ShardStatus(1, 0, 9, 36, 0.1, 1, 2, 3, 2, {0: 1, 31: 8}),
    ShardStatus(0, 0, 0, 0, 0.0, 0, 0, 0, 0, {}, 4, 5),
    ShardStatus(0, 0, 0, 0, 0.0, 0, 0, 0, 0, {}, 4, 5, "torch", "in step"),
    LedgerStatus(9, 8, 7, 6, 5, 4, 3, 2, 0.5, 0.25, 0.125, "failed", "why", (0.5, 0.75), 12),
    AveragerStatus((), ()),
    AveragerStatus((8, 0), (2, 0)),
]


def through(message: Message) -> Message:
    return from_envelope(parse_envelope(to_envelope(message).SerializeToString()))


@pytest.mark.parametrize("message", PLAIN, ids=repr)
def test_a_message_comes_back_equal(message: Message) -> None:
    again = through(message)
    assert again == message
    assert repr(again) == repr(message)  # 1 == True and 2 == 2.0, but they read differently


@pytest.mark.parametrize("status", STATUSES, ids=repr)
def test_a_status_comes_back_equal(status: Any) -> None:
    reply = pb.StatusReply.FromString(encode_status(status, Traffic(3, 4, 5)).SerializeToString())
    assert repr(decode_status(reply)) == repr(status)
    assert decode_traffic(reply) == Traffic(3, 4, 5)


def test_every_message_has_its_case() -> None:
    vectors = {Exchange, Sample, Read, Forward}
    assert {type(message) for message in PLAIN} | vectors == set(get_args(messages.Message))


def test_every_field_has_its_place_on_the_wire() -> None:
    """A field that the .proto forgot would vanish without a word."""
    in_frames = {"weights_N", "gradient_N", "out_N", "outcome", "message"}  # two of a oneof
    for cls in (
        *get_args(messages.Message),
        Lease,
        Finished,
        Failed,
        Discarded,
        Push,
        Reading,
    ):
        known = {field.name for field in getattr(pb, cls.__name__).DESCRIPTOR.fields}
        assert {*cls.__struct_fields__} - in_frames <= known, cls.__name__


def test_every_enum_member_has_its_number() -> None:
    for cls, prefix in ((Role, "ROLE"), (Outcome, "OUTCOME"), (Refusal, "REFUSAL")):
        names = {value.name for value in getattr(pb, cls.__name__).DESCRIPTOR.values}
        assert names == {f"{prefix}_{member.name}" for member in cls}


# --- messages with vectors -------------------------------------------------------------------------------------------


def vector(elements: int = 5) -> Tensor:
    return torch.arange(float(elements))


PUSH = Push(9, 1, 32, READ, vector())


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (Exchange(3, 2, 1, PUSH, vector()), Payload(1, 5, 5)),
        (Exchange(3, 2, 1, PUSH, None), Payload(1, 5, None)),
        (Exchange(3, 2, 0, None, vector(7)), Payload(0, None, 7)),
        (Exchange(3, 2, 0, None, None), Payload(0, None, None)),
        (Exchange(0, 0, 0, Push(0, 0, 0, (), vector()), None), Payload(0, 5, None)),
        (Sample(1, 0, 8, vector()), Payload(1, 5, None)),
        (Read(LEDGER, 4, 2, vector(3)), Payload(2, None, 3)),
        (Read(Address(Role.WORKER, -1), 4, 2, vector(3)), Payload(2, None, 3)),
    ],
)
def test_a_message_with_vectors_comes_back_with_the_buffers_it_is_given(message: Message, expected: Payload) -> None:
    envelope = parse_envelope(to_envelope(message).SerializeToString())
    assert payload(envelope) == expected
    incoming_N, outgoing_N = torch.zeros(1), torch.zeros(2)
    again = from_envelope(envelope, incoming_N, outgoing_N)
    match again, message:
        case Exchange(), Exchange():
            assert again.weights_N is (None if message.weights_N is None else outgoing_N)
            assert (again.push is None) == (message.push is None)
            if again.push is not None and message.push is not None:
                assert again.push.gradient_N is incoming_N
                assert replace(again.push, gradient_N=vector()).__repr__() == message.push.__repr__()
            assert repr(replace(again, push=None, weights_N=None)) == repr(replace(message, push=None, weights_N=None))
        case Sample(), Sample():
            assert again.weights_N is incoming_N
            assert repr(replace(again, weights_N=vector())) == repr(message)
        case Read(), Read():
            assert again.out_N is outgoing_N
            assert repr(replace(again, out_N=vector(3))) == repr(message)
        case _:
            pytest.fail(f"{type(message).__name__} became {type(again).__name__}")


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        (Exchange(3, 2, 1, PUSH, vector()), Payload(1, 5, None)),
        (Exchange(3, 2, 1, PUSH, None, Wire.BFLOAT16), Payload(1, 5, None, Wire.BFLOAT16)),
        (Exchange(3, 2, 1, None, vector()), Payload(1, None, None)),
        (CloseRound(6, 2, (0, 3), 4, True), Payload(1, None, None)),
        (SampleTaken(1, 0, 8), Payload(1, None, None)),
        (None, Payload(1, None, None)),
    ],
)
def test_what_is_forwarded_comes_back_without_the_buffer_of_whoever_pulled(
    forwarded: Exchange | CloseRound | SampleTaken | None, expected: Payload
) -> None:
    sent = Forward(1, 2, 3, 4, True, 1.5, forwarded)
    envelope = parse_envelope(to_envelope(sent).SerializeToString())
    assert payload(envelope) == expected
    gradient_N = vector()
    again = from_envelope(envelope, gradient_N)
    assert isinstance(again, Forward)
    assert replace(again, message=None) == replace(sent, message=None)
    if not isinstance(forwarded, Exchange):
        assert again.message == forwarded
        return
    got = again.message
    assert isinstance(got, Exchange)
    assert (got.worker, got.number, got.wire) == (forwarded.worker, forwarded.number, forwarded.wire)
    assert (got.push is None, got.weights_N is None) == (forwarded.push is None, forwarded.weights_N is None)
    assert got.push is None or got.push.gradient_N is gradient_N
    assert got.weights_N is None or got.weights_N.numel() == 0


@pytest.mark.parametrize("elements", [1, FRAME_BYTES // 4 - 1, FRAME_BYTES // 4, FRAME_BYTES // 4 + 1, 700_001])
def test_frames_fill_a_vector_to_the_bit(elements: int) -> None:
    sent_N = torch.arange(float(elements)).sqrt_()
    got_N = torch.zeros(elements)
    sink = FrameSink(got_N)
    pieces = list(frames(sent_N))
    assert len(pieces) == -(-4 * elements // FRAME_BYTES)
    for piece in pieces:
        sink.add(piece)
    sink.close()
    assert torch.equal(got_N, sent_N)


def test_frames_of_any_length_fill_a_vector() -> None:
    data = b"".join(frames(vector()))
    got_N = torch.zeros(5)
    sink = FrameSink(got_N)
    for byte in data:
        sink.add(bytes([byte]))
    sink.add(b"")
    sink.close()
    assert torch.equal(got_N, vector())


def test_too_many_bytes_are_refused() -> None:
    sink = FrameSink(torch.zeros(2))
    sink.add(b"12345678")
    with pytest.raises(WireError, match="vector of 8 bytes announced, got at least 9"):
        sink.add(b"9")


def test_too_few_bytes_are_refused() -> None:
    sink = FrameSink(torch.zeros(2))
    sink.add(b"1234567")
    with pytest.raises(WireError, match="vector of 8 bytes announced, got 7: the stream was cut short"):
        sink.close()


# --- what is not what it claims to be --------------------------------------------------------------------------------


def test_an_empty_envelope_is_refused() -> None:
    with pytest.raises(WireError, match="empty envelope"):
        from_envelope(parse_envelope(b""))
    with pytest.raises(WireError, match="got no message, expected one that carries a vector"):
        payload(parse_envelope(b""))


def test_a_message_of_a_newer_version_is_refused() -> None:
    unknown = b"\xfa\x07\x00"  # field 127, an empty message
    with pytest.raises(WireError, match="another version of distbelief"):
        from_envelope(parse_envelope(unknown))


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05abc", b"\x08", bytes(range(64))])
def test_bytes_that_are_no_envelope_are_refused(data: bytes) -> None:
    with pytest.raises(WireError, match=f"got {len(data)} bytes that are no envelope"):
        parse_envelope(data)


def test_a_message_without_a_vector_has_no_payload() -> None:
    with pytest.raises(WireError, match="got tick, expected one that carries a vector: call Ask"):
        payload(to_envelope(Tick()))


def test_an_enum_value_of_a_newer_version_is_refused() -> None:
    envelope = to_envelope(Refused(1, 0, Refusal.SHARD, ""))
    envelope.refused.refusal = 99  # type: ignore[assignment]
    with pytest.raises(WireError, match=r"Refused\.refusal: got enum value 99, expected one of \[0, 1"):
        from_envelope(parse_envelope(envelope.SerializeToString()))


@pytest.mark.parametrize(
    ("envelope", "field"),
    [
        (pb.Envelope(granted=pb.Granted(number=1)), r"Granted\.lease"),
        (pb.Envelope(exchanged=pb.Exchanged(number=1)), r"Exchanged\.reading"),
        (pb.Envelope(read=pb.Read(number=1)), r"Read\.reader"),
    ],
)
def test_a_missing_part_is_refused(envelope: pb.Envelope, field: str) -> None:
    with pytest.raises(WireError, match=f"{field}: got none, expected one"):
        from_envelope(envelope)


def test_an_answer_that_would_go_to_a_journal_is_refused() -> None:
    envelope = to_envelope(Read(Address(Role.JOURNAL), 1, 0, vector()))
    with pytest.raises(WireError, match=r"Read\.reader: got a journal, expected an actor"):
        from_envelope(envelope, None, vector())


def test_an_empty_status_is_refused() -> None:
    with pytest.raises(WireError, match="empty status"):
        decode_status(pb.StatusReply())

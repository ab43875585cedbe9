"""Record encoders: one function per kind of journal record, written once from the protobuf descriptor.

A journal record costs its actor a microsecond or two instead of ten: the bytes are protobuf's own, to the last one, but
no protobuf message is built for them. The function is put together as source and compiled, as dataclasses are; reading
one back is left to protobuf.

Source: Protocol Buffers, "Encoding"; fields in the order of their numbers, those with their default value left out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import Enum
from functools import cache
from typing import Any, get_args

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from ps import journal
from ps.messages import Outcome, Refusal, Wire
from ps.wire import parameter_server_pb2 as pb

Encoder = Callable[[Any], bytes]

_VARINT, _FIXED64, _LENGTH = 0, 1, 2  # wire types
_ENUMS: dict[str, type[Enum]] = {kind.__name__: kind for kind in (Outcome, Refusal, Wire)}


def varint(value: int) -> bytes:
    """A whole number, -2**63 .. 2**64 - 1, in groups of seven bits."""
    value &= (1 << 64) - 1
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


_SMALL = tuple(varint(value) for value in range(1 << 14))  # as are nearly all numbers in a journal
_CONTINUED = tuple(bytes((v & 0x7F | 0x80, v >> 7 | 0x80)) for v in range(1 << 14))  # the low 14 bits of more


def _number(value: int) -> bytes:
    if 0 <= value < 1 << 14:
        return _SMALL[value]
    return _CONTINUED[value & 0x3FFF] + _number(value >> 14) if value >= 0 else varint(value)


def _zigzag(value: int) -> bytes:
    return _number(value * 2 if value >= 0 else -value * 2 - 1)


def _text(value: str) -> bytes:
    data = value.encode()
    return _number(len(data)) + data


def _message(data: bytes) -> bytes:
    return _number(len(data)) + data


@cache
def encoder(name: str) -> Encoder:
    """What encodes the Struct of this name as the protobuf message of the same name."""
    descriptor: Descriptor = getattr(pb, name).DESCRIPTOR
    known: dict[str, Any] = {
        "small": _SMALL, "number": _number, "zigzag": _zigzag, "text": _text, "message": _message,
        "double": struct.Struct("<d").pack, "join": b"".join,
    }  # fmt: skip
    parts = [_part(field, known) for field in sorted(descriptor.fields, key=lambda field: field.number)]
    source = f"def encode(r):\n    return join(({', '.join(parts)},))\n"
    exec(compile(source, f"<encoder of {name}>", "exec"), known)
    encode: Encoder = known["encode"]
    return encode


def _part(field: FieldDescriptor, known: dict[str, Any]) -> str:
    """The expression for one field's bytes; what it needs beside the record is put into `known`."""
    value, tag = f"r.{field.name}", repr(_tag(field.number, _VARINT))
    put = "small[v] if 0 < v < 16384 else number(v)"
    if field.is_repeated and field.type != FieldDescriptor.TYPE_MESSAGE:  # numbers, packed
        one = "double(v)" if field.type == FieldDescriptor.TYPE_DOUBLE else "number(v)"
        return f"{_tag(field.number, _LENGTH)!r} + message(join([{one} for v in {value}])) if {value} else b''"
    match field.type:
        case FieldDescriptor.TYPE_DOUBLE:
            return f"{_tag(field.number, _FIXED64)!r} + double(v) if (v := {value}) else b''"
        case FieldDescriptor.TYPE_INT64:
            return f"{tag} + ({put}) if (v := {value}) else b''"
        case FieldDescriptor.TYPE_SINT64:
            return f"{tag} + zigzag({value}) if {value} else b''"
        case FieldDescriptor.TYPE_BOOL:
            return f"{_tag(field.number, _VARINT) + varint(1)!r} if {value} else b''"
        case FieldDescriptor.TYPE_STRING:
            return f"{_tag(field.number, _LENGTH)!r} + text({value}) if {value} else b''"
        case FieldDescriptor.TYPE_ENUM:
            known[field.name] = _enum_bytes(field)
            return f"{field.name}[{value}]"
        case FieldDescriptor.TYPE_MESSAGE:
            inner: Any = field.message_type
            known[f"encode_{field.name}"] = encoder(inner.name)
            one = f"{_tag(field.number, _LENGTH)!r} + message(encode_{field.name}({{}}))"
            if field.is_repeated:
                return f"join([{one.format('x')} for x in {value}])"
            return one.format(value)
        case _:
            raise TypeError(f"{field.full_name}: no journal record has a field of protobuf type {field.type}")


def _enum_bytes(field: FieldDescriptor) -> dict[Enum, bytes]:
    """Every member's field, tag and number; the first is the default and left out."""
    kind: Any = field.enum_type
    members = _ENUMS[kind.name]
    start = len(kind.values[0].name) - len(next(iter(members)).name)
    return {
        members[value.name[start:]]: _tag(field.number, _VARINT) + varint(value.number) if value.number else b""
        for value in kind.values
    }


def _tag(number: int, wire_type: int) -> bytes:
    return varint(number << 3 | wire_type)


_FIELDS: dict[str, Any] = {
    field.message_type.name: field for field in pb.Record.DESCRIPTOR.fields if field.message_type
}
_RECORDS: dict[type, tuple[bytes, Encoder]] = {
    kind: (_tag(_FIELDS[kind.__name__].number, _LENGTH), encoder(kind.__name__)) for kind in get_args(journal.Record)
}


def tag_of(kind: type) -> bytes:
    """What the body of every record of this kind begins with."""
    return _RECORDS[kind][0]


def encode_record(record: journal.Record) -> bytes:
    """One journal record's body."""
    tag, encode = _RECORDS[type(record)]
    body = encode(record)
    return tag + _number(len(body)) + body

"""Snapshots: a state as bytes and back, without I/O.

    "DBSNAP01" | SHA-256 of all that follows (32 bytes) | bytes of the text (uint64) | the text, JSON | the vectors

Little-endian throughout. The text is the state with a number in place of each vector; the vectors are float32, one
after the other in the order of their numbers. Nothing is copied but the text: the caller writes the vectors from where
they are. (safetensors would copy each twice while the exchanges wait, and has no checksum.)

Shape suffix: N = elements of one vector.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from hashlib import sha256
from typing import Any, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from ps.errors import SnapshotDamaged
from ps.states import AveragerState, ShardState, State

MAGIC = b"DBSNAP01"
FORMAT = 2
_LENGTH = struct.Struct("<Q")
_HEAD = len(MAGIC) + 32
_KINDS: dict[str, type[State]] = {kind.__name__: kind for kind in (ShardState, AveragerState)}


def encode(state: State) -> list[memoryview]:
    """The state's bytes, in pieces; the vectors' are views of the state's own memory."""
    vectors: list[Tensor] = []
    plain = _plain(state, vectors)
    text = {"format": FORMAT, "kind": type(state).__name__, "elements": [v.numel() for v in vectors], "state": plain}
    data = json.dumps(text).encode()
    pieces = [memoryview(_LENGTH.pack(len(data))), memoryview(data), *map(_bytes, vectors)]
    digest = sha256()
    for piece in pieces:
        digest.update(piece)
    return [memoryview(MAGIC + digest.digest()), *pieces]


def decode(data: bytes, name: str) -> State:
    """The state from its bytes; `name`: what an error calls them.

    Raises:
        SnapshotDamaged: Not a snapshot, cut short, changed, or of an unknown format.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise SnapshotDamaged(f"{name}: not a snapshot: begins with {data[:8]!r}, expected {MAGIC!r}")
    body = memoryview(data)[_HEAD:]
    if sha256(body).digest() != data[len(MAGIC) : _HEAD]:
        raise SnapshotDamaged(f"{name}: {len(data)} bytes do not match their checksum: cut short or changed")
    stop = _LENGTH.size + _LENGTH.unpack_from(body)[0]
    text = json.loads(bytes(body[_LENGTH.size : stop]))
    if text["format"] != FORMAT or text["kind"] not in _KINDS:
        raise SnapshotDamaged(
            f"{name}: {text['kind']} in format {text['format']}, this program reads "
            f"{' and '.join(_KINDS)} in format {FORMAT}"
        )
    state: State = _value(_KINDS[text["kind"]], text["state"], _vectors(body[stop:], text["elements"]))
    return state


def _bytes(vector_N: Tensor) -> memoryview:
    array: Any = vector_N.numpy()
    return memoryview(array).cast("B") if array.size else memoryview(b"")


def _vectors(body: memoryview, elements: list[int]) -> list[Tensor]:
    vectors, start = [], 0
    for count in elements:
        vector_N = torch.empty(count)
        if count:
            _bytes(vector_N)[:] = body[start : start + 4 * count]
        start += 4 * count
        vectors.append(vector_N)
    return vectors


def _plain(value: Any, vectors: list[Tensor]) -> Any:
    """The value as JSON has it; its vectors are appended, and their places taken by their numbers."""
    if isinstance(value, Tensor):
        vectors.append(value)
        return len(vectors) - 1
    if is_dataclass(value):
        return [_plain(getattr(value, f.name), vectors) for f in fields(value)]
    if isinstance(value, Mapping):
        return [[key, _plain(item, vectors)] for key, item in value.items()]
    if isinstance(value, tuple):
        return [_plain(item, vectors) for item in value]
    return value


def _value(kind: Any, plain: Any, vectors: list[Tensor]) -> Any:
    """The value of this kind that `_plain` wrote down."""
    if kind is Tensor:
        return vectors[plain]
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        items = zip(fields(kind), plain, strict=True)
        return kind(*(_value(hints[f.name], item, vectors) for f, item in items))  # type: ignore[operator]
    match get_origin(kind):
        case origin if origin is tuple:
            return tuple(_value(get_args(kind)[0], item, vectors) for item in plain)
        case None:
            return plain
        case _:  # a mapping
            return {key: _value(get_args(kind)[1], item, vectors) for key, item in plain}

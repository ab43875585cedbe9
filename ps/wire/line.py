"""Line: vectors between hosts as raw bytes, on a connection of their own beside gRPC.

gRPC's Python copies every byte several times on each side; here a byte goes from the worker's vector to the socket and
from the socket into the shard's, and back likewise. Where it travels narrow it is rounded and widened piece by piece,
while the piece is in the cache. One connection carries one exchange after the other:

    connection   32 bytes that only who has the run's token can know; nothing more is read from anyone else
    request      length (uint32, little-endian), Envelope, the vector's bytes
    answer       status (one byte, gRPC's numbers), length (uint32), Envelope or text, the vector's bytes

With TLS a connection proves itself by the run's certificate first. Calls here block, on threads: while bytes move they
keep nobody waiting.

Shape suffix: N = parameters held by one shard.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from time import monotonic  # noqa: TID251 -- strangers have one deadline for all that they say
from typing import TYPE_CHECKING

import grpc
import torch

from ps.errors import WireError
from ps.messages import Exchange, Forward, Read, Sample, Wire
from ps.rounding import DTYPES, NOISE
from ps.wire.codec import bytes_of

if TYPE_CHECKING:
    from torch import Tensor


HELLO_SECONDS = 10.0
HEAR_OUT_SECONDS = 2.0
HEAD_BYTES = 1 << 20  # of an envelope, at most
PIECE = 4 * NOISE  # elements
LENGTH_BYTES = 4
SEND_BYTES = 1 << 20  # in one call, at most: TLS does not return before all of them are gone

Carrying = Exchange | Sample | Read | Forward


class CallFailed(Exception):  # noqa: N818 -- it says what happened
    """The other end answers with a status instead of a message."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


def proof(token: str) -> bytes:
    """What opens a connection."""
    return sha256(b"distbelief stream\0" + token.encode()).digest()


class Line:
    """One end of a connection. Raises OSError when it breaks, EOFError when the other end hangs up."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection: socket.socket = connection
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a host that is gone never hangs up

    def send(self, *parts: bytes | memoryview) -> None:
        for part in parts:
            view = memoryview(part)
            while view:  # sendall would be patient once for all of it
                view = view[self._connection.send(view[:SEND_BYTES]) :]

    def send_vector(self, vector_N: Tensor, narrow: Callable[[Tensor], Tensor] | None) -> None:
        """`narrow`: what a piece becomes on its way, at a multiple of NOISE; None: it travels as it is."""
        if narrow is None:
            self.send(bytes_of(vector_N))
            return
        for start in range(0, len(vector_N), PIECE):
            self.send(bytes_of(narrow(vector_N[start : start + PIECE])))

    def fill(self, view: memoryview) -> None:
        filled = 0
        while filled < len(view):
            if not (got := self._connection.recv_into(view[filled:])):
                raise EOFError
            filled += got

    def exactly(self, count: int) -> bytes:
        data = bytearray(count)
        self.fill(memoryview(data))
        return bytes(data)

    def fill_vector(self, vector_N: Tensor, wire: Wire) -> None:
        if wire is Wire.FLOAT32:
            self.fill(bytes_of(vector_N))
            return
        piece = torch.empty(min(PIECE, len(vector_N)), dtype=DTYPES[wire])
        for start in range(0, len(vector_N), PIECE):
            part = piece[: len(vector_N) - start]
            self.fill(bytes_of(part))
            vector_N[start : start + PIECE] = part

    def head(self, length: bytes) -> bytes:
        """As many bytes as this says. Raises WireError if they are too many."""
        if (count := int.from_bytes(length, "little")) > HEAD_BYTES:
            raise WireError(f"stream: got a head of {count} bytes, expected at most {HEAD_BYTES}")
        return self.exactly(count)

    def secure(self, context: ssl.SSLContext, name: str | None = None) -> None:
        """Speak TLS from here on: to the server of this name, or as the server."""
        self._connection = context.wrap_socket(
            self._connection, server_side=name is None, server_hostname=name, do_handshake_on_connect=False
        )
        self._connection.do_handshake()

    def opening(self, count: int, seconds: float, context: ssl.SSLContext | None) -> bytes:
        """The first bytes that come, after TLS's own if there is a context; all of that within so many seconds."""
        deadline = monotonic() + seconds
        self.patient(seconds)
        if context is not None:
            self.secure(context)
        data = b""
        while len(data) < count:
            if (left := deadline - monotonic()) <= 0:
                raise TimeoutError(f"got {len(data)} of {count} bytes within {seconds:g} s")
            self.patient(left)
            if not (more := self._connection.recv(count - len(data))):
                raise EOFError
            data += more
        return data

    def patient(self, seconds: float | None) -> None:
        """How long a call may wait for bytes to move."""
        self._connection.settimeout(seconds)

    def hear_out(self) -> None:
        """Let the other end finish what it is sending, so that it reads what was answered."""
        with suppress(OSError, EOFError):
            self.patient(HEAR_OUT_SECONDS)
            socket.socket.shutdown(self._connection, socket.SHUT_WR)
            while self._connection.recv(1 << 16):
                pass

    def break_off(self) -> None:
        """End whatever another thread is waiting for here."""
        with suppress(OSError):
            socket.socket.shutdown(self._connection, socket.SHUT_RDWR)  # TLS says no good-bye from another thread

    def close(self) -> None:
        self._connection.close()


def headed(data: bytes) -> bytes:
    """This with its length before it."""
    return len(data).to_bytes(LENGTH_BYTES, "little") + data

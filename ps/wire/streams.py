"""Streams: the shard's end of the connections that vectors come on (see ps.wire.line), each on a thread of its own.

Nothing is read from a stranger but the proof that it owes, and nothing is allocated before a length is what it must be.
"""

from __future__ import annotations

import hmac
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import grpc
import torch

from ps.errors import WireError
from ps.messages import Exchanged, Message, ReadDone, Wire
from ps.rounding import nearest
from ps.wire import parameter_server_pb2 as pb
from ps.wire.codec import Payload, from_envelope, parse_envelope, to_envelope
from ps.wire.line import HEAD_BYTES, HELLO_SECONDS, LENGTH_BYTES, CallFailed, Line, headed, proof

if TYPE_CHECKING:
    from ps.wire.tls import Identity

MOVE_SECONDS = 60.0  # within which some bytes of a message must move
STRANGERS_AT_ONCE = 64  # connections that have not proved themselves yet
MOVING_AT_ONCE = 8  # exchanges that hold buffers; others wait unread, and flow control holds their senders


class StreamServer:
    """Listens for streams, until it is stopped.

    Args:
        token: The run's.
        check: What goes with a request's envelope and back. Raises WireError if it is not what it must be.
        carry: Has a message answered. Raises CallFailed.
        stranger: Called with the address of everybody without the token.
        identity: What it proves itself with; None: it speaks without TLS.
    """

    def __init__(
        self,
        token: str,
        check: Callable[[pb.Envelope], Payload],
        carry: Callable[[Message], Message],
        stranger: Callable[[str], None],
        identity: Identity | None,
    ) -> None:
        self._proof = proof(token)
        self._check, self._carry, self._stranger = check, carry, stranger
        self._context = None if identity is None else identity.server_context()
        self._unproved: dict[Line, None] = {}  # the oldest first
        self._moving = threading.BoundedSemaphore(MOVING_AT_ONCE)
        self._lines: dict[Line, threading.Thread] = {}
        self._lock = threading.Lock()  # of all lines, and of whether there may be more
        self._stopped = False

    def start(self, host: str) -> int:
        """Listen on a free port of this address; return it."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host.strip("[]"), 0), family=family, backlog=128)
        self._thread = threading.Thread(target=self._accept, name="distbelief-streams", daemon=True)
        self._thread.start()
        return int(self._listener.getsockname()[1])

    def stop(self) -> None:
        """Hang up and wait until every thread has ended. Whoever `carry` waits for must be gone by then."""
        with self._lock:
            self._stopped = True
            lines = dict(self._lines)
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for line in lines:
            line.break_off()
        for thread in (self._thread, *lines.values()):
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, address = self._listener.accept()
            except OSError:
                if self._stopped:
                    return
                continue  # the other end was gone already
            line = Line(connection)
            thread = threading.Thread(
                target=self._serve, args=(line, address[0]), name="distbelief-stream", daemon=True
            )
            with self._lock:
                if self._stopped:
                    line.close()
                    return
                if len(self._unproved) == STRANGERS_AT_ONCE:
                    oldest = next(iter(self._unproved))
                    del self._unproved[oldest]
                    oldest.break_off()  # whoever has the token says so at once
                self._unproved[line] = None
                self._lines[line] = thread
                thread.start()

    def _serve(self, line: Line, address: str) -> None:
        try:
            try:
                said = line.opening(len(self._proof), HELLO_SECONDS, self._context)
            finally:
                with self._lock:
                    self._unproved.pop(line, None)
            known = hmac.compare_digest(said, self._proof)
            if known:
                self._exchanges(line)
            else:
                self._stranger(address)
        except (OSError, EOFError):
            pass  # it hung up, or says nothing
        finally:
            with self._lock:
                del self._lines[line]
            line.close()

    def _exchanges(self, line: Line) -> None:
        while True:
            line.patient(None)
            length = line.exactly(LENGTH_BYTES)
            line.patient(MOVE_SECONDS)
            with self._moving:
                try:
                    envelope = parse_envelope(line.head(length))
                    vectors = self._check(envelope)
                except WireError as error:  # what follows cannot be told from another message
                    _refuse(line, grpc.StatusCode.INVALID_ARGUMENT, f"WireError: {error}")
                    line.hear_out()
                    return
                self._one(line, envelope, vectors)

    def _one(self, line: Line, envelope: pb.Envelope, vectors: Payload) -> None:
        incoming_N = None if vectors.incoming is None else torch.empty(vectors.incoming)
        outgoing_N = None if vectors.outgoing is None else torch.empty(vectors.outgoing)
        if incoming_N is not None:
            line.fill_vector(incoming_N, vectors.wire)
        try:
            answer = self._carry(from_envelope(envelope, incoming_N, outgoing_N))
        except WireError as error:
            _refuse(line, grpc.StatusCode.INVALID_ARGUMENT, f"WireError: {error}")
        except CallFailed as error:
            _refuse(line, error.code, error.text)
        else:
            line.send(b"\0" + headed(to_envelope(answer).SerializeToString()))
            if outgoing_N is not None and isinstance(answer, Exchanged | ReadDone):
                narrow = None if vectors.wire is Wire.FLOAT32 else lambda piece: nearest(piece, vectors.wire)
                line.send_vector(outgoing_N, narrow)


def _refuse(line: Line, code: grpc.StatusCode, text: str) -> None:
    line.send(bytes((code.value[0],)) + headed(text.encode()[:HEAD_BYTES]))

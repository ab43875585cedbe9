"""Mailboxes: how gradient and weights reach a shard on the same host without travelling.

A worker's vectors lie in memory that it can share. With an exchange it sends a few bytes that say where: process, file
descriptor, name, offset. The shard opens that memory, reads the gradient where it was written and puts the weights
where they will be used. Whether the two live on one host is not guessed from names: it is so if the memory opens.

The memory has no name in any file system (memfd), so a process that is killed leaves nothing behind, at whatever
instant. What a peer says about it is checked before anything is mapped: that it is such memory and was made under the
name that was said, which nobody can guess; that it can never shrink, so that no access faults later; that the vector
lies within it.

After a call whose outcome is unknown the shard may still read the gradient or write the weights, some time. So the
worker renews its vectors: they keep address and content but lie in other memory from then on. A late shard reads what
it was to read, and writes where nobody looks.

Shape suffix: N = parameters of the whole model, or of one shard.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import secrets
import stat
import weakref
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass

import torch
from google.protobuf.message import DecodeError
from torch import Tensor

from ps.errors import WireError
from ps.messages import Exchange, Message
from ps.wire import parameter_server_pb2 as pb
from ps.wire.codec import from_envelope, to_envelope

HUGE_BYTES = 2 << 20  # mapped at multiples of it, so that the kernel can use large pages: a tenth faster
VECTOR_BYTES = 64  # a vector begins at a multiple of it
FLOAT_BYTES = 4
MEMORIES = 256  # that one worker has open at one shard, at most: gradient buffers of its host, and its weights

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_MAP_FIXED = 0x10
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)


class MemoryElsewhere(WireError):  # noqa: N818 -- it says what happened, to whom it matters
    """Definite: this process cannot open the memory: it is another host's or another user's, or it is gone."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Where a process's vector lies, for another process.

    Attributes:
        process: Process id.
        descriptor: File descriptor there.
        name: What the memory was made under.
        offset: Of the vector's first byte in the memory.
    """

    process: int
    descriptor: int
    name: str
    offset: int


# --- the worker's end ------------------------------------------------------------------------------------------------


Pin = Callable[[Tensor], Callable[[], None]]  # holds the memory of a vector in place; returns what lets go of it


class SharedVectors:
    """Makes vectors that shards on this host can open while this object lives.

    Args:
        pin: Done to the memory of each, whenever it has a new one; None for nothing.
    """

    def __init__(self, pin: Pin | None = None) -> None:
        self._pin = pin
        self._regions: dict[int, _Region] = {}  # by address

    def vector(self, elements: int) -> Tensor:
        """A float32 vector of zeros; one that cannot be shared where the system has no such memory."""
        if not hasattr(os, "memfd_create"):
            return torch.zeros(elements)
        region = _Region(elements, self._pin)
        self._regions[region.vector_N.data_ptr()] = region
        return region.vector_N

    def locate(self, vector_N: Tensor) -> Memory | None:
        """Where another process finds this vector, one of ours or a slice of one; None for any other."""
        address = vector_N.untyped_storage().data_ptr()
        if (region := self._regions.get(address)) is None:
            return None
        return Memory(os.getpid(), region.descriptor, region.name, vector_N.data_ptr() - address)

    def mail(self, message: Exchange) -> bytes | None:
        """The exchange as one Mail; None if it carries a vector that is not ours."""
        memories: dict[str, pb.Memory] = {}
        for name, vector_N in _vectors(message).items():
            if (memory := self.locate(vector_N)) is None:
                return None
            memories[name] = pb.Memory(
                process=memory.process, descriptor=memory.descriptor, name=memory.name, offset=memory.offset
            )
        return pb.Mail(exchange=to_envelope(message).exchange, **memories).SerializeToString()

    def renew(self, messages: Iterable[Message]) -> None:
        """Put the whole vectors that these exchanges carry slices of, content and all, into memory that nobody has
        opened.

        Nobody who is to be heard may write to them meanwhile.
        """
        carried = [
            vector_N for message in messages if isinstance(message, Exchange) for vector_N in _vectors(message).values()
        ]
        for address in {vector_N.untyped_storage().data_ptr() for vector_N in carried} & self._regions.keys():
            self._regions[address].renew()


def _vectors(message: Exchange) -> dict[str, Tensor]:
    """What an exchange carries, by its name in a Mail."""
    gradient_N = message.push.gradient_N if message.push else None
    return {
        name: vector_N
        for name, vector_N in (("gradient", gradient_N), ("weights", message.weights_N))
        if vector_N is not None
    }


class _Region:
    """One vector and the memory behind it."""

    def __init__(self, elements: int, pin: Pin | None = None) -> None:
        self._bytes = max(elements, 1) * FLOAT_BYTES
        self._pin = pin
        self._make()
        self._mapping = _Mapping(self.descriptor, 0, self._bytes)
        self.vector_N = self._mapping.vector(elements)
        self._unpin = pin(self.vector_N) if pin else None

    def _make(self) -> None:
        self.name = f"distbelief-{secrets.token_hex(16)}"
        self.descriptor = os.memfd_create(self.name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._close = weakref.finalize(self, os.close, self.descriptor)
        os.fchmod(self.descriptor, 0o600)
        os.ftruncate(self.descriptor, self._bytes)
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEALS)

    def renew(self) -> None:
        close_old = self._close
        self._make()
        copy = _Mapping(self.descriptor, 0, self._bytes).vector(self._bytes // FLOAT_BYTES)
        copy[: self.vector_N.numel()] = self.vector_N
        if self._unpin is not None:
            self._unpin()
        self._mapping.put(self.descriptor)
        self._unpin = self._pin(self.vector_N) if self._pin else None
        close_old()


# --- the shard's end -------------------------------------------------------------------------------------------------


class OpenMemories:
    """Vectors of one worker, opened for as long as this object lives.

    Args:
        elements: Of the vectors of each shard that is served here.
        known: What any worker has open: those of one host share gradient buffers.
    """

    def __init__(self, elements: Mapping[int, int], known: MutableMapping[tuple[Memory, int], Tensor]) -> None:
        self._elements = elements
        self._known = known
        self._vectors: dict[tuple[Memory, int], Tensor] = {}  # the one used most recently is the last

    def message(self, mail: bytes) -> Message:
        """The exchange of a Mail, with its vectors opened.

        Raises:
            MemoryElsewhere: One does not open here.
            WireError: Not a Mail, not for this shard, or memory that is not what it must be.
        """
        try:
            proto = pb.Mail.FromString(mail)
        except DecodeError as error:
            raise WireError(f"got {len(mail)} bytes that are no mail: {error}") from error
        if not proto.HasField("exchange"):
            raise WireError("mail without an exchange: got none, expected one")
        exchange = proto.exchange
        if exchange.wire != pb.WIRE_FLOAT32:
            raise WireError(f"mailbox: got wire type {exchange.wire}, expected float32: nothing travels")
        pushed, pulled = exchange.HasField("push"), exchange.pull
        expected = self._elements.get(exchange.shard)
        if expected is None or exchange.elements != (expected if pushed or pulled else 0):
            raise WireError(f"vector of {exchange.elements} elements for shard {exchange.shard}, expected {expected}")
        gradient_N = self._vector(proto.gradient, expected) if pushed else None
        weights_N = self._vector(proto.weights, expected) if pulled else None
        return from_envelope(pb.Envelope(exchange=exchange), gradient_N, weights_N)

    def _vector(self, proto: pb.Memory, elements: int) -> Tensor:
        memory = Memory(proto.process, proto.descriptor, proto.name, proto.offset), elements
        vector_N = self._vectors.pop(memory, None)
        if vector_N is None:
            if (vector_N := self._known.get(memory)) is None:
                vector_N = self._known[memory] = _opened(*memory)
            self._make_room()
        self._vectors[memory] = vector_N
        return vector_N

    def _make_room(self) -> None:
        """Let go of memories that their worker gave up, since they take space as long as they are open here; and of
        the one that was used least recently, if there are too many.
        """
        for memory in [each for each in self._vectors if not _is_there(each[0])]:
            del self._vectors[memory]
        if len(self._vectors) >= MEMORIES:
            del self._vectors[next(iter(self._vectors))]


def _opened(memory: Memory, elements: int) -> Tensor:
    size = elements * FLOAT_BYTES
    descriptor = _descriptor(memory)
    try:
        held = os.fstat(descriptor).st_size
        if memory.offset < 0 or memory.offset % VECTOR_BYTES or memory.offset + size > held:
            raise WireError(
                f"mailbox: got {size} bytes at {memory.offset} of {held}, "
                f"expected them to lie within and to begin at a multiple of {VECTOR_BYTES}"
            )
        return _Mapping(descriptor, memory.offset, size).vector(elements)
    finally:
        os.close(descriptor)


def _link(memory: Memory) -> str:
    """What the system says that a descriptor of this memory is."""
    return f"/memfd:{memory.name} (deleted)"


def _is_there(memory: Memory) -> bool:
    """Whether the process that made this memory has it still."""
    try:
        return os.readlink(f"/proc/{memory.process}/fd/{memory.descriptor}") == _link(memory)
    except OSError:
        return False


def _descriptor(memory: Memory) -> int:
    """A descriptor of our own for another process's memory. What it is, is looked at before it is opened."""
    try:
        seen = os.open(f"/proc/{memory.process}/fd/{memory.descriptor}", os.O_PATH | os.O_CLOEXEC)
    except (OSError, ValueError, OverflowError) as error:
        raise MemoryElsewhere(f"mailbox: process {memory.process} has no memory for this one: {error}") from error
    try:
        path = f"/proc/self/fd/{seen}"
        if os.readlink(path) != _link(memory) or not stat.S_ISREG(os.fstat(seen).st_mode):
            raise MemoryElsewhere("mailbox: got another file than the one named, expected memory of this host")
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise MemoryElsewhere(f"mailbox: the memory does not open: {error}") from error
    finally:
        os.close(seen)
    seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    if not seals & fcntl.F_SEAL_SHRINK:
        os.close(descriptor)
        raise WireError(f"mailbox: got memory with seals {seals}, expected it sealed against shrinking")
    return descriptor


# --- both ------------------------------------------------------------------------------------------------------------


class _Mapping:
    """Addresses of this process, and the stretch of shared memory that lies there. They are free again when no vector
    over them is left.

    Args:
        descriptor: Of the memory; not needed any more afterwards.
        offset, size: Bytes; the stretch may begin anywhere.
    """

    def __init__(self, descriptor: int, offset: int, size: int) -> None:
        unit = HUGE_BYTES if size >= HUGE_BYTES else mmap.PAGESIZE
        self._first = offset // unit * unit
        self._size = offset + size - self._first
        self._reserved = mmap.mmap(-1, self._size + unit, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._reserved))
        self._address = -(-start // unit) * unit
        self._skipped = self._address - start
        self._offset = self._skipped + offset - self._first
        self.put(descriptor)

    def put(self, descriptor: int) -> None:
        """Let this memory lie at the addresses, in place of what did: in one step, for all threads."""
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        flags = mmap.MAP_SHARED | _MAP_FIXED
        if _LIBC.mmap(self._address, self._size, protection, flags, descriptor, self._first) != self._address:
            raise OSError(ctypes.get_errno(), f"cannot map {self._size} bytes")
        if self._size >= HUGE_BYTES:
            self._reserved.madvise(mmap.MADV_HUGEPAGE, self._skipped, self._size)

    def vector(self, elements: int) -> Tensor:
        """The float32 vector at the stretch's beginning."""
        if elements == 0:
            return torch.empty(0)
        return torch.frombuffer(self._reserved, dtype=torch.float32, count=elements, offset=self._offset)

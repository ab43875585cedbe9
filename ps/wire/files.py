"""Files: journals that survive a crash at any byte, and files that appear whole or not at all.

    a journal   "DBJRNL02" | the header | record | record | ...
    each        length of the body | CRC-32 of these four bytes | CRC-32 of the body | the body, as MessagePack

Lengths and checksums are uint32, little-endian. A last record that a crash cut short, or left as zeros, is no part of
the journal. MessagePack, and not the protocol's protobuf: from Python a record takes a microsecond to write and one to
read, not four and twenty-five, and journals are all that a simulation writes and a replay reads.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from msgspec import DecodeError
from msgspec.msgpack import Decoder, Encoder

from ps.errors import JournalDamaged
from ps.journal import Header, Record

_KIND = b"DBJRNL"
MAGIC = _KIND + b"02"  # the format
_FRAME = struct.Struct("<III")  # length of the body, CRC-32 of these four bytes, CRC-32 of the body
_LENGTH = struct.Struct("<I")
SUFFIX = ".journal"

_encode, _pack, _checksum = Encoder().encode, _FRAME.pack, zlib.crc32
_header = Decoder(Header).decode
_record: Callable[[bytes], Record] = Decoder(Record).decode


@lru_cache(maxsize=1024)
def _length_check(length: int) -> int:
    return zlib.crc32(_LENGTH.pack(length))


class JournalWriter:
    """Appends one actor's records. `write` returns when the kernel has them, so that a killed process loses none.

    Args:
        path: The file, created; it must not exist, unless `again`.
        run: The run's id.
        actor: Whose journal this is, for example "shard-0".
        kept_back: Bytes that wait for others until they are written together; only where nobody hears of what is
            recorded before the journal is closed.
        again: Go on where an earlier writer of this journal ended, behind its last whole record.
        end: Where that is, in bytes, if it is known.

    Raises:
        JournalDamaged: `again`, and what is there is damaged before its end.
    """

    def __init__(
        self, path: Path, run: str, actor: str, kept_back: int = 0, again: bool = False, end: int | None = None
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if end is None:
            end = _end(path) if again and path.exists() else 0
        created = 0 if again else os.O_EXCL
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | created | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._waiting = bytearray()  # not the records: thousands of them would drive all else out of the cache
        self._kept_back = kept_back
        if again:
            os.ftruncate(self._file, end)
        if not end:
            header = _encode(Header(run, actor))
            frame = _pack(len(header), _length_check(len(header)), _checksum(header))
            self._write(MAGIC + frame + header)

    def write(self, records: Iterable[Record]) -> None:
        """Append these records, all in one write."""
        waiting = self._waiting
        for record in records:
            body = _encode(record)
            length = len(body)
            waiting += _pack(length, _length_check(length), _checksum(body))
            waiting += body
        if len(waiting) > self._kept_back:
            self._flush()

    def _flush(self) -> None:
        data, self._waiting = self._waiting, bytearray()
        self._write(data)

    def _write(self, data: bytes | bytearray) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]

    def sync(self) -> None:
        """Make durable what reached the kernel. May be called while another thread writes."""
        os.fsync(self._file)

    def close(self) -> None:
        """Make the journal durable and close it."""
        self._flush()
        self.sync()
        os.close(self._file)


def take_over(path: Path, kinds: tuple[type, ...]) -> tuple[int, int]:
    """Put a copy of a journal in its place, so that whoever has it open writes to what nobody reads any more.

    Returns:
        Where its last whole record ends, in bytes, and how many records of these kinds it has.

    Raises:
        JournalDamaged: It is damaged before its end.
        OSError: It is not there, or cannot be replaced.
    """
    end = count = 0
    for at, body in _bodies(path):
        count += end > 0 and isinstance(_known(path, at, body), kinds)
        end = at + _FRAME.size + len(body)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.copyfile(path, temporary)
    os.replace(temporary, path)
    return end, count


def read_journal(path: Path) -> Iterator[Record]:
    """The records of a journal, in order; a tail that a crash cut short is left out.

    Raises:
        JournalDamaged: Not a journal, of an unknown format, or damaged before its end.
    """
    bodies = _bodies(path)
    if (first := next(bodies, None)) is not None:
        _opening(path, *first)
    for at, body in bodies:
        yield _known(path, at, body)


def _opening(path: Path, at: int, body: bytes) -> Header:
    try:
        return _header(body)
    except DecodeError as error:
        raise JournalDamaged(f"{path}: byte {at}: got no header, expected one at the start: {error}") from error


def _known(path: Path, at: int, body: bytes) -> Record:
    try:
        return _record(body)
    except DecodeError as error:
        raise JournalDamaged(f"{path}: byte {at}: got no record that this program knows: {error}") from error


class JournalTail:
    """Reads what is appended to a journal, from time to time, and one kind of record only.

    Args:
        path: The journal; it may still be empty.
        kind: Of record.
    """

    def __init__(self, path: Path, kind: type) -> None:
        self._path = path
        self._kind = kind
        self._at = len(MAGIC)

    def read(self, most: int) -> list[Record]:
        """The newest records since the last time, at most so many, in order. Half a record is left for next time."""
        with self._path.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        found: deque[Record] = deque(maxlen=most)
        at = 0
        while at + _FRAME.size <= len(data):
            length, length_check, _ = _FRAME.unpack_from(data, at)
            start, stop = at + _FRAME.size, at + _FRAME.size + length
            if _length_check(length) != length_check or stop > len(data):
                break
            where, at = self._at + at, stop
            if where == len(MAGIC):
                continue  # the header
            record = _known(self._path, where, data[start:stop])
            if isinstance(record, self._kind):
                found.append(record)
        self._at += at
        return list(found)


def _end(path: Path) -> int:
    """Where the last whole record of a journal ends; 0 if there is none."""
    end = 0
    for at, body in _bodies(path):
        end = at + _FRAME.size + len(body)
    return end


def _bodies(path: Path) -> Iterator[tuple[int, bytes]]:
    """Where each whole record begins, and its body. They end at a mismatch that only zeros follow: a torn tail."""
    data = path.read_bytes()
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        if data.startswith(_KIND):
            theirs, ours = (magic.removeprefix(_KIND).decode("ascii", "replace") for magic in (data[:8], MAGIC))
            raise JournalDamaged(f"{path}: journal format {theirs}, expected {ours}: written by another version")
        raise JournalDamaged(f"{path}: not a journal: begins with {data[:8]!r}, expected {MAGIC!r}")
    at = len(MAGIC)
    while at + _FRAME.size <= len(data):
        length, length_check, check = _FRAME.unpack_from(data, at)
        sound = zlib.crc32(data[at : at + _LENGTH.size]) == length_check
        start, stop = at + _FRAME.size, at + _FRAME.size + (length if sound else 0)
        if not sound or (stop <= len(data) and zlib.crc32(data[start:stop]) != check):
            if data[stop:].strip(b"\0"):
                raise JournalDamaged(f"{path}: record at byte {at} does not match its checksum")
            return
        if stop > len(data):
            return
        yield at, data[start:stop]
        at = stop


def journals(folder: Path) -> list[Path]:
    """A run's journal files, sorted by name."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def run_of(path: Path) -> str:
    """The run that a journal is of. Raises JournalDamaged if it does not say."""
    for at, body in _bodies(path):
        return _opening(path, at, body).run
    raise JournalDamaged(f"{path}: got no header, expected one at the start")


def journal_digest(folder: Path) -> str:
    """sha256 over the names and bytes of a run's journals, in the order of their names."""
    digest = hashlib.sha256()
    for path in journals(folder):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def write_whole(path: Path, data: bytes | Sequence[memoryview], mode: int = 0o644) -> None:
    """Write a file, in one piece or several, that is there whole or not at all: temporary name, fsync, rename, fsync of
    the folder.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(file, "wb") as stream:
            for piece in (data,) if isinstance(data, bytes) else data:
                stream.write(piece)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make durable which files this folder holds."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

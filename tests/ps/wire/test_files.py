"""Journals through crashes at every byte, and files that are there whole or not at all."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest
from msgspec import msgpack

from ps.errors import JournalDamaged
from ps.journal import PullHandled, Record, SampleSent
from ps.messages import Wire
from ps.wire.files import (
    MAGIC,
    SUFFIX,
    JournalWriter,
    journal_digest,
    journals,
    read_journal,
    run_of,
    take_over,
    write_whole,
)

RECORDS: list[Record] = [PullHandled(0.5 * i, i % 3, i, 7 * i) for i in range(5)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed journal of RECORDS."""
    made = tmp_path / "journal" / f"shard-0{SUFFIX}"
    write(made, RECORDS)
    return made


def write(path: Path, records: list[Record]) -> None:
    writer = JournalWriter(path, "run-1", "shard-0")
    writer.write(records)
    writer.close()


def edges(path: Path) -> list[int]:
    """Where each record ends, the header first."""
    found = [len(MAGIC)]
    data = path.read_bytes()
    while found[-1] < len(data):
        length = int.from_bytes(data[found[-1] : found[-1] + 4], "little")
        found.append(found[-1] + 12 + length)
    return found[1:]


def framed(body: bytes) -> bytes:
    """A record as ps/wire/files.py describes it, written out anew."""
    length = len(body).to_bytes(4, "little")
    return length + zlib.crc32(length).to_bytes(4, "little") + zlib.crc32(body).to_bytes(4, "little") + body


HEADER = framed(msgpack.encode(["run-1", "shard-0"]))


def test_records_come_back_in_order(path: Path) -> None:
    assert list(read_journal(path)) == RECORDS


def test_records_written_one_by_one_are_the_same_bytes(path: Path, tmp_path: Path) -> None:
    other = tmp_path / f"other{SUFFIX}"
    writer = JournalWriter(other, "run-1", "shard-0")
    for record in RECORDS:
        before = other.stat().st_size
        writer.write([record])
        assert other.stat().st_size > before, "the kernel has it when write returns"
    writer.write([])
    writer.close()
    assert other.read_bytes() == path.read_bytes()


def test_the_bytes_are_those_that_are_described(path: Path) -> None:
    bodies = [[4, 0.5 * i, i % 3, i, 7 * i, "float32"] for i in range(5)]
    assert path.read_bytes() == b"DBJRNL02" + HEADER + b"".join(framed(msgpack.encode(body)) for body in bodies)


def test_a_journal_is_never_written_over(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        JournalWriter(path, "run-2", "shard-0")
    assert path.read_bytes() == before


@pytest.mark.parametrize("torn", [0, 3])
def test_a_journal_that_is_taken_over_is_not_what_its_first_writer_writes_to(path: Path, torn: int) -> None:
    zombie = JournalWriter(path, "run-1", "shard-0", again=True)
    zombie.write([SampleSent(9.0, 1)])
    os.truncate(path, path.stat().st_size - torn)
    end, count = take_over(path, (PullHandled, SampleSent))
    zombie.write([SampleSent(9.5, 2)])
    assert count == len(RECORDS) + (not torn)
    heir = JournalWriter(path, "run-1", "shard-0", again=True, end=end)
    heir.write([SampleSent(10.0, 3)])
    zombie.close()
    heir.close()
    assert list(read_journal(path)) == [*RECORDS, *([] if torn else [SampleSent(9.0, 1)]), SampleSent(10.0, 3)]
    assert take_over(path, (SampleSent,))[1] == 1 + (not torn), "of these kinds only"
    assert [each.name for each in path.parent.iterdir()] == [path.name]


# --- crashes ---------------------------------------------------------------------------------------------------------


def test_a_journal_cut_at_any_byte_gives_the_whole_records_before_the_cut(path: Path) -> None:
    data = path.read_bytes()
    ends = edges(path)
    assert ends[-1] == len(data)
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        whole = sum(end <= cut for end in ends[1:])
        assert list(read_journal(path)) == RECORDS[:whole], cut


def test_a_tail_left_as_zeros_by_a_power_cut_is_no_part_of_the_journal(path: Path) -> None:
    """File systems may write a file's new length before its data."""
    data = path.read_bytes()
    ends = edges(path)
    for cut in range(ends[-3], len(data)):
        if data[cut:].strip(b"\0") == b"":
            continue  # the record's own last bytes are zeros
        for zeros in (1, 11, 12, 13, len(data) - cut, 4096):
            path.write_bytes(data[:cut] + bytes(zeros))
            whole = sum(end <= cut for end in ends[1:])
            got = list(read_journal(path))
            assert got == RECORDS[:whole], (cut, zeros)


def test_a_byte_that_flipped_anywhere_before_the_last_record_is_damage(path: Path) -> None:
    data = path.read_bytes()
    for at in range(edges(path)[-2]):
        for flip in (0x01, 0x80):
            path.write_bytes(data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :])
            with pytest.raises(JournalDamaged, match=r"does not match its checksum|not a journal|journal format"):
                list(read_journal(path))


def test_a_last_record_that_does_not_match_its_checksum_is_left_out(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert list(read_journal(path)) == RECORDS[:-1]


def test_a_record_whose_length_flipped_is_damage_even_at_the_end(path: Path) -> None:
    data = path.read_bytes()
    at = edges(path)[-2]
    path.write_bytes(data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :])
    with pytest.raises(JournalDamaged, match=f"record at byte {at} does not match its checksum"):
        list(read_journal(path))


# --- what is no journal ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"{", b"DBJRNX", b"\x00" * 64])
def test_another_file_is_no_journal(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(JournalDamaged, match=r"x: not a journal: begins with .*, expected b'DBJRNL02'"):
        list(read_journal(path))


def test_another_format_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"DBJRNL01" + HEADER)
    with pytest.raises(JournalDamaged, match="journal format 01, expected 02: written by another version"):
        list(read_journal(path))


RECORD = framed(msgpack.encode(SampleSent(1.0, 2)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (RECORD, "byte 8: got no header, expected one at the start"),
        (HEADER + RECORD + HEADER, f"byte {8 + len(HEADER + RECORD)}: got no record that this program knows"),
    ],
)
def test_a_header_is_at_the_start_and_only_there(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(MAGIC + data)
    with pytest.raises(JournalDamaged, match=message):
        list(read_journal(path))


@pytest.mark.parametrize("body", [b"", b"\xff", msgpack.encode([99, 1.0]), msgpack.encode([6, 1.0, "two"])])
def test_a_sound_record_that_says_nothing_known_is_damage(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(MAGIC + HEADER + framed(body))
    with pytest.raises(JournalDamaged, match="got no record that this program knows"):
        list(read_journal(path))


def test_a_record_with_more_or_fewer_fields_is_read_as_far_as_it_is_known(tmp_path: Path) -> None:
    """Kinds get fields at their end, with defaults."""
    path = tmp_path / "x"
    bodies = [[4, 0.5, 1, 2, 3], [4, 0.5, 1, 2, 3, "bfloat16", "of a later version"]]
    path.write_bytes(MAGIC + HEADER + b"".join(framed(msgpack.encode(body)) for body in bodies))
    assert list(read_journal(path)) == [PullHandled(0.5, 1, 2, 3), PullHandled(0.5, 1, 2, 3, Wire.BFLOAT16)]


# --- folders ---------------------------------------------------------------------------------------------------------


def test_the_digest_is_of_names_lengths_and_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    write(folder / f"b{SUFFIX}", RECORDS)
    write(folder / f"a{SUFFIX}", RECORDS[:2])
    (folder / "notes.txt").write_text("no journal")
    assert [path.name for path in journals(folder)] == [f"a{SUFFIX}", f"b{SUFFIX}"]
    digest = journal_digest(folder)
    assert len(digest) == 64
    assert journal_digest(folder) == digest

    (folder / f"b{SUFFIX}").rename(folder / f"c{SUFFIX}")
    assert journal_digest(folder) != digest
    (folder / f"c{SUFFIX}").rename(folder / f"b{SUFFIX}")
    assert journal_digest(folder) == digest
    with (folder / f"a{SUFFIX}").open("ab") as stream:
        stream.write(b"\0")
    assert journal_digest(folder) != digest


# --- files that appear whole -----------------------------------------------------------------------------------------


def test_a_file_is_written_whole_over_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old, and longer")
    write_whole(path, b"new", mode=0o600)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failure_leaves_the_older_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"ps.wire.files.os.{failing}", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new")
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_bytes() == b"old"


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "missing" / "file", b"new")
    assert os.listdir(tmp_path) == []


# --- a writer that goes on --------------------------------------------------------------------------------------------


def test_a_writer_goes_on_behind_the_last_whole_record_wherever_the_journal_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "shard-0.journal"
    writer = JournalWriter(path, "run", "shard-0")
    for version in range(4):
        writer.write([SampleSent(1.0, version)])
    writer.close()
    data = path.read_bytes()
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        kept = list(read_journal(path))
        again = JournalWriter(path, "run", "shard-0", again=True)
        again.write([SampleSent(2.0, 99)])
        again.close()
        assert list(read_journal(path)) == [*kept, SampleSent(2.0, 99)]
        assert run_of(path) == "run"


def test_a_writer_begins_a_journal_that_is_not_there(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path / "ledger.journal", "run", "ledger", again=True)
    writer.close()
    assert list(read_journal(tmp_path / "ledger.journal")) == []


def test_a_writer_does_not_go_on_behind_damage(tmp_path: Path) -> None:
    path = tmp_path / "shard-0.journal"
    writer = JournalWriter(path, "run", "shard-0")
    writer.write([SampleSent(1.0, 1), SampleSent(1.0, 2)])
    writer.close()
    data = bytearray(path.read_bytes())
    data[20] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(JournalDamaged):
        JournalWriter(path, "run", "shard-0", again=True)
    assert path.read_bytes() == data

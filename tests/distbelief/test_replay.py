"""Replay of a real run on digits, made in one process: the same bits, and every way in which they could not be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace as changed

from distbelief import cli, rundir
from distbelief.replay import replay
from ps.errors import BadInput, JournalDamaged, RunFailed
from ps.journal import Arithmetic, LeaseFinished, Record
from ps.layout import Layout
from ps.messages import AVERAGER, Address, Read, Role
from ps.wire.client import Loop, Peer
from ps.wire.files import JournalWriter, read_journal
from tests.cluster.world import World, served


def save(world: World) -> None:
    """Leave the weights behind, as a launch does."""
    spec = world.spec
    average_N = torch.empty(spec.layout.size)

    async def read() -> None:
        peer = Peer(world.targets[AVERAGER], spec.token)
        for shard, bound in enumerate(spec.bounds):
            await peer.exchange(Read(Address(Role.WORKER, -1), shard, shard, average_N[bound]), 10.0)
        await peer.close()

    loop = Loop("test")
    try:
        loop.run(read())
    finally:
        loop.close()
    for name, weights_N in (("latest", world.weights()), ("average", average_N)):
        rundir.write_weights(spec.folder, name, spec.layout, weights_N, {})


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Layout]:
    """Four workers, two shards, one epoch of digits in 23 leases."""
    folder = tmp_path_factory.mktemp("recorded")
    with served(folder, cluster__workers=4, run__batch_size=64) as world:
        world.host().run()
        save(world)
    return folder, world.spec.layout


@pytest.fixture
def run(recorded: tuple[Path, Layout], tmp_path: Path) -> Path:
    """A copy of the run, to be spoiled."""
    return Path(shutil.copytree(recorded[0], tmp_path / "run"))


def rewritten(path: Path, change: type[Record], nth: int, **values: object) -> None:
    """Change a record, its checksum included."""
    records = list(read_journal(path))
    at = [i for i, record in enumerate(records) if isinstance(record, change)][nth]
    records[at] = changed(records[at], **values)  # type: ignore[arg-type]
    path.unlink()
    writer = JournalWriter(path, "run", path.stem)
    writer.write(records)
    writer.close()


def test_a_run_comes_out_again_bit_for_bit(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["replay", str(run)]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == ""
    for name, recorded, again in (("latest", *lines[0:2]), ("average", *lines[2:4])):
        assert recorded.startswith(f"{name:8} recorded ")
        assert again.split()[-2:] == ["replayed", recorded.split()[-1]]
    assert lines[0].split()[-1] != lines[2].split()[-1]
    assert lines[-1] == "bit-identical: weights, average, and the history of 46 updates on 2 shards"


def test_json_says_the_same(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["replay", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["identical"], found["versions"], found["differences"]) == (True, [23, 23], [])
    assert found["weights"]["latest"]["recorded"] == found["weights"]["latest"]["replayed"]


def test_another_seed_is_found_at_once(run: Path) -> None:
    config = run / "config.toml"
    config.write_text(config.read_text().replace("seed = 0", "seed = 1"))
    found = replay(run)
    assert found.verdict == "different"
    assert found.differences[0] == "ledger: seed: recorded 0, replayed 1"
    assert "shard-0, record 1: ShardOpened: weights_sha256" in found.differences[1]
    assert not found.weights["latest"].same


def test_a_flipped_bit_is_named_with_its_place(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "journal" / "shard-1.journal"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 8
    path.write_bytes(data)
    assert cli.run(["replay", str(run)]) == 1
    assert "shard-1.journal: record at byte" in capsys.readouterr().err


def test_a_flipped_bit_with_a_right_checksum_is_found_at_its_lease(run: Path) -> None:
    path = run / "journal" / "ledger.journal"
    told = [record for record in read_journal(path) if isinstance(record, LeaseFinished)][11]
    rewritten(path, LeaseFinished, 11, loss=told.loss * (1 + 2**-52))
    (difference,) = replay(run).differences
    assert f"gradient of lease {told.lease}: recorded loss" in difference


def test_weights_that_were_changed_afterwards_are_found(run: Path, recorded: tuple[Path, Layout]) -> None:
    layout = recorded[1]
    weights_N = rundir.read_weights(run / "latest.safetensors", layout)
    weights_N[5] = torch.nextafter(weights_N[5], torch.tensor(9.0))
    rundir.write_weights(run, "latest", layout, weights_N, {})
    found = replay(run)
    assert found.verdict == "different"
    assert len(found.differences) == 1
    assert "every event is the same, but 1 values of" in found.differences[0]


def test_a_lost_tail_is_neither_the_same_nor_different(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "journal" / "shard-1.journal"
    path.write_bytes(path.read_bytes()[:-30])
    assert cli.run(["replay", str(run)]) == 3
    assert "shard-1, record" in (printed := capsys.readouterr().out)
    assert "ends at version" in printed


def test_stopping_anywhere_writes_the_weights_there(
    run: Path, recorded: tuple[Path, Layout], capsys: pytest.CaptureFixture[str]
) -> None:
    layout = recorded[1]
    assert cli.run(["replay", str(run), "--until", "23", "--output", str(run / "all.safetensors")]) == 0
    assert str(run / "all.safetensors") in capsys.readouterr().out
    at_the_end = rundir.read_weights(run / "all.safetensors", layout)
    assert torch.equal(at_the_end, rundir.read_weights(run / "latest.safetensors", layout))
    assert replay(run, until=9).output == str(run / "replayed-9.safetensors")
    assert not torch.equal(at_the_end, rundir.read_weights(run / "replayed-9.safetensors", layout))


def test_weights_go_to_the_very_file_that_was_named(run: Path) -> None:
    assert cli.run(["replay", str(run), "--until", "3", "--output", str(run / "at3.pt")]) == 0
    assert (run / "at3.pt").is_file()
    assert not (run / "at3.pt.safetensors").exists()


def test_where_nothing_can_be_written_nothing_is_replayed(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distbelief.replay.Replay", None)
    monkeypatch.chdir(run)
    for output, said in (("gone/w.safetensors", "gone is no directory"), (".", "got ., a directory; expected a file")):
        assert cli.run(["replay", str(run), "--until", "3", "--output", output]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("--until 24", "--until: got 24, expected an update of this run, 0 to 23"),
        ("--output f", "--output: got a file without --until UPDATE, expected both; a whole replay only compares"),
    ],
)
def test_mistakes_are_one_line(run: Path, typed: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["replay", str(run), *typed.split()]) == 2
    assert capsys.readouterr().err == f"distbelief: error: {line}\n"


def test_what_changes_bits_is_said_before_it_starts(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewritten(run / "journal" / "host-0.journal", Arithmetic, 0, torch="2.0.0", threads=3)
    assert cli.run(["replay", str(run)]) == 0
    err = capsys.readouterr().err
    assert f"note: torch differs: recorded 2.0.0, here {torch.__version__}; bits may differ" in err
    assert "note: threads differs: recorded 3, here 1" in err


def test_journals_of_another_run_are_refused(run: Path) -> None:
    config = run / "config.toml"
    config.write_text(config.read_text().replace("batch_size = 64", "batch_size = 32"))
    with pytest.raises(RunFailed, match="are not those of the journals: LedgerOpened: batch_size: recorded 64"):
        replay(run)


def test_missing_weights_are_not_taken_for_equal_ones(run: Path) -> None:
    (run / "average.safetensors").unlink()
    found = replay(run)
    assert found.verdict == "different"
    assert found.differences == ["average.safetensors: got no such file, expected one to compare with"]


def test_no_run_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="expected a run directory"):
        replay(tmp_path)


def test_a_damaged_journal_is_an_error_of_its_own(run: Path) -> None:
    (run / "journal" / "host-0.journal").write_bytes(b"nothing of ours")
    with pytest.raises(JournalDamaged, match=r"host-0\.journal: not a journal"):
        replay(run)

"""Run directory: made once, never overwritten; weights come back bit for bit, and foreign ones are refused."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from distbelief import rundir
from distbelief.config import Config
from ps.errors import BadInput, RunFailed
from ps.layout import Layout, TensorSpec
from ps.messages import LEDGER, Address, Role
from ps.streams import torch_stream

LAYOUT = Layout((TensorSpec("a.weight", (4, 5)), TensorSpec("b.weight", (3, 2, 2)), TensorSpec("a.bias", (4,))), 1)


def weights() -> torch.Tensor:
    return torch.randn(LAYOUT.size, generator=torch_stream(0, "weights"))


def config(folder: Path | str, **run: object) -> Config:
    return Config.of({"run.folder": str(folder), **{f"run.{key}": value for key, value in run.items()}})


def refusal(weights_file: Path, layout: Layout = LAYOUT) -> str:
    with pytest.raises(BadInput) as caught:
        rundir.read_weights(weights_file, layout)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the directory ----------------------------------------------------------------------------------------------------


def test_a_new_directory_holds_the_configuration_and_an_empty_journal(tmp_path: Path) -> None:
    chosen = config(tmp_path / "a" / "b", seed=5)
    folder = rundir.create(chosen, "stamp")
    assert folder == tmp_path / "a" / "b"
    assert sorted(path.name for path in folder.iterdir()) == ["config.toml", "journal", "snapshots"]
    assert [*(folder / "journal").iterdir(), *(folder / "snapshots").iterdir()] == []
    assert rundir.config_of(folder) == replace(chosen, run=replace(chosen.run, folder=""))


def test_when_it_was_asked_for_is_kept_to_the_bit(tmp_path: Path) -> None:
    assert rundir.started(tmp_path) is None
    rundir.write_started(tmp_path, 1764064800.1234567)
    assert rundir.started(tmp_path) == 1764064800.1234567
    (tmp_path / "started").write_text("noon")
    with pytest.raises(BadInput, match=r"started: got could not convert .*, expected seconds since 1970"):
        rundir.started(tmp_path)


@pytest.mark.parametrize(
    ("error", "begun", "kept"), [(BadInput, False, False), (BadInput, True, True), (RunFailed, False, True)]
)
def test_a_directory_of_a_run_that_never_began_is_removed(
    error: type[Exception], begun: bool, kept: bool, tmp_path: Path
) -> None:
    folder = rundir.create(config(tmp_path / "a"), "stamp")
    if begun:
        (folder / "journal" / "ledger.journal").touch()
    with pytest.raises(error, match="why"), rundir.begun(folder):
        raise error("why")
    assert folder.exists() == kept


def test_its_configuration_starts_the_same_run_in_another_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = rundir.create(config("first", seed=5), "stamp")
    second = rundir.create(Config.of({}, first / rundir.CONFIG), "stamp")
    assert second == tmp_path / "runs" / "digits-stamp"
    assert rundir.config_of(second) == rundir.config_of(first)


def test_an_empty_directory_is_taken(tmp_path: Path) -> None:
    assert rundir.create(config(tmp_path), "stamp") == tmp_path


def test_without_a_name_each_run_has_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [rundir.create(config("", preset="cifar10"), "stamp") for _ in range(3)]
    assert names == [tmp_path / "runs" / name for name in ("cifar10-stamp", "cifar10-stamp-2", "cifar10-stamp-3")]


def test_a_directory_in_use_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    expected = f"run directory: {tmp_path} is not empty; expected a new or empty one (--run DIR)"
    with pytest.raises(BadInput) as caught:
        rundir.create(config(tmp_path), "stamp")
    assert str(caught.value) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for folder, why in ((file, "File exists"), (file / "run", "Not a directory")):
        with pytest.raises(BadInput) as caught:
            rundir.create(config(folder), "stamp")
        assert str(caught.value) == f"run directory: cannot write {folder}: {why}; name another with --run DIR"


def test_a_full_disk_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(rundir, "write_whole", full)
    with pytest.raises(BadInput) as caught:
        rundir.create(config(tmp_path / "run"), "stamp")
    assert str(caught.value) == (
        f"run directory: cannot write {tmp_path / 'run'}: No space left on device; name another with --run DIR"
    )


def test_what_is_no_run_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=rf"^run: got {tmp_path}, expected a run directory \(one with a config.toml\)$"):
        rundir.config_of(tmp_path)


# --- where a run's actors are -----------------------------------------------------------------------------------------


def test_a_connection_is_for_its_owner_only_and_goes_away(tmp_path: Path) -> None:
    targets = {Address(Role.SHARD, 1): "127.0.0.1:5", LEDGER: "127.0.0.1:6"}
    rundir.write_connection(tmp_path, "secret", targets, {"pid": 7})
    file = tmp_path / rundir.CONNECTION
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text()) == {
        "token": "secret", "targets": {"shard-1": "127.0.0.1:5", "ledger": "127.0.0.1:6"}, "pid": 7,
    }  # fmt: skip
    rundir.remove_connection(tmp_path)
    rundir.remove_connection(tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- weights ----------------------------------------------------------------------------------------------------------


def test_weights_come_back_bit_for_bit_under_their_names(tmp_path: Path) -> None:
    weights_N = weights()
    digest = rundir.write_weights(tmp_path, "average", LAYOUT, weights_N, {"model": "m", "run": "r"})
    file = tmp_path / "average.safetensors"
    assert digest == hashlib.sha256(file.read_bytes()).hexdigest()
    assert torch.equal(rundir.read_weights(file, LAYOUT), weights_N)
    named = safetensors.torch.load_file(file)
    assert torch.equal(named["b.weight"], weights_N[20:32].view(3, 2, 2))
    assert {name: tuple(tensor.shape) for name, tensor in named.items()} == {
        "a.weight": (4, 5), "b.weight": (3, 2, 2), "a.bias": (4,),
    }  # fmt: skip
    with safetensors.safe_open(file, "pt") as opened:
        assert opened.metadata() == {"model": "m", "run": "r"}


def test_weights_are_replaced_whole(tmp_path: Path) -> None:
    first = rundir.write_weights(tmp_path, "latest", LAYOUT, weights(), {})
    again = rundir.write_weights(tmp_path, "latest", LAYOUT, weights(), {})
    other = rundir.write_weights(tmp_path, "latest", LAYOUT, weights() + 1, {})
    assert first == again != other
    assert [path.name for path in tmp_path.iterdir()] == ["latest.safetensors"]
    assert torch.equal(rundir.read_weights(tmp_path / "latest.safetensors", LAYOUT), weights() + 1)


def test_weights_do_not_depend_on_the_shards(tmp_path: Path) -> None:
    rundir.write_weights(tmp_path, "latest", LAYOUT, weights(), {})
    assert torch.equal(rundir.read_weights(tmp_path / "latest.safetensors", Layout(LAYOUT.tensors, 3)), weights())


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ((TensorSpec("a.weight", (5, 4)), *LAYOUT.tensors[1:]), r"a\.weight: got shape \(4, 5\), expected \(5, 4\)"),
        ((TensorSpec("a.weights", (4, 5)), *LAYOUT.tensors[1:]),
         r'parameters: got none named a\.weights, expected one \(did you mean "a\.weight"\?\)'),
    ],
)  # fmt: skip
def test_weights_of_another_model_are_refused(tensors: tuple[TensorSpec, ...], why: str, tmp_path: Path) -> None:
    rundir.write_weights(tmp_path, "latest", LAYOUT, weights(), {})
    file = tmp_path / "latest.safetensors"
    with pytest.raises(BadInput, match=f"^weights: {file} is of another model: {why}$"):
        rundir.read_weights(file, Layout(tensors, 1))


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    rundir.write_weights(tmp_path, "whole", LAYOUT, weights(), {})
    whole = (tmp_path / "whole.safetensors").read_bytes()
    contents = {"empty": b"", "torn": whole[:-1], "text": b"not weights at all", "header": b"\xff" + whole[1:]}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for name in (*contents, "missing", "."):
        assert refusal(tmp_path / name).startswith(f"weights: cannot read {tmp_path / name}: ")


def test_a_path_is_shown_as_a_person_reads_it_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert rundir.named(tmp_path / "here" / "runs" / "a") == "runs/a"
    assert rundir.named(tmp_path / "there") == str(tmp_path / "there")

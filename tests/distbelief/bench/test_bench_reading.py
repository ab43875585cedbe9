"""The bench of reading: what it prints has the agreed keys, and its photographs are photographs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distbelief import cli
from distbelief.bench import reading
from workers.datasets import DataSettings, load


def test_made_up_photographs_are_a_folder_of_images_that_take_some_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PHOTOGRAPHS", 4)
    reading.make_photographs(tmp_path)
    dataset = load(DataSettings("imagefolder", str(tmp_path)), "train")
    assert len(dataset) == 4
    assert dataset.read(0).image.shape == (375, 500, 3)
    sizes = [path.stat().st_size for path in tmp_path.rglob("*.jpg")]
    assert 30_000 < min(sizes) < max(sizes) < 200_000


def test_json_has_the_agreed_keys(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(reading, "SECONDS", 0.0)
    monkeypatch.setattr(reading, "PHOTOGRAPHS", 4)
    monkeypatch.setattr(reading.os, "sched_getaffinity", lambda _: {0})  # one thread, which waits for no other
    typed = "bench reading --model inception-mini --batch-size 1 --pairs 1 --json"
    assert cli.run(typed.split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["batch_size"], found["pairs"]) == ("inception-mini", 1, 1)
    assert found["milliseconds_per_image"] > 0
    for precision in ("float32", "bfloat16"):
        told = found[precision]
        assert set(told) == {
            "images_per_second", "preloaded_images_per_second", "ratio", "waiting_share", "spread",
        }  # fmt: skip
        assert 0 <= told["waiting_share"] <= 1
        assert set(told["spread"]["ratio"]) == {"median", "min", "max"}


def test_an_empty_batch_and_an_empty_folder_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "reading", "--batch-size", "0"]) == 2
    assert "--batch-size: got 0, expected at least 1 image" in capsys.readouterr().err
    assert cli.run(["bench", "reading", "--data-root", str(tmp_path)]) == 2
    assert "/train: got No such file or directory" in capsys.readouterr().err

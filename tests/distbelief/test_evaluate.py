"""Evaluate: run directories with random weights, against errors and losses reckoned from the networks themselves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from distbelief import cli, rundir
from distbelief import evaluate as evaluate_module
from distbelief.card import Card
from distbelief.config import Config
from distbelief.evaluate import evaluate_command
from ps.layout import Layout
from workers.datasets import BadImage, DataSettings, Example, load
from workers.images import Traits
from workers.inception import initialise
from workers.models import build

MODEL = "inception-mini"
EXAMPLES = 360  # in the test split of digits

DIGITS = Traits.of(load(DataSettings(), "test"))
CARD = Card(MODEL, "a run", 3, DIGITS)

MakeRun = Callable[..., Path]


def network(seed: int) -> torch.nn.Module:
    """The digits' network with the initial weights of this seed."""
    made = build(MODEL, 10, 1, 16)
    initialise(made, seed)
    return made


def probabilities(seed: int) -> Tensor:
    """What that network says of every test image, past all of our evaluation: shape (360, 10)."""
    dataset = load(DataSettings(), "test")
    images = np.stack([dataset.read(index).image for index in range(len(dataset))]).astype(np.float32)
    images_BCHW = torch.from_numpy((images - dataset.mean_C) * np.float32(dataset.scale)).permute(0, 3, 1, 2)
    with torch.no_grad():
        return torch.softmax(network(seed).eval()(images_BCHW.contiguous()).main, 1)


def reckoned(mean_BK: Tensor) -> dict[str, float]:
    dataset = load(DataSettings(), "test")
    labels = [dataset.read(index).label for index in range(len(dataset))]
    ranked = mean_BK.argsort(dim=1, descending=True).tolist()
    top1 = sum(order[0] != label for order, label in zip(ranked, labels, strict=True))
    top5 = sum(label not in order[:5] for order, label in zip(ranked, labels, strict=True))
    loss = -sum(float(row[label].log()) for row, label in zip(mean_BK, labels, strict=True))
    return {"top1_error": top1 / EXAMPLES, "top5_error": top5 / EXAMPLES, "loss": loss / EXAMPLES}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An evaluation takes all cores; here it sees one: threads that wait for each other crawl on a busy machine."""
    before = torch.get_num_threads()
    monkeypatch.setattr(evaluate_module, "os", SimpleNamespace(sched_getaffinity=lambda _: {0}))
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run(tmp_path: Path) -> MakeRun:
    """Make a finished run: `average` has the weights of one seed, `latest` of another."""

    def make(name: str, average: int = 0, latest: int = 1, card: Card = CARD, **values: object) -> Path:
        given = {key.replace("_", ".", 1): value for key, value in values.items()}
        folder = rundir.create(Config.of({"run.folder": str(tmp_path / name), **given}), "stamp")
        for weights, seed in (("average", average), ("latest", latest)):
            parameters = list(network(seed).named_parameters())
            layout = Layout.of(parameters, 1)
            weights_N = torch.empty(layout.size)
            layout.flatten(dict(parameters), weights_N)
            rundir.write_weights(folder, weights, layout, weights_N, card.metadata())
        return folder

    return make


def as_json(capsys: pytest.CaptureFixture[str], runs: Sequence[Path], weights: str = "average") -> dict[str, Any]:
    assert evaluate_command(runs, weights, 1, True) == 0

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    out, err = capsys.readouterr()
    assert err == ""
    found: dict[str, Any] = json.loads(out, parse_constant=refuse)
    return found


def refusal(capsys: pytest.CaptureFixture[str], *typed: object) -> str:
    """The one line of a refused `distbelief evaluate`."""
    assert cli.run(["evaluate", *map(str, typed)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("distbelief: error: ")
    assert err.count("\n") == 1
    return err.removeprefix("distbelief: error: ").rstrip("\n")


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


# --- results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("weights", "seed"), [("average", 0), ("latest", 1)])
def test_one_run_as_json(weights: str, seed: int, run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run("a")
    found = as_json(capsys, [folder], weights)
    expected = reckoned(probabilities(seed))
    assert found == {
        "top1_error": pytest.approx(expected["top1_error"], abs=1e-12),
        "top5_error": pytest.approx(expected["top5_error"], abs=1e-12),
        "loss": pytest.approx(expected["loss"], rel=1e-5),
        "examples": EXAMPLES,
        "skipped": 0,
        "weights": weights,
        "crops": 1,
        "sha256": [sha256(folder / f"{weights}.safetensors")],
    }
    assert 0.5 < found["top1_error"] < 1


def test_an_ensemble_is_the_mean_of_the_probabilities(run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [run("a", average=0), run("b", average=2)]
    found = as_json(capsys, folders)
    both = [probabilities(0), probabilities(2)]
    expected = reckoned((both[0] + both[1]) / 2)
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-5)
    assert found["sha256"] == [sha256(folder / "average.safetensors") for folder in folders]
    assert all(abs(found["loss"] - reckoned(each)["loss"]) > 1e-4 for each in both)


def test_a_run_twice_is_that_run(run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run("a")
    once, twice = as_json(capsys, [folder]), as_json(capsys, [folder, folder])
    assert {**twice, "sha256": twice["sha256"][:1]} == once


def test_as_text(run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run("a")
    found = as_json(capsys, [folder], "latest")
    numbers = (
        f"top-1 error {100 * found['top1_error']:.2f} %, top-5 error {100 * found['top5_error']:.2f} %, "
        f"loss {found['loss']:.4f}\n"
    )
    assert cli.run(["evaluate", str(folder), "--weights", "latest"]) == 0
    assert capsys.readouterr() == (f"the model (latest weights, 360 test images): {numbers}", "")
    assert cli.run(["evaluate", str(folder), str(folder), "--weights", "latest"]) == 0
    assert capsys.readouterr().out == f"the ensemble of 2 models (latest weights, 360 test images): {numbers}"


def test_the_loss_of_diverged_weights_is_null(run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run("a")
    layout = Layout.of(network(0).named_parameters(), 1)
    rundir.write_weights(folder, "average", layout, torch.full((layout.size,), torch.nan), CARD.metadata())
    found = as_json(capsys, [folder])
    assert (found["loss"], found["examples"]) == (None, EXAMPLES)


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_no_run_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = f"run: got {tmp_path / 'gone'}, expected a run directory (one with a config.toml)"
    assert refusal(capsys, tmp_path / "gone") == expected


def test_missing_weights(run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    file = run("a") / "average.safetensors"
    file.unlink()
    assert refusal(capsys, file.parent).startswith(f"weights: got no {file}, expected one; distbelief resume")


@pytest.mark.parametrize("damage", ["empty", "torn", "text"])
def test_damaged_weights(damage: str, run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    file = run("a") / "average.safetensors"
    whole = file.read_bytes()
    file.write_bytes({"empty": b"", "torn": whole[: len(whole) // 2], "text": b"these are no weights"}[damage])
    assert refusal(capsys, file.parent).startswith(f"weights: cannot read {file}: ")


def test_weights_of_another_model(run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run("a", card=replace(CARD, model="inception-small"))
    assert refusal(capsys, folder).startswith(f"weights: {folder / 'average.safetensors'} is of another model: ")


def test_runs_of_different_data_sets(run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [run("a"), run("b", data_name="mnist")]
    assert refusal(capsys, *folders) == "runs: got data sets digits, mnist, expected runs of one data set"


def test_runs_of_different_images_under_one_name(
    run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for root, files in (("x", ("1.png",)), ("y", ("1.png", "2.png"))):
        for split in ("train", "val"):
            for label in ("cat", "dog"):
                for file in files:
                    (tmp_path / root / split / label).mkdir(parents=True, exist_ok=True)
                    Image.new("RGB", (8, 8)).save(tmp_path / root / split / label / file)
    folders = [run(f"{root}-run", data_name="imagefolder", data_root=str(tmp_path / root)) for root in ("x", "y")]
    expected = "runs: got data sets imagefolder with different test images, expected runs of one data set"
    assert refusal(capsys, *folders) == expected


def test_runs_of_different_classes(run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    renamed = replace(CARD, traits=replace(DIGITS, classes=(*"abcdefghij",)))
    folders = [run("a"), run("b", card=renamed)]
    expected = f"{folders[1]}: got weights for 10 classes (a, b, c, ...), expected 10 classes (0, 1, 2, ...)"
    assert refusal(capsys, *folders) == expected


def test_weights_that_were_fed_otherwise(run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run("a", card=replace(CARD, traits=replace(DIGITS, mean=(0.0,))))
    assert refusal(capsys, folder) == (
        f"{folder}: got weights for images of 1x16x16 (mean 0, scale 0.0123396), "
        "expected 1x16x16 (mean 77.89, scale 0.0123396)"
    )


def test_weights_without_a_word_on_their_classes(run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run("a")
    layout = Layout.of(network(0).named_parameters(), 1)
    rundir.write_weights(folder, "average", layout, torch.zeros(layout.size), {"model": MODEL})
    assert refusal(capsys, folder) == (
        f"weights: got {folder / 'average.safetensors'} without a word on its classes and images "
        "(KeyError: 'data'), expected a file that `distbelief launch` wrote"
    )


# --- what a person is told besides ------------------------------------------------------------------------------------


def test_an_average_of_nothing_is_said_to_be_the_latest(run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [run("a"), run("b", card=replace(CARD, averaged_versions=0))]
    assert evaluate_command(folders, "average", 1, True) == 0
    note = f"distbelief: {folders[1]} ended before a version was averaged: its average is its latest weights\n"
    assert capsys.readouterr().err == note
    assert evaluate_command(folders, "latest", 1, True) == 0
    assert capsys.readouterr().err == ""


def test_unreadable_images_are_counted_and_the_first_named(
    run: MakeRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Torn(type(load(DataSettings(), "test"))):  # type: ignore[misc]
        def read(self, index: int) -> Example:
            if index % 50 == 7:
                raise BadImage(f"{index}.png: got nothing, expected an image")
            return super().read(index)  # type: ignore[no-any-return]

    whole = load(DataSettings(), "test")
    torn = Torn(whole.traits, whole.images_NHWC, whole.labels_N)  # type: ignore[attr-defined]
    monkeypatch.setattr(evaluate_module, "load", lambda *_: torn)
    assert evaluate_command([run("a")], "average", 1, False) == 0
    out, err = capsys.readouterr()
    assert "(average weights, 352 test images, 8 unreadable left out): " in out
    named = [f"distbelief: {index}.png: got nothing, expected an image" for index in (7, 57, 107, 157, 207)]
    assert err.splitlines() == [*named, "distbelief: ... and 3 more that cannot be read"]


# --- crops ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crops", [10, 144])
def test_crops_change_the_numbers_and_not_the_examples(
    crops: int, run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run("a")
    assert evaluate_command([folder], "average", crops, True) == 0
    found = json.loads(capsys.readouterr().out)
    once = as_json(capsys, [folder])
    assert (found["crops"], found["examples"]) == (crops, EXAMPLES)
    assert found["loss"] != once["loss"]
    assert evaluate_command([folder], "average", crops, False) == 0
    assert f"360 test images, {crops} crops each): " in capsys.readouterr().out

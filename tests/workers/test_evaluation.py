"""Evaluation: errors reckoned by hand, the same on any number of threads; the unreadable are left out and counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ps.errors import BadInput
from ps.layout import Layout
from workers.datasets import KNOWN, BadImage, Dataset, DataSettings, Example, load
from workers.evaluation import Evaluation, Evaluator, evaluate
from workers.images import ArrayImages
from workers.inception import initialise
from workers.models import ModelSettings, build

PORTION = 64  # images that a thread is given at a time: a batch of them


class Numbered:
    """Images of one brightness, their label; the given ones cannot be read."""

    def __init__(self, count: int, *unreadable: int) -> None:
        labels = np.arange(count) % 10
        pixels = np.repeat(labels.astype(np.uint8), 256).reshape(count, 16, 16, 1)
        self._whole = ArrayImages(replace(KNOWN["digits"], mean=(0.0,), scale=1.0), pixels, labels)
        self._unreadable = unreadable

    def __getattr__(self, name: str) -> object:
        return getattr(self._whole, name)

    def __len__(self) -> int:
        return len(self._whole)

    def read(self, index: int) -> Example:
        if index in self._unreadable:
            raise BadImage(f"example-{index}.jpg: got nothing, expected an image")
        return self._whole.read(index)


def numbered(count: int, *unreadable: int) -> Dataset:
    return Numbered(count, *unreadable)  # type: ignore[return-value]


def always_one_more(images_BCHW: Tensor) -> Tensor:
    """Is sure of the class after the right one, and ranks the others from 0 up."""
    classes_B = images_BCHW[:, 0, 8, 8].round().long()
    logits_BK = torch.arange(10.0).neg().repeat(len(classes_B), 1) / 100
    return logits_BK.scatter(1, ((classes_B + 1) % 10)[:, None], 5.0)


def test_errors_by_hand() -> None:
    found = evaluate([[always_one_more]], numbered(20))
    assert (found.top1_error, found.top5_error) == (1.0, pytest.approx(0.6))  # labels 0..3 are among the five
    assert found.examples == 20
    assert 4.0 < found.loss < 6.0


def test_a_perfect_model_makes_no_errors() -> None:
    def perfect(images_BCHW: Tensor) -> Tensor:
        return 50.0 * torch.eye(10)[images_BCHW[:, 0, 8, 8].round().long()]

    assert evaluate([[perfect]], numbered(20)) == Evaluation(0.0, 0.0, 0.0, 20, 0)


# --- threads ----------------------------------------------------------------------------------------------------------


def test_threads_change_nothing() -> None:
    model = build("inception-mini", 10, 1, 16)
    initialise(model, 0)
    layout = Layout.of(model.named_parameters(), 1)
    weights_N = torch.empty(layout.size)
    layout.flatten(dict(model.named_parameters()), weights_N)
    found = [Evaluator(ModelSettings(), DataSettings(), layout, threads).evaluate(weights_N) for threads in (1, 3)]
    assert found[0] == found[1]
    assert (found[0].examples, found[0].skipped) == (360, 0)


def test_as_many_threads_compute_as_there_are_ensembles() -> None:
    meeting = Barrier(2, timeout=60)

    def meets(images_BCHW: Tensor) -> Tensor:
        meeting.wait()  # passes only in twos, so breaks if one thread computes alone
        return always_one_more(images_BCHW)

    assert evaluate([[meets], [meets]], numbered(2 * PORTION)).examples == 2 * PORTION


# --- what is told meanwhile -------------------------------------------------------------------------------------------


def test_progress_ends_at_the_whole() -> None:
    told: list[int] = []
    evaluate([[always_one_more]] * 2, numbered(2 * PORTION + 1, 5), progress=told.append)
    assert told == [PORTION, 2 * PORTION, 2 * PORTION + 1]


def test_whoever_is_told_may_end_it() -> None:
    class Enough(Exception):  # noqa: N818
        pass

    calls = 0

    def count(images_BCHW: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return always_one_more(images_BCHW)

    def stop(_: int) -> None:
        raise Enough

    portions = 40
    with pytest.raises(Enough):
        evaluate([[count]], numbered(portions * PORTION), progress=stop)
    assert calls < portions


# --- unreadable images ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unreadable", [(0,), (9, 10), (19,), (3, 255, 256, 511, 699), tuple(range(256, 512))])
def test_the_unreadable_are_left_out_and_counted(unreadable: tuple[int, ...]) -> None:
    complaints: list[BadImage] = []
    found = evaluate([[always_one_more]] * 2, numbered(700, *unreadable), complain=complaints.append)
    assert (found.examples, found.skipped) == (700 - len(unreadable), len(unreadable))
    readable = [index % 10 for index in range(700) if index not in unreadable]
    assert found.top5_error == pytest.approx(sum(label not in (0, 1, 2, 3) for label in readable) / len(readable))
    assert [str(error).split(":")[0] for error in complaints] == [f"example-{index}.jpg" for index in unreadable]


def test_nothing_readable_is_an_error() -> None:
    with pytest.raises(BadInput, match="digits: got 2 unreadable examples of 2, expected readable ones to evaluate"):
        evaluate([[always_one_more]], numbered(2, 0, 1))


def test_folders_are_shown_at_the_network_s_size(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split / "ant").mkdir(parents=True)
        for number, size in enumerate([(300, 200), (90, 400), (224, 224)]):
            Image.new("RGB", size, (123, 117, 104)).save(tmp_path / split / "ant" / f"{number}.png")
    seen: list[Tensor] = []

    def note(images_BCHW: Tensor) -> Tensor:
        seen.append(images_BCHW)
        return torch.zeros(len(images_BCHW), 1)

    assert evaluate([[note]], load(DataSettings("imagefolder", str(tmp_path)), "test")).examples == 3
    assert [tuple(batch.shape) for batch in seen] == [(3, 3, 224, 224)]
    assert not seen[0].any()  # all pixels are the mean: red, green and blue are where they belong

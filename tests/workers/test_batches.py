"""Batches: a pure function of data and lease, whoever asks; each example once per epoch; the unreadable are counted."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec import structs
from PIL import Image

from ps.errors import BadInput
from ps.leases import LeasePlan
from workers.augment import Identity, training_augmentation
from workers.batches import Batch, Batches
from workers.datasets import KNOWN, BadImage, Dataset, DataSettings, Example, load
from workers.images import ArrayImages, UInt8
from workers.patches import Generator, RandomPatch

PLAN = LeasePlan(examples=1437, batch_size=32, epochs=3, seed=5)


def digits(seed: int = 5) -> Batches:
    dataset = load(DataSettings(), "train")
    return Batches(dataset, replace(PLAN, seed=seed), training_augmentation(dataset.name, dataset.image_shape))


def digest(batch: Batch) -> str:
    return hashlib.sha256(batch.images_BCHW.numpy().tobytes() + batch.labels_B.numpy().tobytes()).hexdigest()


def numbered(count: int) -> ArrayImages:
    """Images that are all of one brightness, their own index."""
    pixels = np.repeat(np.arange(count, dtype=np.uint8), 256).reshape(count, 16, 16, 1)
    return ArrayImages(replace(KNOWN["digits"], name="numbered"), pixels, np.arange(count) % 10)


@dataclass(frozen=True)
class Damaged:
    """A data set of which some examples cannot be read."""

    whole: ArrayImages
    unreadable: frozenset[int]

    def __getattr__(self, name: str) -> object:
        return getattr(self.whole, name)

    def __len__(self) -> int:
        return len(self.whole)

    def read(self, index: int) -> Example:
        if index in self.unreadable:
            raise BadImage(f"example-{index}.jpg: got nothing, expected an image")
        return self.whole.read(index)


def damaged(count: int, *unreadable: int) -> Dataset:
    return Damaged(numbered(count), frozenset(unreadable))  # type: ignore[return-value]


def indices(*batches: Batch) -> list[int]:
    """Which images of `numbered` some batches hold."""
    pixels = torch.cat([batch.images_BCHW[:, 0, 0, 0] for batch in batches])
    return (pixels / KNOWN["digits"].scale + KNOWN["digits"].mean[0]).round().int().tolist()


# --- pure -------------------------------------------------------------------------------------------------------------


def test_a_batch_is_ready_for_the_network() -> None:
    batch = digits().batch(PLAN.lease(7, 0, 0.0))
    assert batch.images_BCHW.shape == (32, 1, 16, 16)
    assert batch.images_BCHW.dtype == torch.float32
    assert batch.images_BCHW.is_contiguous()
    assert batch.labels_B.dtype == torch.int64
    assert batch.labels_B.shape == (32,)
    assert batch.skipped == 0
    assert abs(batch.images_BCHW.mean()) < 0.3
    assert 0.7 < batch.images_BCHW.std() < 1.3


def test_only_data_and_lease_enter() -> None:
    batches, lease = digits(), PLAN.lease(50, 0, 0.0)
    expected = digest(batches.batch(lease))
    batches.batch(PLAN.lease(0, 0, 0.0))
    batches.batch(PLAN.lease(120, 0, 0.0))  # three epochs: the first order has been forgotten
    assert digest(batches.batch(lease)) == expected
    assert digest(digits().batch(structs.replace(lease, attempt=3, deadline=99.0))) == expected
    assert digest(digits(seed=6).batch(lease)) != expected
    assert digest(batches.batch(PLAN.lease(51, 0, 0.0))) != expected


def test_another_process_gets_the_same_bits() -> None:
    script = "from test_batches import *; print(digest(digits().batch(PLAN.lease(50, 0, 0.0))))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; {script}"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == digest(digits().batch(PLAN.lease(50, 0, 0.0)))


def test_four_threads_at_once_get_the_same_bits() -> None:
    alone, shared = digits(), digits()
    leases = [PLAN.lease(id, 0, 0.0) for id in range(0, PLAN.leases, 3)]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda lease: digest(shared.batch(lease)), leases))
    assert together == [digest(alone.batch(lease)) for lease in leases]


# --- exactly once -----------------------------------------------------------------------------------------------------


def test_every_epoch_has_every_example_once_in_another_order() -> None:
    plan = LeasePlan(examples=50, batch_size=8, epochs=2, seed=0)
    batches = Batches(numbered(50), plan, Identity())
    read = [batches.batch(plan.lease(id, 0, 0.0)) for id in range(plan.leases)]
    assert [len(batch.labels_B) for batch in read] == [8, 8, 8, 8, 8, 8, 2] * 2
    epochs = [indices(*read[:7]), indices(*read[7:])]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(50))
    assert epochs[0] != epochs[1]
    assert [index % 10 for index in epochs[0]] == torch.cat([batch.labels_B for batch in read[:7]]).tolist()


# --- unreadable examples ----------------------------------------------------------------------------------------------


def test_unreadable_examples_are_left_out_and_counted() -> None:
    plan = LeasePlan(examples=20, batch_size=10, epochs=1, seed=0)
    batches = Batches(damaged(20, 3, 11), plan, Identity())
    read = [batches.batch(plan.lease(id, 0, 0.0)) for id in range(2)]
    assert sum(batch.skipped for batch in read) == 2
    assert [len(batch.labels_B) + batch.skipped for batch in read] == [10, 10]
    assert sorted(indices(*read)) == [index for index in range(20) if index not in (3, 11)]


def test_unreadable_examples_may_end_the_run_instead() -> None:
    plan = LeasePlan(examples=4, batch_size=4, epochs=1, seed=0)
    with pytest.raises(BadImage, match=r"example-2\.jpg"):
        Batches(damaged(4, 2), plan, Identity(), on_bad="fail").batch(plan.lease(0, 0, 0.0))


def test_a_lease_of_which_nothing_can_be_read_is_an_empty_batch() -> None:
    plan = LeasePlan(examples=3, batch_size=3, epochs=1, seed=0)
    batch = Batches(damaged(3, 0, 1, 2), plan, Identity()).batch(plan.lease(0, 0, 0.0))
    assert batch.images_BCHW.shape == (0, 1, 16, 16)
    assert batch.labels_B.shape == (0,)
    assert batch.skipped == 3


def test_each_example_left_out_is_reported() -> None:
    plan = LeasePlan(examples=20, batch_size=10, epochs=1, seed=0)
    told: list[str] = []
    batches = Batches(damaged(20, 3, 11), plan, Identity(), report=told.append)
    for id in range(2):
        batches.batch(plan.lease(id, 0, 0.0))
    assert sorted(told) == [f"example-{index}.jpg: got nothing, expected an image" for index in (11, 3)]


def test_pictures_are_decoded_one_at_a_time() -> None:
    """The augmentation has done with one before the next is read, so that large ones need not all fit into memory."""
    order: list[str] = []

    class Noting(Damaged):
        def read(self, index: int) -> Example:
            order.append("read")
            return super().read(index)

    class Whole:
        def __call__(self, images: Iterable[UInt8], count: int, generator: Generator) -> UInt8:
            out = []
            for image in images:
                order.append("used")
                out.append(image)
            return np.stack(out)

    plan = LeasePlan(examples=3, batch_size=3, epochs=1, seed=0)
    dataset: Dataset = Noting(numbered(3), frozenset())  # type: ignore[assignment]
    Batches(dataset, plan, Whole()).batch(plan.lease(0, 0, 0.0))
    assert order == ["read", "used"] * 3


# --- wrong from the start ---------------------------------------------------------------------------------------------


def test_plan_and_data_must_belong_together() -> None:
    with pytest.raises(BadInput, match="numbered: got 20 examples, expected 1437; is it the run's own data"):
        Batches(numbered(20), PLAN, Identity())
    with pytest.raises(BadInput, match="on_bad: got 'ignore', expected skip or fail"):
        Batches(numbered(1437 % 256), replace(PLAN, examples=1437 % 256), Identity(), on_bad="ignore")  # type: ignore[arg-type]


def test_images_must_have_the_declared_shape() -> None:
    plan = LeasePlan(examples=4, batch_size=4, epochs=1, seed=0)
    wrong = replace(numbered(4), traits=replace(KNOWN["digits"], image_shape=(1, 28, 28)))
    with pytest.raises(BadInput, match=r"digits: got images of \(1, 16, 16\), expected \(1, 28, 28\)"):
        Batches(wrong, plan, Identity()).batch(plan.lease(0, 0, 0.0))


# --- folders ----------------------------------------------------------------------------------------------------------


def test_folders_are_cut_to_the_network_s_size(tmp_path: Path) -> None:
    (tmp_path / "train" / "ant").mkdir(parents=True)
    for number, size in enumerate([(300, 200), (90, 400), (224, 224)]):
        Image.new("RGB", size, (123, 117, 104)).save(tmp_path / "train" / "ant" / f"{number}.png")
    train = load(DataSettings("imagefolder", str(tmp_path)), "train")
    plan = LeasePlan(examples=3, batch_size=3, epochs=1, seed=0)
    patch = RandomPatch(train.image_shape[1], strength=0.0, lighting=0.0)
    batch = Batches(train, plan, patch).batch(plan.lease(0, 0, 0.0))
    assert batch.images_BCHW.shape == (3, 3, 224, 224)
    assert not batch.images_BCHW.any()  # all pixels are the mean: red, green and blue are where they belong

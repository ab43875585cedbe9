"""Augmentation: pure, as wide as it says, and exact where it can be."""

from __future__ import annotations

import numpy as np
import pytest

from ps.errors import BadInput
from ps.streams import numpy_stream
from workers.augment import (
    Augmentation,
    Identity,
    Jitter,
    RandomPatch,
    ShiftAndMirror,
    training_augmentation,
)

ALL: list[Augmentation] = [Identity(), ShiftAndMirror(2), Jitter(15.0, 0.2, 1 / 8)]


def noise(count: int, height: int = 16, width: int = 16, channels: int = 1) -> list[np.ndarray]:
    stream = numpy_stream(1, f"{count}/{height}/{width}/{channels}")
    return list(stream.integers(0, 256, (count, height, width, channels), np.uint8))


@pytest.mark.parametrize("augmentation", ALL, ids=lambda it: type(it).__name__)
@pytest.mark.parametrize("channels", [1, 3])
def test_same_stream_same_bytes_and_the_images_stay(augmentation: Augmentation, channels: int) -> None:
    images = noise(6, channels=channels)
    before = [image.copy() for image in images]
    once = augmentation(images, 6, numpy_stream(0, "a"))
    assert np.array_equal(once, augmentation(images, 6, numpy_stream(0, "a")))
    assert all(np.array_equal(image, old) for image, old in zip(images, before, strict=True))
    assert once.dtype == np.uint8
    assert once.shape[0] == 6
    assert once.shape[3] == channels
    random = not isinstance(augmentation, Identity)
    assert random != np.array_equal(once, augmentation(images, 6, numpy_stream(1, "a")))


@pytest.mark.parametrize("still", [Identity(), Jitter(0.0, 0.0, 0.0)], ids=["identity", "jitter"])
@pytest.mark.parametrize("side", [15, 16])
def test_nothing_moves_when_nothing_may(still: Augmentation, side: int) -> None:
    images = noise(4, side, side + 1)
    assert np.array_equal(still(images, 4, numpy_stream(0, "a")), np.stack(images))


def test_shift_and_mirror_covers_every_place() -> None:
    image = np.zeros((9, 9, 1), np.uint8)
    image[4, 4] = 255
    moved = ShiftAndMirror(2)([image] * 400, 400, numpy_stream(0, "a"))
    places = {tuple(place) for place in np.argwhere(moved[..., 0] == 255)[:, 1:].tolist()}
    assert places == {(row, column) for row in range(2, 7) for column in range(2, 7)}


@pytest.mark.parametrize("augmentation", ALL, ids=lambda it: type(it).__name__)
def test_fewer_images_than_asked_for_get_the_first_draws(augmentation: Augmentation) -> None:
    """Some could not be read; and an iterator serves as well as a list."""
    images = noise(5)
    asked = augmentation(images, 5, numpy_stream(0, "a"))
    assert np.array_equal(augmentation(iter(images[:3]), 5, numpy_stream(0, "a")), asked[:3])


def test_mirrors_are_about_half() -> None:
    left = np.zeros((4, 8, 1), np.uint8)
    left[:, :2] = 255
    mirrored = ShiftAndMirror(0)([left] * 1000, 1000, numpy_stream(0, "a"))[:, 0, 7, 0] == 255
    assert 430 < mirrored.sum() < 570


def test_shift_of_a_whole_pixel_is_a_copy() -> None:
    image = noise(1)[0]

    class OnePixelDown:
        def uniform(self, low: float, high: float, size: tuple[int, int]) -> np.ndarray:
            return np.array([[0.0], [0.0], [-1.0], [0.0]])

    moved = Jitter(0.0, 0.0, 1 / 16)([image], 1, OnePixelDown())[0]  # type: ignore[arg-type]
    assert np.array_equal(moved[1:], image[:-1])
    assert not moved[0].any()


def test_a_quarter_turn_is_exact() -> None:
    image = noise(1)[0]

    class QuarterTurn:
        def uniform(self, low: float, high: float, size: tuple[int, int]) -> np.ndarray:
            return np.array([[1.0], [0.0], [0.0], [0.0]])

    turned = Jitter(90.0, 0.0, 0.0)([image], 1, QuarterTurn())[0]  # type: ignore[arg-type]
    assert np.array_equal(turned, np.rot90(image))


def test_jitter_stays_within_its_ranges() -> None:
    image = np.zeros((33, 33, 1), np.uint8)
    image[16, 16] = 255
    moved = Jitter(15.0, 0.2, 1 / 8)([image] * 300, 300, numpy_stream(0, "a"))[..., 0].astype(np.float64)
    rows, columns = np.indices((33, 33))
    total = moved.sum((1, 2))
    away = np.abs(np.stack([(moved * rows).sum((1, 2)) / total, (moved * columns).sum((1, 2)) / total]) - 16)
    assert away.max() < 33 / 8 * 1.2 * (np.cos(np.pi / 12) + np.sin(np.pi / 12)) + 0.5
    assert away.max() > 3


def test_images_of_different_sizes_need_a_crop() -> None:
    with pytest.raises(BadInput, match=r"got images of different sizes in one batch: \[\(8, 8, 1\), \(9, 8, 1\)\]"):
        Identity()([*noise(1, 8, 8), *noise(1, 9, 8)], 2, numpy_stream(0, "a"))


def test_each_data_set_has_its_own() -> None:
    assert training_augmentation("digits", (1, 16, 16)) == Jitter(15.0, 0.2, 1 / 8)
    assert training_augmentation("mnist", (1, 28, 28)) == Jitter(15.0, 0.2, 1 / 8)
    assert training_augmentation("fashion-mnist", (1, 28, 28)) == Identity()
    assert training_augmentation("cifar10", (3, 32, 32)) == ShiftAndMirror(4)
    assert training_augmentation("imagefolder", (3, 224, 224)) == RandomPatch(224)
    assert training_augmentation("a user's own", (3, 9, 9)) == Identity()

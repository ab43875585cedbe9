"""Patches: distributed as published, the same pixels everywhere, and colours that are what their equations say."""

from __future__ import annotations

import hashlib
import itertools
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from ps.streams import numpy_stream
from workers.patches import GRAY, INTERPOLATIONS, LIGHTING, ORDERS, Draws, RandomPatch, colours

RECIPE = RandomPatch(224)
MANY = 100_000
STILL = Draws(1.0, 0.5, 0.5, 0.5, 0, False, 0, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))  # the largest patch, nothing else

DRAWS = RECIPE.draw(MANY, numpy_stream(0, "patches"))


def picture(height: int, width: int) -> np.ndarray:
    """Smooth, with every channel different."""
    rows, columns = np.indices((height, width)) / max(height, width)
    waves = [np.sin(7 * rows + columns), np.cos(5 * columns), np.sin(9 * rows * columns)]
    return np.stack([127.5 + 120 * wave for wave in waves], -1).astype(np.uint8)


def kolmogorov_smirnov(values: np.ndarray, lowest: float, highest: float) -> float:
    """Largest distance between the distribution of the values and the uniform one."""
    found = np.sort((values - lowest) / (highest - lowest))
    steps = np.arange(len(found) + 1) / len(found)
    return float(max((steps[1:] - found).max(), (found - steps[:-1]).max()))


# --- distributions ----------------------------------------------------------------------------------------------------


def sides(width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    boxes = np.array([RECIPE.box(width, height, draws) for draws in DRAWS])
    assert boxes.min() >= 0.0
    assert boxes[:, 2].max() <= width
    assert boxes[:, 3].max() <= height
    return boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (256, 256), (640, 560), (400, 300)])
def test_area_is_uniform_and_the_aspect_ratio_in_its_range(size: tuple[int, int]) -> None:
    wide, high = sides(*size)
    critical = 1.63 / math.sqrt(MANY)  # at the 1% level
    assert kolmogorov_smirnov(wide * high / (size[0] * size[1]), 0.08, 1.0) < critical
    aspect = wide / high
    assert 3 / 4 - 1e-4 < aspect.min() < 0.76
    assert 1.32 < aspect.max() < 4 / 3 + 1e-4


def test_the_aspect_ratio_of_small_patches_is_as_often_high_as_wide() -> None:
    wide, high = sides(300, 300)
    small = wide * high < 0.5 * 300 * 300
    logarithm = np.log(wide / high)[small]
    assert kolmogorov_smirnov(logarithm, -math.log(4 / 3), math.log(4 / 3)) < 1.63 / math.sqrt(small.sum())


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (500, 250)])
def test_in_a_longer_picture_area_is_uniform_up_to_the_largest_that_fits(size: tuple[int, int]) -> None:
    wide, high = sides(*size)
    largest = 4 / 3 * min(size) / max(size)
    assert kolmogorov_smirnov(wide * high / (size[0] * size[1]), 0.08, largest) < 1.63 / math.sqrt(MANY)
    assert (wide / high).min() > 3 / 4 - 1e-4
    assert (wide / high).max() < 4 / 3 + 1e-4


@pytest.mark.parametrize(("size", "expected"), [((3000, 40), (40 * 4 / 3, 40)), ((2, 300), (2, 2 * 4 / 3))])
def test_an_extreme_picture_gives_its_largest_patch(size: tuple[int, int], expected: tuple[float, float]) -> None:
    for draws in DRAWS[:100]:
        left, top, right, bottom = RECIPE.box(*size, draws)
        assert (right - left, bottom - top) == pytest.approx(expected, abs=1 / 256)
    lefts = [RECIPE.box(3000, 40, draws)[0] for draws in DRAWS]
    assert kolmogorov_smirnov(np.array(lefts), 0.0, 3000 - 40 * 4 / 3) < 1.63 / math.sqrt(MANY)


def test_choices_are_equally_likely() -> None:
    for counts in (
        np.bincount([draws.interpolation for draws in DRAWS]),
        np.bincount([draws.order for draws in DRAWS]),
        np.bincount([draws.mirrored for draws in DRAWS]),
    ):
        expected = MANY / len(counts)
        assert np.abs(counts - expected).max() < 4 * math.sqrt(expected)
    assert len(INTERPOLATIONS) == 4
    assert sorted(ORDERS) == sorted(itertools.permutations(range(3)))


def test_factors_and_lighting_have_their_ranges() -> None:
    factors = np.array([draws.factors for draws in DRAWS])
    for column in factors.T:
        assert kolmogorov_smirnov(column, 0.5, 1.5) < 1.63 / math.sqrt(MANY)
    lighting = np.array([draws.lighting for draws in DRAWS])
    assert np.abs(lighting.mean(0)).max() < 4 * 0.1 / math.sqrt(MANY)
    assert lighting.std(0) == pytest.approx([0.1] * 3, rel=0.01)


# --- pixels -----------------------------------------------------------------------------------------------------------


def digest() -> str:
    images = [picture(*size) for size in ((300, 400), (41, 30), (200, 500), (7, 9))] * 12
    return hashlib.sha256(RECIPE(images, len(images), numpy_stream(5, "lease/812/augment")).tobytes()).hexdigest()


def test_another_process_gets_the_same_pixels() -> None:
    script = f"import sys; sys.path[:0] = {sys.path!r}; from test_patches import *; print(digest())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == digest()


def test_the_stream_decides_and_images_stay() -> None:
    images = [picture(90, 120), picture(120, 90)]
    before = [image.copy() for image in images]
    one, other = (RECIPE(images, 2, numpy_stream(0, f"lease/{id}/augment")) for id in range(2))
    assert one.shape == (2, 224, 224, 3)
    assert not np.array_equal(one, other)
    assert all(np.array_equal(image, old) for image, old in zip(images, before, strict=True))


def test_an_image_s_draws_do_not_depend_on_the_others() -> None:
    small, large = picture(30, 30), picture(300, 200)
    one = RECIPE([small, large], 2, numpy_stream(0, "a"))
    other = RECIPE([large, large], 2, numpy_stream(0, "a"))
    assert np.array_equal(one[1], other[1])


@pytest.mark.parametrize("size", [(1, 1), (300, 2), (40, 3000), (10, 10), (223, 224)])
def test_every_size_gives_patches(size: tuple[int, int]) -> None:
    for patch in RECIPE([picture(*size)] * 8, 8, numpy_stream(0, "a")):
        assert patch.shape == (224, 224, 3)


@pytest.mark.parametrize("which", range(4))
def test_a_still_patch_is_the_resized_picture(which: int) -> None:
    image = picture(300, 400)
    found = RECIPE.patch(image, replace(STILL, interpolation=which))
    assert np.array_equal(found, np.asarray(Image.fromarray(image).resize((224, 224), INTERPOLATIONS[which])))
    mirrored = RECIPE.patch(image, replace(STILL, interpolation=which, mirrored=True))
    assert np.array_equal(mirrored, found[:, ::-1])


@pytest.mark.parametrize("which", range(4))
def test_a_large_picture_is_the_same_but_faster(which: int) -> None:
    image = picture(1500, 2000)
    found = RECIPE.patch(image, replace(STILL, interpolation=which)).astype(int)
    box = RECIPE.box(2000, 1500, STILL)
    expected = np.asarray(Image.fromarray(image).resize((224, 224), INTERPOLATIONS[which], box=box))
    assert np.abs(found - expected).max() <= 2


@pytest.mark.parametrize("order", range(6))
def test_colours_are_those_of_pillow_up_to_its_roundings(order: int) -> None:
    """Pillow rounds and cuts after every step; nothing is cut here, so that the two may be compared."""
    image = np.asarray(Image.fromarray(picture(224, 224)).point(lambda value: 80 + value * 60 // 255))
    draws = replace(STILL, order=order, factors=(1.1, 0.8, 1.3))
    slow = Image.fromarray(image)
    for step in ORDERS[order]:
        kind = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[step]
        slow = kind(slow).enhance(draws.factors[step])
    found = RECIPE.patch(image, draws).astype(int)
    assert np.abs(found - np.asarray(slow).astype(int)).max() <= 3
    assert np.abs(found - image.astype(int)).max() > 8


def test_lighting_adds_the_principal_components() -> None:
    image = picture(224, 224) // 2 + 60
    shares = (0.2, -0.1, 0.3)
    found = RECIPE.patch(image, replace(STILL, lighting=shares)).astype(float)
    vectors = np.array([direction for _, direction in LIGHTING])
    sizes = np.array([size for size, _ in LIGHTING])
    assert vectors @ vectors.T == pytest.approx(np.eye(3), abs=2e-3)
    expected = image + (np.array(shares) * sizes) @ vectors
    assert np.abs(found - expected).max() <= 0.51


def test_gray_keeps_its_hue_but_for_lighting() -> None:
    gray = np.repeat(picture(50, 50)[..., :1], 3, axis=2)
    for draws in DRAWS[:50]:
        patch = RECIPE.patch(gray, replace(draws, lighting=(0.0, 0.0, 0.0))).astype(int)
        assert (patch.max(-1) - patch.min(-1)).max() <= 1


def test_colour_sums_are_exact_in_float32() -> None:
    """So no order of summation, and no fused multiplication, can change a pixel."""
    for mean in ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)):
        for order, factors in itertools.product(range(6), itertools.product((0.5, 1.5), repeat=3)):
            for light in ((0.6, 0.6, 0.6), (-0.6, -0.6, -0.6)):
                draws = replace(STILL, order=order, factors=factors, lighting=light)
                for row in colours(mean, draws):
                    assert (255 * sum(map(abs, row[:3])) + abs(row[3]) + 1) * 4096 < 1 << 24
    assert sum(GRAY) == pytest.approx(1.0)


def test_nothing_is_recoloured_when_nothing_may() -> None:
    plain = RandomPatch(64, strength=0.0, lighting=0.0)
    image = np.full((80, 100, 3), (10, 128, 250), np.uint8)
    assert (plain([image] * 20, 20, numpy_stream(0, "a")) == image[0, 0]).all()

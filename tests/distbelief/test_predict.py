"""Predict: pictures of any kind against probabilities reckoned from the network itself; the data set is not needed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from distbelief import cli
from distbelief import predict as predict_module
from distbelief.predict import predict_command
from ps.streams import numpy_stream
from tests.saved_runs import network, saved_run
from workers.datasets import KNOWN, DataSettings, load

PHOTOS = replace(KNOWN["imagefolder"], classes=("ant", "bee", "cat", "dog", "eel", "fox"), image_shape=(3, 32, 32))


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.setattr(predict_module, "os", SimpleNamespace(sched_getaffinity=lambda _: {0}))
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    return saved_run(tmp_path / "digits", "inception-mini", KNOWN["digits"])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Weights of a data set that is nowhere."""
    return saved_run(tmp_path / "photos", "inception-small", PHOTOS, data_root="/nowhere")


def digit(folder: Path, index: int, name: str = "digit.png", mode: str = "L") -> Path:
    image = load(DataSettings(), "test").read(index).image[..., 0]
    Image.fromarray(image).convert(mode).save(folder / name)
    return folder / name


def photo(folder: Path, name: str, size: tuple[int, int] = (50, 40)) -> Path:
    pixels = numpy_stream(0, name).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(folder / name)
    return folder / name


def as_json(
    capsys: pytest.CaptureFixture[str], run: Path, *pictures: Path, crops: int = 1, weights: str = "average"
) -> Any:
    assert predict_command(run, pictures, weights, crops, True) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def test_a_digit_is_seen_as_in_an_evaluation(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = load(DataSettings(), "test")
    pixels = dataset.read(3).image.astype(np.float32)
    fed = torch.from_numpy((pixels - dataset.mean_C) * np.float32(dataset.scale)).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected: Tensor = torch.softmax(
            network("inception-mini", KNOWN["digits"], 0).eval()(fed.contiguous()).main, 1
        )[0]
    found = as_json(capsys, digits, digit(tmp_path, 3))
    (answer,) = found["images"]
    order = expected.argsort(descending=True)[:5].tolist()
    assert [guess["class"] for guess in answer["top5"]] == [str(k) for k in order]
    assert [guess["probability"] for guess in answer["top5"]] == pytest.approx(
        [float(expected[k]) for k in order], rel=1e-4
    )
    assert (found["weights"], found["crops"], len(found["sha256"])) == ("average", 1, 64)


def test_a_gray_model_sees_the_brightness_of_a_colour_picture(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gray, colour = digit(tmp_path, 5), digit(tmp_path, 5, "colour.png", "RGB")
    found = as_json(capsys, digits, gray, colour)["images"]
    assert found[0]["top5"] == found[1]["top5"]


@pytest.mark.parametrize("crops", [1, 10, 144])
@pytest.mark.parametrize("name", ["a.jpg", "b.png", "c.webp", "d.bmp"])
def test_pictures_of_any_format_and_size(
    name: str, crops: int, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (answer,) = as_json(capsys, photos, photo(tmp_path, name), crops=crops)["images"]
    assert answer["image"] == str(tmp_path / name)
    assert [set(guess) for guess in answer["top5"]] == [{"class", "probability"}] * 5
    values = [guess["probability"] for guess in answer["top5"]]
    assert sorted(values, reverse=True) == values
    assert 0.8 < sum(values) <= 1.0


def test_crops_and_weights_are_those_asked_for(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = photo(tmp_path, "a.png")
    answers = [
        as_json(capsys, photos, picture, crops=crops, weights=weights)["images"][0]["top5"][0]["probability"]
        for crops in (1, 10, 144)
        for weights in ("average", "latest")
    ]
    assert len(set(answers)) == 6


def test_as_text(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = [photo(tmp_path, "a.png"), photo(tmp_path, "b.png", (20, 60))]
    found = as_json(capsys, photos, *pictures)["images"]
    assert cli.run(["predict", str(photos), *map(str, pictures)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert (lines[0], lines[6]) == tuple(map(str, pictures))
    best = found[0]["top5"][0]
    assert lines[1].split() == [f"{100 * best['probability']:.2f}", "%", best["class"]]


def test_fewer_than_five_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = saved_run(tmp_path / "two", "inception-small", replace(PHOTOS, classes=("ant", "bee")))
    (answer,) = as_json(capsys, run, photo(tmp_path, "a.png"))["images"]
    assert sum(guess["probability"] for guess in answer["top5"]) == pytest.approx(1)


def test_what_cannot_be_read_is_named_and_the_others_are_shown(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torn, gone, good = tmp_path / "torn.jpg", tmp_path / "gone.jpg", photo(tmp_path, "good.png")
    torn.write_bytes(b"these are no pixels")
    assert cli.run(["predict", str(photos), str(torn), str(good), str(gone)]) == 2
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == str(good)
    assert len(out.splitlines()) == 6
    lines = err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(
        f"distbelief: error: {torn}: got 19 bytes that do not decode (no known image format), expected a "
    )
    assert lines[1] == f"distbelief: error: {gone}: got No such file or directory, expected a readable image file"


def test_what_cannot_be_read_is_in_the_json(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = photo(tmp_path, "good.png")
    assert predict_command(photos, [tmp_path / "gone.jpg", good], "average", 1, True) == 2
    first, second = json.loads(capsys.readouterr().out)["images"]
    assert (set(first), set(second)) == ({"image", "error"}, {"image", "top5"})
    assert first["error"].startswith(first["image"])


def test_diverged_weights_have_no_probabilities(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = saved_run(tmp_path / "run", "inception-small", PHOTOS)
    data = bytearray((run / "average.safetensors").read_bytes())
    data[-4:] = np.float32(np.nan).tobytes()  # the last bias
    (run / "average.safetensors").write_bytes(data)
    picture = photo(tmp_path, "a.png")
    (answer,) = as_json(capsys, run, picture)["images"]
    assert answer["top5"][0]["probability"] is None
    assert predict_command(run, [picture], "average", 1, False) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[0] == "-"


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["predict", str(tmp_path / "gone"), "a.png"]) == 2
    assert capsys.readouterr().err.startswith(
        f"distbelief: error: run: got {tmp_path / 'gone'}, expected a run directory"
    )

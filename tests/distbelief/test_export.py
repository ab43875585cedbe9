"""Export: what is written computes what the run's model computes, in onnxruntime too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from distbelief import cli, export
from distbelief.saved import Saved
from ps.streams import torch_stream
from tests.saved_runs import saved_run
from workers.datasets import KNOWN
from workers.images import Traits
from workers.models import build

TEN = tuple("abcdefghij")
FED = {
    "googlenet": replace(KNOWN["imagefolder"], classes=TEN),
    "inception-small": KNOWN["cifar10"],
    "inception-mini": KNOWN["digits"],
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other crawl on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def images(traits: Traits, count: int) -> Tensor:
    return torch.randn(count, *traits.image_shape, generator=torch_stream(0, "images"))


def expected(run: Path, weights: str, images_BCHW: Tensor) -> Tensor:
    return Saved.open(run, weights).predictor()(images_BCHW)


@pytest.mark.parametrize(("model", "parameters"), [("googlenet", 5_983_802), ("inception-mini", None)])
def test_safetensors_hold_the_network_without_heads(
    model: str, parameters: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    traits = FED[model]
    run = saved_run(tmp_path / "run", model, traits)
    assert cli.run(["export", str(run), "--format", "safetensors"]) == 0
    file = run / "model.safetensors"
    size = file.stat().st_size
    assert capsys.readouterr().out == f"wrote {file}: {model}, {len(traits.classes)} classes, {size:,} bytes\n"
    named = safetensors.torch.load_file(file)
    if parameters is not None:
        assert sum(tensor.numel() for tensor in named.values()) == parameters
    assert not [name for name in named if name.startswith(("loss1", "loss2"))]
    fed = images(traits, 2)
    bare = build(model, len(traits.classes), *traits.image_shape[:2]).eval()
    missing, unexpected = bare.load_state_dict(named, strict=False)
    assert not unexpected
    assert all(name.startswith(("loss1", "loss2")) for name in missing)
    with torch.no_grad():
        assert torch.equal(bare(fed).main, expected(run, "average", fed))
    with safetensors.safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    assert json.loads(metadata["classes"]) == list(traits.classes)
    assert json.loads(metadata["mean"]) == list(traits.mean)


@pytest.mark.slow
@pytest.mark.parametrize("model", FED)
def test_onnx_computes_the_same_in_onnxruntime(model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    traits = FED[model]
    run, file = saved_run(tmp_path / "run", model, traits), tmp_path / "out.onnx"
    assert cli.run(["export", str(run), "--format", "onnx", "--output", str(file), "--weights", "latest"]) == 0
    out, err = capfd.readouterr()
    assert out == f"wrote {file}: {model}, 10 classes, {file.stat().st_size:,} bytes\n"
    assert err == ""
    assert {path.name for path in tmp_path.iterdir()} == {"run", "out.onnx"}  # all in one file
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert [(given.name, given.shape[1:]) for given in session.get_inputs()] == [("images", list(traits.image_shape))]
    for count in (1, 5):
        fed = images(traits, count)
        (found,) = session.run(["logits"], {"images": fed.numpy()})
        reckoned = expected(run, "latest", fed).numpy()
        assert found.shape == (count, 10)
        assert np.abs(found - reckoned).max() < 1e-4
        assert np.abs(reckoned).max() > 0.01  # more than nothing
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == list(traits.classes)


def test_onnx_without_its_packages_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = saved_run(tmp_path / "run", "inception-mini", KNOWN["digits"])
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else object())
    assert cli.run(["export", str(run), "--format", "onnx"]) == 2
    assert capsys.readouterr().err == (
        "distbelief: error: --format: got onnx without the package onnxscript, expected it installed: "
        "pip install 'distbelief[onnx]'\n"
    )
    assert not (run / "model.onnx").exists()


def test_where_nothing_can_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = saved_run(tmp_path / "run", "inception-mini", KNOWN["digits"])
    file = tmp_path / "gone" / "model.safetensors"
    assert cli.run(["export", str(run), "--format", "safetensors", "--output", str(file)]) == 2
    expected = f"distbelief: error: --output: cannot write {file}: {file.parent} is no directory; name another file\n"
    assert capsys.readouterr().err == expected
    assert cli.run(["export", str(run), "--format", "safetensors", "--output", str(tmp_path)]) == 2
    assert f"--output: got {tmp_path}, a directory; expected a file in it" in capsys.readouterr().err

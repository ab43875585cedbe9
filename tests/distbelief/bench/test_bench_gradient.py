"""The rival is the same network, and what the bench prints has the agreed keys."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from distbelief import cli
from distbelief.bench.plain import PlainNetwork
from ps.streams import torch_stream
from workers.inception import initialise
from workers.models import MODELS, build


def without_dropout(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


@pytest.mark.parametrize(("model", "side"), [("inception-mini", 16), ("inception-small", 32), ("googlenet", 96)])
def test_the_rival_computes_the_same_logits(model: str, side: int) -> None:
    ours = build(model, 10, 3, side)
    initialise(ours, seed=1)
    plain = PlainNetwork(MODELS[model].table, 10, 3, side)
    plain.load_state_dict(ours.state_dict())
    images_BCHW = torch.randn(2, 3, side, side, generator=torch_stream(1, "images"))
    with torch.no_grad():
        main, auxiliary = without_dropout(plain)(images_BCHW)
        logits = without_dropout(ours)(images_BCHW)
    torch.testing.assert_close(logits.main, main, rtol=1e-4, atol=1e-5)
    assert len(logits.auxiliary) == len(auxiliary) == 2
    for one, other in zip(logits.auxiliary, auxiliary, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_json_has_the_agreed_keys(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("distbelief.bench.gradient.SECONDS", 0.0)
    assert (
        cli.run(["bench", "gradient", "--model", "inception-mini", "--batch-size", "2", "--pairs", "1", "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    for precision in ("float32", "bfloat16"):
        told = found[precision]
        assert set(told) == {"images_per_second", "plain_images_per_second", "ratio", "spread"}
        assert told["ratio"] == pytest.approx(told["images_per_second"] / told["plain_images_per_second"])
        assert set(told["spread"]["ratio"]) == {"median", "min", "max"}


def test_an_unknown_model_and_an_empty_batch_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "gradient", "--model", "googlenett"]) == 2
    assert 'did you mean "googlenet"?' in capsys.readouterr().err
    assert cli.run(["bench", "gradient", "--batch-size", "0"]) == 2
    assert "--batch-size: got 0, expected at least 1 image" in capsys.readouterr().err

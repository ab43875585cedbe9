"""Benches of the data plane: small ones that come to an end and say what they must. Each starts a few processes."""

from __future__ import annotations

import json

import pytest

from distbelief.bench import exchange, exchanging, startup
from distbelief.bench.exchanging import Load
from ps.errors import BadInput

FEW = 20_000  # parameters


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (exchange, exchanging):
        monkeypatch.setattr(module, "SECONDS", 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("wire", ["", "float32", "bfloat16"])
def test_workers_exchange_and_their_processes_end(wire: str) -> None:
    with exchanging.exchanging(Load(FEW, 3, 2, 2, wire)) as measure:
        assert measure() > 0


def test_the_floor_leaves_the_threads_as_they_were() -> None:
    assert exchange.floor(FEW)() > 0


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(BadInput, match=r"^--workers: got 0, expected at least 1"):
        exchange.network_command("inception-mini", 0, 2, 1, True)
    with pytest.raises(BadInput, match=r"^--runs: got 0, expected at least 1"):
        startup.startup_command("digits", 1, 0, True)


@pytest.mark.slow
def test_network_tells_every_wire(capsys: pytest.CaptureFixture[str]) -> None:
    assert exchange.network_command("inception-mini", 2, 2, 1, True) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["workers"] == 2
    assert found["floor_roundtrips_per_second"] > 0
    assert found["ratio_to_floor"] == found["float32"]["ratio_to_floor"]
    for wire in exchange.WIRES:
        side = found[wire]
        assert side["roundtrips_per_second"] > 0
        assert side["ratio_to_floor"] == pytest.approx(
            side["roundtrips_per_second"] / found["floor_roundtrips_per_second"]
        )


@pytest.mark.slow
def test_exchange_tells_ours_and_the_baselines(capsys: pytest.CaptureFixture[str]) -> None:
    assert exchange.exchange_command("inception-mini", 2, 2, 1, True) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ratio_to_floor"] > 0
    assert set(found["baselines"]) == {"ray example", "ray arrays"}
    for baseline in found["baselines"].values():
        ratio = found["roundtrips_per_second"] / baseline["roundtrips_per_second"]
        assert baseline["ratio"] == pytest.approx(ratio)


@pytest.mark.slow
def test_startup_tells_seconds_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert startup.startup_command("digits", 2, 1, True) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["first_update_seconds"] < 100
    assert found["peak_memory_bytes"] > 100 << 20

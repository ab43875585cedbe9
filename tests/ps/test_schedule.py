"""Rate schedules against their closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ps.errors import BadInput
from ps.schedule import Schedule, ScheduleSettings

EXAMPLES = 100
TOTAL = 3200  # 32 epochs


def schedule(**settings: Any) -> Schedule:
    return ScheduleSettings(rate=0.04, **settings).build(EXAMPLES, TOTAL)


def test_constant_stays() -> None:
    assert [schedule().rate(s) for s in (0, 1, TOTAL, 2 * TOTAL)] == [0.04] * 4


def test_step_falls_by_four_percent_every_eight_epochs_as_published() -> None:
    made = schedule(kind="step")
    for samples in (0, 799, 800, 1599, 1600, 2400, TOTAL, 10 * TOTAL):
        assert made.rate(samples) == pytest.approx(0.04 * 0.96 ** (samples // 800), rel=1e-14)
    assert made.rate(799) == 0.04 > made.rate(800)


def test_step_follows_fractions_of_an_epoch() -> None:
    made = schedule(kind="step", factor=0.5, every_epochs=0.25)
    assert [made.rate(s) for s in (24, 25, 50)] == [0.04, 0.02, 0.01]


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_polynomial_falls_to_zero_and_stays(power: float) -> None:
    made = schedule(kind="polynomial", power=power)
    for samples in (0, 1, 800, 3199):
        assert made.rate(samples) == pytest.approx(0.04 * (1 - samples / TOTAL) ** power, rel=1e-14)
    assert made.rate(TOTAL) == made.rate(TOTAL + 7) == 0.0


def test_cosine_falls_to_its_floor_and_stays() -> None:
    made = schedule(kind="cosine", floor=0.1)
    for samples in (0, 1, 800, 3199):
        expected = 0.004 + (0.04 - 0.004) * (1 + math.cos(math.pi * samples / TOTAL)) / 2
        assert made.rate(samples) == pytest.approx(expected, rel=1e-14)
    assert made.rate(0) == 0.04
    assert made.rate(TOTAL // 2) == pytest.approx(0.022)
    assert made.rate(TOTAL) == made.rate(TOTAL + 7) == pytest.approx(0.004)


@pytest.mark.parametrize("kind", ["constant", "step", "polynomial", "cosine"])
def test_warm_up_is_linear_never_zero_and_then_leaves_no_trace(kind: str) -> None:
    plain, warm = schedule(kind=kind), schedule(kind=kind, warmup_epochs=2.0)
    for samples in (0, 1, 99, 198):
        assert warm.rate(samples) == pytest.approx(plain.rate(samples) * (samples + 1) / 200, rel=1e-14)
    assert warm.rate(0) > 0
    assert [warm.rate(s) for s in (199, 200, 800)] == [plain.rate(s) for s in (199, 200, 800)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rate", 0.0),
        ("rate", math.inf),
        ("rate", math.nan),
        ("factor", 0.0),
        ("factor", 1.5),
        ("every_epochs", 0.0),
        ("power", 0.0),
        ("floor", -0.1),
        ("floor", 1.1),
        ("warmup_epochs", -1.0),
    ],
)
def test_a_setting_out_of_range_is_named(name: str, value: float) -> None:
    with pytest.raises(BadInput, match=rf"^schedule\.{name}: got {value}, expected "):
        ScheduleSettings(**{name: value})


def test_an_unknown_kind_suggests_the_nearest() -> None:
    with pytest.raises(BadInput, match=r'got "cosin", expected one of .* \(did you mean "cosine"\?\)$'):
        ScheduleSettings(kind="cosin")


def test_an_unlike_kind_suggests_nothing() -> None:
    with pytest.raises(BadInput, match=r"polynomial, cosine$"):
        ScheduleSettings(kind="xyz")


@pytest.mark.parametrize(("examples", "total", "name"), [(0, 1, "examples per epoch"), (1, 0, "samples in the run")])
def test_a_run_of_nothing_is_refused(examples: int, total: int, name: str) -> None:
    with pytest.raises(BadInput, match=f"^{name}: got 0, expected at least 1$"):
        ScheduleSettings().build(examples, total)

"""Trace: what it says of trajectories whose momentum, rate and gap are known, through the shipped machines."""

from __future__ import annotations

import pytest
import torch

from cluster.model import ClusterModel, SimulateSettings
from cluster.pieces import with_gradients
from cluster.simulated import Simulation
from cluster.vectors import OwnVectors
from distbelief.trace import Trace
from ps.messages import AVERAGER, LEDGER, Address, Role
from ps.rules import RuleSettings
from tests.cluster.simulation import Quadratic, Records, constant, memoryless, specification

ELEMENTS = 256


def traced(workers: int, updates: int, model: SimulateSettings, rule: RuleSettings, rate: float, noise: float) -> Trace:
    spec = specification(updates, workers, elements=ELEMENTS, rule=rule, rate=rate)
    trace = Trace(OwnVectors(ELEMENTS, Quadratic(1.0, noise)), ELEMENTS, seed=0)
    addresses = (Address(Role.SHARD, 0), LEDGER, AVERAGER, Address(Role.WORKER))
    pieces = with_gradients(spec, torch.ones(ELEMENTS), trace, {address: Records() for address in addresses})
    Simulation(pieces, ClusterModel(model, 0), workers).run()
    return trace


def test_asynchrony_is_a_momentum_of_1_minus_1_over_w() -> None:
    motion = traced(4, 12_000, memoryless(), RuleSettings(rule="sgd"), rate=0.2, noise=1.0).motion(4)
    assert motion is not None
    assert motion.momentum == pytest.approx(0.75, abs=0.02)
    assert motion.rate == pytest.approx(0.2 / 4, rel=0.1)


def test_one_worker_s_momentum_is_the_rule_s() -> None:
    rule = RuleSettings(rule="momentum", momentum=0.6)
    motion = traced(1, 6_000, constant(), rule, rate=0.05, noise=1.0).motion(1)
    assert motion is not None
    assert motion.momentum == pytest.approx(0.6, abs=0.02)
    assert motion.rate == pytest.approx(0.05, rel=0.1)


def test_the_gap_of_one_worker_is_its_own_step_and_grows_with_the_workers() -> None:
    """Without noise and alone, w goes down by a tenth at every update."""
    alone = traced(1, 40, constant(), RuleSettings(rule="sgd"), rate=0.1, noise=0.0).gap()
    assert alone is not None
    assert alone.largest == pytest.approx(0.1)
    many = traced(8, 40, constant(), RuleSettings(rule="sgd"), rate=0.01, noise=0.0).gap()
    assert many is not None
    assert many.largest == pytest.approx(0.08, rel=0.1)
    assert many.mean < many.largest


def test_nothing_is_said_of_a_run_without_updates() -> None:
    trace = Trace(OwnVectors(ELEMENTS, Quadratic()), ELEMENTS, seed=0)
    assert trace.gap() is None
    assert trace.motion(4) is None


def test_a_gap_that_is_not_finite_is_none() -> None:
    """Beyond what float32 holds."""
    trace = traced(4, 40, constant(), RuleSettings(rule="sgd"), rate=1e6, noise=0.0)
    assert trace.gap() is None

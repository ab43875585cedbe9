"""Configuration: which source wins, and every mistake as one line that begins with the key."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import tomllib
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

import distbelief
from cluster.spec import ClusterSettings
from distbelief import policy
from distbelief.config import Config, assignments, presets
from ps.consistency import CONSISTENCIES
from ps.correction_settings import CORRECTIONS
from ps.errors import BadInput
from workers.datasets import KNOWN
from workers.models import MODELS

ROOT = Path(__file__).parents[2]
PARTS = [part.name for part in fields(Config) if part.name != "automatic"]
SECTIONS = ", ".join(PARTS)
OF_CLUSTER = ", ".join(field.name for field in fields(ClusterSettings))

# Every key with values just outside its range and values at its edges, which are good.
RANGES: dict[str, tuple[list[object], list[object]]] = {
    "run.seed": ([-1, 1 << 63], [0, (1 << 63) - 1]),
    "run.epochs": ([0, -3], [1]),
    "run.ensemble_member": ([-1], [0, 6]),
    "run.batch_size": ([0], [1]),
    "run.max_seconds": ([-0.1, math.nan], [0.0, 3]),
    "run.target_error": ([-0.01, 1.0, 5, math.nan], [0.0, 0.999]),
    "run.evaluate_share": ([-0.01, 1.01, math.nan], [0, 1]),
    "data.bad_images": (["ignore", ""], ["skip", "fail"]),
    "data.image_size": ([-1, 128], [0]),  # digits have a size of their own
    "data.classes": ([-1], [0, 10]),
    "model.name": (["resnet", ""], [*MODELS, "nets:resnet"]),
    "model.loss": (["hinge"], ["", "nets:loss"]),
    "model.precision": (["float16"], ["float32", "bfloat16"]),
    "model.clip_norm": ([-1.0, math.nan], [0, 5.0]),
    "one_worker.rate": ([0.0, -0.1, math.inf, math.nan], [1e-30, 10.0]),
    "one_worker.momentum": ([-0.1, 1.0, math.nan], [0.0, 0.9999999999999]),
    "one_worker.scaled_rate": ([0.0, -0.1, math.inf, math.nan], [1e-30, 10.0]),
    "rule.rule": (["adam"], ["sgd", "momentum", "nesterov", "adagrad", "adamw", "rmsprop"]),
    "rule.momentum": ([-0.1, 1.0, math.nan], [0, 0.99]),
    "rule.weight_decay": ([-1e-9, math.inf, math.nan], [0, 1.0]),
    "rule.bias_rate_multiplier": ([-1.0, math.inf, math.nan], [0, 2.0]),
    "rule.bias_decay_multiplier": ([-1.0, math.inf, math.nan], [0, 2.0]),
    "rule.epsilon": ([0.0, math.inf, math.nan], [1e-12]),
    "rule.beta1": ([-0.1, 1.0, math.nan], [0, 0.99]),
    "rule.beta2": ([-0.1, 1.0, math.nan], [0, 0.99]),
    "schedule.kind": (["cosin"], ["constant", "step", "polynomial", "cosine"]),
    "schedule.rate": ([0.0, -1.0, math.inf, math.nan], [1e-30, 10.0]),
    "schedule.factor": ([0.0, 1.01, math.nan], [1e-9, 1.0]),
    "schedule.every_epochs": ([0.0, math.inf, math.nan], [0.1]),
    "schedule.power": ([0.0, math.inf, math.nan], [0.1]),
    "schedule.floor": ([-0.1, 1.1, math.nan], [0, 1]),
    "schedule.warmup_epochs": ([-0.1, math.inf, math.nan], [0, 3]),
    "average.kind": (["unifrom"], ["exponential", "uniform"]),
    "average.every": ([0], [1]),
    "average.decay": ([-0.1, 1.0, math.nan], [0, 0.999]),
    "average.window": ([0.0, 1.1, math.nan], [1e-9, 1]),
    "average.start": ([-0.1, 1.0, math.nan], [0, 0.9]),
    "ledger.lease_seconds": ([0.0, -1.0, math.nan], [0.1]),
    "ledger.max_attempts": ([0], [1]),
    "snapshot.every_seconds": ([-1.0], [0.0, 0.5]),
    "snapshot.every_updates": ([-1], [0, 1]),
    "snapshot.keep": ([0], [1]),
    "cluster.workers": ([0, 100_001], [1, 100_000]),
    "cluster.shards": ([0, 1025], [1, 1024]),
    "cluster.address": ([""], ["auto", "ray://head:10001"]),
    "cluster.turns": ([-1], [0, 1]),
    "cluster.threads": ([0], [1]),
    "cluster.gpus_per_worker": ([-0.5, 1.5, 2048, math.nan], [0, 0.25, 1, 4]),
    "cluster.wire": (["bfloat", ""], ["float32", "bfloat16", "float16"]),
    "cluster.path": (["memory", ""], ["auto", "network"]),
    "cluster.replicas": ([-1, 2], [0, 1]),
    "cluster.join": (["7000x", "host", "0.0.0.0:65536", "0.0.0.0:"], ["", "0.0.0.0:7000", "10.0.0.1:0"]),
    "cluster.tls": (["yes"], [True, False]),
    "cluster.paced": (["yes"], [True, False]),
    "cluster.key": (["k.pem"], []),  # without a cluster.certificate
    "correction.kind": (["danna", ""], [*CORRECTIONS]),
    "correction.power": ([0.0, math.inf, math.nan], [0.5]),
    "correction.strength": ([-0.1, math.inf, math.nan], [0, 0.04]),
    "correction.adaptive_strength": ([-0.1, math.inf, math.nan], [0, 2.0]),
    "correction.decay": ([-0.1, 1.0, math.nan], [0, 0.99]),
    "correction.epsilon": ([0.0, math.inf, math.nan], [1e-12]),
    "correction.limit": ([-1], [0, 7]),
    "consistency.kind": (["snyc", ""], [*CONSISTENCIES]),
    "consistency.bound": ([-1], [0, 7]),
    "consistency.split": ([0], [1, 8]),
    "consistency.backups": ([-1], [0, 1]),
    "consistency.warm_leases": ([-1], [0, 100]),
    "consistency.begin": ([-1], [0, 8]),
    "program.kind": (["gradeint", ""], ["gradient", "downpour"]),
    "program.push_every": ([0], [1]),
    "program.fetch_every": ([-1], [0, 1]),
    "program.outer_rate": ([0.0, math.inf, math.nan], [0.7, 1]),
    "program.prefetch": (["yes", 1], [True, False]),
    "program.elasticity": ([-0.1, 1.0, math.nan], [0, 0.5]),
    "simulate.compute": (["gamma"], ["constant", "exponential", "lognormal", "pareto", "empirical"]),
    "simulate.compute_seconds": ([0.0, math.inf, math.nan], [1e-9]),
    "simulate.sigma": ([-0.1, math.inf, math.nan], [0, 2.0]),
    "simulate.tail": ([1.0, math.inf, math.nan], [1.01]),
    "simulate.slow_workers": ([-1], [0, 3]),
    "simulate.slow_factor": ([0.0, math.inf, math.nan], [0.1, 100]),
    "simulate.turns": ([-1], [0, 2]),
    "simulate.latency_seconds": ([-0.1, math.inf, math.nan], [0, 1.0]),
    "simulate.bandwidth": ([-1.0, math.inf, math.nan], [0, 1e9]),
    "simulate.service_seconds": ([-0.1, math.inf, math.nan], [0, 1.0]),
    "simulate.life_seconds": ([-0.1, math.inf, math.nan], [0, 1.0]),
    "simulate.detection_seconds": ([-0.1, math.inf, math.nan], [0, 1.0]),
    "simulate.rejoin_seconds": ([-0.1, math.inf, math.nan], [0, 1.0]),
    "simulate.gradients": (["some"], ["real", "none"]),
    "simulate.evaluate_epochs": ([-0.1, math.inf, math.nan], [0, 0.5]),
}
FREE = {
    "run.preset",
    "run.folder",
    "run.init_from",
    "data.name",
    "data.root",
    "data.path",
    "model.path",
    "simulate.source",
    "cluster.certificate",
    "cluster.faults",
}  # any text; looked at by those who use it


def at(config: Config, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def all_keys() -> set[str]:
    config = Config()
    return {f"{part}.{f.name}" for part in PARTS for f in fields(getattr(config, part))}


def file_with(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


def refusal(values: dict[str, object], file: Path | None = None) -> str:
    with pytest.raises(BadInput) as caught:
        Config.of(values, file)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- which source wins ------------------------------------------------------------------------------------------------


def test_arguments_beat_the_file_beats_the_preset_beats_the_defaults(tmp_path: Path) -> None:
    file = file_with(tmp_path, '[run]\npreset = "cifar10"\nepochs = 7\nseed = 5\n[schedule]\nwarmup_epochs = 1\n')
    config = Config.of({"run.epochs": 9}, file)
    assert config.run.epochs == 9  # file 7, preset 30, default 10
    assert config.run.seed == 5  # file; default 0
    assert config.schedule.warmup_epochs == 1.0  # file; preset 0.5
    assert config.schedule.kind == "polynomial"  # preset; default constant
    assert config.average.window == Config().average.window  # default
    assert config.run.preset == "cifar10"
    other = Config.of({"run.preset": "imagefolder"}, file)
    assert (other.run.preset, other.model.name, other.run.epochs) == ("imagefolder", "googlenet", 7)


def test_without_anything_it_is_the_digits_preset() -> None:
    config = Config.of({})
    assert (config.run.preset, config.data.name, config.model.name) == ("digits", "digits", "inception-mini")
    assert config == Config.of({"run.preset": "digits"})


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_sound(name: str) -> None:
    config = Config.of({"run.preset": name})
    assert config.run.preset == name
    assert config.data.name in KNOWN
    given = tomllib.loads((ROOT / "distbelief" / "presets" / f"{name}.toml").read_text("utf-8"))
    ahead = config.correction.kind == "dana"
    carried = config.one_worker.under(config.rule.rule, config.workers_alike, ahead)
    assert config.schedule.rate == given["schedule"].get("rate", carried.rate)
    assert config.rule.momentum == given["rule"].get("momentum", carried.momentum)
    assert ahead == (given["rule"].get("rule") == "rmsprop")


def test_the_presets_are_those_that_the_help_names() -> None:
    assert presets() == ("cifar10", "digits", "fashion-mnist", "imagefolder", "own", "paper")


def test_the_paper_s_preset_is_what_was_published_for_one_worker() -> None:
    paper = Config.of({"run.preset": "paper", "cluster.workers": 1})
    assert (paper.data.name, paper.model.name, paper.run.batch_size) == ("imagefolder", "googlenet", 32)
    assert (paper.rule.rule, paper.rule.momentum, paper.rule.weight_decay) == ("momentum", 0.9, 0.0002)
    assert (paper.rule.bias_rate_multiplier, paper.rule.bias_decay_multiplier) == (2.0, 0.0)
    assert (paper.schedule.kind, paper.schedule.rate) == ("step", 0.01)
    assert (paper.schedule.factor, paper.schedule.every_epochs) == (0.96, 8.0)


@pytest.mark.parametrize("preset", presets())
def test_a_configuration_comes_back_from_its_own_toml(preset: str, tmp_path: Path) -> None:
    values: dict[str, object] = {
        "run.preset": preset, "run.seed": (1 << 63) - 1, "run.init_from": 'a "b" \\ ä\n', "rule.epsilon": 1e-300,
        "one_worker.rate": 0.1 + 0.2, "cluster.workers": 7, "run.max_seconds": 3,
    }  # fmt: skip
    config = Config.of(values)
    file = file_with(tmp_path, config.to_toml())
    assert Config.of({}, file) == config
    assert Config.of({"run.seed": 1}, file) != config


# --- rate and momentum of many workers --------------------------------------------------------------------------------


def test_rate_and_momentum_are_carried_over_to_the_workers() -> None:
    one: dict[str, object] = {"one_worker.rate": 0.02, "one_worker.momentum": 0.9}
    config = Config.of({"run.preset": "imagefolder", "cluster.workers": 4, **one})
    assert (config.schedule.rate, config.rule.momentum) == (0.08, 0.6)
    assert config.one_worker == policy.OneWorker(0.02, 0.9)


@pytest.mark.parametrize("workers", [2, 8])
def test_by_default_workers_have_a_momentum_each_and_look_ahead(workers: int) -> None:
    one = policy.OneWorker(rate=0.02, momentum=0.8, scaled_rate=0.00003)
    for rule, rate in (("momentum", one.rate), ("rmsprop", one.scaled_rate)):
        values = {"run.preset": "own", "data.name": "digits", "cluster.workers": workers, "rule.rule": rule}
        values |= {f"one_worker.{name}": value for name, value in asdict(one).items()}
        config = Config.of(values)
        assert (config.correction.kind, config.rule.momentum, config.schedule.rate) == ("dana", 0.8, rate)
        assert config == Config.of({**values, "correction.kind": "auto"})
        assert config.consistency.kind == "async"


@pytest.mark.parametrize(
    "values",
    [
        {"cluster.workers": 1},
        {"consistency.kind": "sync"},
        {"consistency.kind": "softsync"},
        {"rule.rule": "sgd"},
        {"rule.rule": "adamw"},
        {"rule.rule": "nesterov"},
        {"rule.momentum": 0.0},
        {"program.kind": "downpour", "program.push_every": 2},
        {"program.kind": "local", "program.push_every": 2},
        {"program.kind": "elastic", "program.push_every": 2},
        {"run.preset": "paper", "data.root": "nowhere"},  # one momentum for all, as published
    ],
)
def test_where_there_is_nothing_to_lead_nothing_looks_ahead(values: dict[str, object]) -> None:
    assert Config.of({"run.preset": "fashion-mnist", "cluster.workers": 4, **values}).correction.kind == "none"


@pytest.mark.parametrize("named", [{"consistency.kind": "async"}, {"consistency.kind": "sync"}])
def test_whoever_names_a_consistency_gets_it_without_the_preset_s_ramp(named: dict[str, object]) -> None:
    preset: dict[str, object] = {"run.preset": "fashion-mnist", "cluster.workers": 32}
    assert (Config.of(preset).consistency.begin, Config.of({**preset, **named}).consistency.begin) == (4, 0)
    assert Config.of({**preset, "consistency.kind": "async", "consistency.begin": 8}).consistency.begin == 8
    assert Config.of({**preset, "consistency.warm_leases": 4}).consistency.begin == 0


@pytest.mark.parametrize(
    ("named", "rate"),
    [
        ({}, 0.0002),
        ({"consistency.begin": 0}, 0.00005),
        ({"consistency.begin": 16}, 0.0001),
        ({"cluster.workers": 1}, 0.0002),
    ],
)
def test_the_rate_is_for_as_many_workers_as_begin(named: dict[str, object], rate: float) -> None:
    config = Config.of(
        {"run.preset": "fashion-mnist", "cluster.workers": 32, "one_worker.scaled_rate": 0.0002, **named}
    )
    assert config.schedule.rate == rate


def test_the_policy_is_said_in_a_sentence() -> None:
    def note(**values: object) -> str:
        chosen = {key.replace("__", "."): value for key, value in values.items()}
        return Config.of({"rule.rule": "rmsprop", **chosen}).policy_note

    ahead = "each worker has a momentum of its own, and pulls read where all of them lead"
    begin = "8 workers begin, the others wait for their turn to join; all work after 75%"
    assert note(cluster__workers=8) == ahead
    assert note(cluster__workers=128, one_worker__momentum=0.5) == ahead  # the preset's rate, not one worker's
    assert note(cluster__workers=32, consistency__begin=8) == f"{ahead}; {begin}"
    assert note(cluster__workers=8, consistency__begin=8) == ahead
    assert note(cluster__workers=32, rule__rule="adamw", consistency__begin=8) == begin
    assert note(cluster__workers=1) == ""
    paper = {"run__preset": "paper", "rule__rule": "momentum"}
    carried = "one worker's rate and momentum, carried over to a staleness of 7"
    assert note(cluster__workers=8, **paper) == carried
    assert note(cluster__workers=8, **paper, rule__momentum=0.5) == ""
    fewer = f"{ahead}; the rate is 8/128 of one worker's"
    assert note(cluster__workers=128, **paper, correction__kind="auto") == fewer
    assert note(cluster__workers=128, **paper, correction__kind="auto", schedule__rate=0.5) == ahead


def test_a_rule_without_a_momentum_of_its_own_makes_whole_steps() -> None:
    config = Config.of({"run.preset": "own", "rule.rule": "adamw", "cluster.workers": 32})
    assert config.schedule.rate == pytest.approx(10 * config.one_worker.scaled_rate)


@pytest.mark.parametrize("given", ["argument", "file"])
def test_what_was_given_is_not_carried_over(given: str, tmp_path: Path) -> None:
    def config(key: str, value: float) -> Config:
        section, name = key.split(".")
        if given == "argument":
            return Config.of({key: value, **others})
        return Config.of(others, file_with(tmp_path, f"[{section}]\n{name} = {value}\n"))

    others: dict[str, object] = {"run.preset": "imagefolder", "cluster.workers": 4}
    carried = Config.of(others)
    by_rate, by_momentum = config("schedule.rate", 0.5), config("rule.momentum", 0.25)
    assert (by_rate.schedule.rate, by_rate.rule.momentum) == (0.5, carried.rule.momentum)
    assert (by_momentum.schedule.rate, by_momentum.rule.momentum) == (carried.schedule.rate, 0.25)
    assert carried.schedule.rate != 0.5
    assert carried.rule.momentum != 0.25


ADAMW = "[rule]\nrule = 'adamw'\n[schedule]\nrate = 0.0003\n[one_worker]\nrate = 0.02\nmomentum = 0.9\n"


@pytest.mark.parametrize(
    ("text", "values", "rule", "rate"),
    [
        (ADAMW, {}, "adamw", 0.0003),
        (ADAMW, {"rule.momentum": 0.5}, "momentum", 0.08),  # adamw's rate says nothing about it
        (ADAMW, {"rule.momentum": 0.5, "schedule.rate": 0.1}, "momentum", 0.1),
        (ADAMW, {"rule.momentum": 0.5, "rule.rule": "adamw"}, "adamw", 0.0003),
        (ADAMW.replace("adamw", "nesterov"), {"rule.momentum": 0.5}, "nesterov", 0.0003),
        (ADAMW.replace("rule = 'adamw'", ""), {"rule.momentum": 0.5}, "momentum", 0.0003),  # the default has one too
    ],
)
def test_whoever_asks_for_a_momentum_gets_a_rule_that_has_one(
    text: str, values: dict[str, object], rule: str, rate: float, tmp_path: Path
) -> None:
    config = Config.of({"run.preset": "imagefolder", "cluster.workers": 4, **values}, file_with(tmp_path, text))
    assert (config.rule.rule, config.schedule.rate) == (rule, rate)
    assert config.rule.momentum == values.get("rule.momentum", 0.9 if rule == "adamw" else 0.6)


@pytest.mark.parametrize("kind", ["dana", "implicit-momentum"])
def test_a_correction_of_the_momentum_starts_from_one_workers(kind: str) -> None:
    """It looks after the number of workers by itself; so the preset's rule without momentum gives way to one with."""
    config = Config.of({"cluster.workers": policy.ENOUGH, "correction.kind": kind})
    assert (config.rule.rule, config.rule.momentum) == ("momentum", config.one_worker.momentum)
    assert config.schedule.rate == config.one_worker.rate
    with pytest.raises(BadInput, match=f'rule.rule: got "adamw" with the correction {kind}, expected momentum'):
        Config.of({"correction.kind": kind, "rule.rule": "adamw"})


@pytest.mark.parametrize(
    ("kind", "alike"), [("async", 12), ("bounded", 12), ("sync", 1), ("backup", 1), ("softsync", 2)]
)
def test_rate_and_momentum_are_carried_over_to_as_many_workers_as_would_be_as_stale(kind: str, alike: int) -> None:
    chosen = {"cluster.workers": 12, "consistency.kind": kind, "correction.kind": "none"}
    config = Config.of({"run.preset": "fashion-mnist", **chosen})
    assert config.workers_alike == alike
    assert config.rule.momentum == config.one_worker.carried_over(alike).momentum


@pytest.mark.parametrize(
    ("program", "rule"), [("local", "nesterov"), ("elastic", "sgd"), ("downpour", "adamw"), ("gradient", "adamw")]
)
def test_a_program_that_needs_a_rule_gets_it_unless_another_was_named(program: str, rule: str) -> None:
    chosen: dict[str, object] = {"program.kind": program, "program.push_every": 1}
    config = Config.of(chosen)
    assert config.rule.rule == rule
    if program in ("local", "elastic"):
        assert config.schedule.rate == config.one_worker.rate
        assert refusal(chosen | {"rule.rule": "adagrad"}).startswith('rule.rule: got "adagrad" with')


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"consistency.kind": "sync", "correction.kind": "gap-aware"},
         "correction.kind: got gap-aware with consistency sync, expected none, staleness-rate or implicit-momentum"),
        ({"program.kind": "local", "program.push_every": 4, "correction.kind": "dc-asgd"},
         "correction.kind: got dc-asgd with the program local, expected none, staleness-rate or discard"),
        ({"program.kind": "elastic", "consistency.kind": "sync"},
         "consistency.kind: got sync with the program elastic, expected async or bounded"),
        ({"program.kind": "elastic", "rule.weight_decay": 0.1},
         'rule.rule: got "sgd" with weight_decay 0.1 and the program elastic, expected sgd without any'),
        ({"program.prefetch": True, "consistency.kind": "sync"},
         "program.prefetch: got true with consistency sync, expected false"),
        ({"program.prefetch": True, "correction.kind": "discard", "correction.limit": 14, "cluster.workers": 8},
         "correction.limit: got 14, expected at least 15, the mean staleness"),
        ({"consistency.kind": "backup", "consistency.backups": 8}, "consistency.backups: got 8, expected fewer than"),
        ({"program.push_every": 4}, "program.push_every: got 4, expected 1 with the program gradient"),
    ],
)  # fmt: skip
def test_sections_that_do_not_go_together_are_refused(values: dict[str, object], message: str) -> None:
    assert refusal(values).startswith(message)


def test_a_limit_on_the_staleness_must_let_the_mean_pass() -> None:
    chosen = {"correction.kind": "discard", "correction.limit": 7}
    assert Config.of({**chosen, "cluster.workers": 8}).correction.limit == 7
    assert refusal({**chosen, "cluster.workers": 9}).startswith(
        "correction.limit: got 7, expected at least 8, the mean"
    )


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_every_key_has_a_range_here_or_is_free_text() -> None:
    assert all_keys() == RANGES.keys() | FREE


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, (bad, _) in RANGES.items() for value in bad])
def test_a_value_out_of_its_range_is_refused(key: str, value: object) -> None:
    assert re.fullmatch(rf"{re.escape(key)}: got .+, expected .+", refusal({key: value}))


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, (_, good) in RANGES.items() for value in good])
def test_the_edges_of_a_range_are_good(key: str, value: object) -> None:
    found = at(Config.of({key: value}), key)
    assert found == value
    assert type(found) is type(at(Config(), key))


@pytest.mark.parametrize("key", sorted(all_keys() - {"run.preset"}))
def test_a_value_of_another_kind_is_refused(key: str) -> None:
    kind = type(at(Config(), key))
    expected = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}[kind]
    wrong: list[object] = [0 if kind is bool else True, [1], {"a": 1}, None]
    wrong += [1, 1.5] if expected == "text" else ["1"]
    wrong += [2.0] if expected == "a whole number" else []
    for value in wrong:
        assert refusal({key: value}) == f"{key}: got {value!r}, expected {expected}"


@pytest.mark.parametrize("value", [10**400, -(10**400), (1 << 53)])
def test_a_whole_number_that_is_no_float_is_refused(value: int) -> None:
    assert refusal({"run.max_seconds": value}) == f"run.max_seconds: got {value}, expected a smaller number"
    assert Config.of({"run.max_seconds": (1 << 53) - 1}).run.max_seconds == 2.0**53 - 1


def test_a_path_is_text() -> None:
    assert Config.of({"run.folder": Path("a/b")}).run.folder == "a/b"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"run.preset": "digit"},
         "run.preset: got 'digit', expected one of cifar10, digits, fashion-mnist, imagefolder, own, paper "
         '(did you mean "digits"?)'),
        ({"run.preset": 3},
         "run.preset: got '3', expected one of cifar10, digits, fashion-mnist, imagefolder, own, paper"),
        ({"clutser.workers": 3},
         f"clutser.workers: got an unknown section, expected section.key with one of {SECTIONS} "
         '(did you mean "cluster.workers"?)'),
        ({"workers": 3},
         f"workers: got an unknown section, expected section.key with one of {SECTIONS} "
         '(did you mean "cluster.workers"?)'),
        ({"lr": 3}, f"lr: got an unknown section, expected section.key with one of {SECTIONS}"),
        ({"cluster.worker": 3},
         f'cluster.worker: got an unknown key, expected one of {OF_CLUSTER} (did you mean "cluster.workers"?)'),
        ({"cluster": 3}, f'cluster: got an unknown key, expected one of {OF_CLUSTER} (did you mean "cluster.tls"?)'),
        ({"cluster.workers.x": 3},
         f'cluster.workers.x: got an unknown key, expected one of {OF_CLUSTER} (did you mean "cluster.workers"?)'),
        ({"model.name": "inception_mini"},
         "model.name: got 'inception_mini', expected one of googlenet, googlenet-wide, inception-small, "
         "inception-mini, perceptron, or module:factory for your own "
         '(did you mean "inception-mini"?)'),
    ],
)  # fmt: skip
def test_an_unknown_name_is_answered_with_the_nearest(values: dict[str, object], message: str) -> None:
    assert refusal(values) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[run]\nepoch = 3\n", 'run.epoch: got an unknown key, expected one of preset, .*did you mean "run.epochs"'),
        (b"epochs = 3\n", r"epochs: got 3 in .*config\.toml, expected a \[section\] with keys$"),
        (b"[run\n", r"configuration: .*config\.toml is not TOML: Expected "),
        (b"[run]\nfolder = '\xff'\n", r"configuration: .*config\.toml is not TOML: 'utf-8' codec"),
        (b"[run]\nepochs = '3'\n", "run.epochs: got '3', expected a whole number"),
        (b"[run.epochs]\nx = 3\n", "run.epochs: got {'x': 3}, expected a whole number"),
        (None, r"configuration: cannot read .*config\.toml: No such file or directory$"),
    ],
)
def test_a_bad_file_is_one_line(content: bytes | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    if content is not None:
        file.write_bytes(content)
    assert re.match(message, refusal({}, file))


# --- --set ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("run.epochs=3", "run.epochs", 3),
        (" run.epochs = 3 ", "run.epochs", 3),
        ("run.max_seconds=1e3", "run.max_seconds", 1000.0),
        ("a.b=true", "a.b", True),
        ("schedule.kind=step", "schedule.kind", "step"),
        ('schedule.kind="step"', "schedule.kind", "step"),
        ("data.root=", "data.root", ""),
        ("data.root=/a b/c=d", "data.root", "/a b/c=d"),
        ('data.root="2024"', "data.root", "2024"),
        ("data.root=[", "data.root", "["),
    ],
)
def test_an_assignment_is_toml_or_else_text(text: str, key: str, value: object) -> None:
    found = assignments([text])
    assert found == {key: value}
    assert type(found[key]) is type(value)


def test_of_two_assignments_the_later_wins() -> None:
    assert assignments(["a.b=1", "c.d=x", "a.b=2"]) == {"a.b": 2, "c.d": "x"}
    assert assignments([]) == {}


@pytest.mark.parametrize("text", ["run.epochs", "=3", " = 3", ""])
def test_an_assignment_without_key_or_sign_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=f"^--set: got {text!r}, expected section.key=value$"):
        assignments([text])


# --- the package ------------------------------------------------------------------------------------------------------


def test_the_package_gives_its_names_lazily() -> None:
    code = """if True:
        import sys
        import distbelief
        assert not {"torch", "ray", "numpy", "grpc"} & set(sys.modules), "importing distbelief alone is not cheap"
        assert distbelief.Config.of({}).run.preset == "digits"
        import distbelief.launcher
        assert distbelief.launch is distbelief.launcher.launch and callable(distbelief.launch)
        assert not {"ray"} & set(sys.modules), "only a run needs Ray"
        from distbelief import *
        assert launch is distbelief.launch and Config is distbelief.Config
    """
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_package_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="module 'distbelief' has no attribute 'lunch'"):
        distbelief.lunch  # noqa: B018

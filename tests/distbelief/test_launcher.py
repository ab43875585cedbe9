"""Launcher: all that is looked at before anything is started, the same start from the same seed, exit codes."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import distbelief
from cluster.head import Head, HeadLost
from distbelief import launcher, memory, rundir
from distbelief.config import Config
from distbelief.interrupts import AT_ONCE, Interrupts
from distbelief.launcher import Launch, Prepared, prepare, run_from_command_line
from distbelief.progress import Fact, Moment
from ps.consistency import ConsistencySettings
from ps.correction_settings import CorrectionSettings
from ps.errors import BadInput, RunFailed
from ps.layout import Layout
from workers.augment import training_augmentation
from workers.batches import Batch, Batches
from workers.datasets import load
from workers.evaluation import Evaluation
from workers.images import Traits
from workers.inception import initialise
from workers.models import build
from workers.program_settings import ProgramSettings

# Sha256 of the training images and labels inside the package
DIGITS_FINGERPRINT = "4f1c7763060452d99ee48258b57a75ccb00c7563bcb153fbe83315447f328d4d"


def prepared(folder: Path, **values: object) -> Prepared:
    given = {key.replace("_", ".", 1): value for key, value in values.items()}
    return prepare(Config.of({"run.folder": str(folder), **given}))[1]


def refusal(folder: Path, **values: object) -> str:
    """Why a run is refused; nothing was made for it."""
    existed = folder.exists()
    with pytest.raises(BadInput) as caught:
        prepared(folder, **values)
    assert folder.exists() == existed
    assert "\n" not in str(caught.value)
    return str(caught.value)


def weights_file(folder: Path, classes: int, seed: int = 5) -> tuple[Path, Tensor]:
    """Initial weights of the digits' model with this number of classes, in a file."""
    network = build("inception-mini", classes, 1, 16)
    initialise(network, seed)
    layout = Layout.of(network.named_parameters(), 1)
    weights_N = torch.empty(layout.size)
    layout.flatten(dict(network.named_parameters()), weights_N)
    rundir.write_weights(folder, "start", layout, weights_N, {})
    return folder / "start.safetensors", weights_N


# --- what is prepared -------------------------------------------------------------------------------------------------


def test_a_run_that_can_start(tmp_path: Path) -> None:
    found = prepared(tmp_path / "run", cluster_workers=5, cluster_shards=3, run_seed=7, run_epochs=2, run_batch_size=8)
    spec = found.spec
    assert spec.folder == tmp_path / "run"
    assert (spec.plan.examples, spec.plan.batch_size, spec.plan.epochs, spec.plan.seed) == (1437, 8, 2, 7)
    assert (spec.layout.shards, sum(spec.elements), spec.layout.size) == (3, len(found.weights_N), len(found.weights_N))
    assert (len(spec.token), spec.run.count("-")) == (64, 2)
    assert found.facts == {
        "workers": 5, "shards": 3, "model": "inception-mini", "parameters": spec.layout.size, "seed": 7,
        "ensemble_member": 0, "preset": "digits", "data": "digits", "data_fingerprint": DIGITS_FINGERPRINT,
        "consistency": "async",
        "correction": "none", "program": "gradient", "policy": "", "prefetch": False, "replayable": True,
    }  # fmt: skip
    assert found.traits == Traits("digits", tuple("0123456789"), (1, 16, 16), (float(np.float32(77.89)),), 1 / 81.04)


def test_without_a_gpu_nothing_is_started_that_asks_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput, match=r"^cluster.gpus_per_worker: got 0.5, expected 0"):
        prepared(tmp_path / "run", cluster_gpus_per_worker=0.5)
    assert not (tmp_path / "run").exists()


def test_what_a_gpu_computes_is_not_promised_to_come_out_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = prepared(tmp_path / "run", cluster_gpus_per_worker=0.5)
    assert found.facts["replayable"] is False
    assert found.notes == (launcher.ON_GPUS,)


def test_two_runs_share_neither_id_nor_token(tmp_path: Path) -> None:
    a, b = prepared(tmp_path / "a").spec, prepared(tmp_path / "b").spec
    assert a.run != b.run
    assert a.token != b.token


def test_the_token_is_not_in_the_run_directory(tmp_path: Path) -> None:
    spec = prepared(tmp_path / "run").spec
    assert spec.token not in "".join(path.read_text() for path in spec.folder.rglob("*") if path.is_file())


def test_paths_are_absolute_for_whoever_reads_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    weights_file(tmp_path / "home", 10)
    (tmp_path / "data").mkdir()
    found = prepared(Path("run"), data_root="data", run_init_from="~/start.safetensors")
    assert found.spec.folder == tmp_path / "run"
    assert found.spec.data.root == str(tmp_path / "data")
    written = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert written["data"]["root"] == str(tmp_path / "data")
    assert written["run"]["init_from"] == str(tmp_path / "home" / "start.safetensors")


# --- seeds ------------------------------------------------------------------------------------------------------------


def test_the_seed_decides_the_initial_weights_and_nothing_else_does(tmp_path: Path) -> None:
    torch.rand(3)  # somebody else draws from torch's own generator
    first = prepared(tmp_path / "a", run_seed=1)
    again = prepared(tmp_path / "b", run_seed=1, cluster_workers=3, cluster_shards=4, run_epochs=1)
    other = prepared(tmp_path / "c", run_seed=2)
    back = prepared(tmp_path / "d", run_seed=1)
    assert torch.equal(first.weights_N, again.weights_N)
    assert torch.equal(first.weights_N, back.weights_N)
    assert not torch.equal(first.weights_N, other.weights_N)
    assert torch.isfinite(first.weights_N).all()


def member(folder: Path, number: int, **values: object) -> Prepared:
    return prepared(folder, run_ensemble_member=number, **values)


def batch(found: Prepared, id: int) -> Batch:
    """What a worker of this run makes of a lease."""
    dataset = load(found.spec.data, "train")
    augmentation = training_augmentation(dataset.name, dataset.image_shape)
    return Batches(dataset, found.spec.plan, augmentation).batch(found.spec.plan.lease(id, 0, 0.0))


def test_the_members_of_an_ensemble_share_the_initial_weights_and_nothing_else(tmp_path: Path) -> None:
    runs = [member(tmp_path / str(number), number, run_seed=1) for number in range(3)]
    assert all(torch.equal(run.weights_N, runs[0].weights_N) for run in runs)
    assert len({run.spec.plan.order(0).tobytes() for run in runs}) == 3
    labels = {tuple(batch(run, 5).labels_B.tolist()) for run in runs}
    pixels = {batch(run, 5).images_BCHW.numpy().tobytes() for run in runs}
    assert (len(labels), len(pixels)) == (3, 3)
    assert [run.facts["seed"] for run in runs] == [1, 1, 1]
    assert [run.facts["ensemble_member"] for run in runs] == [0, 1, 2]
    assert dict(launcher.shown(Config.of({"run.ensemble_member": 2}), runs[2]))["model"].endswith(", ensemble member 2")


def test_member_0_is_a_plain_run(tmp_path: Path) -> None:
    plain, first = prepared(tmp_path / "a", run_seed=1), member(tmp_path / "b", 0, run_seed=1)
    assert torch.equal(plain.weights_N, first.weights_N)
    assert plain.spec.plan == first.spec.plan
    assert torch.equal(batch(plain, 5).images_BCHW, batch(first, 5).images_BCHW)


def test_a_member_is_the_same_again_from_its_config_toml(tmp_path: Path) -> None:
    once = member(tmp_path / "a", 2)
    _, again = prepare(Config.of({"run.folder": str(tmp_path / "b")}, tmp_path / "a" / "config.toml"))
    assert again.spec.plan == once.spec.plan
    assert again.spec.plan != member(tmp_path / "c", 2, run_seed=1).spec.plan


def test_fingerprints_depend_on_the_data_and_the_layout_alone(tmp_path: Path) -> None:
    first = prepared(tmp_path / "a", run_seed=1)
    again = prepared(tmp_path / "b", run_seed=2, run_epochs=3)
    cut = prepared(tmp_path / "c", cluster_shards=3)
    assert first.facts["data_fingerprint"] == again.facts["data_fingerprint"] == cut.facts["data_fingerprint"]
    assert first.spec.layout.fingerprint() == again.spec.layout.fingerprint() != cut.spec.layout.fingerprint()


# --- initial weights from a file --------------------------------------------------------------------------------------


def test_initial_weights_from_a_file(tmp_path: Path) -> None:
    file, weights_N = weights_file(tmp_path, 10)
    found = prepared(tmp_path / "run", run_init_from=str(file), run_seed=1, cluster_shards=3)
    assert torch.equal(found.weights_N, weights_N)


def test_initial_weights_that_are_not_there_are_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path / "run", run_init_from=str(tmp_path / "gone"))
    assert message.startswith(f"weights: cannot read {tmp_path / 'gone'}: ")


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_a_data_root_that_is_no_folder(tmp_path: Path) -> None:
    message = refusal(tmp_path / "run", run_preset="fashion-mnist", data_root=str(tmp_path / "typo"))
    assert message.startswith(f"data root: got {tmp_path / 'typo'}, which is no folder; expected one that exists")


def test_a_data_root_without_the_data(tmp_path: Path) -> None:
    message = refusal(tmp_path / "run", run_preset="imagefolder", data_root=str(tmp_path))
    assert message.startswith(f"{tmp_path / 'train'}: got No such file or directory, expected ")


def test_an_unknown_data_set(tmp_path: Path) -> None:
    message = refusal(tmp_path / "run", data_name="digit")
    assert message == (
        "data.name: got 'digit', expected one of digits, mnist, fashion-mnist, cifar10, imagefolder, or module:factory "
        'for your own (did you mean "digits"?)'
    )


def test_an_unknown_model(tmp_path: Path) -> None:
    message = refusal(tmp_path / "run", model_name="inception-minni")
    assert message.endswith('or module:factory for your own (did you mean "inception-mini"?)')


def test_a_model_that_the_images_are_too_small_for(tmp_path: Path) -> None:
    assert refusal(tmp_path / "run", model_name="googlenet").startswith("images too small: ")


def test_a_run_directory_in_use(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    assert refusal(tmp_path).startswith(f"run directory: {tmp_path} is not empty; ")


def test_a_run_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "run"
    assert refusal(folder) == f"run directory: cannot write {folder}: Not a directory; name another with --run DIR"


def test_too_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 1 << 30)
    message = refusal(tmp_path / "run", cluster_workers=1000)
    assert message.startswith("memory: 1000 workers with ")
    assert message.endswith(" GiB, 1.0 GiB are free; use fewer workers or a smaller model")


def test_a_cluster_s_memory_is_not_this_machine_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 0)
    assert prepared(tmp_path / "run", cluster_address="auto").spec.cluster.address == "auto"


# --- from the command line --------------------------------------------------------------------------------------------


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> tuple[list[Config], dict[str, Any]]:
    """Instead of launching: the configurations that were asked for, and the summary that is returned."""
    configs: list[Config] = []
    summary: dict[str, Any] = {"stopped_by": "completed", "message": ""}

    def launch(config: Config, started: float) -> dict[str, Any]:
        assert 0 < started < 1e11
        configs.append(config)
        return summary

    monkeypatch.setattr(launcher, "launch", launch)
    return configs, summary


Launched = tuple[list[Config], dict[str, Any]]


def test_options_beat_assignments_beat_the_file(launched: Launched, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[run]\nepochs = 3\nseed = 4\nbatch_size = 5\n")
    options: dict[str, object] = {"config": file, "run.epochs": 1}
    assert run_from_command_line(options, ("run.epochs=2", "run.seed=2", "average.kind=uniform")) == 0
    (config,) = launched[0]
    assert (config.run.epochs, config.run.seed, config.run.batch_size, config.average.kind) == (1, 2, 5, "uniform")
    assert options == {"config": file, "run.epochs": 1}


@pytest.mark.parametrize(("stopped_by", "code"), [("completed", 0), ("target", 0), ("time", 0), ("signal", AT_ONCE)])
def test_exit_codes(stopped_by: str, code: int, launched: Launched) -> None:
    launched[1]["stopped_by"] = stopped_by
    assert run_from_command_line({}, ()) == code


@pytest.mark.parametrize("stopped_by", ["diverged", "failed"])
def test_a_run_that_went_wrong_is_an_error(stopped_by: str, launched: Launched) -> None:
    launched[1].update(stopped_by=stopped_by, message="diverged at update 5")
    with pytest.raises(RunFailed, match=r"^diverged at update 5$"):
        run_from_command_line({}, ())


# --- the ends of a launch, without its middle -------------------------------------------------------------------------


class Noting:
    """A view that notes what it is told."""

    def __init__(self) -> None:
        self.noted: list[str] = []
        self.results: dict[str, str] = {}

    def begin(self, facts: Sequence[Fact]) -> None:
        self.noted.append("begin")

    def phase(self, text: str) -> None:
        self.noted.append(text)

    def show(self, moment: Moment) -> None:
        self.noted.append("show")

    def say(self, line: str) -> None:
        self.noted.append(line)

    def end(self, results: Sequence[Fact]) -> None:
        self.results = dict(results)
        self.noted.append("end")

    def close(self) -> None:
        self.noted.append("close")


def test_a_refused_launch_closes_its_view(tmp_path: Path) -> None:
    view = Noting()
    with pytest.raises(BadInput):
        distbelief.launch(Config.of({"run.folder": str(tmp_path), "data.name": "digit"}), view)
    assert view.noted == ["close"]


def test_the_mended_command_may_name_the_same_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Launch:
        def __init__(self, *given: Any) -> None:
            pass

        def run(self) -> dict[str, Any]:
            raise BadInput("cluster.address: got 'foo', expected a Ray cluster there")

    monkeypatch.setattr(launcher, "Launch", Launch)
    with pytest.raises(BadInput, match="expected a Ray cluster there"):
        distbelief.launch(Config.of({"run.folder": str(tmp_path / "a"), "cluster.address": "foo"}), Noting())
    assert list(tmp_path.iterdir()) == []


def test_times_count_from_the_call_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    class Launch:
        def __init__(self, *given: Any) -> None:
            seen.append(given[-1])

        def run(self) -> dict[str, Any]:
            return {}

    monkeypatch.setattr(launcher, "Launch", Launch)
    monkeypatch.setattr(launcher.time, "time", lambda: 1234.5)
    distbelief.launch(Config.of({"run.folder": str(tmp_path / "a")}), Noting())
    distbelief.launch(Config.of({"run.folder": str(tmp_path / "b")}), Noting(), started=99.0)
    assert seen == [1234.5, 99.0]


class Slow:
    """An evaluator that reports after each of ten batches."""

    def __init__(self, clock: list[float]) -> None:
        self._clock = clock

    def evaluate(self, weights_N: Tensor, progress: Callable[[int], None]) -> Evaluation:
        for done in range(10):
            self._clock[0] += 1
            progress(done)
        return Evaluation(0.1, 0.0, 0.5, 10)


@pytest.mark.parametrize(
    ("limit", "done", "batches"), [(None, True, 10), (10.0, True, 10), (9.0, False, 10), (0.0, False, 1)]
)
def test_an_evaluation_stops_at_its_limit(
    limit: float | None, done: bool, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(launcher.time, "monotonic", lambda: clock[0])
    evaluator: Any = Slow(clock)
    found = launcher._within(limit, evaluator, torch.zeros(1))
    assert found == (Evaluation(0.1, 0.0, 0.5, 10) if done else None)
    assert clock[0] == batches


def test_the_last_lines_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    summary: dict[str, Any] = {
        "stopped_by": "signal", "updates": 1234, "seconds": 83.26, "images_per_second": 1853.4,
        "staleness": {"mean": 30.94, "p95": 38, "max": 61},
        "leases": {"applied": 1234, "reissued": 2, "outstanding": 7},
        "evaluation": {"average": {"top1_error": None, "examples": 0}},
        "skipped_examples": 0,
    }  # fmt: skip
    lines = dict(launcher._results(tmp_path / "runs" / "a", summary))
    assert lines == {
        "ended by": "signal",
        "top-1 error": "not evaluated",
        "updates": "1,234 in 83.3 s, 1,853 images/s",
        "staleness": "mean 30.9, p95 38, max 61",
        "leases": "1,234 applied once each, 2 grants repeated, 7 unfinished",
        "weights": "runs/a/average.safetensors",
    }
    summary["evaluation"]["average"] = {"top1_error": 0.0278, "examples": 1360}
    summary["skipped_examples"] = 2150
    lines = dict(launcher._results(tmp_path, summary))
    assert lines["top-1 error"] == "2.78 % of 1,360 test images (average)"
    assert lines["unreadable"] == "2,150 examples skipped, named in unreadable.txt"


def test_the_facts_that_a_person_sees_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    chosen: dict[str, object] = {
        "run.folder": "r", "run.epochs": 2, "run.batch_size": 32, "schedule.kind": "cosine", "schedule.rate": 0.05,
        "rule.rule": "momentum", "rule.momentum": 0.5, "cluster.workers": 8, "cluster.shards": 2,
    }  # fmt: skip
    config = Config.of(chosen)
    _, found = prepare(config)
    monkeypatch.setattr(launcher.memory, "needed_bytes", lambda spec, turns: 3 << 29)
    facts = dict(launcher.shown(config, found))
    assert facts == {
        "run": "r",
        "data": "digits, 1,437 examples, 2 epochs in batches of 32",
        "model": f"inception-mini, {found.spec.layout.size:,} parameters, float32",
        "cluster": "8 workers, 2 shards, address local",
        "rule": "momentum, rate 0.05 (cosine), momentum 0.5, correction dana",
        "policy": "each worker has a momentum of its own, and pulls read where all of them lead",
        "memory": "about 1.5 GiB, if all of it is on one machine",
    }
    sgd = replace(config, rule=replace(config.rule, rule="sgd"), correction=CorrectionSettings())
    assert dict(launcher.shown(sgd, found))["rule"] == "sgd, rate 0.05 (cosine)"
    local = replace(config, program=ProgramSettings("local", push_every=4), consistency=ConsistencySettings("sync"))
    mode = "consistency sync, program local with 4 batches per lease"
    assert dict(launcher.shown(local, found))["cluster"] == f"8 workers, 2 shards, address local, {mode}"


# --- a cluster that loses its head ------------------------------------------------------------------------------------


def losing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, returns: bool
) -> tuple[Launch, Noting, list[tuple[bool, int, str]]]:
    """A run whose first attempt loses the head of four machines; and every attempt, as (again, machines, token)."""
    attempts: list[tuple[bool, int, str]] = []
    head, view = Head("10.0.0.1:6379", 4), Noting()
    monkeypatch.setattr(head, "returns", lambda seconds, going_on: returns)

    def attempt(self: Launch, again: bool, machines: int) -> None:
        attempts.append((again, machines, self._spec.token))
        if len(attempts) == 1:
            raise HeadLost(head)

    monkeypatch.setattr(Launch, "_attempt", attempt)
    monkeypatch.setattr(Launch, "_finish", lambda self: {"attempts": len(attempts)})
    return Launch(Config(), prepared(folder), view, Interrupts(), 0.0), view, attempts


def test_a_run_goes_on_when_the_head_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch, view, attempts = losing(tmp_path / "run", monkeypatch, returns=True)
    assert launch.run() == {"attempts": 2}
    (first, again) = attempts
    assert (first[:2], again[:2]) == ((False, 1), (True, 4))
    assert first[2] != again[2]  # whatever is left of the lost cluster is not let in
    assert view.noted == [
        "note: the head of the Ray cluster, 10.0.0.1:6379, does not answer: the run goes on when it is back, if "
        "that is within 15 minutes"
    ]


def test_a_run_whose_head_stays_away_says_how_to_take_it_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    launch, _, attempts = losing(tmp_path / "run", monkeypatch, returns=False)
    with pytest.raises(RunFailed, match=r"6379, does not answer; when it is up: distbelief resume run$"):
        launch.run()
    assert len(attempts) == 1

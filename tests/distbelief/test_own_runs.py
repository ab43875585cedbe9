"""A program's own model, data and loss, through everything that can be done with a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from distbelief import own, rundir
from distbelief.config import Config
from distbelief.evaluate import evaluate_command
from distbelief.export import export_command
from distbelief.launcher import prepare
from distbelief.own import given
from distbelief.predict import predict_command
from distbelief.replay import replay
from distbelief.simulate import run_from_command_line, simulate
from distbelief.verify import verify
from ps.errors import BadInput

ROOT = Path(__file__).parent.parent.parent

PROGRAM = """
import numpy as np
from torch import nn
import distbelief

rng = np.random.default_rng(0)
centres = rng.normal(size=(3, 8))
labels = rng.integers(0, 3, 120)
points = centres[labels] + 0.3 * rng.normal(size=(120, 8))


class Points:
    def __init__(self, points, labels):
        self.points, self.labels = points, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.points[index], self.labels[index]


def mlp():
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))


if __name__ == "__main__":
    data = {"train": Points(points[:90], labels[:90]), "test": Points(points[90:], labels[90:])}
    config = {"cluster.workers": 3, "run.epochs": 20, "run.batch_size": 10, "run.folder": "run"}
    summary = distbelief.launch(config, model=mlp, dataset=data)
    print(summary["evaluation"]["average"]["top1_error"])
"""


def points(count: int, seed: int) -> list[tuple[Any, int]]:
    """Three clouds that a small network tells apart."""
    rng = np.random.default_rng(seed)  # noqa: TID251 -- a test's data
    centres = np.eye(3, 8) * 3
    return [(centres[index % 3] + 0.3 * rng.normal(size=8), index % 3) for index in range(count)]


def mlp(classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.1), nn.ReLU(), nn.Linear(16, classes))


def smoothed(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits_BK, labels_B, label_smoothing=0.1)


def simulated(folder: Path, **values: object) -> tuple[Path, dict[str, Any]]:
    """A run in virtual time of what only this test has."""
    small = {
        "cluster.workers": 4,
        "run.epochs": 12,
        "run.batch_size": 8,
        "average.every": 2,
        "schedule.rate": 0.01,
        "run.folder": str(folder),
    }
    train, test = points(90, 0), points(30, 1)
    return folder, simulate(given({**small, **values}, lambda: mlp(), {"train": train, "test": test}, smoothed))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, summary = simulated(tmp_path_factory.mktemp("own") / "run")
    assert summary["evaluation"]["average"]["top1_error"] == 0.0
    assert (summary["parameters"], summary["evaluation"]["average"]["examples"]) == (8 * 16 + 16 + 16 * 3 + 3, 30)
    return folder


# --- everything that can be done with a run ---------------------------------------------------------------------------


def test_the_run_directory_holds_what_no_import_gives(run: Path) -> None:
    config = rundir.config_of(run)
    assert config.run.preset == "own"
    assert config.model.loss == "test_own_runs:smoothed"
    assert config.data.classes == 3, "counted once, for every process"
    for name in (config.model.name, config.data.name):
        assert (run / "own" / f"{name.partition(':')[2]}.pickle").is_file()


def test_replay_and_verify(run: Path) -> None:
    assert replay(run).verdict == "identical"
    assert verify(run).verdict == "exactly once"


def test_evaluate(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate_command([run], "average", 1, True) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["top1_error"], found["examples"]) == (0.0, 30)
    with pytest.raises(BadInput, match="crops: got 10, expected 1: a data set of one's own is shown as it is"):
        evaluate_command([run], "average", 10, True)


def test_predict(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "one.npy", points(2, 3)[1][0])
    np.save(tmp_path / "long.npy", np.zeros(9))
    (tmp_path / "none.npy").write_text("no array")
    assert predict_command(run, [tmp_path / f"{name}.npy" for name in ("one", "long", "none")], "average", 1, True) == 2
    one, long, none = json.loads(capsys.readouterr().out)["images"]
    assert one["top5"][0]["class"] == "1"
    assert long["error"].endswith("got an image of shape (9,), expected (8,)")
    assert "expected a numpy array" in none["error"]


def test_export(run: Path, tmp_path: Path) -> None:
    assert export_command(run, "onnx", tmp_path / "m.onnx", "average") == 0
    assert export_command(run, "safetensors", tmp_path / "m.safetensors", "average") == 0
    model = mlp().eval()
    model.load_state_dict(safetensors.torch.load_file(tmp_path / "m.safetensors"))
    images = np.stack([image for image, _ in points(5, 4)]).astype(np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (logits,) = session.run(None, {"images": images})
    assert np.allclose(logits, model(torch.from_numpy(images)).detach().numpy(), atol=1e-5)


def test_simulate_from(run: Path, tmp_path: Path) -> None:
    assert run_from_command_line({"run.folder": str(tmp_path / "again"), "cluster.workers": 8}, (), run) == 0
    assert replay(tmp_path / "again").verdict == "identical"


def test_a_run_that_was_moved_is_whole(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    for file in run.rglob("*"):
        if file.is_file():
            target = tmp_path / "elsewhere" / file.relative_to(run)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    monkeypatch.setattr("workers.own._kept", {})  # as another process has it
    assert evaluate_command([tmp_path / "elsewhere"], "latest", 1, True) == 0


def test_fine_tuning_from_a_saved_average(run: Path, tmp_path: Path) -> None:
    start: dict[str, object] = {"run.init_from": str(run / "average.safetensors"), "run.folder": str(tmp_path / "more")}
    _, found = prepare(given(start, lambda: mlp(classes=5), [(image, label + 2) for image, label in points(30, 5)]))
    assert found.notes[0] == "no test set was given: the errors are those on the training examples"
    assert found.notes[1].startswith("2 of 4 parameters are those of ")
    assert found.notes[1].endswith("new and random: 3.weight (5x16, 3x16 there), 3.bias (5, 3 there)")


# --- from the command line --------------------------------------------------------------------------------------------


def test_names_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets_for_cli.py").write_text("from test_own_runs import mlp, points\ndata = points(30, 0)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    values = {"model.name": "nets_for_cli:mlp", "data.name": "nets_for_cli:data", "run.folder": "run", "run.epochs": 1}
    assert run_from_command_line(values, (), None) == 0
    config = rundir.config_of(tmp_path / "run")
    assert config.run.preset == "own"
    assert (config.model.name, config.model.path) == ("nets_for_cli:mlp", str(tmp_path))
    monkeypatch.chdir("/")
    assert run_from_command_line({"run.folder": str(tmp_path / "again")}, (), tmp_path / "run") == 0


def test_a_module_as_it_is_is_where_training_begins(tmp_path: Path) -> None:
    module = mlp()
    _, found = prepare(given({"run.folder": str(tmp_path / "run")}, module, points(30, 0)))
    assert torch.equal(found.spec.layout.views(found.weights_N)["0.weight"], module[0].weight)


def test_a_configuration_is_taken_as_well() -> None:
    config = given(Config.of({"run.epochs": 3}), mlp, points(30, 0), smoothed)
    assert (config.run.epochs, config.model.name) == (3, "test_own_runs:mlp")
    assert own.given(config) == config


def test_what_cannot_be_sent_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="dataset: got list that cannot be sent to the workers"):
        given({}, mlp, [sys.stdout.buffer])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_program_beside_folders_with_our_names(tmp_path: Path) -> None:
    """Live, as a user would write it; `workers`, `cluster` and `ps` are folders of the user's."""
    for name in ("workers", "cluster", "ps"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('the user has one of this name')")
    (tmp_path / "train.py").write_text(PROGRAM)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "train.py"],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) <= 0.1
    assert replay(tmp_path / "run").verdict == "identical"
    assert verify(tmp_path / "run").verdict == "exactly once"
    assert evaluate_command([tmp_path / "run"], "average", 1, True) == 0

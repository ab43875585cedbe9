"""The README is true: its commands run as they stand. The test command is run by .ci/run, the launch command here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def command(name: str, language: str = "sh") -> str:
    """The block between <!-- name --> and <!-- end -->."""
    found = re.search(rf"<!-- {name} -->\n```{language}\n(.*?)\n```\n<!-- end -->", README, re.DOTALL)
    assert found, f"README.md has no {name} command"
    return found.group(1)


@pytest.mark.parametrize(("name", "ends"), [("launch", "distbelief launch --workers 32"), ("test", "pytest")])
def test_both_commands_do_all_the_set_up(name: str, ends: str) -> None:
    line = command(name)
    assert "\n" not in line
    assert line.startswith("python3 -m venv .venv && .venv/bin/pip install ")
    assert line.endswith(ends)


def test_ci_runs_the_readme_s_test_command() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "<!-- test -->" in script
    assert "README.md" in script


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_first_command_installs_and_trains(tmp_path: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(["bash", "-c", command("launch")], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (summary,) = (json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/summary.json"))
    assert summary["stopped_by"] == "completed"
    assert (summary["workers"], summary["leases"]["outstanding"]) == (32, 0)
    assert summary["evaluation"]["average"]["top1_error"] < 0.1
    assert summary["staleness"]["mean"] >= 25


# What the README says that nets.py has: torchvision's residual network, with GroupNorm for BatchNorm2d.
RESNET = """
from torch import nn

def convolution(channels_in, channels_out, stride):
    return nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)

class BasicBlock(nn.Module):
    def __init__(self, channels_in, channels_out, stride=1):
        super().__init__()
        self.conv1, self.norm1 = convolution(channels_in, channels_out, stride), nn.GroupNorm(4, channels_out)
        self.conv2, self.norm2 = convolution(channels_out, channels_out, 1), nn.GroupNorm(4, channels_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or channels_in != channels_out:
            shorter = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
            self.downsample = nn.Sequential(shorter, nn.GroupNorm(4, channels_out))

    def forward(self, x):
        out = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))

class ResNet(nn.Module):
    def __init__(self, channels_in, classes):
        super().__init__()
        self.conv1, self.norm1, self.relu = convolution(channels_in, 16, 1), nn.GroupNorm(4, 16), nn.ReLU(inplace=True)
        self.layer1, self.layer2 = BasicBlock(16, 16), BasicBlock(16, 32, stride=2)
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(32, classes)

    def forward(self, x):
        x = self.layer2(self.layer1(self.relu(self.norm1(self.conv1(x)))))
        return self.fc(self.avgpool(x).flatten(1))

def resnet():
    return ResNet(1, 10)
"""
FIVE = "\ndef mlp_of_five():\n    return mlp(5)\n\ndef points_of_five():\n    return points(5)\n"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_examples_of_one_s_own_model_run_as_they_stand(tmp_path: Path) -> None:
    program = command("mine.py", "python")
    (tmp_path / "mine.py").write_text(program.replace("\nif __name__", FIVE + "\nif __name__"))
    (tmp_path / "nets.py").write_text(RESNET)
    typed = [f"{sys.executable} mine.py", *command("own commands").splitlines()]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    said = [_run(line, tmp_path, environment) for line in typed]
    assert "2.weight (5x32, 3x32 there)" in said[2]
    summaries = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/summary.json")]
    errors = [summary["evaluation"]["average"]["top1_error"] for summary in summaries]
    assert len(errors) == 3
    assert max(errors) < 0.5, errors
    assert all(summary["leases"]["outstanding"] == 0 for summary in summaries)


def _run(line: str, folder: Path, environment: dict[str, str]) -> str:
    """What a command said on stderr. It must succeed."""
    done = subprocess.run(
        line, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr


def test_pictures_are_there_and_small() -> None:
    sources = re.findall(r'<img src="([^"]+)"', README)
    assert sources
    for source in sources:
        assert 0 < (ROOT / source).stat().st_size < 100_000, source

"""The README is true: its commands run as they stand. The test command is run by .ci/run, the launch command here."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def command(name: str) -> str:
    """The shell block between <!-- name --> and <!-- end -->."""
    found = re.search(rf"<!-- {name} -->\n```sh\n(.*?)\n```\n<!-- end -->", README, re.DOTALL)
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

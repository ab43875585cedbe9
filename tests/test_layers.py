"""The layers: imports point down only, the state machines know no I/O, one module knows Ray. A planted violation
proves that it is seen.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("ps", "workers", "cluster", "distbelief")  # each may import itself and those before it
INPUT_OUTPUT = {"grpc", "os", "socket", "mmap", "time", "subprocess", "threading", "asyncio", "pathlib", "io", "google"}
RAY_HOMES = ("cluster/live/", "cluster/baselines.py")  # the run, and what it is measured beside
CLOCKS = {"cluster", "distbelief"}  # besides ps/wire; everything else gets `now`


def imports(source: str) -> Iterator[str]:
    """Every module that this source imports, at any depth, type-checking imports included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            yield node.module or ""


def violations(file: str, source: str) -> list[str]:
    """What a file imports that it must not. `file`: relative to the root, with slashes."""
    package = file.split("/")[0]
    allowed = LAYERS[: LAYERS.index(package) + 1]
    found = []
    for module in imports(source):
        top = module.split(".")[0]
        if top in LAYERS and top not in allowed:
            found.append(f"{file} imports {module}: {package} is below {top}")
        if top == "ray" and not file.startswith(RAY_HOMES):
            found.append(f"{file} imports {module}: only {', '.join(RAY_HOMES)} may")
        if (
            package == "ps"
            and not file.startswith("ps/wire/")
            and (top in INPUT_OUTPUT or module.startswith("ps.wire"))
        ):
            found.append(f"{file} imports {module}: only ps/wire does I/O")
        if top == "time" and package not in CLOCKS and not file.startswith("ps/wire/"):
            found.append(f"{file} imports {module}: time is an argument here")
    return found


def sources() -> Iterator[tuple[str, str]]:
    for package in LAYERS:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text("utf-8")


def test_imports_point_down_only() -> None:
    assert [line for file, source in sources() for line in violations(file, source)] == []


def test_the_whole_house_was_looked_at() -> None:
    files = {file for file, _ in sources()}
    assert {
        "ps/shard.py",
        "ps/wire/server.py",
        "workers/program.py",
        "cluster/live/run.py",
        "distbelief/cli.py",
    } <= files


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("ps/shard.py", "import workers.program"),
        ("ps/shard.py", "def f():\n    import time"),
        ("ps/ledger.py", "from os import path"),
        ("ps/averager.py", "from ps.wire import files"),
        ("workers/gradient.py", "from cluster.host import WorkerHost"),
        ("workers/gradient.py", "import time"),
        ("cluster/host.py", "import ray"),
        ("cluster/live/run.py", "from distbelief.config import Config"),
        ("cluster/lives.py", "import ray"),
        ("distbelief/launch.py", "import ray.exceptions"),
    ],
)
def test_a_planted_violation_is_seen(file: str, source: str) -> None:
    assert len(violations(file, source)) >= 1
    assert violations("distbelief/cli.py", "import ps.shard, workers.program, cluster.live, time, os") == []


def test_everything_but_the_live_driver_imports_without_ray(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise ImportError('no ray on this machine')")
    modules = sorted(
        file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for file, _ in sources()
        if not file.startswith(RAY_HOMES) and not file.endswith("_pb2.py")
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + "\n".join(f"import {module}" for module in modules)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_top_level_is_what_was_agreed() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in tracked.stdout.splitlines()}
    wanted = {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "distbelief",
        "workers",
        "ps",
        "cluster",
        "tests",
        ".ci",
        ".gitignore",
    }
    assert wanted <= top
    assert top - wanted <= {"cluster.yaml", "CONTRIBUTING.md"}

"""The wheel is this program: what pip installs from it is this code, and the same code makes the same wheel."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from distbelief.nodes import wheel

ROOT = Path(__file__).parents[3]


def test_what_is_installed_from_it_is_this_code_and_runs(tmp_path: Path) -> None:
    path = wheel.build(tmp_path / "package")
    home = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(home)]
    done = subprocess.run([*pip, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for package in wheel.PACKAGES:
        for file in (ROOT / package).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                assert (home / file.relative_to(ROOT)).read_bytes() == file.read_bytes()
    code = f"import sys; sys.path.insert(0, {str(home)!r}); import distbelief, importlib.metadata as m; "
    code += "print(distbelief.__file__); print(m.version('distbelief'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=True)
    where, version = done.stdout.split()
    assert where.startswith(str(home))
    assert f"-{version}-" in path.name
    assert (home / "bin" / "distbelief").exists()


def test_the_same_code_makes_the_same_bytes_and_replaces_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "distbelief-0.0.1-py3-none-any.whl").touch()
    first = wheel.build(tmp_path)
    content = first.read_bytes()
    assert wheel.build(tmp_path).read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == [first.name]
    with zipfile.ZipFile(first) as archive:
        assert archive.testzip() is None
        assert not any("__pycache__" in name or name.startswith("tests") for name in archive.namelist())

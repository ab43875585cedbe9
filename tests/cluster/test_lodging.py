"""Temporary directories that outlive nobody for long."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cluster.lodging import Lodging


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary directory for this test alone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_it_is_there_as_long_as_it_is_used(temporary: Path) -> None:
    with Lodging() as folder:
        (folder / "file").touch()
        with Lodging() as other:
            assert sorted(temporary.iterdir()) == sorted([folder, other])
        assert list(temporary.iterdir()) == [folder]
    assert list(temporary.iterdir()) == []


def test_that_of_a_process_that_was_killed_is_removed_by_the_next(temporary: Path) -> None:
    code = f"""if True:
        import signal, tempfile
        tempfile.tempdir = {str(temporary)!r}
        from cluster.lodging import Lodging
        lodging = Lodging()
        (lodging.folder / "file").touch()
        print(lodging.folder, flush=True)
        signal.pause()
        """
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    theirs = Path(process.stdout.readline().strip())
    (temporary / "distbelief-of-another-kind").mkdir()
    with Lodging():
        assert (theirs / "file").exists(), "its process lives"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with Lodging() as ours:
        assert sorted(temporary.iterdir()) == sorted([ours, temporary / "distbelief-of-another-kind"])

"""Launching: a run by the command that a person types, in a process of its own, watched from outside. For benches.

Memory is each process's share (PSS), so that pages that several hold count once.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from distbelief.rundir import SUMMARY
from ps.errors import RunFailed

LOOK_SECONDS = 0.5  # between two looks at the memory
PROGRAM = "from distbelief.cli import main; main()"


def launched(options: Sequence[str], weighed: bool = False) -> tuple[dict[str, Any], int]:
    """Launch a run with these options; return its summary, and the most memory that it took, in bytes.

    Args:
        weighed: Look at its memory, which holds up processes that have much of it: not for a run whose speed matters.

    Raises:
        RunFailed: It did not end as it should.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", PROGRAM, "launch", *options, "--run", f"{folder}/run"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            peak = 0
            while process.poll() is None:
                if weighed:
                    peak = max(peak, _memory(process.pid))
                with suppress(subprocess.TimeoutExpired):
                    process.wait(LOOK_SECONDS)
            assert process.stderr is not None
            said = process.stderr.read().decode(errors="replace").strip().splitlines()
        if process.returncode:
            raise RunFailed(f"launch: exit code {process.returncode}: {said[-1] if said else 'it said nothing'}")
        return json.loads((Path(folder) / "run" / SUMMARY).read_bytes()), peak


def _memory(process: int) -> int:
    """Bytes that a process and all below it take now."""
    total = 0
    with suppress(psutil.Error):
        root = psutil.Process(process)
        for each in (root, *root.children(recursive=True)):
            with suppress(psutil.Error):
                total += each.memory_full_info().pss
    return total

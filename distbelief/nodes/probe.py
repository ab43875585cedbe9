"""Probe: what one machine says about itself. Sent to it as a script, so it needs Python 3 there and nothing else.

python3 - look PORTS TARGETS   one JSON object: Python, clock, cores, memory, disk, which of these ports are taken,
                               which of these "host:port" cannot be reached, what is installed; lists with commas
python3 - end                  kills the processes there that belong to Ray or to this program; prints what remains
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time  # noqa: TID251 -- a machine's clock is what is asked for
from contextlib import suppress

HOME = "~/.distbelief"
REACH_SECONDS = 5.0


def look(ports: list[str], targets: list[str]) -> dict[str, object]:
    """What decides whether the machine can take part. Sizes in bytes, clock in seconds since 1970."""
    python = os.path.join(os.path.expanduser(HOME), "env", "bin", "python")
    code = "import importlib.metadata as m; print(*[f'{n} {m.version(n)}' for n in ('distbelief', 'ray', 'torch')])"
    installed = ""
    if os.path.exists(python):
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
        installed = done.stdout.strip()
    return {
        "python": platform.python_version(),
        "venv": _can_import("ensurepip"),
        "clock": time.time(),
        "cores": len(os.sched_getaffinity(0)),
        "shared_memory_bytes": shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else 0,
        "disk_bytes": shutil.disk_usage(os.path.expanduser("~")).free,
        "temporary_bytes": shutil.disk_usage("/tmp").free,
        "taken_ports": [port for port in ports if not _free(int(port))],
        "unreachable": {target: why for target in targets if (why := _unreachable(target))},
        "rsync": shutil.which("rsync") is not None,
        "ours": ours(),
        "installed": installed,
    }


def _can_import(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _unreachable(target: str) -> str:
    """Why this "host:port" cannot be reached, or nothing. One that nobody listens at answers that it refuses."""
    host, _, port = target.rpartition(":")
    try:
        socket.create_connection((host, int(port)), REACH_SECONDS).close()
    except ConnectionRefusedError:
        return ""
    except OSError as error:
        return error.strerror or str(error)
    return ""


def ours() -> list[str]:
    """Processes that belong to Ray or to this program's environment, as "PID COMMAND"."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) not in (os.getpid(), os.getppid()):
            with suppress(OSError):
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    command = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
                words = command.split(" ")
                if words[0].startswith("ray::") or any(
                    "/.distbelief/env/" in word or "/ray/core/src/ray/" in word for word in words[:3]
                ):
                    found.append(f"{entry} {command[:120]}")
    return found


def end() -> None:
    """Kill them, however often they are replaced."""
    deadline = time.monotonic() + 20
    while (found := ours()) and time.monotonic() < deadline:
        for process in found:
            with suppress(OSError):
                os.kill(int(process.split()[0]), signal.SIGKILL)
        time.sleep(0.1)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["look", ports, targets]:
            print(json.dumps(look([*filter(None, ports.split(","))], [*filter(None, targets.split(","))])))
        case ["end"]:
            end()
            print("\n".join(ours()))

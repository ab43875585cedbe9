"""Several hosts on one machine, for real: each has its own network, processes, name, home directory, /dev/shm, /tmp/ray
and SSH server; a bridge connects them, and whoever `client` runs. Needs root, Linux, iproute2, OpenSSH, rsync.

What is common to all: the file system elsewhere, above all the environment that the tests run in.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time  # noqa: TID251 -- hosts are waited for
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

NETWORK = "10.77.0"
SWITCH = 254
NEEDED = ("ip", "ssh", "ssh-keygen", "rsync", "unshare", "nsenter", "mount", "tc", "iptables", "/usr/sbin/sshd")
_SSHD = """Port 22
ListenAddress {address}
HostKey {folder}/hostkey
AuthorizedKeysFile {folder}/id.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
PidFile none
MaxStartups 100
"""
# The interpreter that the tests' environment stands on may lie in the home directory: it is put into the host's too.
_BOOT = """set -e
mount --make-rprivate /
hostname {name}
if [ -n "{within}" ]; then mkdir -p {home}/{within}; mount --bind {base} {home}/{within}; fi
mount --rbind {home} {HOME}
mkdir -p /tmp/ray; mount -t tmpfs tmpfs /tmp/ray
mount -t tmpfs -o size=2g tmpfs /dev/shm
exec /usr/sbin/sshd -D -e -f {folder}/sshd_{number}.conf
"""


def missing() -> str:
    """Why there can be no such hosts here, or nothing."""
    if os.getuid():
        return "needs root"
    lacking = [name for name in NEEDED if shutil.which(name) is None]
    if lacking:
        return f"needs {', '.join(lacking)}"
    name = f"dbtest{secrets.token_hex(2)}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        return "needs network namespaces"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


class Hosts:
    """Hosts 1..n, reached at 10.77.0.1..n; 1 is the head's.

    Attributes:
        key: Private key that lets one in everywhere, as root.
    """

    def __init__(self, count: int) -> None:
        self._tag = f"db{secrets.token_hex(2)}"
        self._count = count
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="dbhosts-", dir="/var/tmp"))
        self.key = self.folder / "id"

    def address(self, number: int) -> str:
        return f"{NETWORK}.{number}"

    def up(self, boot: bool = True) -> None:
        """Start them; return when all let one in. `boot`: if not, there are their networks and nothing else."""
        for name in ("id", "hostkey"):
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name))
        Path("/run/sshd").mkdir(exist_ok=True)
        switch = self._space(0)
        _run("ip", "netns", "add", switch)
        _run("ip", "-n", switch, "link", "set", "lo", "up")
        _run("ip", "-n", switch, "link", "add", "br0", "type", "bridge")
        _run("ip", "-n", switch, "addr", "add", f"{self.address(SWITCH)}/24", "dev", "br0")
        _run("ip", "-n", switch, "link", "set", "br0", "up")
        for number in range(1, self._count + 1):
            self._connect(number)
            if boot:
                self._boot(number)
        for number in self._processes:
            eventually(lambda number=number: self.run(number, "true").returncode == 0, 60, f"host {number}")

    def _connect(self, number: int) -> None:
        space, switch, link = self._space(number), self._space(0), f"v{number}"
        _run("ip", "netns", "add", space)
        _run("ip", "-n", space, "link", "set", "lo", "up")
        _run("ip", "-n", space, "link", "add", "eth0", "type", "veth", "peer", "name", link, "netns", switch)
        _run("ip", "-n", space, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
        _run("ip", "-n", space, "link", "set", "eth0", "up")
        _run("ip", "-n", switch, "link", "set", link, "master", "br0", "up")

    def _boot(self, number: int) -> None:
        space = self._space(number)
        home = self.folder / f"home_{number}"
        home.mkdir()
        base, own = Path(sys.base_prefix).resolve(), Path.home().resolve()
        within = base.relative_to(own) if base.is_relative_to(own) else ""
        names = {"folder": self.folder, "number": number, "address": self.address(number), "name": f"host{number}"}
        boot = _BOOT.format(home=home, HOME=own, base=base, within=within, **names)
        (self.folder / f"sshd_{number}.conf").write_text(_SSHD.format(**names))
        command = ["ip", "netns", "exec", space, "unshare", "--mount", "--pid", "--uts", "--ipc", "--fork"]
        command += ["--kill-child", "--mount-proc", "bash", "-c", boot]
        with (self.folder / f"sshd_{number}.log").open("wb") as log:
            self._processes[number] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def _space(self, number: int) -> str:
        return f"{self._tag}-{number}"

    # --- commands ----------------------------------------------------------------------------------------------------

    def client(self, *command: str) -> list[str]:
        """A command of a machine that is connected to the hosts and is none of them."""
        return ["ip", "netns", "exec", self._space(0), *command]

    def within(self, number: int, *command: str) -> list[str]:
        """A command in the network of a host, and in this machine's file system."""
        return ["ip", "netns", "exec", self._space(number), *command]

    def ssh(self, number: int, command: str, more: Sequence[str] = ()) -> list[str]:
        """A command on a host, in bash, over SSH. `more`: options of ssh."""
        options = [
            *more,
            "-q",
            "-i",
            str(self.key),
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "StrictHostKeyChecking=no",
        ]
        return self.client("ssh", *options, f"root@{self.address(number)}", *filter(None, [command]))

    def run(self, number: int, command: str, seconds: float = 120.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.ssh(number, command), capture_output=True, text=True, timeout=seconds, check=False)

    def processes(self, number: int) -> list[str]:
        """What runs on a host, besides its SSH server and what looks."""
        found = self.run(number, "ps -eo pid,ppid,args --no-headers").stdout.splitlines()
        return [line for line in found if not any(word in line for word in ("sshd", "ps -eo"))]

    def there(self) -> list[int]:
        """The hosts that were not lost."""
        return [number for number, process in self._processes.items() if process.poll() is None]

    # --- what goes wrong ---------------------------------------------------------------------------------------------

    def lose(self, number: int) -> None:
        """The host is gone, with all that ran there, at once."""
        with suppress(ProcessLookupError):
            os.kill(self._init(number), signal.SIGKILL)
        self._processes[number].wait()

    def _init(self, number: int) -> int:
        """The process that is the host's first, as seen from outside."""
        outer = self._processes[number].pid
        (inner,) = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        return int(inner)

    @contextmanager
    def cut_off(self, number: int) -> Iterator[None]:
        """Meanwhile nothing gets to this host or away from it."""
        _run("ip", "-n", self._space(0), "link", "set", f"v{number}", "down")
        try:
            yield
        finally:
            _run("ip", "-n", self._space(0), "link", "set", f"v{number}", "up")

    def limit(self, number: int, megabits: int) -> None:
        """Let no more per second through a host's link, each way."""
        for space, link in ((self._space(number), "eth0"), (self._space(0), f"v{number}")):
            _run("tc", "-n", space, "qdisc", "replace", "dev", link, "root", "tbf",
                 "rate", f"{megabits}mbit", "burst", "256kb", "latency", "50ms")  # fmt: skip

    def down(self) -> None:
        for number in self._processes:
            with suppress(ValueError, OSError):
                self.lose(number)
        for number in range(self._count + 1):
            subprocess.run(["ip", "netns", "del", self._space(number)], capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def hosts(count: int, boot: bool = True) -> Iterator[Hosts]:
    """So many hosts, gone afterwards. `boot`: as in Hosts.up."""
    made = Hosts(count)
    try:
        made.up(boot)
        yield made
    finally:
        made.down()


def eventually(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.2)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"

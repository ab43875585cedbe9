"""Four hosts, and a Ray cluster on them, brought up by plain `ray up` or by `distbelief cluster up`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from distbelief.nodes.file import ClusterFile
from distbelief.summary import Account
from tests.multihost.hosts import Hosts, eventually, hosts, missing

HOSTS = 4
ROOT = Path(__file__).parents[2]
DISTBELIEF = str(Path(sys.executable).with_name("distbelief"))
RAY = str(Path(sys.executable).with_name("ray"))
WAIT_SECONDS = 240.0
# The hosts reach no package index: their environment borrows the packages of this one, and has only our wheel itself.
_ENVIRONMENT = """test -x ~/.distbelief/env/bin/python || {{ {python} -m venv --without-pip ~/.distbelief/env;
echo "import site; site.addsitedir('{site}')" > ~/.distbelief/env/lib/{version}/site-packages/borrowed.pth;
printf '#!/bin/sh\\nexec ~/.distbelief/env/bin/python -m ray.scripts.scripts "$@"\\n' > ~/.distbelief/env/bin/ray;
chmod +x ~/.distbelief/env/bin/ray; }}"""
_INSTALL = """{python} -m pip --python ~/.distbelief/env/bin/python install --quiet --no-index --no-deps \
--no-build-isolation --force-reinstall \
"$(ls -t ~/.distbelief/package/*.whl 2>/dev/null | head -1 | grep . || echo ~/.distbelief/package)" """
_SCRAPE = """
import json, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
for group in json.load(open("/tmp/ray/prom_metrics_service_discovery.json")):
    for target in group["targets"]:
        print(opener.open(f"http://{target}/metrics", timeout=5).read().decode())
"""


class Cluster:
    """What a person at a machine beside the cluster does, and what can be seen of its runs.

    Attributes:
        file: Its cluster file: the one at the root, with these hosts' addresses and without a package index.
        shared: A folder that all hosts see.
    """

    def __init__(self, made: Hosts, folder: Path) -> None:
        self.hosts = made
        self.file = folder / "cluster.yaml"
        self._home = folder / "home"
        self._home.mkdir()
        self.shared = made.folder / "shared"
        self.shared.mkdir()
        content = yaml.safe_load((ROOT / "cluster.yaml").read_text())
        content["cluster_name"] = f"test-{folder.name}"
        content["provider"]["head_ip"] = made.address(1)
        content["provider"]["worker_ips"] = [made.address(number) for number in range(2, HOSTS + 1)]
        content["auth"] = {"ssh_user": "root", "ssh_private_key": str(made.key)}
        names = {
            "python": sys.executable,
            "site": sysconfig.get_path("purelib"),
            "version": f"python{sys.version_info.major}.{sys.version_info.minor}",
        }
        content["setup_commands"][:2] = [command.format(**names) for command in (_ENVIRONMENT, _INSTALL)]
        self.write(content)

    def write(self, content: dict[str, Any]) -> None:
        self.file.write_text(yaml.safe_dump(content, width=10_000, sort_keys=False))

    def command(self, *arguments: str, seconds: float = 600.0) -> subprocess.CompletedProcess[str]:
        """`distbelief cluster ...` at the machine beside."""
        return self.beside(DISTBELIEF, "cluster", *arguments, str(self.file), seconds=seconds)

    def beside(self, *command: str, seconds: float = 600.0, **variables: str) -> subprocess.CompletedProcess[str]:
        """A command at the machine beside, which stands in the checkout."""
        settings = [f"{name}={value}" for name, value in {"HOME": str(self._home), **variables}.items()]
        command = tuple(self.hosts.client("env", *settings, *command))
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)

    @property
    def token(self) -> Path:
        """What lets one in."""
        return self._home / ".distbelief" / "clusters" / ClusterFile.read(self.file).name / "token"

    @contextmanager
    def dashboard(self) -> Iterator[str]:
        """Ray's dashboard, brought from the head to the machine beside: its address there."""
        port = 8265
        options = ["-N", "-o", "ExitOnForwardFailure=yes", "-L", f"{port}:localhost:{port}"]
        with subprocess.Popen(self.hosts.ssh(1, "", options)) as tunnel:
            look = ["bash", "-c", f"</dev/tcp/localhost/{port}"]
            eventually(lambda: self.beside(*look).returncode == 0, WAIT_SECONDS, "the dashboard")
            yield f"http://localhost:{port}"
            tunnel.terminate()

    def machines(self) -> list[str]:
        """The addresses of the cluster's machines, as the head knows them."""
        done = self.hosts.run(1, ". ~/.distbelief/environment; distbelief cluster nodes --json")
        return sorted(node["address"] for node in json.loads(done.stdout)) if done.returncode == 0 else []

    def metrics(self) -> set[str]:
        """Names of our numbers that Prometheus finds, where Ray says that it should look."""
        done = self.hosts.run(1, f"python3 -c '{_SCRAPE}'")
        return set(re.findall(r"^(ray_distbelief_\w+)\{", done.stdout, re.MULTILINE))

    @contextmanager
    def launched(self, name: str, *options: str) -> Iterator[subprocess.Popen[str]]:
        """A run that was launched on the head, in its home directory, which no other host shares."""
        command = f"cd ~ && distbelief launch --address auto --run {name} {' '.join(options)}"
        process = subprocess.Popen(
            self.hosts.ssh(1, command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                self.interrupt(name)
            process.communicate(timeout=WAIT_SECONDS)

    def interrupt(self, name: str) -> None:
        """Ctrl-C at a run."""
        self.hosts.run(1, f"kill -INT $(pgrep -f 'bin/distbelief launch.* --run {name}')")

    def run(self, name: str) -> Path:
        """The run directory, as the head sees it."""
        return self.hosts.folder / "home_1" / name  # which an absolute name is not below

    def until_updates(self, name: str, updates: int) -> None:
        """Return when so many gradients were applied, by the journals that are on the head so far."""
        journal = self.run(name) / "journal"
        eventually(
            lambda: (journal / "ledger.journal").exists() and Account.of(journal).staleness.total() >= updates,
            WAIT_SECONDS,
            f"{updates} updates",
        )

    def ended(self, process: subprocess.Popen[str]) -> str:
        """What a run printed; it ended well."""
        out, _ = process.communicate(timeout=2 * WAIT_SECONDS)
        assert process.returncode == 0, out
        return out

    def verified(self, name: str, code: int = 0) -> None:
        """Every example counted exactly once; with code 3: it ended early, and nothing is wrong with what counted."""
        done = self.hosts.run(1, f"cd ~ && distbelief verify {name}")
        assert done.returncode == code, done.stdout + done.stderr


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Hosts for a cluster. At the end it is taken down, and nothing of it runs on any host that is still there."""
    if reason := missing():
        pytest.skip(reason)
    with hosts(HOSTS) as made:
        cluster = Cluster(made, tmp_path_factory.mktemp("cluster"))
        yield cluster
        cluster.command("down")
        for number in made.there():
            assert made.processes(number) == []


@pytest.fixture(scope="session")
def cluster(fresh: Cluster) -> Cluster:
    """A cluster that `distbelief cluster up` started, whatever ran there before."""
    done = fresh.command("up")
    assert done.returncode == 0, done.stdout + done.stderr
    return fresh

"""Rendezvous: where processes outside a run's cluster join it, and the file that lets them in.

RUN/worker.token holds the run's token and the certificate of its gateway. Whoever has a copy may join, so its mode is
0600, and it is gone when the run is.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from distbelief import rundir
from ps.errors import BadInput
from ps.wire import tls
from ps.wire.files import write_whole
from ps.wire.gateway import Gateway, Invitation
from ps.wire.tls import Identity

if TYPE_CHECKING:
    from cluster.live.run import LiveRun
    from cluster.spec import RunSpec


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a token file holds. `door`: what the gateway proves itself with."""

    token: str
    door: Identity

    def write(self, path: Path) -> None:
        content = {"token": self.token, "certificate": self.door.certificate.decode(), "name": self.door.name}
        write_whole(path, json.dumps(content).encode(), mode=0o600)

    @classmethod
    def read(cls, path: Path) -> Ticket:
        """Raises BadInput if this is no token file."""
        expected = f"a copy of the run's {rundir.TOKEN}"
        try:
            content = json.loads(path.read_bytes())
            token, certificate, name = (content[key] for key in ("token", "certificate", "name"))
        except OSError as error:
            raise BadInput(f"--token-file: cannot read {path}: {error.strerror}; expected {expected}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"--token-file: got {path}, which is no token file; expected {expected}") from error
        return cls(str(token), Identity(str(certificate).encode(), name=str(name)))


@contextmanager
def gateway(spec: RunSpec, live: LiveRun, data: str) -> Iterator[str]:
    """Let others in for as long as the run goes on; yields the address to connect to, "host:port".

    Args:
        live: The run; it has started.
        data: Fingerprint of the training set.

    Raises:
        BadInput: It cannot listen where cluster.join says.
    """
    door = spec.identity or tls.made()
    config = (spec.folder / rundir.CONFIG).read_text("utf-8")
    invitation = Invitation(spec.run, config, program(), spec.layout.size, data)
    gate = Gateway(invitation, spec.token, door, spec.identity, live.joiners, spec.journal, live.resize)
    gate.connect(live.targets)
    live.moved.append(gate.connect)
    host, _, port = spec.cluster.join.rpartition(":")
    try:
        try:
            address = gate.start(host or live.address, int(port or 0))
        except OSError as error:
            expected = "HOST:PORT with an address of this machine and a free port"
            raise BadInput(f"cluster.join: got {spec.cluster.join!r}: {error}; expected {expected}") from error
        Ticket(spec.token, door).write(spec.folder / rundir.TOKEN)
        yield address
    finally:
        gate.close()


def program() -> str:
    """The version of this program that a guest must have too; what comes after a plus sign says how it was packed."""
    return version("distbelief").partition("+")[0]


def command(join: str, folder: Path) -> str:
    """What to type to join a run."""
    token = rundir.named(folder / rundir.TOKEN)
    return shlex.join(["distbelief", "worker", "--connect", join, "--token-file", token])

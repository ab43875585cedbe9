"""Outside: a worker host on a machine that is in no Ray cluster. It joins a running job through the run's gateway,
computes what the run's own workers would compute, and leaves when it likes.
"""

from __future__ import annotations

import threading
import time  # noqa: TID251 -- the live clock
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import click

from cluster import serving
from cluster.host import WorkerHost
from cluster.lodging import Lodging
from cluster.spec import RunSpec
from distbelief import rundir
from distbelief.config import Config
from distbelief.draft import draft
from distbelief.interrupts import Interrupts
from distbelief.rendezvous import Ticket, program
from ps.errors import BadInput, PeerLost, PeerRefused, RunFailed, require
from ps.journal import WorkerTimed
from ps.messages import AVERAGER, LEDGER, Address, Role
from ps.wire.files import read_journal
from ps.wire.gateway import WORKERS_AT_ONCE, Invitation
from ps.wire.membership import Membership

LOOK_SECONDS = 0.2
PIECE_BYTES = 1 << 20


def worker_command(connect: str, token_file: Path, workers: int, data_root: Path | None) -> int:
    """`distbelief worker`: compute for a run until it ends or a signal comes. Returns the exit code.

    Raises:
        BadInput: Wrong token, certificate, version or data; nothing was computed.
        RunFailed: The run is gone, or this host could not go on.
    """
    require(1 <= workers <= WORKERS_AT_ONCE, "--workers", workers, f"1 to {WORKERS_AT_ONCE:,}")
    require(connect.rpartition(":")[2].isdecimal(), "--connect", connect, "HOST:PORT, as launch and status print it")
    ticket = Ticket.read(token_file)
    with Interrupts() as interrupts, Lodging() as folder:
        membership = Membership(connect, ticket.token, ticket.door)
        try:
            invitation, first = _joined(membership, connect, workers)
            spec = _spec(invitation, folder, ticket, data_root)
            click.echo(f"joined run {invitation.run} as workers {first} to {first + workers - 1}", err=True)
            ids = range(first, first + workers)
            host = serving.worker_host(spec, first, ids, serving.default_turns(spec), _targets(spec, connect))
            interrupts.orderly = True
            _Visit(host, membership, spec.journal / f"host-{first}.journal").until_over(interrupts)
        finally:
            membership.leave()
    return 0


def _joined(membership: Membership, connect: str, workers: int) -> tuple[Invitation, int]:
    try:
        return membership.join(workers, program())
    except PeerRefused as error:
        expected = "the token file and the program version of the run that is there"
        raise BadInput(f"--connect {connect}: refused: {error}; expected {expected}") from error
    except PeerLost as error:
        expected = "a run that goes on there, with the certificate in the token file"
        raise BadInput(f"--connect {connect}: got no run ({error}), expected {expected}") from error


def _spec(invitation: Invitation, folder: Path, ticket: Ticket, data_root: Path | None) -> RunSpec:
    """The run as this machine sees it. Raises BadInput if it would compute something else."""
    file = folder / rundir.CONFIG
    file.write_text(invitation.config, "utf-8")
    here: dict[str, object] = {"run.init_from": ""}
    if data_root is not None:
        here["data.root"] = str(data_root.absolute())
    drafted = draft(Config.of(here, file))
    found = drafted.dataset.fingerprint()
    require(found == invitation.data, "--data-root", found, f"the run's training set, {invitation.data}")
    size = drafted.spec.layout.size
    require(size == invitation.parameters, "model", size, f"the run's, with {invitation.parameters} parameters")
    return replace(drafted.spec, run=invitation.run, folder=folder, token=ticket.token, identity=ticket.door)


def _targets(spec: RunSpec, connect: str) -> dict[Address, str]:
    shards = [Address(Role.SHARD, shard) for shard in range(spec.layout.shards)]
    return dict.fromkeys([*shards, LEDGER, AVERAGER], connect)


class _Visit:
    """Runs a worker host on a thread of its own and hands in its journal meanwhile."""

    def __init__(self, host: WorkerHost, membership: Membership, journal: Path) -> None:
        self._host = host
        self._membership = membership
        self._path = journal
        self._failure: BaseException | None = None

    def until_over(self, interrupts: Interrupts) -> None:
        """Return when the run has no more leases or a signal came. Raises RunFailed."""
        thread = threading.Thread(target=self._run, name="host", daemon=True)
        thread.start()
        left = False
        with self._path.open("rb") as journal:
            while thread.is_alive():
                if not left and (interrupts.seen or self._membership.ended):
                    left = True
                    self._host.stop()
                self._hand_in(journal)
                time.sleep(LOOK_SECONDS)
            self._hand_in(journal)
        leases = sum(isinstance(record, WorkerTimed) for record in read_journal(self._path))
        if left and not interrupts.seen:
            raise RunFailed(f"the run is gone: its gateway closed the connection, after {leases} leases")
        if self._failure is not None:
            raise RunFailed(f"this host could not go on, after {leases} leases: {self._failure}") from self._failure
        click.echo(f"{'left' if left else 'the run is over'}: {leases} leases computed here", err=True)

    def _run(self) -> None:
        try:
            self._host.run()
        except BaseException as error:  # noqa: BLE001 -- it must reach the thread that waits
            self._failure = error

    def _hand_in(self, journal: BinaryIO) -> None:
        with suppress(PeerLost):  # `ended` tells
            while not self._membership.ended and (piece := journal.read(PIECE_BYTES)):
                self._membership.send(piece)

"""Elastic: workers join and leave a run that goes on. The request goes to the run's driver, through its gateway."""

from __future__ import annotations

import json
from pathlib import Path

import click

from distbelief import rundir
from distbelief.rendezvous import Ticket
from ps.errors import BadInput, PeerLost, PeerRefused
from ps.wire.membership import resize


def workers_command(run: Path, add: int | None, remove: int | None) -> int:
    """`distbelief workers`: change how many workers a run has; returns the exit code.

    Raises:
        BadInput: No run goes on there, or it cannot have so many.
    """
    if (add is None) == (remove is None):
        raise BadInput("workers: got --add and --remove, or neither, expected one of them")
    option, count = ("--add", add) if add is not None else ("--remove", remove)
    if count is None or count < 1:
        raise BadInput(f"{option}: got {count}, expected 1 or more")
    left = resized(run, count if option == "--add" else -count)
    click.echo(f"{count} {'join' if option == '--add' else 'leave'}: {left} workers in all")
    return 0


def resized(run: Path, add: int) -> int:
    """Let this run have so many more workers, or fewer; return how many it has then. Raises BadInput."""
    expected = "the directory of a run that goes on"
    try:
        join = str(json.loads((run / rundir.CONNECTION).read_bytes())["join"])
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"run: got {run}, expected {expected}; see distbelief status") from error
    ticket = Ticket.read(run / rundir.TOKEN)
    try:
        return resize(join, ticket.token, ticket.door, add)
    except PeerRefused as error:
        raise BadInput(str(error)) from error
    except PeerLost as error:
        raise BadInput(f"run: got {run}, where nobody answers ({error}), expected {expected}") from error

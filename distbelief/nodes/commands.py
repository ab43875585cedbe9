"""The `distbelief cluster` commands: thin, as in distbelief.cli."""

from __future__ import annotations

from pathlib import Path

import click

from distbelief.options import FILE, Commands, debug_option, json_option, one_of

file_argument = click.argument("file", type=FILE, default=Path("cluster.yaml"), metavar="[FILE]")


@click.group("cluster", cls=Commands)
def cluster() -> None:
    """Start Ray on several machines, look after it, stop it.

    \b
    Examples:
      distbelief cluster init            writes cluster.yaml, for you to fill in
      distbelief cluster check           says what is wrong with the machines
      distbelief cluster up              then, on the head: distbelief launch --address auto
      distbelief cluster down
    """


@cluster.command()
@file_argument
@click.option(
    "--provider", type=one_of("local", "aws", "gcp"), default="local", help="Your own machines, or a cloud's."
)
@debug_option
def init(file: Path, provider: str, debug: bool) -> int:
    """Write a cluster file with a comment on every line.

    \b
    Examples:
      distbelief cluster init
      distbelief cluster init aws.yaml --provider aws
    """
    from distbelief.nodes.operations import init

    return init(file, provider)


@cluster.command()
@file_argument
@debug_option
def check(file: Path, debug: bool) -> int:
    """Say what is wrong with the machines, before anything starts.

    SSH, versions, clocks, ports, network, shared memory and disk, one line
    each. Exit code 1 if anything is wrong.

    \b
    Examples:
      distbelief cluster check
    """
    from distbelief.nodes.operations import check

    return check(file)


@cluster.command()
@file_argument
@debug_option
def up(file: Path, debug: bool) -> int:
    """Install this version on all machines and start Ray on them.

    Only who has the cluster's token gets in. What was wrong is said before
    anything starts; what runs there already is started anew.

    \b
    Examples:
      distbelief cluster up
      distbelief cluster up aws.yaml
    """
    from distbelief.nodes.operations import up

    return up(file)


@cluster.command()
@file_argument
@debug_option
def down(file: Path, debug: bool) -> int:
    """Stop Ray on every machine, and look whether it did.

    \b
    Examples:
      distbelief cluster down
    """
    from distbelief.nodes.operations import down

    return down(file)


@cluster.command()
@json_option
@debug_option
def nodes(as_json: bool, debug: bool) -> int:
    """List the machines of the cluster that this one is part of.

    \b
    Examples:
      distbelief cluster nodes
    """
    from distbelief.nodes.operations import nodes

    return nodes(as_json)

"""The command `distbelief staleness`: it calls one function, imported when it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from distbelief.options import COUNT, DIRECTORY, NUMBER, Command, Kind, debug_option, text


def _several(kind: type[int] | type[float] | type[str], name: str, expected: str) -> Kind:
    """Values between commas."""

    def read(typed: str) -> tuple[object, ...]:
        values = tuple(kind(part) for part in typed.split(",") if part.strip())
        if not values:
            raise ValueError
        return values

    return Kind(read, f"{name},...", expected)


COUNTS = _several(int, "N", "whole numbers with commas between them")
NUMBERS = _several(float, "X", "numbers with commas between them")
NAMES = _several(str, "NAME", "names with commas between them")
AXIS_OPTIONS = (
    ("--workers", "workers", COUNTS, "Numbers of workers."),
    ("--consistency", "consistency", NAMES, "async, sync, bounded:4, softsync:15, backup:1, ..."),
    ("--correction", "correction", NAMES, "none, staleness-rate, staleness-rate:0.5, dc-asgd, discard:64, ..."),
    ("--momentum", "momentum", NUMBERS, "Momenta of the rule."),
    ("--lr", "rate", NUMBERS, "Learning rates."),
    ("--seed", "seed", COUNTS, "Roots of the random numbers."),
    ("--cluster", "cluster", NAMES, "Models of the cluster: even, round-robin, memoryless, one-slow, heavy-tail."),
)
SETTING_OPTIONS = (
    ("--preset", "run.preset", text("NAME"), "Where settings come from, as for launch."),
    ("--model", "model.name", text("NAME"), "The network."),
    ("--epochs", "run.epochs", COUNT, "Passes over the training set."),
    ("--batch-size", "run.batch_size", COUNT, "Images per gradient."),
    ("--shards", "cluster.shards", COUNT, "Parameter-server shards."),
    ("--data-root", "data.root", DIRECTORY, "Folder that holds the data set (else $DISTBELIEF_DATA)."),
)


Options = tuple[tuple[str, str, Kind, str], ...]


def _options(of: Options) -> Callable[[Command], Command]:
    """Give a command these options, in their order."""

    def decorate(command: Command) -> Command:
        for option, name, kind, said in reversed(of):
            command = click.option(option, name.replace(".", "_"), type=kind, help=said)(command)
        return command

    return decorate


@click.command()
@click.argument("experiment", required=False, default="", metavar="[EXPERIMENT]")
@_options(AXIS_OPTIONS)
@_options(SETTING_OPTIONS)
@click.option("--list", "listed", is_flag=True, help="Name the experiments that come with the package.")
@click.option("--out", type=DIRECTORY, help="Directory of the results (else runs/staleness-NAME).")
@click.option("--target-error", type=NUMBER, help="Note when the error is at most this: 0.05 for 5 %.")
@click.option("--from", "source", type=DIRECTORY, metavar="RUN", help="Recorded run whose compute times clusters have.")
@click.option("--address", type=text("ADDR"), default="", help="Ray to compute on: local, auto, or ray://HOST:PORT.")
@click.option("--no-gradients", "idle", is_flag=True, help="Time and staleness only.")
@click.option("--set", "assignments", multiple=True, metavar="SECTION.KEY=VALUE", help="Any setting of every cell.")
@debug_option
def staleness(
    experiment: str,
    listed: bool,
    out: Path | None,
    target_error: float | None,
    source: Path | None,
    address: str,
    idle: bool,
    assignments: tuple[str, ...],
    debug: bool,
    **given: Any,
) -> int:
    """Run a grid of simulated runs: results.csv, report.html, figures as SVG.

    EXPERIMENT is a TOML file or one of --list; options beat it, and make a
    grid of their own without it: small networks on the digits, seconds per
    cell. Lists have commas between their values. Cells are computed on all
    cores of this machine, or with --address as tasks of a Ray cluster. What is
    finished is not computed again: the same command goes on where the last one
    was ended.

    \b
    Examples:
      distbelief staleness --list
      distbelief staleness stragglers
      distbelief staleness stragglers --from runs/digits-20260729-101530
      distbelief staleness --workers 1,8,32 --correction none,staleness-rate --lr 0.001,0.01
      distbelief staleness mine.toml --seed 0,1,2 --address auto --out results
    """
    from distbelief.config import assignments as assigned
    from distbelief.laboratory.run import Asked, list_command, staleness_command

    if listed:
        return list_command()
    axes = {axis: given[axis] for _, axis, _, _ in AXIS_OPTIONS if given[axis] is not None}
    keys = [(key, given[key.replace(".", "_")]) for _, key, _, _ in SETTING_OPTIONS]
    settings = assigned(assignments) | {key: value for key, value in keys if value is not None}
    if idle:
        settings["simulate.gradients"] = "none"
    return staleness_command(experiment, axes, settings, Asked(out, address, target_error, source))

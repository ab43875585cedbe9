"""Commands of `distbelief bench`: one per bench, each calls one function, imported when it runs."""

from __future__ import annotations

from pathlib import Path

import click

from distbelief.options import COUNT, DIRECTORY, Commands, debug_option, json_option, text

pairs_option = click.option(
    "--pairs", type=COUNT, default=7, help="Rounds, each measuring every side once; 7 is the default."
)


@click.group("bench", cls=Commands)
def bench() -> None:
    """Measure our speed beside that of the alternatives.

    All sides of a bench are measured in alternation in one run; read the
    ratios, and only on a machine that is otherwise idle.

    \b
    Examples:
      distbelief bench gradient
      distbelief bench gradient --json
      distbelief bench gradient --pairs 3 --batch-size 8
    """


@bench.command()
@click.option("--model", type=text("NAME"), default="googlenet", help="Which network; googlenet is the default.")
@click.option("--batch-size", type=COUNT, default=16, help="Images per gradient; 16 is the default.")
@pairs_option
@json_option
@debug_option
def gradient(model: str, batch_size: int, pairs: int, as_json: bool, debug: bool) -> int:
    """A worker's gradient against plain torch, in images per second.

    Forward and backward with all auxiliary losses, on all cores. Plain torch
    is the same network in contiguous float32, as one would write it down; ours
    is what a worker runs, in float32 and in bfloat16.

    \b
    Examples:
      distbelief bench gradient
      distbelief bench gradient --json | jq .bfloat16.ratio
      distbelief bench gradient --model inception-small --batch-size 32
    """
    from distbelief.bench.gradient import gradient_command

    return gradient_command(model, batch_size, pairs, as_json)


@bench.command()
@click.option("--data-root", type=DIRECTORY, help="Photographs, as for the preset imagefolder (else made-up ones).")
@click.option("--model", type=text("NAME"), default="googlenet", help="Which network; googlenet is the default.")
@click.option("--batch-size", type=COUNT, default=16, help="Images per gradient; 16 is the default.")
@pairs_option
@json_option
@debug_option
def reading(data_root: Path | None, model: str, batch_size: int, pairs: int, as_json: bool, debug: bool) -> int:
    """Gradients of images that are decoded meanwhile, against preloaded ones.

    What reading costs: images per second with a worker's read-ahead, against
    the same gradients of one batch that is there already; the share of a step
    that compute waits for data; milliseconds to decode and augment an image.

    \b
    Examples:
      distbelief bench reading
      distbelief bench reading --data-root ~/pictures
      distbelief bench reading --json | jq .float32.ratio
    """
    from distbelief.bench.reading import reading_command

    return reading_command(data_root, model, batch_size, pairs, as_json)


workers_option = click.option("--workers", type=COUNT, default=4, help="Logical workers; 4 is the default.")
shards_option = click.option("--shards", type=COUNT, default=2, help="Parameter-server shards; 2 is the default.")
model_option = click.option("--model", type=text("NAME"), default="googlenet", help="Whose parameters; googlenet.")


@bench.command()
@model_option
@workers_option
@shards_option
@pairs_option
@json_option
@debug_option
def exchange(model: str, workers: int, shards: int, pairs: int, as_json: bool, debug: bool) -> int:
    """A whole exchange on one host, against one thread's floor and Ray.

    A round trip pushes a gradient, has it applied and pulls all weights. The
    floor does as much in one thread of one process, with nobody to talk to.
    The baselines are the parameter server of Ray's documentation and one with
    arrays through Ray's object store; ratio: ours over theirs.

    \b
    Examples:
      distbelief bench exchange
      distbelief bench exchange --json | jq .ratio_to_floor
      distbelief bench exchange --model inception-mini --workers 8
    """
    from distbelief.bench.exchange import exchange_command

    return exchange_command(model, workers, shards, pairs, as_json)


@bench.command()
@model_option
@workers_option
@shards_option
@pairs_option
@json_option
@debug_option
def network(model: str, workers: int, shards: int, pairs: int, as_json: bool, debug: bool) -> int:
    """A whole exchange over TCP on loopback, in float32 and in bfloat16.

    \b
    Examples:
      distbelief bench network
      distbelief bench network --json | jq .bfloat16.ratio_to_floor
    """
    from distbelief.bench.exchange import network_command

    return network_command(model, workers, shards, pairs, as_json)


@bench.command()
@click.option("--workers", type=COUNT, default=10_000, help="Simulated workers; 10,000 is the default.")
@click.option("--shards", type=COUNT, default=1, help="Parameter-server shards; 1 is the default.")
@pairs_option
@json_option
@debug_option
def simulator(workers: int, shards: int, pairs: int, as_json: bool, debug: bool) -> int:
    """The simulator, in updates per second, journals included.

    Without gradients; and for a run with gradients, the share of its time
    that they take.

    \b
    Examples:
      distbelief bench simulator
      distbelief bench simulator --shards 4 --json | jq .updates_per_second
    """
    from distbelief.bench.simulator import simulator_command

    return simulator_command(workers, shards, pairs, as_json)


@bench.command()
@click.option("--preset", type=text("NAME"), default="digits", help="Which run; digits is the default.")
@click.option("--workers", type=COUNT, default=32, help="Logical workers; 32 is the default.")
@click.option("--runs", type=COUNT, default=3, help="Runs; 3 is the default.")
@json_option
@debug_option
def startup(preset: str, workers: int, runs: int, as_json: bool, debug: bool) -> int:
    """From the command to the first update, and the memory of a whole run.

    \b
    Examples:
      distbelief bench startup
      distbelief bench startup --workers 8 --json | jq .first_update_seconds
    """
    from distbelief.bench.startup import startup_command

    return startup_command(preset, workers, runs, as_json)


@bench.command()
@model_option
@click.option("--workers", type=COUNT, default=1, help="Logical workers; 1 is the default.")
@click.option("--batch-size", type=COUNT, default=16, help="Images per gradient; 16 is the default.")
@click.option("--seconds", type=COUNT, default=60, help="That each run may take; 60 is the default.")
@pairs_option
@json_option
@debug_option
def live(model: str, workers: int, batch_size: int, seconds: int, pairs: int, as_json: bool, debug: bool) -> int:
    """A live run against a bare loop with the same network, kernels and cores.

    Images lie in memory on both sides; what is lost is lost to the parameter
    server, to Ray and to the journals.

    \b
    Examples:
      distbelief bench live
      distbelief bench live --json | jq .ratio
      distbelief bench live --model inception-small --workers 32 --batch-size 32
    """
    from distbelief.bench.live import live_command

    return live_command(model, workers, batch_size, seconds, pairs, as_json)

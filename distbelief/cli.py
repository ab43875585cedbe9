"""Command line: one subcommand calls one function, imported when it runs. No logic here.

Whatever goes wrong is one line on stderr. Exit codes: 0 success, 1 the run or this program failed, 2 the user can mend
it, 3 neither yes nor no (verify: the run ended early; replay: a journal lost its end), 130 interrupted, 141 nobody
reads our output any more (as a shell counts SIGPIPE).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from distbelief.bench.commands import bench
from distbelief.data_commands import data
from distbelief.laboratory.commands import staleness
from distbelief.nodes.commands import cluster
from distbelief.options import (
    COUNT,
    DIRECTORY,
    FILE,
    SETTINGS,
    SIMULATED,
    Commands,
    Session,
    crops_option,
    debug_option,
    json_option,
    one_of,
    options_of,
    text,
    values_of,
    weights_option,
)
from ps.errors import BadInput, DistbeliefError, nearest

FAILED, BAD_INPUT, INTERRUPTED, UNREAD = 1, 2, 130, 141


def main() -> None:
    """Entry point of the `distbelief` command."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what it logs is told in our one line, if it matters
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; return its exit code."""
    session = Session()
    try:
        with commands.make_context("distbelief", list(arguments), obj=session) as context:
            code: int = commands.invoke(context)
        sys.stdout.flush()
        return code
    except click.exceptions.Exit as error:
        return error.exit_code
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # so that Python's own flush at exit is quiet too
        return UNREAD
    except KeyboardInterrupt:
        return session.failed("interrupted", INTERRUPTED)
    except click.UsageError as error:
        return session.failed(f"error: {_explained(error, arguments)}", BAD_INPUT)
    except BadInput as error:
        return session.failed(f"error: {error}", BAD_INPUT)
    except DistbeliefError as error:
        return session.failed(f"error: {error}", FAILED)
    except Exception as error:  # noqa: BLE001 -- the last line of defence: a person gets one line, and how to see more
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        return session.failed(f"internal error: {what}; run again with --debug for the traceback", FAILED)


def _explained(error: click.UsageError, arguments: Sequence[str]) -> str:
    """Click's complaint the way ours are said: got, expected, what to do."""
    command = error.ctx.command_path if error.ctx else " ".join(["distbelief", *_known(arguments[:1])])
    parameters = error.ctx.command.params if error.ctx else []
    match error:
        case click.NoSuchOption():
            options = [name for parameter in parameters for name in parameter.opts if name.startswith("--")]
            text = f"got {error.option_name}, expected an option of {command}{nearest(error.option_name, options)}"
        case click.BadOptionUsage():
            got = "a value, expected none" if "not take" in error.message else "no value, expected one"
            text = f"{error.option_name}: got {got}"
        case click.MissingParameter(param=click.Option() as option):
            text = f"got no {option.opts[0]}, expected {option.opts[0]} {option.type.name}"
        case click.MissingParameter():
            name = error.param.make_metavar(error.ctx).rstrip(".") if error.param and error.ctx else "argument"
            text = f"got no {name}, expected at least one"
        case _:
            text = error.format_message().replace("Got", "got").rstrip(".") + ", expected none"
    return f"{text}; see {command} --help"


def _known(names: Sequence[str]) -> list[str]:
    return [name for name in names if name in commands.commands]


# --- commands ---------------------------------------------------------------------------------------------------------


@click.group("distbelief", cls=Commands)
@click.version_option(package_name="distbelief", message="%(prog)s %(version)s")
def commands() -> None:
    """Train neural networks with an asynchronous parameter server on Ray.

    Every gradient is applied exactly once, its staleness is measured, and every
    run is recorded in a directory of its own.

    \b
    Examples:
      distbelief launch                 handwritten digits, about 90 seconds
      distbelief launch --workers 32 --target-error 0.05
      distbelief status                 the newest run under ./runs
      distbelief evaluate runs/digits-20260729-101530
    """


@commands.command()
@options_of(SETTINGS)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Any other setting, as in config.toml; repeatable.",
)
@debug_option
def launch(assignments: tuple[str, ...], debug: bool, **given: object) -> int:
    """Train a model; show progress; leave a run directory behind.

    Ctrl-C ends a run in order: what was learned is saved and summed up.

    \b
    Examples:
      distbelief launch
      distbelief launch --workers 32 --shards 4 --epochs 20 --seed 1
      distbelief launch --preset cifar10 --data-root ~/data --max-seconds 3600
      distbelief launch --config runs/digits-20260729-101530/config.toml
      distbelief launch --set schedule.kind=step --set average.every=8
    """
    from distbelief.launcher import run_from_command_line

    return run_from_command_line(values_of(SETTINGS, given), assignments)


@commands.command()
@click.argument("run", type=DIRECTORY, metavar="RUN")
@click.option("--workers", type=COUNT, help="Another number of workers (else as many as it was started with).")
@click.option("--shards", type=COUNT, help="Another number of shards (else as many as it has).")
@debug_option
def resume(run: Path, workers: int | None, shards: int | None, debug: bool) -> int:
    """Take up a run that was killed, interrupted or stopped early.

    From its newest whole snapshot and its journals: what was applied stays
    applied, and every example still counts exactly once. For another number of
    shards the parameters, and all that is remembered of them, are cut anew, to
    the bit.

    \b
    Examples:
      distbelief resume runs/digits-20260729-101530
      distbelief resume runs/digits-20260729-101530 --workers 16 --shards 4
    """
    from distbelief.resume import resume_command

    return resume_command(run, workers, shards)


@commands.command()
@click.argument("run", type=DIRECTORY, metavar="RUN")
@click.option("--add", type=COUNT, help="So many workers join.")
@click.option("--remove", type=COUNT, help="So many workers leave, each after the lease in hand.")
@debug_option
def workers(run: Path, add: int | None, remove: int | None, debug: bool) -> int:
    """Let workers join or leave a run that goes on.

    Rates and schedules follow the examples that were applied, so they stay as
    they are; no example is lost.

    \b
    Examples:
      distbelief workers runs/digits-20260729-101530 --add 4
      distbelief workers runs/digits-20260729-101530 --remove 2
    """
    from distbelief.elastic import workers_command

    return workers_command(run, add, remove)


@commands.command()
@click.argument("runs", nargs=-1, required=True, type=DIRECTORY, metavar="RUN...")
@weights_option
@crops_option
@json_option
@debug_option
def evaluate(runs: tuple[Path, ...], weights: str, crops: int, as_json: bool, debug: bool) -> int:
    """Evaluate the weights of a run on its test images.

    Several RUNs are an ensemble: their probabilities are averaged. With 10 or
    144 crops so are those of as many cuts of every image, at one size or at
    four. Errors are in percent; with --json they are fractions.

    \b
    Examples:
      distbelief evaluate runs/digits-20260729-101530
      distbelief evaluate runs/a runs/b runs/c --json
      distbelief evaluate runs/a --weights latest --crops 144
    """
    from distbelief.evaluate import evaluate_command

    return evaluate_command(runs, weights, crops, as_json)


@commands.command()
@click.argument("run", type=DIRECTORY, metavar="RUN")
@click.argument("images", nargs=-1, required=True, type=FILE, metavar="IMAGE...")
@weights_option
@crops_option
@json_option
@debug_option
def predict(run: Path, images: tuple[Path, ...], weights: str, crops: int, as_json: bool, debug: bool) -> int:
    """Say what a run's model sees in pictures: the five likeliest classes.

    Pictures may have any size. A model of gray images (digits, clothes: light
    on dark) sees their brightness. Exit code 2 if a picture cannot be read; the
    others are shown all the same. With --json probabilities are fractions.

    \b
    Examples:
      distbelief predict runs/imagefolder-20260729-101530 cat.jpg
      distbelief predict runs/a photos/*.jpg --crops 144 --json
    """
    from distbelief.predict import predict_command

    return predict_command(run, images, weights, crops, as_json)


@commands.command()
@click.argument("run", type=DIRECTORY, metavar="RUN")
@click.option("--format", "format", type=one_of("safetensors", "onnx"), required=True, help="Which kind of file.")
@click.option("--output", type=FILE, help="Where to write it (else RUN/model.FORMAT).")
@weights_option
@debug_option
def export(run: Path, format: str, output: Path | None, weights: str, debug: bool) -> int:
    """Write a run's model to one file for use elsewhere.

    The network as it predicts, without auxiliary heads, from images to logits.
    What the images must be like and the classes' names are in the metadata.
    ONNX needs two more packages: pip install 'distbelief[onnx]'.

    \b
    Examples:
      distbelief export runs/digits-20260729-101530 --format onnx
      distbelief export runs/a --format safetensors --output model.safetensors
    """
    from distbelief.export import export_command

    return export_command(run, format, output, weights)


@commands.command()
@click.argument("run", required=False, type=DIRECTORY, metavar="[RUN]")
@json_option
@debug_option
def status(run: Path | None, as_json: bool, debug: bool) -> int:
    """Say what a run is doing now, or how it ended.

    Without RUN: the newest one under ./runs. On another machine that reaches
    the actors, a copy of RUN/connection.json will do: it holds the token.
    Staleness is in updates, loss in nats; errors are in percent, with --json
    they are fractions. Exit code 1 if the run neither goes on nor left a
    summary.

    \b
    Examples:
      distbelief status
      distbelief status runs/digits-20260729-101530
      distbelief status --json | jq .progress
      distbelief status connection.json
    """
    from distbelief.status import status_command

    return status_command(run, as_json)


@commands.command()
@click.option("--connect", type=text("HOST:PORT"), required=True, help="Where the run lets others in.")
@click.option("--token-file", type=FILE, required=True, help="The run's worker.token, or a copy of it.")
@click.option("--workers", type=COUNT, default=1, help="Logical workers to bring (default 1).")
@click.option("--data-root", type=DIRECTORY, help="Folder that holds the data set here (else as the run has it).")
@debug_option
def worker(connect: str, token_file: Path, workers: int, data_root: Path | None, debug: bool) -> int:
    """Join a running job from a machine that is in no Ray cluster.

    `launch` and `status` say where. Everything goes through that one port, over
    TLS. Ctrl-C leaves: what is under way goes to other workers.

    \b
    Examples:
      distbelief worker --connect 10.0.0.5:40123 --token-file worker.token
      distbelief worker --connect 10.0.0.5:40123 --token-file worker.token --workers 4
    """
    from distbelief.outside import worker_command

    return worker_command(connect, token_file, workers, data_root)


@commands.command()
@click.argument("run", type=DIRECTORY, metavar="RUN")
@click.option("--follow", "-f", is_flag=True, help="Go on while the run does.")
@click.option(
    "--actor",
    "actors",
    type=text("NAME"),
    multiple=True,
    help="Only this one: driver, ledger, averager, shard-0, host-1 ...; shard means every shard; repeatable.",
)
@click.option(
    "--level", type=text("LEVEL"), default="info", help="The least that is shown: debug, info, warning or error."
)
@click.option("--json", "as_json", is_flag=True, help="Print the lines of JSON as they are in the files.")
@debug_option
def logs(run: Path, follow: bool, actors: tuple[str, ...], level: str, as_json: bool, debug: bool) -> int:
    """Show what the actors of a run wrote, in the order of time.

    Every actor writes lines of JSON to RUN/logs.

    \b
    Examples:
      distbelief logs runs/digits-20260729-101530
      distbelief logs runs/a --follow --level warning
      distbelief logs runs/a --actor shard --actor ledger --json
    """
    from distbelief.logs import logs_command

    return logs_command(run, actors, level, follow, as_json)


@commands.command()
@options_of(SIMULATED)
@click.option(
    "--from", "source", type=DIRECTORY, help="Recorded run: its settings, and a cluster that behaves like it."
)
@click.option("--no-gradients", is_flag=True, help="Time, leases and staleness only: nothing is learned.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Any other setting, as in config.toml; simulate.* is the model of the cluster.",
)
@debug_option
def simulate(
    assignments: tuple[str, ...], source: Path | None, no_gradients: bool, debug: bool, **given: object
) -> int:
    """Run in virtual time, in one process, on a simulated cluster.

    The run directory is the same as a live run's; its times are virtual
    seconds. With gradients every update costs one gradient, however many
    workers there are.

    \b
    Examples:
      distbelief simulate --workers 128 --set simulate.compute=exponential
      distbelief simulate --workers 10000 --no-gradients
      distbelief simulate --workers 8 --set simulate.slow_workers=1 --set simulate.slow_factor=5
      distbelief simulate --from runs/digits-20260729-101530 --workers 512
    """
    from distbelief.simulate import run_from_command_line

    values = values_of(SIMULATED, given)
    if no_gradients:
        values["simulate.gradients"] = "none"
    return run_from_command_line(values, assignments, source)


@commands.command()
@click.argument("run", type=DIRECTORY, metavar="RUN")
@click.option("--until", type=COUNT, help="Stop where every shard has applied so many updates.")
@click.option("--output", type=FILE, help="With --until: where the weights go (else RUN/replayed-UPDATE.safetensors).")
@json_option
@debug_option
def replay(run: Path, until: int | None, output: Path | None, as_json: bool, debug: bool) -> int:
    """Run a recorded run again, and compare it bit for bit.

    From its journals, in one process. Exit code 0 only if every event, the
    weights and the average come out the same; 1 if not, and the first event
    that differs is named; 3 if a journal lost its end.

    \b
    Examples:
      distbelief replay runs/digits-20260729-101530
      distbelief replay runs/digits-20260729-101530 --until 500 --output at500.safetensors
      distbelief replay runs/digits-20260729-101530 --json | jq .weights
    """
    from distbelief.replay import replay_command

    return replay_command(run, until, output, as_json)


@commands.command()
@click.argument("run", type=DIRECTORY, metavar="RUN")
@json_option
@debug_option
def verify(run: Path, as_json: bool, debug: bool) -> int:
    """Say whether every example was applied exactly once on every shard.

    From the run's journals. Exit code 0 only if every example of every epoch
    was, but for those that could not be read, which are counted; 3 if the run
    ended early and nothing is wrong with what it applied; 1 if an example was
    lost or counted twice, or a journal's end was lost.

    \b
    Examples:
      distbelief verify runs/digits-20260729-101530
      distbelief verify runs/digits-20260729-101530 --json | jq .shards
    """
    from distbelief.verify import verify_command

    return verify_command(run, as_json)


@commands.command()
@click.argument("run", required=False, type=DIRECTORY, metavar="[RUN]")
@click.option("--output", type=FILE, help="Where to write it (else RUN/report.html).")
@debug_option
def report(run: Path | None, output: Path | None, debug: bool) -> int:
    """Write a page about a run: report.html, whole in one file.

    What it was, loss and error, staleness by shard and worker, where time
    went, leases, and how to run it again. Without RUN: the newest one under
    ./runs. Live and simulated runs alike.

    \b
    Examples:
      distbelief report
      distbelief report runs/digits-20260729-101530
      distbelief report runs/digits-20260729-101530 --output digits.html
    """
    from distbelief.report.run import report_command

    return report_command(run, output)


commands.add_command(staleness)
commands.add_command(cluster)
commands.add_command(data)
commands.add_command(bench)

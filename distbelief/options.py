"""Options: the kinds of values that a person types, and the options that several commands share.

Reading a value changes nothing; one that is not of its kind is refused with what was expected.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from ps.errors import BadInput, nearest

Command = Callable[..., int]


@dataclass(slots=True)
class Session:
    """What error reports need to know of the command that is running."""

    debug: bool = False

    def failed(self, what: str, code: int) -> int:
        """Tell a person in one line, below the traceback if they asked for it; return the exit code.

        Called while the error is being handled.
        """
        if self.debug:
            traceback.print_exc()
        click.echo(f"distbelief: {' '.join(what.split())}", err=True)
        return code


class Commands(click.Group):
    """A group of commands, in the order in which they were added; it names those that it knows, and alone it shows its
    help.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args:
            click.echo(ctx.get_help())
            ctx.exit(0)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.commands and not cmd_name.startswith("-"):
            known = ", ".join(self.commands)
            raise BadInput(
                f"got {cmd_name}, expected one of {known}{nearest(cmd_name, self.commands)}; "
                f"see {ctx.command_path} --help"
            )
        return super().get_command(ctx, cmd_name)


class Kind(click.ParamType):  # type: ignore[type-arg]  # generic only since click 8.4
    """A value that a person types.

    Args:
        read: From text to value; raises ValueError.
        name: What help calls it.
        expected: What the error message asks for.
    """

    def __init__(self, read: Callable[[str], object], name: str, expected: str) -> None:
        self.name = name
        self._read = read
        self._expected = expected

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._read(value) if isinstance(value, str) else value
        except ValueError:
            where = param.opts[0] if param else self.name
            command = ctx.command_path if ctx else "distbelief"
            raise BadInput(f"{where}: got {value!r}, expected {self._expected}; see {command} --help") from None

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return self.name


def one_of(*values: str) -> Kind:
    """One of these words."""

    def read(text: str) -> str:
        if text not in values:
            raise ValueError
        return text

    return Kind(read, "|".join(values), " or ".join(values))


def text(name: str) -> Kind:
    """Any text."""
    return Kind(str, name, "text")


COUNT = Kind(int, "N", "a whole number")
NUMBER = Kind(float, "X", "a number")
DIRECTORY = Kind(Path, "DIR", "a directory")
FILE = Kind(Path, "FILE", "a file")
FLAG = Kind(bool, "", "no value")  # the option alone says yes


def _crops(text: str) -> int:
    crops = int(text)
    if crops not in (1, 10, 144):
        raise ValueError
    return crops


CROPS = Kind(_crops, "1|10|144", "1, 10 or 144")


# --- options that commands share --------------------------------------------------------------------------------------


def _remember_debug(context: click.Context, parameter: click.Parameter, value: bool) -> bool:
    context.ensure_object(Session).debug = value
    return value


debug_option = click.option(
    "--debug", is_flag=True, is_eager=True, callback=_remember_debug, help="Show the traceback of an error."
)
weights_option = click.option(
    "--weights",
    type=one_of("average", "latest"),
    default="average",
    help="Which weights: the average (the default) or the latest.",
)
crops_option = click.option(
    "--crops", type=CROPS, default=1, help="Crops per image: 1 (the default), or 10 or 144 as published."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")


@dataclass(frozen=True, slots=True)
class Setting:
    """An option of `launch` that is one key of the configuration.

    `simulated`: its help for `simulate`, if that is another one; "" if `simulate` has no such option.
    """

    option: str
    key: str
    kind: Kind
    help: str
    simulated: str | None = None


SETTINGS = (
    Setting("--preset", "run.preset", text("NAME"),
            "Where all other settings come from: digits (the default; needs no download), fashion-mnist, cifar10, "
            "imagefolder, paper, own (the default for data of your own)."),
    Setting("--workers", "cluster.workers", COUNT, "Logical workers, each with one gradient in flight."),
    Setting("--shards", "cluster.shards", COUNT, "Parameter-server shards that the parameters are cut into."),
    Setting("--replicas", "cluster.replicas", COUNT,
            "1: a standby of each shard applies the same updates and takes its place without loss (else 0: none)."),
    Setting("--data", "data.name", text("NAME"),
            "digits, mnist, fashion-mnist, cifar10, imagefolder, or your own: package.module:factory."),
    Setting("--data-root", "data.root", DIRECTORY, "Folder that holds the data set (else $DISTBELIEF_DATA)."),
    Setting("--bad-images", "data.bad_images", one_of("skip", "fail"),
            "What an unreadable image does: skip (the default) leaves it out, counts and names it; fail ends the run."),
    Setting("--run", "run.folder", DIRECTORY, "Directory for this run, new or empty (else a new one under ./runs)."),
    Setting("--seed", "run.seed", COUNT, "Root of every random number of the run."),
    Setting("--ensemble-member", "run.ensemble_member", COUNT,
            "Member of an ensemble, 0 (the default), 1, ...: all begin with the seed's weights, each sees the images "
            "in an order and a sampling of its own."),
    Setting("--epochs", "run.epochs", COUNT, "Passes over the training set."),
    Setting("--address", "cluster.address", text("ADDR"),
            "Ray to run on: local (the default; one of the run's own, gone afterwards), auto, or ray://HOST:PORT.", ""),
    Setting("--model", "model.name", text("NAME"),
            "inception-mini, inception-small, googlenet, googlenet-wide, perceptron, or your own: "
            "package.module:factory."),
    Setting("--batch-size", "run.batch_size", COUNT, "Images per gradient."),
    Setting("--lr", "schedule.rate", NUMBER,
            "Learning rate, of the mean loss of a batch (else one worker's, as the policy carries it over)."),
    Setting("--momentum", "rule.momentum", NUMBER, "Momentum, 0 to below 1 (else carried over likewise)."),
    Setting("--consistency", "consistency.kind", text("NAME"),
            "When a worker may go on: async, bounded, softsync, sync or backup."),
    Setting("--correction", "correction.kind", text("NAME"),
            "What a stale gradient is worth: auto (the default: the policy's choice), none, staleness-rate, dc-asgd, "
            "dc-asgd-adaptive, gap-aware, discard, implicit-momentum or dana."),
    Setting("--precision", "model.precision", one_of("float32", "bfloat16"), "Arithmetic of forward and backward."),
    Setting("--prefetch", "program.prefetch", FLAG,
            "Pull the weights for a worker's next gradient while it computes: no wait for them, but one step staler."),
    Setting("--gpus-per-worker", "cluster.gpus_per_worker", NUMBER,
            "Share of a GPU that a worker takes while it computes, such as 0.25; 0 (the default) to compute on cores.",
            ""),
    Setting("--wire", "cluster.wire", one_of("float32", "bfloat16", "float16"),
            "Type that vectors have on their way between hosts (within one: only with --set cluster.path=network).",
            ""),
    Setting("--tls", "cluster.tls", FLAG, "Encrypt what goes between the actors, with a certificate made for the run.",
            ""),
    Setting("--faults", "cluster.faults", FILE,
            "TOML file of [[fault]] tables that plan what goes wrong: actor, do (kill, stop, delay, drop, duplicate or "
            "corrupt), event or every, when, seconds."),
    Setting("--target-error", "run.target_error", NUMBER,
            "End the run when the average's top-1 error, a fraction, is at most this: 0.05 for 5 %."),
    Setting("--max-seconds", "run.max_seconds", NUMBER, "End the run after so many seconds.",
            "End the run after so many seconds of virtual time."),
    Setting("--init-from", "run.init_from", FILE, "Safetensors file with the initial weights (else random ones)."),
    Setting("--config", "config", FILE, "Start again what an earlier run's config.toml says; options here beat it."),
)  # fmt: skip


SIMULATED = tuple(
    setting if setting.simulated is None else replace(setting, help=setting.simulated)
    for setting in SETTINGS
    if setting.simulated != ""
)


def options_of(settings: Sequence[Setting]) -> Callable[[Command], Command]:
    """Give a command an option for each of these settings, in their order."""

    def decorate(command: Command) -> Command:
        for setting in reversed(settings):
            if setting.kind is FLAG:
                option = click.option(setting.option, is_flag=True, default=None, help=setting.help)
            else:
                option = click.option(setting.option, type=setting.kind, help=setting.help)
            command = option(command)
        return command

    return decorate


def values_of(settings: Sequence[Setting], given: Mapping[str, object]) -> dict[str, object]:
    """What was given of their options, by key."""
    values = {setting.key: given[setting.option[2:].replace("-", "_")] for setting in settings}
    return {key: value for key, value in values.items() if value is not None}

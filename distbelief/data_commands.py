"""Commands of `distbelief data`: each calls one function, imported when it runs."""

from __future__ import annotations

from pathlib import Path

import click

from distbelief.options import COUNT, DIRECTORY, FILE, Commands, debug_option

data_root_option = click.option(
    "--data-root", type=DIRECTORY, help="Folder that holds the data set (else $DISTBELIEF_DATA)."
)


@click.group("data", cls=Commands)
def data() -> None:
    """Look at a data set, or fetch a known one.

    \b
    Examples:
      distbelief data preview
      distbelief data preview imagefolder --data-root ~/pictures
      distbelief data fetch fashion-mnist --data-root ~/data
    """


@data.command()
@click.argument("name", default="digits", metavar="[NAME]")
@data_root_option
@click.option("--output", type=FILE, help="PNG file to write; NAME-preview.png is the default.")
@click.option("--rows", type=COUNT, default=8, help="Examples; 8 is the default.")
@click.option("--columns", type=COUNT, default=7, help="Augmented versions of each; 7 is the default.")
@click.option("--seed", type=COUNT, default=0, help="Of the augmentation's random numbers; 0 is the default.")
@debug_option
def preview(
    name: str, data_root: Path | None, output: Path | None, rows: int, columns: int, seed: int, debug: bool
) -> int:
    """Write a contact sheet of training images, as they are and augmented.

    Each row shows one example: first the image, then what training may see of
    it. NAME is a data set: digits (the default), mnist, fashion-mnist, cifar10
    or imagefolder.

    \b
    Examples:
      distbelief data preview
      distbelief data preview cifar10 --data-root ~/data --output cifar.png
      distbelief data preview imagefolder --data-root ~/pictures --rows 12
    """
    from distbelief.data import preview_command

    return preview_command(name, data_root, output, rows, columns, seed)


@data.command()
@click.argument("name", metavar="NAME")
@data_root_option
@debug_option
def fetch(name: str, data_root: Path | None, debug: bool) -> int:
    """Download a known data set, with its checksum checked.

    NAME is fashion-mnist or cifar10. It goes into --data-root, else into
    $DISTBELIEF_DATA, else into the cache; what is there is not fetched again.

    \b
    Examples:
      distbelief data fetch fashion-mnist
      distbelief data fetch cifar10 --data-root ~/data
      distbelief launch --preset cifar10 --data-root ~/data
    """
    from distbelief.data import fetch_command

    return fetch_command(name, data_root)

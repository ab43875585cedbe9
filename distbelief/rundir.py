"""Run directory: what a run leaves on disk, and the weights in it.

config.toml  journal/  snapshots/  metrics.jsonl  tensorboard/  latest.safetensors  average.safetensors  summary.json
started            of a live run: when it was first asked for, seconds since 1970, which its times count from
connection.json    only while the run goes on: where its actors are, and the token (mode 0600)
worker.token       likewise: what a process outside the cluster needs to join it (mode 0600)
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch

from distbelief import own
from distbelief.config import Config
from ps.errors import BadInput
from ps.messages import Address
from ps.wire.files import write_whole
from ps.wire.tls import Identity

if TYPE_CHECKING:
    from torch import Tensor

    from ps.layout import Layout

CONFIG = "config.toml"
CONNECTION = "connection.json"
TOKEN = "worker.token"
SUMMARY = "summary.json"
METRICS = "metrics.jsonl"
JOURNAL = "journal"
SNAPSHOTS = "snapshots"
STARTED = "started"
WEIGHTS = ("average", "latest")


def create(config: Config, stamp: str) -> Path:
    """Make the run's directory, with its config.toml. That names no directory: it starts the same run in another.

    Raises BadInput if it cannot be made or already holds something.
    """
    folder = Path(config.run.folder) if config.run.folder else _unused(Path("runs") / f"{config.run.preset}-{stamp}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise BadInput(f"run directory: {folder} is not empty; expected a new or empty one (--run DIR)")
        (folder / JOURNAL).mkdir()
        (folder / SNAPSHOTS).mkdir()
        write_whole(folder / CONFIG, replace(config, run=replace(config.run, folder="")).to_toml().encode())
    except OSError as error:
        raise BadInput(
            f"run directory: cannot write {folder}: {error.strerror}; name another with --run DIR"
        ) from error
    return folder.absolute()


def _unused(folder: Path) -> Path:
    number = 1
    found = folder
    while found.exists():
        number += 1
        found = folder.with_name(f"{folder.name}-{number}")
    return found


def write_started(folder: Path, seconds: float) -> None:
    """Say when a live run was first asked for."""
    write_whole(folder / STARTED, f"{seconds!r}\n".encode())


def started(folder: Path) -> float | None:
    """When it was; None if nobody wrote it down. Raises BadInput if the file is damaged."""
    path = folder / STARTED
    if not path.is_file():
        return None
    try:
        return float(path.read_bytes())
    except ValueError as error:
        raise BadInput(f"{path}: got {error}, expected seconds since 1970; the file is damaged") from error


def named(path: Path) -> str:
    """A path as a person reads it best: from where they stand if it is below, else from the root."""
    relative = os.path.relpath(path)
    return str(path.absolute()) if relative.startswith("..") else relative


def config_of(folder: Path) -> Config:
    """The configuration that a run was started with. Raises BadInput if this is no run directory."""
    if not (folder / CONFIG).is_file():
        raise BadInput(f"run: got {folder}, expected a run directory (one with a {CONFIG})")
    return own.beside(Config.of({}, folder / CONFIG), folder)


def json_object(path: Path) -> dict[str, Any] | None:
    """A file's JSON object; None if the file is not there. Raises BadInput if it holds anything else."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadInput(f"{path}: got {error.strerror}, expected a file that can be read") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: got {error}, expected a JSON object; the file is damaged") from error
    if not isinstance(content, dict):
        raise BadInput(f"{path}: got {type(content).__name__}, expected a JSON object; the file is damaged")
    return content


@contextmanager
def begun(folder: Path) -> Iterator[None]:
    """Let a new run begin in this directory, and remove it if what was asked for turns out to be wrong before any actor
    wrote to its journal: then the mended command may name the same directory.
    """
    try:
        yield
    except BadInput:
        if not any((folder / JOURNAL).iterdir()):
            shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Let nobody else drive this run meanwhile; a process that is killed lets go. Raises BadInput if somebody does."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise BadInput(f"run: got {folder}, expected a run directory: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise BadInput(f"run: got {folder}, which goes on; see distbelief status {folder}") from error
    finally:
        os.close(descriptor)


def write_connection(
    folder: Path,
    token: str,
    targets: Mapping[Address, str],
    facts: Mapping[str, int | str],
    identity: Identity | None = None,
) -> None:
    """Say where the run's actors are and what they prove themselves with, to whoever may read this user's files."""
    content = {"token": token, "targets": {str(address): target for address, target in targets.items()}, **facts}
    if identity is not None:
        content |= {"certificate": identity.certificate.decode(), "name": identity.name}
    write_whole(folder / CONNECTION, json.dumps(content).encode(), mode=0o600)


def remove_connection(folder: Path) -> None:
    """The run's actors are gone."""
    (folder / CONNECTION).unlink(missing_ok=True)
    (folder / TOKEN).unlink(missing_ok=True)


def write_weights(folder: Path, name: str, layout: Layout, weights_N: Tensor, facts: Mapping[str, str]) -> str:
    """Write NAME.safetensors, whole or not at all; return its sha256."""
    data = weights_file(layout, weights_N, facts)
    write_whole(folder / f"{name}.safetensors", data)
    return hashlib.sha256(data).hexdigest()


def weights_file(layout: Layout, weights_N: Tensor, facts: Mapping[str, str]) -> bytes:
    """What a file of named tensors holds."""
    return safetensors.torch.save(layout.views(weights_N), metadata=dict(facts))


def read_weights(file: Path, layout: Layout) -> Tensor:
    """Named tensors from a file as one flat vector, shape (N,).

    Raises BadInput if the file is unreadable or is of another model.
    """
    try:
        named = safetensors.torch.load_file(file)
    except (OSError, safetensors.SafetensorError) as error:
        raise BadInput(f"weights: cannot read {file}: {error}") from error
    weights_N = torch.empty(layout.size)
    try:
        layout.flatten(named, weights_N)
    except BadInput as error:
        raise BadInput(f"weights: {file} is of another model: {error}") from error
    return weights_N

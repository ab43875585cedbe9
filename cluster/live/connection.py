"""Connection: a Ray to run on, the machines that it has, and what it says when something failed."""

from __future__ import annotations

import logging
import os
import sys
import time  # noqa: TID251 -- Ray is waited for
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import ray
import ray.exceptions
from ray._private import services, worker

from cluster import placement
from cluster.placement import Node
from ps.errors import BadInput, DistbeliefError, NotWritten, RunFailed

log = logging.getLogger("distbelief.live")

AGAIN_SECONDS = 0.5  # between two tries
OBJECT_STORE_BYTES = 100 << 20

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def connected(address: str, temporary: Path | None, seconds: float = 0.0) -> Iterator[None]:
    """A Ray to run on: the cluster at this address, or for "local" one that is started here and ended afterwards.

    Args:
        address: As in ClusterSettings.
        temporary: Where a local Ray keeps its files, from `cluster.local.private_ray`.
        seconds: How long to try; once at least.

    Raises:
        BadInput: No Ray answers at the address.
        RunFailed: A local Ray does not come up.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    if address == "local":
        quiet |= {
            "num_cpus": len(os.sched_getaffinity(0)),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_temp_dir": str(temporary),
            "_node_ip_address": "127.0.0.1",
        }
    try:
        # Ray puts the directory that it is started in, and that of the program, before everything else on its workers'
        # import path, where a user's own folders named "workers" or "cluster" would take the place of ours.
        with chdir(temporary or "/"), _nameless(), _apart():
            _init(address, quiet, seconds)
    except Exception as error:
        first = str(error).strip().splitlines()[0]
        if address == "local":
            raise RunFailed(f"Ray did not start on this machine: {first}") from error
        raise BadInput(
            f"cluster.address: got {address!r}, expected a Ray cluster there ({first}); "
            "start one with ray up, or use local"
        ) from error
    with _muted():
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _muted() -> Iterator[None]:
    """Without what Ray's daemons print on the driver's standard output, whatever its settings: that a process died,
    which the run notices itself and says in its own words. It goes to the run's log.
    """

    def keep(data: dict[str, Any], ignore_prefix: bool) -> None:
        for line in data["lines"]:
            log.debug("Ray: %s", line)

    printing = worker.print_to_stdstream
    worker.print_to_stdstream = keep
    try:
        yield
    finally:
        worker.print_to_stdstream = printing


def _init(address: str, settings: dict[str, Any], seconds: float) -> None:
    """Ray's own, as often as there is time. A local one may always try twice: it waits 30 s for its processes, too
    short on a busy machine.
    """
    deadline = time.monotonic() + seconds
    for attempt in count(1):
        try:
            ray.init(address=address, **settings)
            return
        except Exception:
            if time.monotonic() >= deadline and (address != "local" or attempt > 1):
                raise
            ray.shutdown()
            time.sleep(AGAIN_SECONDS)


@contextmanager
def _apart() -> Iterator[None]:
    """Ray's daemons in process groups of their own: what is sent to the run's (Ctrl-C from a terminal, a batch system's
    SIGTERM) asks the run to end in order, for which it needs them. Ray itself keeps no more than SIGINT from them.
    """
    popen = services.ConsolePopen
    services.ConsolePopen = partial(popen, process_group=0)  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        services.ConsolePopen = popen  # type: ignore[misc]


@contextmanager
def _nameless() -> Iterator[None]:
    """Without the name of the program that runs."""
    program, sys.argv[0] = sys.argv[0], ""
    try:
        yield
    finally:
        sys.argv[0] = program


def tasks(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """A function of many items on a Ray that `connected` gave, a core each. Results in the order in which they come.

    Args:
        function: At the top of a module. What is computed on a node that is lost is computed again on another.

    Raises:
        DistbeliefError: What the function raised, if it is one.
        RunFailed: It raised something else, or its processes are lost again and again.
    """
    remote = ray.remote(num_cpus=1)(function)
    waiting = [remote.remote(item) for item in items]
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=1)
        try:
            result: R = ray.get(done[0])
        except ray.exceptions.RayError as error:
            raise failure("a task could not go on", error) from error
        yield result


def alive() -> list[Node]:
    """The living machines of the cluster that this process is connected to."""
    here = ray.get_runtime_context().get_node_id()
    return [
        Node(
            node["NodeID"],
            node["NodeManagerAddress"],
            int(node["Resources"].get("CPU", 0)),
            int(node["Resources"].get("GPU", 0)),
            placement.SHARDS in node["Resources"],
            node["NodeID"] == here,
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def await_machines(count: int, seconds: float) -> None:
    """Return when the cluster has so many, or when it had its time."""
    deadline = time.monotonic() + seconds
    while len(alive()) < count and time.monotonic() < deadline:
        time.sleep(AGAIN_SECONDS)


def living(address: str) -> list[Node]:
    """The living machines of the cluster at this address. Raises BadInput if there is none."""
    with connected(address, None):
        return alive()


def cause_of(error: Exception) -> Any:
    """What an actor raised, if this is how Ray tells of it."""
    return getattr(error, "cause", None)


def failure(what: str, error: Exception) -> DistbeliefError:
    """One line for a person out of what Ray raised."""
    cause = cause_of(error)
    if isinstance(cause, DistbeliefError):
        return cause
    if isinstance(cause, MemoryError):
        return RunFailed(f"{what}: out of memory; use fewer workers or a smaller batch")
    if isinstance(cause, OSError):
        where = f" ({cause.filename})" if cause.filename else ""
        return NotWritten(f"{what}: {cause.strerror or cause}{where}")
    text = repr(cause) if cause is not None else str(error).strip().splitlines()[-1]
    return RunFailed(f"{what}: {text}")

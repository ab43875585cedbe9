"""Depots: brings to the driver what is written on machines that do not share the run directory (see cluster.shipping).

Each machine gets an actor that knows where its processes write.
"""

from __future__ import annotations

import tempfile
import time  # noqa: TID251 -- the live clock
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
import ray.exceptions

from cluster.live.connection import alive
from cluster.live.site import START_SECONDS, STOP_SECONDS, Site
from cluster.placement import Node
from cluster.shipping import Consignment, Depot

SHIP_SECONDS = 1.0


class Depots:
    """Create, `open`, then `collect` now and then, `finish` at the end."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._depots: dict[Any, Consignment] = {}
        self._asked: dict[Any, Any] = {}  # running call -> depot
        self._next = 0.0

    def open(self, nodes: Sequence[Node]) -> None:
        """Find out where these machines' processes are to write, and tell the site. One that joins the cluster later
        is asked when something is about to start there.
        """
        self._site.newcomer = self._admit
        depot: Any = ray.remote(Depot)
        here = self._site.spec.folder
        with tempfile.NamedTemporaryFile(prefix=".", dir=here) as mark:
            actors = [
                depot.options(**self._site.options(f"depot-{node.address}", node.id)).remote(here, Path(mark.name).name)
                for node in nodes
            ]
            folders: list[Path] = ray.get([actor.folder.remote() for actor in actors], timeout=START_SECONDS)
        for actor, folder in zip(actors, folders, strict=True):
            if folder == here:
                ray.kill(actor)
            else:
                self._depots[actor] = Consignment(here)
        self._site.folders |= zip((node.id for node in nodes), folders, strict=True)

    def _admit(self, node: str) -> None:
        with suppress(ray.exceptions.RayError):  # it is lost again, as will be what starts there
            self.open([each for each in alive() if each.id == node])

    def collect(self) -> None:
        """Ask for what is new, now and then, and take what has come. Never waits."""
        done, _ = ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0) if self._asked else ([], [])
        for call in done:
            depot = self._asked.pop(call)
            with suppress(ray.exceptions.RayError):  # its machine is lost
                self._depots[depot].receive(ray.get(call))
        if time.monotonic() >= self._next and not self._asked:
            self._next = time.monotonic() + SHIP_SECONDS
            self._asked = {depot.since.remote(here.known): depot for depot, here in self._depots.items()}

    def finish(self) -> None:
        """Take all there is, and end. Never raises."""
        for depot, here in self._depots.items():
            with suppress(ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
                while pieces := ray.get(depot.since.remote(here.known), timeout=STOP_SECONDS):
                    here.receive(pieces)
                ray.get(depot.close.remote(), timeout=STOP_SECONDS)
            ray.kill(depot)

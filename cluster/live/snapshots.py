"""Snapshots: what all servers of a run remember, written down as one set (see ps.wire.snapshots)."""

from __future__ import annotations

import time  # noqa: TID251 -- the live clock
from dataclasses import dataclass, field
from typing import Any

import ray
import ray.exceptions

from cluster.live.servers import MEND_SECONDS, Servers
from cluster.live.site import Site
from ps.messages import AVERAGER, Address, Role
from ps.wire.snapshots import Manifest, next_number, publish, withdraw


@dataclass(slots=True)
class _Saving:
    """A snapshot that is being written: first all shards, then the averager, which then has all that they sent before.

    Attributes:
        calls: Under way, with whom.
        sha256: Per actor that is done.
    """

    number: int
    calls: dict[Any, Address]
    sha256: dict[str, str] = field(default_factory=dict)


class Snapshots:
    """One at a time: `begin`, then `look` now and then."""

    def __init__(self, site: Site, servers: Servers) -> None:
        self._site = site
        self._servers = servers
        self._saving: _Saving | None = None

    def begin(self) -> None:
        """Begin to write one, unless one is being written, or the machines share no directory to keep it in."""
        if self._saving is None and not self._site.apart:
            number = next_number(self._site.spec.snapshots)
            actors = {address: actor for address, actor in self._servers.actors.items() if address.role is Role.SHARD}
            self._saving = _Saving(number, {actor.save.remote(number): address for address, actor in actors.items()})

    def now(self, seconds: float) -> None:
        """Write one to its end, unless that takes longer."""
        deadline = time.monotonic() + seconds
        self._done_by(deadline)  # one that is being written is older than now
        self.begin()
        self._done_by(deadline)

    def _done_by(self, deadline: float) -> None:
        while self._saving is not None and time.monotonic() < deadline:
            self.look()
            time.sleep(MEND_SECONDS)

    def look(self) -> None:
        """Go on with the one that is being written. One that fails is given up, and the run goes on without."""
        if (saving := self._saving) is None:
            return
        done, _ = ray.wait(list(saving.calls), num_returns=len(saving.calls), timeout=0)
        spec = self._site.spec
        try:
            for call in done:
                address = saving.calls.pop(call)
                saving.sha256[str(address)] = ray.get(call)
            if saving.calls:
                return
            if str(AVERAGER) not in saving.sha256:
                saving.calls[self._servers.actors[AVERAGER].save.remote(saving.number)] = AVERAGER
                return
            manifest = Manifest(saving.number, spec.cutting, saving.sha256)
            publish(spec.snapshots, manifest, spec.snapshot.keep)
        except ray.exceptions.RayActorError:
            withdraw(spec.snapshots, saving.number)  # the next one will do
        except (ray.exceptions.RayError, OSError) as error:
            withdraw(spec.snapshots, saving.number)
            why = getattr(error, "cause", None) or error
            self._site.notes.append(f"snapshot {saving.number} could not be written ({why}); the run goes on without")
        self._saving = None

"""Succession: the standbys of a live run, as Ray actors: brought up, seeded, put in the place of a shard that is lost.

What a standby and its shard say to each other is ps.standby's business, and which of them may go on without the other
the ledger's; here it is only seen which process is gone. Nothing waits for a standby that is coming up but the start of
a run.
"""

from __future__ import annotations

import logging
import time  # noqa: TID251 -- the live clock
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
import ray.exceptions

from cluster.live.site import CALL_SECONDS
from cluster.placement import Node
from ps.errors import RunFailed
from ps.messages import Address
from ps.standby import Standing

LOOK_SECONDS = 1.0  # between two looks at how a shard and its standby stand
HEIR_LOOK_SECONDS = 0.05

log = logging.getLogger("distbelief.live")


@dataclass(slots=True)
class Standby:
    """One standby.

    Attributes:
        call: What is under way there: first `start`, then `follow`; None: it follows.
        target: Where it listens, "host:port"; empty until it has started.
        standing: A question under way to its shard, how the two stand.
    """

    actor: Any
    node: Node
    call: Any
    target: str = ""
    standing: Any = None


class Succession:
    """All standbys of a run.

    Args:
        make: Starts the process of this shard's standby: its actor, and its machine.
        leader: The actor that leads this shard.
        host: The address that a process on this machine listens at.
    """

    def __init__(
        self, make: Callable[[int], tuple[Any, Node]], leader: Callable[[int], Any], host: Callable[[Node], str]
    ) -> None:
        self._make, self._leader, self._host = make, leader, host
        self._standbys: dict[int, Standby] = {}
        self._next_look = 0.0

    def begin(self, shard: int) -> None:
        """Bring up a standby for this shard."""
        actor, node = self._make(shard)
        self._standbys[shard] = Standby(actor, node, actor.start.remote(self._host(node)))

    def look(self) -> None:
        """Go on with those that are coming up, and end those that their shards went on without. Never waits."""
        self._look_for_silent()
        for shard, standby in self._standbys.items():
            if standby.call is None or not ray.wait([standby.call], timeout=0)[0]:
                continue
            try:
                result = ray.get(standby.call)
            except ray.exceptions.RayError as error:  # it is lost, or its shard is; a new one is made either way
                log.warning("standby-%d could not be brought up: %s", shard, str(error).strip().splitlines()[-1])
                standby.call = None
                ray.kill(standby.actor)
                continue
            if standby.target:
                standby.call = None
                continue
            standby.target = result[0]
            self._seed(shard, standby)

    def _seed(self, shard: int, standby: Standby) -> None:
        standby.call = standby.actor.follow.remote(self._leader(shard).seed.remote(standby.target))

    def _look_for_silent(self) -> None:
        """A standby that did not answer, and that the ledger gave up, may be a process that stands still: it is killed,
        and found lost then.
        """
        due = time.monotonic() >= self._next_look
        for shard, standby in self._standbys.items():
            if standby.standing is not None and ray.wait([standby.standing], timeout=0)[0]:
                call, standby.standing = standby.standing, None
                with suppress(ray.exceptions.RayError):  # the shard is lost
                    if ray.get(call) == Standing.ALONE.value and standby.call is None:
                        log.warning("standby-%d does not answer: its shard goes on alone", shard)
                        ray.kill(standby.actor)
            if due and standby.standing is None and standby.call is None and standby.target:
                standby.standing = self._leader(shard).standing.remote()
        if due:
            self._next_look = time.monotonic() + LOOK_SECONDS

    def settle(self, seconds: float) -> None:
        """Wait until all follow. Raises RunFailed if one does not within this time."""
        while calls := [standby.call for standby in self._standbys.values() if standby.call is not None]:
            if not ray.wait(calls, timeout=seconds)[0]:
                raise RunFailed(f"a standby did not come up within {seconds:.0f} s")
            self.look()

    def lost(self, shard: int) -> None:
        """The process of this shard's standby is gone: the shard goes on alone, once the ledger grants it, until there
        is another.
        """
        ray.kill(self._standbys.pop(shard).actor)
        self._leader(shard).part.remote()
        self.begin(shard)

    def heir(
        self, shard: int, known: Callable[[], Mapping[Address, str]], meanwhile: Callable[[], None]
    ) -> Standby | None:
        """The standby that leads this shard from now on, since who did is gone; None if it cannot.

        Args:
            known: Where the actors are that it sends messages to.
            meanwhile: Called again and again: it brings back the ledger, if that is lost too.
        """
        standby = self._standbys.get(shard)
        if standby is None or not standby.target:
            return None
        told = dict(known())
        call = standby.actor.succeed.remote(told)
        deadline = time.monotonic() + CALL_SECONDS
        while not ray.wait([call], timeout=HEIR_LOOK_SECONDS)[0] and time.monotonic() < deadline:
            meanwhile()
            if (now := dict(known())) != told:
                told, deadline = now, time.monotonic() + CALL_SECONDS
                standby.actor.connect.remote(told)
        try:
            ray.get(call, timeout=0)
        except ray.exceptions.RayTaskError as error:
            log.warning("%s", error.cause)
            return None
        except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
            ray.kill(standby.actor)  # so that it leads at no later time
            return None
        return self._standbys.pop(shard)

    def follow_again(self, shard: int) -> None:
        """The shard came back without its standby's help, with less than that holds."""
        standby = self._standbys.get(shard)
        if standby is not None and standby.target:
            self._seed(shard, standby)

    def alike(self) -> dict[int, bool]:
        """By shard, whether it and its standby remember the same to the last bit; those are left out that have none or
        where something goes on still.
        """
        found = {}
        for shard, standby in self._standbys.items():
            if standby.call is None:
                with suppress(ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
                    both = [self._leader(shard).digest.remote(), standby.actor.digest.remote()]
                    leads, follows = ray.get(both, timeout=CALL_SECONDS)
                    if leads[0] == follows[0]:
                        found[shard] = leads == follows
        return found

    def close(self, seconds: float) -> None:
        """End all of them."""
        stopping = [standby.actor.stop.remote() for standby in self._standbys.values() if standby.target]
        with suppress(ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
            ray.wait(stopping, num_returns=len(stopping), timeout=seconds) if stopping else None
        for standby in self._standbys.values():
            ray.kill(standby.actor)

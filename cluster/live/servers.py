"""Servers: shards, ledger and averager of a run, each an actor that serves gRPC. One that is lost is brought back, from
what it wrote down, or its standby takes its place; whoever asks it meanwhile waits for that.

Shape suffix: N = parameters of the model.
"""

from __future__ import annotations

import time  # noqa: TID251 -- the live clock
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import ray
import ray.exceptions
from torch import Tensor

from cluster import placement
from cluster.actors import ReplicaActor, ServerActor
from cluster.live.connection import alive, cause_of, failure
from cluster.live.site import CALL_SECONDS, START_SECONDS, STOP_SECONDS, Site
from cluster.live.succession import Succession
from cluster.placement import Node
from ps.errors import PeerLost, RunFailed
from ps.messages import AVERAGER, LEDGER, Address, Message, Role
from ps.wire.client import Loop, Peer

MEND_SECONDS = 0.1  # between two looks at what was lost

T = TypeVar("T")


class Servers:
    """Create, `begin`, `listen`, `connect`, then `mend` now and then.

    Args:
        site: Of the run.
        weights_N: Initial weights, float32, shape (N,).
        again: They served before, and take up what they wrote down.

    Attributes:
        addresses: All of them, shards first.
        actors: Ray's handles.
        targets: Where each listens, "host:port", once it does.
        moved: Told of the one that came back elsewhere.
        standbys: Of the shards, if the run has them.
    """

    def __init__(self, site: Site, weights_N: Tensor, again: bool) -> None:
        self._site = site
        self._weights_N = weights_N
        self._again = again
        self._loop = Loop("distbelief-driver")
        self._serving: dict[Any, Address] = {}  # running call -> whose
        self._homes: dict[Address, Node] = {}  # where each actor is
        self._peers: dict[Address, Peer] = {}
        shards = [Address(Role.SHARD, shard) for shard in range(site.spec.layout.shards)]
        self.addresses = (*shards, LEDGER, AVERAGER)
        self.actors: dict[Address, Any] = {}
        self.targets: dict[Address, str] = {}
        self.moved: list[Callable[[Address], None]] = []
        self.standbys = Succession(self._make_standby, self._leader, self._host_of)

    # --- starting ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start all processes, and wait for none."""
        for address in self.addresses:
            self._serve(address, self._again, alone=True)
        for shard in range(self._site.spec.layout.shards if self._site.spec.cluster.replicas else 0):
            self.standbys.begin(shard)

    def listen(self) -> None:
        """Have all of them listen; `targets` says where from then on."""
        started = ray.get([self._started(address) for address in self.addresses], timeout=START_SECONDS)
        for address, (target, notes) in zip(self.addresses, started, strict=True):
            self.targets[address] = target
            self._site.notes += notes

    def acquaint(self) -> list[Any]:
        """Tell each where those are that it sends messages to; returns the calls under way."""
        return [actor.connect.remote(self._known_to(address)) for address, actor in self.actors.items()]

    def connect(self) -> None:
        """From here on they can be asked."""
        self._loop.call(lambda: self._peers.update({to: self._peer(target) for to, target in self.targets.items()}))

    def _serve(self, address: Address, again: bool, alone: bool = False) -> None:
        spec = self._site.spec
        part_N = self._weights_N[spec.bounds[address.index]].numpy() if address.role is Role.SHARD else None
        nodes = alive()
        shard = address.role is Role.SHARD
        node = placement.for_shard(nodes, address.index) if shard else placement.for_driver(nodes)
        here = self._site.spec_on(node.id)
        if (home := self._homes.get(address)) and self._site.spec_on(home.id).folder != here.folder:
            raise RunFailed(
                f"{address} was lost with its machine, and its journal too: the run directory is not shared"
            )
        server: Any = ray.remote(ReplicaActor if shard and spec.cluster.replicas else ServerActor)
        kind = server.options(**self._site.options(str(address), node.id))
        actor = kind.remote(here, address, part_N, again, alone)
        self.actors[address] = actor
        self._homes[address] = node
        self._serving[actor.serve.remote()] = address

    def _make_standby(self, shard: int) -> tuple[Any, Node]:
        address = Address(Role.STANDBY, shard)
        node = placement.for_standby(alive(), shard, self._homes[Address(Role.SHARD, shard)])
        part_N = self._weights_N[self._site.spec.bounds[shard]].numpy()
        server: Any = ray.remote(ReplicaActor)
        kind = server.options(**self._site.options(str(address), node.id))
        actor = kind.remote(self._site.spec_on(node.id), address, part_N)
        self._serving[actor.serve.remote()] = address
        return actor, node

    def _leader(self, shard: int) -> Any:
        return self.actors[Address(Role.SHARD, shard)]

    def _host_of(self, node: Node) -> str:
        return "127.0.0.1" if self._site.local else node.address

    def _started(self, address: Address) -> Any:
        return self.actors[address].start.remote(self._host_of(self._homes[address]))

    def _peer(self, target: str) -> Peer:
        return Peer(target, self._site.spec.token, identity=self._site.spec.identity)

    def _known_to(self, address: Address) -> dict[Address, str]:
        """The actors that this one sends messages to."""
        if address == LEDGER:
            return {to: target for to, target in self.targets.items() if to.role is Role.SHARD}
        return {to: self.targets[to] for to in (AVERAGER, LEDGER)} if address.role is Role.SHARD else {}

    # --- while they serve --------------------------------------------------------------------------------------------

    def ask(self, address: Address, call: Callable[[Peer], Coroutine[Any, Any, T]]) -> T:
        """What an actor answers; if it is lost, once it is back."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return self._loop.run(call(self._peers[address]))
            except PeerLost as error:
                if time.monotonic() > deadline:
                    raise RunFailed(f"{address} was lost: its process does not answer ({error})") from error
                self.mend()
                time.sleep(MEND_SECONDS)

    def tell(self, address: Address, message: Message) -> None:
        """Send a message whose answer says nothing."""
        self.ask(address, lambda peer: peer.ask(message, CALL_SECONDS))

    def status(self, address: Address) -> Any:
        """What an actor says of itself."""
        return self.ask(address, lambda peer: peer.status(CALL_SECONDS))

    def mend(self) -> None:
        """Bring back whatever actor is lost. Raises RunFailed if one cannot be."""
        for address in self._lost():
            self._mend(address)

    def _lost(self) -> list[Address]:
        """Who is lost since the last look."""
        done, _ = ray.wait(list(self._serving), num_returns=len(self._serving), timeout=0)
        lost = [self._serving.pop(call) for call in done]
        return sorted(lost, key=lambda address: address != LEDGER)  # which may be asked about others

    def _mend_ledger(self) -> None:
        """Bring back the ledger, if it is lost."""
        call = next(call for call, address in self._serving.items() if address == LEDGER)
        if ray.wait([call], timeout=0)[0]:
            del self._serving[call]
            self._mend(LEDGER)

    def _mend(self, address: Address) -> None:
        if address.role is Role.STANDBY:
            self._site.lost(str(address), then="another is brought up")
            self.standbys.lost(address.index)
            return
        ray.kill(self.actors[address])
        if self._succeeded(address):
            return
        self._site.lost(str(address))
        self._serve(address, again=True)
        try:
            self.targets[address], notes = ray.get(self._started(address), timeout=START_SECONDS)
            ray.get(self.actors[address].connect.remote(self._known_to(address)), timeout=CALL_SECONDS)
        except ray.exceptions.RayActorError as error:
            if cause_of(error) is not None:
                raise failure(f"{address} could not come back", error) from error
            return  # lost again: the next look finds that
        except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError) as error:
            raise failure(f"{address} could not come back", error) from error
        self._site.notes += notes
        self._introduce(address)
        if address.role is Role.SHARD:
            self.standbys.follow_again(address.index)

    def _succeeded(self, address: Address) -> bool:
        """Whether the standby of a shard that is lost goes on in its place."""
        if address.role is not Role.SHARD:
            return False
        heir = self.standbys.heir(address.index, lambda: self._known_to(address), self._mend_ledger)
        if heir is None:
            return False
        self._site.lost(str(address), then="its standby goes on")
        self.actors[address], self._homes[address], self.targets[address] = heir.actor, heir.node, heir.target
        serving = next(call for call, of in self._serving.items() if of == Address(Role.STANDBY, address.index))
        self._serving[serving] = address
        self._introduce(address)
        self.standbys.begin(address.index)
        return True

    def _introduce(self, address: Address) -> None:
        """Tell everybody where an actor is by now."""
        here = {address: self.targets[address]}
        for to, actor in self.actors.items():
            if address in self._known_to(to):
                actor.connect.remote(here)
        for tell in self.moved:
            tell(address)

        async def renew() -> None:
            await self._peers[address].close()
            self._peers[address] = self._peer(self.targets[address])

        self._loop.run(renew())

    # --- the end -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Have all of them close their journals and end. Never raises."""
        self.standbys.close(STOP_SECONDS)
        for actor in self.actors.values():
            with suppress(ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
                ray.get(actor.stop.remote(), timeout=STOP_SECONDS)

    def kill(self) -> None:
        """Hang up, and end their processes."""
        for peer in self._peers.values():
            self._loop.run(peer.close())
        self._loop.close()
        for actor in self.actors.values():
            ray.kill(actor)

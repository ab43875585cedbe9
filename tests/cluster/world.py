"""A whole run in one process: real machines, real gRPC on loopback, real gradients on digits; no Ray."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from cluster import serving
from cluster.host import WorkerHost
from cluster.spec import RunSpec
from distbelief.config import Config
from distbelief.launcher import prepare
from ps.messages import AVERAGER, LEDGER, Address, Read, Role
from ps.wire.client import Loop, Peer
from ps.wire.codec import Status
from ps.wire.server import MachineServer

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class World:
    """A run that has been served but whose workers have not begun."""

    spec: RunSpec
    servers: dict[Address, MachineServer]
    targets: dict[Address, str]

    def host(self, number: int = 0, workers: range | None = None, turns: int = 2) -> WorkerHost:
        """A worker host of this run."""
        return serving.worker_host(self.spec, number, workers or range(self.spec.cluster.workers), turns, self.targets)

    def status(self, address: Address) -> Status:
        """What an actor tells about itself, over the wire."""
        return self._call(address, lambda peer: peer.status(10.0))

    def weights(self) -> Tensor:
        """The newest weights of all shards, shape (N,), over the wire."""
        weights_N = torch.empty(self.spec.layout.size)
        for shard, bound in enumerate(self.spec.bounds):
            message = Read(Address(Role.WORKER, -1), shard, shard, weights_N[bound])
            self._call(Address(Role.SHARD, shard), lambda peer, message=message: peer.exchange(message, 10.0))
        return weights_N

    def _call(self, address: Address, call: Callable[[Peer], Awaitable[T]]) -> T:
        async def once() -> T:
            peer = Peer(self.targets[address], self.spec.token, identity=self.spec.identity)
            try:
                return await call(peer)
            finally:
                await peer.close()

        loop = Loop("test")
        try:
            return loop.run(once())
        finally:
            loop.close()


@contextmanager
def served(folder: Path, **values: object) -> Iterator[World]:
    """Serve a small run on digits. `values`: settings as section__key=value."""
    small: dict[str, object] = {"run.epochs": 1, "cluster.workers": 4, "cluster.shards": 2, "run.folder": str(folder)}
    config = Config.of(small | {name.replace("__", "."): value for name, value in values.items()})
    threads = torch.get_num_threads()
    _, prepared = prepare(config)
    spec = prepared.spec
    servers = {
        Address(Role.SHARD, shard): serving.serve_shard(spec, shard, prepared.weights_N[bound].clone()).server
        for shard, bound in enumerate(spec.bounds)
    }
    servers |= {LEDGER: serving.serve_ledger(spec).server, AVERAGER: serving.serve_averager(spec).server}
    targets = {address: server.start("127.0.0.1") for address, server in servers.items()}
    for address, server in servers.items():
        known = {to for to in targets if to.role is Role.SHARD} if address == LEDGER else {AVERAGER, LEDGER} - {address}
        server.connect({to: targets[to] for to in known})
    try:
        yield World(spec, servers, targets)
    finally:
        for server in servers.values():
            server.stop()
        torch.set_num_threads(threads)

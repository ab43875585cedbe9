"""How vectors travel, in a whole run: through memory on one host, narrow over the network, and replayed to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cluster.copies import Copies
from cluster.machines import build_averager, build_batches, build_computation, build_shard
from cluster.recording import Recording
from cluster.replayed import Replay, ReplayPieces
from distbelief.config import Config
from distbelief.draft import draft
from distbelief.rundir import CONFIG
from ps.ledger import LedgerStatus
from ps.messages import LEDGER, Wire
from tests.cluster.world import World, served
from tests.journals import pushes
from workers.datasets import load


def replayed(world: World, weights_N: Tensor) -> Tensor:
    """The final weights of the run again, from its journals."""
    spec = world.spec
    dataset = load(spec.data, "train")
    pieces = ReplayPieces(
        [build_shard(spec, shard, weights_N[bound].clone()) for shard, bound in enumerate(spec.bounds)],
        build_averager(spec),
        spec.plan,
        build_computation(spec, dataset, build_batches(spec, dataset).batch),
        spec.bounds,
    )
    copies = Copies(1 << 30, spec.layout.size)
    try:
        replay = Replay(pieces, Recording.read(spec.journal), copies)
        replay.run()
        assert replay.differences == []
        out_N = torch.empty(spec.layout.size)
        replay.read(False, out_N)
        return out_N
    finally:
        copies.close()


@pytest.mark.parametrize("where", ["one host", "two hosts", "no memory"])
def test_the_wire_type_holds_between_hosts_only_and_the_run_replays_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    if where == "two hosts":  # as another host's processes look from a shard
        monkeypatch.setattr("ps.wire.mailbox.os.getpid", lambda: 1 << 30)
    path = "network" if where == "no memory" else "auto"
    with served(tmp_path / "run", cluster__wire="bfloat16", cluster__path=path, run__batch_size=256) as world:
        world.host(turns=1).run()
        final_N = world.weights()
        initial_N = draft(Config.of({}, world.spec.folder / CONFIG)).weights_N
    used = {push.wire for shard in range(2) for push in pushes(world.spec.journal, shard)}
    assert used == {Wire.FLOAT32 if where == "one host" else Wire.BFLOAT16}
    assert torch.equal(replayed(world, initial_N), final_N)


def test_a_run_with_tls_goes_like_any_other(tmp_path: Path) -> None:
    with served(tmp_path / "run", cluster__tls=True, run__batch_size=256) as world:
        assert world.spec.identity is not None
        world.host(turns=1).run()
        status = world.status(LEDGER)
    assert isinstance(status, LedgerStatus)
    assert (status.ending, status.finished) == ("completed", world.spec.plan.leases)

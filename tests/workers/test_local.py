"""Programs of several local steps, through shards and ledger in one thread, against the equations written out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import cast

import pytest
import torch
from torch import Tensor

from ps.errors import BadInput
from ps.layout import Layout, TensorSpec
from ps.leases import LeasePlan
from ps.ledger import Ledger, LedgerSettings
from ps.messages import LEDGER, Address, Exchange, Lease, Message, Role
from ps.rules import Nesterov, Rule, Sgd
from ps.schedule import ScheduleSettings
from ps.shard import Outbox, Shard
from ps.streams import torch_stream
from workers.program import Answer, Ask, Collect, Compute, Gradient, Note, Program, Send
from workers.program_settings import PROGRAMS, ProgramSettings

H = 3
PLAN = LeasePlan(examples=22, batch_size=2, epochs=2, seed=3, batches=H)  # 11 batches: leases of 3, 3, 3 and 2
SCHEDULE = ScheduleSettings(kind="polynomial", rate=0.1, power=1.0).build(PLAN.examples, PLAN.samples)
LAYOUT = Layout((TensorSpec("weight", (5, 7)),), 2)
N = LAYOUT.size
BOUNDS = tuple(LAYOUT.bounds(shard) for shard in range(2))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def initial() -> Tensor:
    return torch.randn(N, generator=torch_stream(0, "initial"))


def gradient(batch: int, w_N: Tensor) -> Tensor:
    """Of a quadratic, with the batch's noise."""
    return 0.5 * w_N + torch.randn(N, generator=torch_stream(PLAN.seed, f"batch/{batch}"))


@dataclass
class World:
    """Shards, a ledger and programs; whatever is sent is answered at once, in turns of one lease per worker."""

    settings: ProgramSettings
    rule: Rule
    workers: int = 1
    plan: LeasePlan = PLAN
    bad: int = -1  # batch whose gradient is not finite, once
    computed: list[Lease] = field(default_factory=list)
    pulls: int = 0

    def __post_init__(self) -> None:
        shard_schedule = self.settings.shard_schedule(SCHEDULE.settings).build(self.plan.examples, self.plan.samples)
        self.shards = [
            Shard(i, 2, initial()[b].clone(), LAYOUT.segments(i), self.rule, 0.0, shard_schedule, 0)
            for i, b in enumerate(BOUNDS)
        ]
        self.ledger = Ledger(self.plan, 2, LedgerSettings(), self.workers)
        make = self.settings.build(BOUNDS, self.plan, SCHEDULE, self.workers)
        self.weights = [torch.zeros(N) for _ in range(self.workers)]  # what each worker computes at
        buffers = [tuple(torch.zeros(N) for _ in range(self.settings.pulls)) for _ in range(self.workers)]
        self.programs: list[Program | None] = [make(worker, given) for worker, given in enumerate(buffers)]
        self.answers: list[Answer] = [None] * self.workers
        self.mail: list[list[Message]] = [[] for _ in range(self.workers)]
        self.awaited = [0] * self.workers

    @property
    def center(self) -> Tensor:
        return torch.cat([shard._w_N for shard in self.shards])

    def run(self) -> World:
        while any(self.programs):
            for worker in range(self.workers):
                self.turn(worker)
        assert self.ledger.status().ending == "completed"
        assert all(
            len(shard.applied) == self.plan.leases and shard.samples == self.plan.samples for shard in self.shards
        )
        return self

    def turn(self, worker: int) -> None:
        """To the worker's next request for a lease."""
        while (program := self.programs[worker]) is not None:
            if self.awaited[worker]:
                if len(self.mail[worker]) < self.awaited[worker]:
                    return  # in line
                self.answers[worker], self.mail[worker], self.awaited[worker] = tuple(self.mail[worker]), [], 0
            try:
                effect = program.send(self.answers[worker])
            except StopIteration:
                self.programs[worker] = None
                return
            match effect:
                case Compute(lease, weights_N):
                    self.weights[worker] = weights_N
                    self.answers[worker] = self.compute(lease, weights_N)
                case Note():
                    self.answers[worker] = None
                case Send(requests):
                    for to, message in requests:
                        self.send(to, message)
                    self.answers[worker] = None
                case Collect():
                    self.answers[worker], self.mail[worker] = tuple(self.mail[worker]), []
                case Ask(requests):
                    self.awaited[worker] = len(requests)
                    for to, message in requests:
                        self.send(to, message)
                    if requests[0][0] == LEDGER:
                        return

    def compute(self, lease: Lease, weights_N: Tensor) -> Gradient:
        self.computed.append(lease)
        finite = lease.id != self.bad
        if not finite:
            self.bad = -1
        return Gradient(0.5 + lease.id, 1, 0, finite, lease.weight * gradient(lease.id, weights_N))

    def send(self, to: Address, message: Message) -> None:
        """A message, and whatever the machines say because of it."""
        self.pulls += isinstance(message, Exchange) and message.weights_N is not None and to.index == 0
        queue: Outbox = [(to, message)]
        while queue:
            address, item = queue.pop(0)
            if address.role is Role.WORKER:
                self.mail[address.index].append(cast("Message", item))
            elif address.role in (Role.SHARD, Role.LEDGER):
                machine = self.ledger if address == LEDGER else self.shards[address.index]
                queue += machine.handle(0.0, cast("Message", item))


# --- one worker, against the equations -------------------------------------------------------------------------------


def batches() -> list[list[tuple[int, int, float]]]:
    """Per lease: batch id, examples before it in the run, weight."""
    leases = []
    for id in range(PLAN.leases):
        lease = PLAN.lease(id, 0, 0.0)
        parts = PLAN.parts(lease)
        assert sum(part.count for part in parts) == lease.count
        leases.append([(p.id, p.epoch * PLAN.examples + p.first, p.weight) for p in parts])
    return leases


def downpour(fetch_every: int) -> Tensor:
    c_N = initial().double()
    for lease in batches():
        w_N, a_N = c_N.clone(), torch.zeros(N, dtype=torch.float64)
        used = start = lease[0][1]
        for number, (id, _, weight) in enumerate(lease):
            if number and number % fetch_every == 0:  # alone, a fetch brings back the shards' weights of the start
                w_N, used = c_N.clone(), start
            g_N = weight * gradient(id, w_N)
            a_N += g_N
            w_N -= SCHEDULE.rate(used) * g_N
            used += 2
        c_N = c_N - SCHEDULE.rate(start) * a_N
    return c_N.float()


def local() -> Tensor:
    c_N, v_N = initial().double(), torch.zeros(N, dtype=torch.float64)
    for lease in batches():
        w_N = c_N.clone()
        for id, before, weight in lease:
            w_N -= SCHEDULE.rate(before) * weight * gradient(id, w_N)
        h_N = c_N - w_N
        v_N = 0.9 * v_N - 0.7 * h_N
        c_N = c_N + 0.9 * v_N - 0.7 * h_N
    return c_N.float()


def ahead() -> Tensor:
    """Each gradient is of the weights before its worker's last push."""
    before_N = c_N = initial().double()
    for id in range(PLAN.by_batch.leases):
        lease = PLAN.by_batch.lease(id, 0, 0.0)
        g_N = lease.weight * gradient(id, before_N)
        before_N = c_N
        c_N = c_N - SCHEDULE.rate(lease.epoch * PLAN.examples + lease.first) * g_N
    return c_N.float()


def elastic() -> tuple[Tensor, Tensor]:
    c_N = initial().double()
    w_N = c_N.clone()
    for lease in batches():
        for id, before, weight in lease:
            w_N -= SCHEDULE.rate(before) * weight * gradient(id, w_N)
        e_N = 0.3 * (w_N - c_N)
        w_N, c_N = w_N - e_N, c_N + e_N
    return c_N.float(), w_N.float()


@pytest.mark.parametrize("fetch_every", [0, 1, 3])
def test_downpour_pushes_the_sum_of_what_it_stepped_along(fetch_every: int) -> None:
    settings = ProgramSettings("downpour", push_every=H, fetch_every=fetch_every)
    settings.check()
    world = World(settings, Sgd()).run()
    torch.testing.assert_close(world.center, downpour(fetch_every or H), rtol=1e-4, atol=1e-5)
    extra = {0: 0, 1: 2 * (2 + 2 + 2 + 1), 3: 0}[fetch_every]
    assert world.pulls == 1 + PLAN.leases + extra


def test_local_sgd_pushes_how_far_it_went() -> None:
    world = World(ProgramSettings("local", push_every=H), Nesterov(0.9)).run()
    torch.testing.assert_close(world.center, local(), rtol=1e-4, atol=1e-5)


def test_with_prefetch_a_gradient_is_one_step_staler() -> None:
    world = World(ProgramSettings(prefetch=True), Sgd(), plan=PLAN.by_batch).run()
    torch.testing.assert_close(world.center, ahead(), rtol=1e-4, atol=1e-5)
    staleness = [shard.staleness for shard in world.shards]
    assert staleness == [{0: 1, 1: PLAN.by_batch.leases - 1}] * 2


def test_elastic_averaging_ties_its_copy_to_the_shards() -> None:
    world = World(ProgramSettings("elastic", push_every=H, elasticity=0.3), Sgd()).run()
    c_N, w_N = elastic()
    torch.testing.assert_close(world.center, c_N, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(world.weights[0], w_N, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(c_N, w_N, atol=1e-2)


def test_with_one_step_and_the_outer_rate_1_local_sgd_is_sgd() -> None:
    single = PLAN.by_batch
    world = World(ProgramSettings("local", push_every=1, outer_rate=1.0), Sgd(), plan=single).run()
    plain = World(ProgramSettings(), Sgd(), plan=single).run()
    torch.testing.assert_close(world.center, plain.center)


# --- several workers, and what goes wrong ----------------------------------------------------------------------------

MADE: dict[str, Callable[[], World]] = {
    "downpour": lambda: World(ProgramSettings("downpour", push_every=H), Sgd(), workers=3),
    "downpour with fetches": lambda: World(ProgramSettings("downpour", push_every=H, fetch_every=1), Sgd(), workers=3),
    "local": lambda: World(ProgramSettings("local", push_every=H), Nesterov(0.9), workers=3),
    "elastic": lambda: World(ProgramSettings("elastic", push_every=H), Sgd(), workers=3),
    "downpour ahead": lambda: World(ProgramSettings("downpour", push_every=H, prefetch=True), Sgd(), workers=3),
    "local ahead": lambda: World(ProgramSettings("local", push_every=H, prefetch=True), Nesterov(0.9), workers=3),
}


@pytest.mark.parametrize("kind", MADE)
def test_every_batch_is_computed_once_and_the_run_completes(kind: str) -> None:
    world = MADE[kind]().run()
    assert sorted(lease.id for lease in world.computed) == list(range(PLAN.by_batch.leases))
    assert {lease.count for lease in world.computed} == {2}
    status = world.ledger.status()
    assert status.loss == pytest.approx(sum(0.5 + id for id in range(11, 22)) / 11)  # of the last epoch
    assert torch.isfinite(world.center).all()


@pytest.mark.parametrize("kind", MADE)
def test_the_same_turns_are_the_same_bits(kind: str) -> None:
    assert torch.equal(MADE[kind]().run().center, MADE[kind]().run().center)


@pytest.mark.parametrize("kind", MADE)
def test_a_gradient_that_is_not_finite_reaches_no_shard_and_the_lease_goes_on_elsewhere(kind: str) -> None:
    world = MADE[kind]()
    world.bad = 4  # the second batch of the second lease
    world.run()
    again = [lease.id for lease in world.computed if 3 <= lease.id <= 5]
    assert sorted(again) == [3, 3, 4, 4, 5]
    assert torch.isfinite(world.center).all()
    assert all(torch.isfinite(w_N).all() for w_N in world.weights)


# --- leases of several batches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 11, 40])
def test_the_parts_of_all_leases_are_all_batches_in_order(size: int) -> None:
    plan = replace(PLAN, batches=size)
    parts = [part for id in range(plan.leases) for part in plan.parts(plan.lease(id, 1, 5.0))]
    assert parts == [plan.by_batch.lease(id, 1, 5.0) for id in range(plan.by_batch.leases)]
    assert sum(plan.lease(id, 0, 0.0).count for id in range(plan.leases)) == plan.samples
    assert plan.leases_per_epoch == -(-11 // size)


def test_an_epochs_last_batch_is_short_and_weighs_less() -> None:
    plan = LeasePlan(examples=7, batch_size=2, epochs=1, seed=0, batches=3)
    assert [(p.first, p.count, p.weight) for p in plan.parts(plan.lease(1, 0, 0.0))] == [(6, 1, 0.5)]


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (ProgramSettings(push_every=2), "program.push_every: got 2, expected 1 with the program gradient"),
        (ProgramSettings("downpour", push_every=4, fetch_every=3), "program.fetch_every: got 3, expected a divisor"),
        (ProgramSettings("downpour", push_every=2, fetch_every=4), "program.fetch_every: got 4, expected a divisor"),
        (ProgramSettings("elastic", prefetch=True), "program.prefetch: got True, expected false with the program el"),
        (ProgramSettings("downpour", 2, fetch_every=1, prefetch=True), "program.prefetch: got True, expected false"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: ProgramSettings, text: str) -> None:
    with pytest.raises(BadInput, match=text):
        settings.check()


def test_every_program_is_tried_here() -> None:
    assert set(PROGRAMS) == {"gradient", *(made().settings.kind for made in MADE.values())}

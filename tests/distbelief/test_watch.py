"""Watch: a scripted run on a clock of its own: why it ends, what evaluation beside it costs, what is written down."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from cluster.actors import Evaluated
from distbelief import watch
from distbelief.config import Config
from distbelief.progress import Fact, Moment
from distbelief.rundir import METRICS
from ps.leases import LeasePlan
from ps.ledger import Ending, LedgerStatus
from ps.shard import ShardStatus
from workers.evaluation import Evaluation

BEGAN = 16.0  # seconds from the start of the process to that of the watch
TICK = 0.5  # what the clock moves between two looks: exact in binary
CORES = 2
PARAMETERS = 48
CLASSES = 10
PLAN = LeasePlan(examples=1000, batch_size=10, epochs=10, seed=0)
FAR = 1e9


class Clock:
    now = BEGAN


class Screen:
    """A view that notes the moments and what is said."""

    def __init__(self) -> None:
        self.moments: list[Moment] = []
        self.said: list[str] = []

    def begin(self, facts: Sequence[Fact]) -> None:
        raise AssertionError("the watch begins nothing")

    def phase(self, text: str) -> None:
        raise AssertionError("nor does it name phases")

    def show(self, moment: Moment) -> None:
        self.moments.append(moment)

    def say(self, line: str) -> None:
        self.said.append(line)

    def end(self, results: Sequence[Fact]) -> None:
        raise AssertionError("nor does it end anything")

    def close(self) -> None:
        raise AssertionError("nor does it close what others opened")


class Run:
    """A live run of 10 updates per second, as a script.

    Args:
        ends: When its workers end by themselves.
        obeys: Seconds from a stop to its workers' end.
        errors: Top-1 error of each evaluation of the average, None where the evaluator is lost; each takes `takes`
            seconds, in which it computes for `computes`.
        averaged_from: When the average has its first version.
        ending, message: What the ledger says when the workers have ended by themselves.
        loss, auxiliary: Mean losses of the newest leases.
    """

    def __init__(self, clock: Clock, **script: Any) -> None:
        given: dict[str, Any] = {
            "ends": FAR, "obeys": 1.0, "errors": (), "takes": 4.0, "computes": 4.0, "averaged_from": 0.0,
            "ending": "completed", "message": "", "updates_end": FAR, "loss": 0.5, "auxiliary": (), "notes": (),
        }  # fmt: skip
        self._script = SimpleNamespace(**(given | script))
        self._clock = clock
        self._errors = iter(self._script.errors)
        self._ends = self._script.ends
        self._ending, self._message = self._script.ending, self._script.message
        self.stops: list[tuple[float, Ending]] = []
        self.begun: list[float] = []
        self.weights: list[Tensor] = []
        self.statuses = 0
        self.saved: list[float] = []
        self._notes: list[str] = list(self._script.notes)

    def poll(self) -> bool:
        return self._clock.now < self._ends

    def status(self) -> Any:
        self.statuses += 1
        ending = self._ending if self.stops or not self.poll() else ""
        updates = int(10 * (min(self._clock.now, self._script.updates_end) - BEGAN))
        ledger = LedgerStatus(
            1000,
            updates + 2,
            updates,
            0,
            2,
            10 * updates,
            0,
            3,
            0.5,
            self._script.loss,
            0.25,
            ending,
            self._message if ending else "",
            self._script.auxiliary,
        )
        shard = ShardStatus(0, 1, updates, 10 * updates, 0.5, 0, 0, 0, 0, {1: updates} if updates else {})
        return SimpleNamespace(ledger=ledger, shards=(shard,), workers=3)

    def publish(self, values: Mapping[str, float]) -> None:
        self.published = dict(values)

    def stop(self, reason: Ending) -> None:
        self.stops.append((self._clock.now - BEGAN, reason))
        self._ending = reason.value
        self._ends = min(self._ends, self._clock.now + self._script.obeys)

    def read(self, average: bool, out_N: Tensor) -> int:
        assert average
        assert out_N.shape == (PARAMETERS,)
        out_N.fill_(self._clock.now)
        return int(self._clock.now - BEGAN >= self._script.averaged_from)

    def save(self) -> None:
        self.saved.append(self._clock.now - BEGAN)

    def notes(self) -> list[str]:
        return [self._notes.pop()] if self._notes else []

    def evaluate(self, weights_N: Tensor) -> None:
        self.begun.append(self._clock.now - BEGAN)
        self.weights.append(weights_N.clone())

    def evaluated(self) -> Evaluated | None:
        assert self.begun, "nothing was begun"
        if self._clock.now - BEGAN < self.begun[-1] + self._script.takes:
            return None
        if (error := next(self._errors, 0.5)) is None:
            return Evaluated(None, 0.0)
        return Evaluated(Evaluation(error, 0.0, 1.0, 360), self._script.computes)


Watched = tuple[Run, watch.Watch, Screen]
WatchRun = Callable[..., Watched]


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WatchRun]:
    """Watch a scripted run to its end."""
    clock = Clock()
    watches: list[watch.Watch] = []

    def sleep(seconds: float) -> None:
        assert seconds == watch.LOOK_SECONDS
        assert clock.now < 1000, "the watch does not end"
        clock.now += TICK

    monkeypatch.setattr(watch, "time", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(watch, "os", SimpleNamespace(sched_getaffinity=lambda _: set(range(CORES))))

    def start(
        settings: dict[str, object] | None = None, interrupted_at: float = FAR, earlier: float = 0.0, **script: Any
    ) -> Watched:
        config = Config.of({"cluster.workers": 4, "run.evaluate_share": 0, **(settings or {})})
        spec: Any = SimpleNamespace(
            plan=PLAN,
            folder=tmp_path,
            journal=tmp_path / "journal",
            cluster=config.cluster,
            layout=SimpleNamespace(size=PARAMETERS),
        )
        run: Any = Run(clock, **script)
        screen = Screen()
        watches.append(watch.Watch(config, spec, CLASSES, run, screen, lambda: clock.now, earlier))
        watches[-1].until_ended(lambda: clock.now - BEGAN >= interrupted_at)
        return run, watches[-1], screen

    yield start
    for each in watches:
        each.close()


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


# --- why it ends ------------------------------------------------------------------------------------------------------


def test_a_run_that_ends_by_itself_is_not_stopped(watched: WatchRun) -> None:
    run, watch_, _ = watched(ends=BEGAN + 7)
    assert run.stops == []
    assert watch_.ending() == (Ending.COMPLETED, "")


def test_the_time_counts_from_the_start_of_the_process(watched: WatchRun) -> None:
    run, watch_, _ = watched({"run.max_seconds": BEGAN + 9})
    assert run.stops == [(9.0, Ending.TIME)]
    assert watch_.ending() == (Ending.TIME, "")


def test_the_target_is_reached_when_the_average_s_error_is_at_most_it(watched: WatchRun) -> None:
    settings: dict[str, object] = {"run.target_error": 0.05, "run.evaluate_share": 1.0}
    run, watch_, screen = watched(settings, errors=(0.3, 0.0501, 0.05, 0.01))
    assert [reason for _, reason in run.stops] == [Ending.TARGET]
    assert len(run.begun) == 3
    assert run.stops[0][0] == run.begun[2] + 4.0
    assert screen.moments[-1].average_error == 0.05
    assert watch_.ending() == (Ending.TARGET, "")


def test_without_a_target_no_error_ends_a_run(watched: WatchRun) -> None:
    run, _, _ = watched({"run.evaluate_share": 1.0}, errors=(0.0, 0.0), ends=BEGAN + 20)
    assert len(run.begun) >= 2
    assert run.stops == []


def test_a_signal_comes_before_every_other_reason_and_stops_once(watched: WatchRun) -> None:
    run, watch_, _ = watched({"run.max_seconds": BEGAN + 3}, interrupted_at=3.0, obeys=4.0)
    assert run.stops == [(3.0, Ending.SIGNAL)]
    assert watch_.ending() == (Ending.SIGNAL, "")


def test_workers_that_do_not_end_are_not_waited_for(watched: WatchRun) -> None:
    run, watch_, screen = watched(interrupted_at=2.0, obeys=FAR)
    assert run.poll()
    assert screen.moments[-1].seconds == BEGAN + 2.0 + watch.ORDERLY_SECONDS + TICK
    assert watch_.ending() == (Ending.SIGNAL, "")


# --- what is said of an end that is not good --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"schedule.rate": 0.05, "rule.momentum": 0.9},
         "with rate 0.05, momentum 0.9 and 4 workers; try --lr 0.005 or --momentum 0"),
        ({"schedule.rate": 0.05, "rule.momentum": 0.9, "rule.rule": "nesterov"},
         "with rate 0.05, momentum 0.9 and 4 workers; try --lr 0.005 or --momentum 0"),
        ({"schedule.rate": 2.0, "rule.momentum": 0.0}, "with rate 2 and 4 workers; try --lr 0.2"),
        ({"schedule.rate": 2.0, "rule.momentum": 0.9, "rule.rule": "adagrad"},
         "with rate 2 and 4 workers; try --lr 0.2"),
    ],
)  # fmt: skip
def test_a_diverged_run_says_where_and_what_to_try(settings: dict[str, object], line: str, watched: WatchRun) -> None:
    _, watch_, _ = watched(settings, ends=BEGAN + 4, ending="diverged", message="loss is nan")
    assert watch_.ending() == (Ending.DIVERGED, f"diverged at update 40 (loss is nan) {line}")


def test_a_failed_run_says_what_the_ledger_says(watched: WatchRun) -> None:
    _, watch_, _ = watched(ends=BEGAN + 4, ending="failed", message="lease 3 failed 5 times")
    assert watch_.ending() == (Ending.FAILED, "lease 3 failed 5 times")


def test_a_run_without_an_end_has_failed_and_says_so(watched: WatchRun) -> None:
    _, watch_, _ = watched(ends=BEGAN + 4, ending="")
    assert watch_.ending() == (Ending.FAILED, "the workers ended before the run did")


# --- a warning ------------------------------------------------------------------------------------------------------


def test_a_stalled_run_is_told_so_once(watched: WatchRun) -> None:
    given: dict[str, object] = {"schedule.rate": 0.01}
    _, _, screen = watched(given, loss=2.31, auxiliary=(2.2, 1.5), ends=BEGAN + 60)
    assert len(screen.said) == 1
    assert "known stall" in screen.said[0]
    assert "--lr 0.005" in screen.said[0]


def test_a_healthy_run_is_told_nothing(watched: WatchRun) -> None:
    _, _, screen = watched(loss=1.5, auxiliary=(2.2, 1.5), ends=BEGAN + 60)
    assert screen.said == []


# --- evaluation beside it ---------------------------------------------------------------------------------------------


def test_evaluation_keeps_to_its_share_of_all_cores(watched: WatchRun) -> None:
    # 5 % of two cores is 0.1 core-seconds per second: 3 to come up are there after 30 s. Each then says that it took 4,
    # so the next can be had after 40 s and after 80 s.
    run, _, _ = watched({"run.evaluate_share": 0.05}, ends=BEGAN + 119)
    assert run.begun == [30.0, 40.0, 80.0]
    assert [float(weights_N[0]) for weights_N in run.weights] == [BEGAN + 30, BEGAN + 40, BEGAN + 80]


def test_waiting_for_a_core_costs_nothing(watched: WatchRun) -> None:
    run, _, _ = watched({"run.evaluate_share": 0.05}, ends=BEGAN + 60, takes=9.0, computes=0.5)
    assert run.begun == [30.0, 39.5, 49.0, 58.5]


def test_a_lost_evaluator_is_replaced_and_costs_what_another_does(watched: WatchRun) -> None:
    settings: dict[str, object] = {"run.evaluate_share": 0.05}
    run, _, screen = watched(settings, ends=BEGAN + 70, errors=(None, 0.25), takes=8.0)
    assert run.begun == [30.0, 60.0]
    assert screen.moments[-1].average_error == 0.25


def test_half_the_share_means_half_as_often(watched: WatchRun) -> None:
    run, _, _ = watched({"run.evaluate_share": 0.025}, ends=BEGAN + 119)
    assert run.begun == [60.0, 80.0]


def test_one_evaluation_at_a_time(watched: WatchRun) -> None:
    run, _, _ = watched({"run.evaluate_share": 1.0}, ends=BEGAN + 30, takes=8.0)
    assert len(run.begun) == 4
    assert all(later - earlier > 8.0 for earlier, later in zip(run.begun, run.begun[1:], strict=False))


def test_no_share_means_none(watched: WatchRun) -> None:
    run, _, _ = watched({"run.evaluate_share": 0.0}, ends=BEGAN + 120)
    assert run.begun == []


def test_there_is_none_before_the_first_average_nor_of_the_same_one_twice(watched: WatchRun) -> None:
    run, _, _ = watched({"run.evaluate_share": 1.0}, averaged_from=10.0, updates_end=BEGAN + 12, ends=BEGAN + 60)
    assert run.begun[0] == 10.0
    assert run.begun[-1] <= 10.0 + 4.0 + 2 * TICK
    assert len(run.begun) == 2  # at 10 s, and of the last updates


def test_none_is_begun_after_a_stop(watched: WatchRun) -> None:
    run, _, _ = watched({"run.evaluate_share": 1.0}, interrupted_at=1.0, obeys=5.0)
    assert run.stops == [(1.0, Ending.SIGNAL)]
    assert run.begun == []


# --- what is written down ---------------------------------------------------------------------------------------------


def test_what_a_person_sees_and_what_is_written(watched: WatchRun, tmp_path: Path) -> None:
    run, _, screen = watched({"run.evaluate_share": 1.0}, ends=BEGAN + 12, takes=8.0, errors=(0.25,))
    assert [moment.seconds for moment in screen.moments] == [BEGAN + each for each in range(13)]
    assert run.statuses == len(screen.moments)
    assert [(moment.updates, moment.staleness_mean) for moment in screen.moments[1:3]] == [(10, 1.0), (20, 1.0)]
    written = lines(tmp_path)
    assert [(line["kind"], line["seconds"] - BEGAN) for line in written] == [
        ("train", 0.0), ("train", 5.0), ("evaluation", 9.5), ("train", 10.0), ("train", 12.0),
    ]  # fmt: skip
    assert written[2]["average_top1_error"] == 0.25
    assert written[2]["updates"] == 10  # of the weights that were evaluated
    assert written[-1]["updates"] == 120
    assert math.isclose(screen.moments[5].images_per_second, 100.0)
    assert screen.moments[-1].average_error == 0.25


def test_a_run_that_was_taken_up_counts_from_when_it_was_first_asked_for(watched: WatchRun, tmp_path: Path) -> None:
    """Limits count from when this process was."""
    run, watch_, screen = watched({"run.max_seconds": BEGAN + 3}, earlier=100.0)
    assert run.stops == [(3.0, Ending.TIME)]
    assert screen.moments[0].seconds == 100.0 + BEGAN
    watch_.evaluated(Evaluation(0.125, 0.0, 1.0, 360))
    last = lines(tmp_path)[-1]
    assert (last["kind"], last["average_top1_error"], last["seconds"]) == ("evaluation", 0.125, 100.0 + BEGAN + 4.0)
    assert last["samples"] == screen.moments[-1].samples


def test_the_average_is_read_into_a_buffer_of_the_whole_model(watched: WatchRun) -> None:
    run, _, _ = watched({"run.evaluate_share": 1.0}, ends=BEGAN + 4)
    assert run.weights[0].shape == (PARAMETERS,)
    assert run.weights[0].dtype == torch.float32


# --- snapshots --------------------------------------------------------------------------------------------------------


def test_a_snapshot_is_begun_every_so_many_seconds_and_not_before(watched: WatchRun) -> None:
    run, _, _ = watched({"snapshot.every_seconds": 20.0}, ends=BEGAN + 70)
    assert len(run.saved) == 3
    assert all(abs(saved - due) <= 1.0 for saved, due in zip(run.saved, (20.0, 40.0, 60.0), strict=True))


def test_or_every_so_many_updates_whichever_comes_first(watched: WatchRun) -> None:
    run, _, _ = watched({"snapshot.every_seconds": 0, "snapshot.every_updates": 100}, ends=BEGAN + 35)
    assert len(run.saved) == 3, "there are ten updates a second"


def test_or_never(watched: WatchRun) -> None:
    run, _, _ = watched({"snapshot.every_seconds": 0}, ends=BEGAN + 100)
    assert run.saved == []


def test_a_person_is_told_what_was_lost_and_came_back(watched: WatchRun) -> None:
    _, _, screen = watched(notes=("shard-1 lost: brought back",), ends=BEGAN + 5)
    assert screen.said == ["note: shard-1 lost: brought back"]

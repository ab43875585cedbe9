"""Watch: a live run as long as it lasts: what a person sees, metrics, evaluation beside it, reasons to end it early."""

from __future__ import annotations

import os
import time  # noqa: TID251 -- the live clock, and what a person watches
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from distbelief.config import Config
from distbelief.histogram import total
from distbelief.metrics import Meter, MetricsLog, published
from distbelief.progress import Moment, View
from distbelief.stall import StallDetector, advice
from distbelief.timing import Timing, means
from distbelief.troubles import Measured, Troubles
from ps.ledger import Ending
from ps.rules import WITH_MOMENTUM

if TYPE_CHECKING:
    from cluster.live.run import LiveRun
    from cluster.spec import RunSpec, RunStatus
    from workers.evaluation import Evaluation

LOOK_SECONDS = 0.1
STATUS_SECONDS = 1.0
METRICS_SECONDS = 5.0
ORDERLY_SECONDS = 5.0  # that workers get to finish what they are computing when a run is stopped
EVALUATOR_START_SECONDS = 3.0  # of one core: about what bringing up the evaluator costs


class Watch:
    """Watches a live run: what a person sees, metrics, evaluation beside it, and the reasons to end it early.

    Args:
        classes: Of the data.
        seconds: Since this process was asked for it: what limits count.
        earlier: Seconds from when the run was first asked for until then: what is shown and written counts from there.
    """

    def __init__(
        self,
        config: Config,
        spec: RunSpec,
        classes: int,
        live: LiveRun,
        view: View,
        seconds: Callable[[], float],
        earlier: float = 0.0,
    ) -> None:
        self._config = config
        self._live = live
        self._view = view
        self._seconds, self._earlier = seconds, earlier
        self._meter = Meter(spec.plan, spec.cluster.workers)
        self._log = MetricsLog(spec.folder)
        self._stall = StallDetector(classes)
        self._timing = Timing(spec.journal)
        self._troubles = Troubles()
        self._average_N = torch.empty(spec.layout.size)
        self._began = seconds()
        self._status: RunStatus | None = None
        self._moment: Moment | None = None
        self._stop_at: float | None = None
        self._evaluating: Moment | None = None  # when the weights were read that are being evaluated
        self._spent, self._reserved = 0.0, EVALUATOR_START_SECONDS  # core-seconds of evaluation, so far and on top
        self._evaluated_updates = 0
        self._saved_at, self._saved_updates = self._began, 0

    def until_ended(self, interrupted: Callable[[], bool]) -> None:
        """Return when no worker runs any more."""
        next_status = next_metrics = 0.0
        while self._live.poll():
            now = self._seconds()
            if now >= next_status:
                next_status = now + STATUS_SECONDS
                self._look(now)
                if now >= next_metrics and self._moment and self._status:
                    next_metrics = now + METRICS_SECONDS
                    self._measure(self._moment, self._status)
            self._evaluate(now)
            self._save(now)
            for note in self._live.notes():
                self._view.say(f"note: {note}")
            if self._stop_at is None and (reason := self._reason_to_stop(now, interrupted())):
                self._stop_at = now
                self._live.stop(reason)
            if self._stop_at is not None and now > self._stop_at + ORDERLY_SECONDS:
                break
            time.sleep(LOOK_SECONDS)
        self._look(self._seconds())
        if self._moment and self._status:
            self._measure(self._moment, self._status)

    def ending(self) -> tuple[Ending, str]:
        """How the run ended, and one line about it if it did not end well."""
        assert self._status is not None
        ledger = self._status.ledger
        ending = Ending(ledger.ending) if ledger.ending else Ending.FAILED
        if not ledger.ending:
            return ending, "the workers ended before the run did"
        if ending is not Ending.DIVERGED:
            return ending, ledger.message
        rate, rule, workers = self._config.schedule.rate, self._config.rule, self._config.cluster.workers
        used, advice = f"rate {rate:g}", f"try --lr {rate / 10:g}"
        if rule.rule in WITH_MOMENTUM and rule.momentum > 0:
            used, advice = f"{used}, momentum {rule.momentum:g}", f"{advice} or --momentum 0"
        return ending, (
            f"diverged at update {ledger.finished} ({ledger.message}) with {used} and {workers} workers; {advice}"
        )

    def evaluated(self, evaluation: Evaluation) -> None:
        """Write down what the average came to when the run was over."""
        if self._moment:
            self._log.evaluation(replace(self._moment, seconds=self._seconds() + self._earlier), evaluation)

    def close(self) -> None:
        self._log.close()

    def _look(self, now: float) -> None:
        self._status = self._live.status()
        self._moment = self._meter.moment(now + self._earlier, self._status)
        self._view.show(self._moment)
        ledger = self._status.ledger
        if self._stall.stalled(ledger.finished, ledger.recent_loss, ledger.recent_auxiliary):
            rate, seed = self._config.schedule.rate, self._config.run.seed
            self._view.say(advice(ledger.recent_loss, ledger.recent_auxiliary, rate, seed))

    def _measure(self, moment: Moment, status: RunStatus) -> None:
        """Write the metrics, and say what looks wrong."""
        workers = self._timing.look()
        self._log.moment(moment, status)
        self._log.times(moment, workers)
        self._log.staleness(total([shard.staleness for shard in status.shards]), moment)
        self._live.publish(published(moment, status, means(workers)))
        consistency = self._config.consistency
        measured = Measured(
            workers,
            [shard.version for shard in status.shards],
            moment.staleness_mean,
            self._config.mean_staleness,
            consistency.in_rounds,
            moment.updates_per_second,
        )
        for line in self._troubles.look(measured):
            self._view.say(line)

    def _reason_to_stop(self, now: float, interrupted: bool) -> Ending | None:
        run = self._config.run
        if interrupted:
            return Ending.SIGNAL
        if run.max_seconds and now >= run.max_seconds:
            return Ending.TIME
        error = self._meter.average_error
        if run.target_error and error is not None and error <= run.target_error:
            return Ending.TARGET
        return None

    def _save(self, now: float) -> None:
        """Begin a snapshot when one is due."""
        chosen = self._config.snapshot
        updates = max((shard.version for shard in self._status.shards), default=0) if self._status else 0
        late = 0 < chosen.every_seconds <= now - self._saved_at
        if late or 0 < chosen.every_updates <= updates - self._saved_updates:
            self._saved_at, self._saved_updates = now, updates
            self._live.save()

    def _evaluate(self, now: float) -> None:
        """Keep an evaluation of the average going, as far as its share of the compute allows."""
        if self._evaluating is not None:
            self._take_evaluation(now, self._evaluating)
            return
        allowed = self._config.run.evaluate_share * len(os.sched_getaffinity(0)) * (now - self._began)
        if self._moment is None or self._stop_at is not None or self._spent + self._reserved > allowed:
            return
        if self._moment.updates != self._evaluated_updates and self._live.read(True, self._average_N) > 0:
            self._evaluating = self._moment
            self._evaluated_updates = self._moment.updates
            self._live.evaluate(self._average_N)

    def _take_evaluation(self, now: float, begun: Moment) -> None:
        """Write down what the evaluation that was begun then came to, if it has ended."""
        if (evaluated := self._live.evaluated()) is None:
            return
        self._evaluating = None
        if evaluated.evaluation is None:  # the evaluator was lost, at a cost that it could not tell
            self._spent += self._reserved
            self._reserved = EVALUATOR_START_SECONDS
            return
        self._spent += evaluated.core_seconds
        self._reserved = 0.0
        self._meter.average_error = evaluated.evaluation.top1_error
        self._log.evaluation(replace(begun, seconds=now + self._earlier), evaluated.evaluation)

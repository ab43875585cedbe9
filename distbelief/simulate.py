"""Simulate: a run in virtual time, in one process. It leaves the same run directory as a live one.

Times in the journals, in metrics.jsonl and in summary.json are virtual seconds from 0. What can be done with a live run
(replay, verify, evaluate, status) can be done with this one.

`--from RUN` takes everything from a recorded run: its configuration, and the cluster's model from its journals.

Shape suffix: N = parameters of the model.
"""

from __future__ import annotations

import math
import secrets
import sys
import time  # noqa: TID251 -- what a person watches
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from msgspec import structs

from cluster.copies import Copies
from cluster.crashes import CrashingSimulation
from cluster.doubles import DoubledSimulation
from cluster.faults import FaultPlan
from cluster.machines import build_batches, build_computation
from cluster.mishaps import FaultySimulation
from cluster.model import ClusterModel
from cluster.pieces import Pieces, with_gradients, without_gradients
from cluster.recording import Recording
from cluster.simulated import Simulation, shard_address
from cluster.spec import RunSpec, RunStatus
from cluster.vectors import OwnVectors, SharedVectors, Vectors, shareable
from distbelief import advisor, memory, own, rundir
from distbelief.affordable import affordable
from distbelief.card import Card
from distbelief.config import Config, assignments
from distbelief.conservation import complaint
from distbelief.draft import Draft, anchored, draft, facts_of, faults_of
from distbelief.fit import fitted
from distbelief.histogram import total
from distbelief.interrupts import Interrupts
from distbelief.metrics import Meter, MetricsLog
from distbelief.progress import Moment, View, percent, view_for
from distbelief.summary import Outcomes, exit_code, summarise
from distbelief.trace import Trace
from ps.errors import BadInput
from ps.ledger import Ending
from ps.messages import AVERAGER, LEDGER, Address, Role
from ps.wire.files import SUFFIX, JournalWriter
from workers.arithmetic import arithmetic
from workers.evaluation import Evaluation, Evaluator
from workers.images import Traits
from workers.own import called
from workers.unreadable import UnreadableList

Journals = Mapping[Address, JournalWriter]

KEPT_BACK = 1 << 16  # bytes of each journal: nobody hears of them before the end
LEARNING_EVENTS, COUNTING_EVENTS = 10, 1000  # between two looks, with gradients and without
SHOW_SECONDS = 0.25  # of a person's time
METRICS_SHARE = 0.005  # of the run's samples between two lines of metrics


def run_from_command_line(options: Mapping[str, object], texts: tuple[str, ...], source: Path | None) -> int:
    """`distbelief simulate`: options by "section.key" (and "config", a file), then --set assignments, then `--from`.
    Returns the exit code.
    """
    given = dict(options)
    file = given.pop("config", None)
    values = {**assignments(texts), **given}
    if source is not None:
        values = {**fitted(source), **values}
        file = file or source / rundir.CONFIG
    return exit_code(simulate(Config.of(values, Path(str(file)) if file else None)))


def simulate(config: Config, view: View | None = None) -> dict[str, Any]:
    """Simulate a run to its end.

    Args:
        config: What to run, and on what kind of cluster.
        view: Where progress goes; by default a live view on a terminal and plain lines elsewhere.

    Returns:
        The content of summary.json.

    Raises:
        BadInput: What was asked for cannot be run; nothing was begun.
    """
    view = view or view_for(sys.stderr)
    with Interrupts() as interrupts:
        try:
            config = anchored(replace(config, cluster=replace(config.cluster, gpus_per_worker=0.0)))
            faults = _faults(config)
            drafted = draft(config)
            if config.simulate.gradients == "real":
                config, drafted = affordable(config, drafted, memory.simulated_bytes)
            config = replace(config, data=drafted.spec.data)
            stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
            model = _model(config)
            folder = rundir.create(config, stamp)
            own.kept(config, folder)
            spec = replace(drafted.spec, run=f"{stamp}-{secrets.token_hex(4)}", folder=folder, faults=faults)
            interrupts.orderly = True
            view.begin(_facts(config, spec))
            for note in drafted.notes:
                view.say(f"note: {note}")
            return _Simulate(config, replace(drafted, spec=spec), view, interrupts).run(model)
        finally:
            view.close()


def _faults(config: Config) -> FaultPlan:
    faults = faults_of(config)
    for fault in faults.faults:
        if fault.role == "host":
            raise BadInput(f"--faults: got {fault.actor!r}, expected worker: a simulated worker has a host of its own")
    return faults


def _model(config: Config) -> ClusterModel:
    chosen = config.simulate
    measured: list[list[float]] = []
    if chosen.compute == "empirical" and chosen.source:
        times = Recording.read(Path(chosen.source) / rundir.JOURNAL).compute_seconds
        measured = [times[worker] for worker in sorted(times)]
    return ClusterModel(chosen, config.run.seed, measured)


def _facts(config: Config, spec: RunSpec) -> list[tuple[str, str]]:
    chosen, plan = config.simulate, spec.plan
    data = called(config.data.name)
    compute = f"{chosen.compute}, mean {chosen.compute_seconds:g} s"
    if chosen.compute == "empirical":
        compute = f"as measured in {chosen.source}"
    return [
        ("run", rundir.named(spec.folder)),
        ("data", f"{data}, {plan.examples:,} examples, {plan.epochs} epochs in batches of {plan.batch_size}"),
        ("model", f"{called(config.model.name)}, {spec.layout.size:,} parameters, gradients: {chosen.gradients}"),
        ("cluster", f"{config.cluster.workers} simulated workers, {config.cluster.shards} shards; compute {compute}"),
        *([("policy", config.policy_note)] if config.policy_note else []),
    ]


class _Simulate:
    """One simulated run from start to summary."""

    def __init__(self, config: Config, drafted: Draft, view: View, interrupts: Interrupts) -> None:
        self._config = config
        self._drafted = drafted
        self._spec = drafted.spec
        self._view = view
        self._interrupts = interrupts
        self._learns = config.simulate.gradients == "real"
        self._meter = Meter(self._spec.plan, config.cluster.workers)
        self._shown = self._logged = self._evaluated = 0.0
        self._vector_N = torch.empty(self._spec.layout.size)
        self._trace: Trace | None = None
        self._curvature = math.nan
        if self._learns:
            torch.set_num_threads(config.cluster.threads)
            self._evaluator = Evaluator(config.model, config.data, self._spec.layout)

    def run(self, model: ClusterModel) -> dict[str, Any]:
        began = time.monotonic()
        copies = Copies(memory.for_versions(), self._spec.layout.size)
        self._log = MetricsLog(self._spec.folder)
        try:
            with journals_of(self._spec) as journals:
                pieces = self._pieces(copies, journals)
                self._open(pieces, journals)
                self._simulation = self._simulated(pieces, model, journals)
                self._simulation.run(self._look, LEARNING_EVENTS if self._learns else COUNTING_EVENTS)
            return self._finish(time.monotonic() - began)
        finally:
            self._log.close()
            copies.close()

    def _simulated(self, pieces: Pieces, model: ClusterModel, journals: Journals) -> Simulation:
        spec, workers, limit = self._spec, self._config.cluster.workers, self._config.run.max_seconds
        doubled = bool(spec.cluster.replicas)
        if not spec.faults and not doubled:
            return Simulation(pieces, model, workers, limit)
        if not doubled and not any(fault.do == "kill" and fault.role != "worker" for fault in spec.faults.faults):
            return FaultySimulation(pieces, model, workers, spec.faults, limit)

        def anew() -> Pieces:
            if not self._learns:
                return without_gradients(spec, journals)
            return with_gradients(spec, self._drafted.weights_N, pieces.vectors, journals)

        every_seconds = spec.snapshot.every_seconds
        kind = DoubledSimulation if doubled else CrashingSimulation
        return kind(pieces, model, workers, spec.faults, anew, limit, snapshot_seconds=every_seconds)

    def _pieces(self, copies: Copies, journals: Journals) -> Pieces:
        if not self._learns:
            return without_gradients(self._spec, journals)
        dataset = self._drafted.dataset
        batches = build_batches(self._spec, dataset, UnreadableList(self._spec.unreadable).add)
        computation = build_computation(self._spec, dataset, batches.batch)
        pulls = self._spec.program.pulls
        vectors: Vectors
        if shareable(self._spec):
            vectors = SharedVectors(self._spec.bounds, computation, copies, pulls)
        else:
            vectors = OwnVectors(self._spec.layout.size, computation, pulls)
        self._trace = Trace(vectors, self._spec.elements[0], self._config.run.seed)
        if advisor.measurable(self._config):
            self._advise()
        return with_gradients(self._spec, self._drafted.weights_N, self._trace, journals)

    def _advise(self) -> None:
        self._curvature = advisor.curvature(self._config, self._spec, self._drafted.dataset, self._drafted.weights_N)
        if sentence := advisor.stability(self._config, self._curvature).advice():
            self._view.say(sentence)

    def _open(self, pieces: Pieces, journals: Journals) -> None:
        threads, dataset = self._config.cluster.threads, self._drafted.dataset
        for shard in pieces.shards:
            journals[shard_address(shard.index)].write([arithmetic(0.0, threads), shard.opened(0.0)])
        journals[LEDGER].write([pieces.ledger.opened(0.0)])
        journals[AVERAGER].write([pieces.averager.opened(0.0)])
        journals[Address(Role.WORKER)].write([arithmetic(0.0, threads, dataset)])

    # --- while it runs -----------------------------------------------------------------------------------------------

    def _look(self) -> None:
        now = time.monotonic()
        if self._interrupts.seen:
            self._simulation.stop(Ending.SIGNAL, at_once=True)
        samples = self._simulation.samples
        if now - self._shown >= SHOW_SECONDS:
            self._shown = now
            self._view.show(self._moment())
        if samples - self._logged >= METRICS_SHARE * self._spec.plan.samples:
            self._logged = samples
            self._record()
        every = self._config.simulate.evaluate_epochs * self._spec.plan.examples
        if self._learns and every and samples - self._evaluated >= every:
            self._evaluated = samples
            self._evaluate()

    def _moment(self) -> Moment:
        return self._meter.moment(self._simulation.now, self._status())

    def _status(self) -> RunStatus:
        """Where nothing learns, no loss is known."""
        status = self._simulation.status()
        if self._learns:
            return status
        return replace(status, ledger=structs.replace(status.ledger, recent_loss=math.nan, recent_error=math.nan))

    def _record(self) -> None:
        self._log.moment(self._moment(), self._status())

    def _evaluate(self) -> None:
        if not self._simulation.read(True, self._vector_N):
            return
        found = self._evaluator.evaluate(self._vector_N)
        self._meter.average_error = found.top1_error
        self._log.evaluation(self._moment(), found)
        if self._config.run.target_error > 0 and found.top1_error <= self._config.run.target_error:
            self._simulation.stop(Ending.TARGET)

    # --- the end -----------------------------------------------------------------------------------------------------

    def _finish(self, real_seconds: float) -> dict[str, Any]:
        self._record()
        found: dict[str, tuple[Evaluation | None, str]] = {}
        for name in rundir.WEIGHTS:
            found[name] = self._saved(name) if self._learns else (None, "")
        if (average := found["average"][0]) is not None:
            self._log.evaluation(self._moment(), average)
        shards = self._simulation.status().shards
        self._log.staleness(total([shard.staleness for shard in shards]), self._moment())
        status = self._simulation.status().ledger
        ending = status.ending or Ending.FAILED.value
        message = status.message if status.ending else "all workers were lost before the run ended"
        outcomes = Outcomes(0.0, self._simulation.now, ending, message, found)
        facts = {
            "clock": "simulated",
            "gradients": self._config.simulate.gradients,
            "real_seconds": round(real_seconds, 3),
            **facts_of(self._config, self._drafted),
        }
        summary = summarise(self._spec.folder, self._spec.plan, facts, outcomes, self._measures)
        if broken := complaint(summary["conservation"]):
            self._view.say(broken)
        self._view.end(_results(self._spec.folder, summary))
        return summary

    def _measures(self, staleness: float) -> dict[str, Any]:
        """What the trajectory and the curvature came to; None where they say nothing."""
        stability = gap = motion = None
        if math.isfinite(self._curvature):
            stability = advisor.verdict(advisor.stability(self._config, self._curvature, staleness))
        if self._trace is not None:
            gap = self._trace.gap()
            if self._config.rule.rule in ("sgd", "momentum", "nesterov"):  # the others do not step along the gradient
                motion = self._trace.motion(self._config.cluster.workers)
        return {
            "stability": stability,
            "gap": asdict(gap) if gap else None,
            "effective_momentum": motion.momentum if motion else None,
            "effective_rate": motion.rate if motion else None,
        }

    def _saved(self, name: str) -> tuple[Evaluation, str]:
        """Write the weights; before the first averaged version the average is the latest."""
        versions = self._simulation.read(name == "average", self._vector_N)
        if versions == 0:
            self._simulation.read(False, self._vector_N)
        averaged = versions if name == "average" else 0
        card = Card(self._spec.model.name, self._spec.run, averaged, Traits.of(self._drafted.dataset)).metadata()
        sha256 = rundir.write_weights(self._spec.folder, name, self._spec.layout, self._vector_N, card)
        return self._evaluator.evaluate(self._vector_N), sha256


@contextmanager
def journals_of(spec: RunSpec) -> Iterator[Journals]:
    """Every actor's journal; all workers are on one host."""
    names = {shard_address(shard): f"shard-{shard}" for shard in range(spec.layout.shards)}
    names |= {LEDGER: "ledger", AVERAGER: "averager", Address(Role.WORKER): "host-0"}
    if spec.faults.strikes(Role.STANDBY.value):
        names |= {Address(Role.STANDBY, shard): f"standby-{shard}" for shard in range(spec.layout.shards)}
    journals = {
        address: JournalWriter(spec.journal / f"{name}{SUFFIX}", spec.run, name, KEPT_BACK)
        for address, name in names.items()
    }
    try:
        yield journals
    finally:
        for journal in journals.values():
            journal.close()


def _results(folder: Path, summary: dict[str, Any]) -> list[tuple[str, str]]:
    staleness = summary["staleness"]
    error = summary["evaluation"]["average"]["top1_error"]
    speed = summary["updates"] / max(summary["real_seconds"], 1e-9)
    return [
        ("ended by", summary["stopped_by"]),
        ("top-1 error", "nothing was learned" if error is None else f"{percent(error)} (average)"),
        ("updates", f"{summary['updates']:,} in {summary['seconds']:.1f} virtual seconds, simulated {speed:,.0f}/s"),
        ("staleness", f"mean {staleness['mean']:.1f}, p95 {staleness['p95']}, max {staleness['max']}"),
        (
            "leases",
            f"{summary['leases']['applied']:,} applied once each, {summary['leases']['reissued']} grants repeated",
        ),
        ("run", rundir.named(folder)),
    ]

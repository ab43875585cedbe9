"""Launch: start a live run, watch it, end it, and leave a whole run directory behind."""

from __future__ import annotations

import os
import secrets
import sys
import time  # noqa: TID251 -- the live clock, and what a person watches
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch

from cluster import serving
from cluster.cutting import cut_anew
from cluster.head import HeadLost
from cluster.local import private_ray
from cluster.logs import logging_to
from cluster.spec import ClusterSettings, RunSpec
from distbelief import BEGAN, memory, own, rendezvous, rundir
from distbelief.advisor import Advisor
from distbelief.affordable import affordable
from distbelief.card import Card
from distbelief.config import Config, assignments
from distbelief.conservation import complaint
from distbelief.draft import anchored, draft, facts_of, faults_of
from distbelief.interrupts import Interrupts
from distbelief.logs import LoggedView, warnings_of
from distbelief.progress import View, percent, view_for
from distbelief.summary import Outcomes, exit_code, summarise
from distbelief.watch import LOOK_SECONDS, ORDERLY_SECONDS, Watch
from distbelief.words import cluster_of, rule_of
from ps.errors import NotWritten, PeerRefused, RunFailed, require
from ps.ledger import Ending
from ps.messages import Address
from ps.wire import tls
from ps.wire.tls import Identity
from workers.datasets import load
from workers.device import device_for
from workers.evaluation import Evaluation, Evaluator
from workers.images import Dataset, Traits
from workers.own import called

if TYPE_CHECKING:
    from torch import Tensor

    from cluster.live.run import LiveRun

RESTING_SECONDS = 120.0  # that a snapshot of a run at rest may take
AGAIN_SECONDS = 60.0  # that a head which answers again may take until it lets one in
HEAD_SECONDS = 900.0  # that a cluster's head may be away
EVALUATION_BUDGET_SECONDS = 3.0  # after a signal; without one the last evaluation takes what it takes
ON_GPUS = "gradients are computed on GPUs, which do not give the same bits again: this run cannot be replayed"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that can start: everything that can be wrong with what the user asked for has been looked at.

    `before`: with the shards that it has, if it is to be cut into another number of them first.
    """

    spec: RunSpec
    weights_N: Tensor
    traits: Traits
    dataset: Dataset
    facts: dict[str, Any]
    notes: tuple[str, ...] = ()
    before: RunSpec | None = None


def run_from_command_line(options: Mapping[str, object], texts: tuple[str, ...]) -> int:
    """`distbelief launch`: options by "section.key" (and "config", a file), then --set assignments. Returns the exit
    code.
    """
    values = dict(options)
    file = values.pop("config", None)
    config = Config.of({**assignments(texts), **values}, Path(str(file)) if file else None)
    return exit_code(launch(config, started=max(psutil.Process().create_time(), BEGAN)))


def launch(
    config: Config | Mapping[str, object],
    view: View | None = None,
    started: float | None = None,
    *,
    model: Any = None,
    dataset: Any = None,
    loss: Any = None,
) -> dict[str, Any]:
    """Run a training job to its end.

    Args:
        config: What to run; or its values, "section.key" to value.
        model: Makes a torch module, in the place of a model of ours; or is one, whose weights training begins with.
        dataset: Has a length, and [index] gives (image, label); or {"train": ..., "test": ...} of such; or a function
            of the split that gives them. See workers/own_data.py.
        loss: A function of logits (B, K) and labels to a mean loss, in the place of cross entropy.
        view: Where progress goes; by default a live view on a terminal and plain lines elsewhere.
        started: When the user asked for the run, seconds since 1970, for its times and limits; by default now.

    Returns:
        The content of summary.json.

    Raises:
        BadInput: What was asked for cannot be run; nothing was started.
        RunFailed: The run could not go on; the run directory holds what there was.
        KeyboardInterrupt: Interrupted before training began.
    """
    view = view or view_for(sys.stderr)
    started = time.time() if started is None else started
    with Interrupts() as interrupts:
        try:
            config = own.given(config, model, dataset, loss)
            config, prepared = prepare(config)
            folder = prepared.spec.folder
            with rundir.begun(folder), logging_to(folder, "driver"), rundir.held(folder):
                logged = LoggedView(view)
                logged.begin(shown(config, prepared))
                for note in prepared.notes:
                    logged.say(f"note: {note}")
                rundir.write_started(folder, started)
                return Launch(config, prepared, logged, interrupts, started).run()
        finally:
            view.close()


def prepare(config: Config) -> tuple[Config, Prepared]:
    """Open the data, build the model, check the memory, make the run directory; return also what is run, which may be
    less than was asked for. Raises BadInput.
    """
    config = anchored(config)
    faults = faults_of(config)
    drawn = not config.cluster.paced or config.simulate.compute != "empirical"
    require(drawn, "simulate.compute", config.simulate.compute, "a distribution to draw from, with cluster.paced")
    drafted = draft(config)
    if config.cluster.address == "local":
        config, drafted = affordable(
            config, drafted, partial(memory.needed_bytes, turns=serving.default_turns(drafted.spec))
        )
    config = replace(config, data=drafted.spec.data)
    load(config.data, "test")
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    spec = replace(
        drafted.spec,
        run=f"{stamp}-{secrets.token_hex(4)}",
        token=secrets.token_hex(32),
        identity=identity_of(config.cluster),
        faults=faults,
    )
    if config.cluster.address == "local":
        device_for(config.cluster.gpus_per_worker)
        memory.check(spec, serving.default_turns(spec))
    facts = facts_of(config, drafted)
    traits = Traits.of(drafted.dataset)
    folder = rundir.create(config, stamp)
    config = own.kept(config, folder)
    spec = replace(spec, folder=folder, model=config.model, data=config.data)
    notes = (*drafted.notes, ON_GPUS) if config.cluster.gpus_per_worker else drafted.notes
    return config, Prepared(spec, drafted.weights_N, traits, drafted.dataset, facts, notes)


def identity_of(cluster: ClusterSettings) -> Identity | None:
    """What a run's actors prove themselves with: as given, or made for it. Raises BadInput."""
    if cluster.certificate:
        return tls.given(Path(cluster.certificate), Path(cluster.key))
    return tls.made() if cluster.tls else None


def shown(config: Config, prepared: Prepared) -> list[tuple[str, str]]:
    """What a person is told of a run before it starts."""
    spec = prepared.spec
    rule = rule_of(config)
    if config.correction.kind != "none":
        rule += f", correction {config.correction.kind}"
    mode = "" if config.consistency.kind == "async" else f", consistency {config.consistency.kind}"
    if config.program.kind != "gradient":
        mode += f", program {config.program.kind} with {config.program.push_every} batches per lease"
    if config.program.prefetch:
        mode += ", weights pulled ahead"
    if config.cluster.gpus_per_worker:
        mode += f", {config.cluster.gpus_per_worker:g} of a GPU per worker"
    standbys = " with standbys" if config.cluster.replicas else ""
    needed = memory.needed_bytes(spec, serving.default_turns(spec)) / 2**30
    run, cluster, plan = config.run, config.cluster, spec.plan
    data = called(config.data.name)
    member = f", ensemble member {run.ensemble_member}" if run.ensemble_member else ""
    return [
        ("run", rundir.named(spec.folder)),
        ("data", f"{data}, {plan.examples:,} examples, {run.epochs} epochs in batches of {run.batch_size}"),
        ("model", f"{called(config.model.name)}, {spec.layout.size:,} parameters, {config.model.precision}{member}"),
        ("cluster", f"{cluster_of(config)}{standbys}, address {cluster.address}{mode}"),
        ("rule", rule),
        *([("policy", note)] if (note := config.policy_note) else []),
        *([("faults", f"{len(spec.faults.faults)} planned in {cluster.faults}")] if spec.faults else []),
        ("memory", f"about {needed:.1f} GiB, if all of it is on one machine"),
    ]


class Launch:
    """One live run from start to summary.

    Args:
        started: When this process was asked for it, seconds since 1970.
        first: When the run was first asked for, if this process takes it up again.
    """

    def __init__(
        self,
        config: Config,
        prepared: Prepared,
        view: View,
        interrupts: Interrupts,
        started: float,
        first: float | None = None,
    ) -> None:
        self._config = config
        self._spec = prepared.spec
        self._before = prepared.before
        self._weights_N = prepared.weights_N
        self._traits = prepared.traits
        self._dataset = prepared.dataset
        self._facts = prepared.facts
        self._view = view
        self._interrupts = interrupts
        self._started, self._first = started, first
        self._hashes: dict[str, str] = {}
        self._ending, self._message = Ending.FAILED, ""
        self._watch: Watch | None = None

    def run(self) -> dict[str, Any]:
        try:
            try:
                self._train()
            finally:
                rundir.remove_connection(self._spec.folder)
            return self._finish()
        except OSError as error:
            where = error.filename or self._spec.folder
            raise RunFailed(
                f"{where}: {error.strerror or error}; mend that, then distbelief resume {self._spec.folder}"
            ) from error
        except (NotWritten, PeerRefused) as error:  # some process cannot go on: its disk is full, say
            raise RunFailed(f"{error}; mend that, then distbelief resume {self._spec.folder}") from error
        finally:
            self._close_watch()

    def _close_watch(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _train(self) -> None:
        """As often as the cluster's head is lost and comes back."""
        again, machines = self._first is not None, 1
        while True:
            try:
                return self._attempt(again, machines)
            except HeadLost as lost:
                rundir.remove_connection(self._spec.folder)
                self._close_watch()
                self._await(lost)
                again, machines = True, lost.head.machines
                self._spec = replace(self._spec, token=secrets.token_hex(32))  # what is left of it is a stranger now

    def _await(self, lost: HeadLost) -> None:
        """Return when the head answers again. Raises RunFailed if it does not, or if nobody wants to wait."""
        minutes = f"{HEAD_SECONDS / 60:.0f} minutes"
        self._view.say(f"note: {lost}: the run goes on when it is back, if that is within {minutes}")
        if not lost.head.returns(HEAD_SECONDS, lambda: not self._interrupts.seen):
            raise RunFailed(f"{lost}; when it is up: distbelief resume {rundir.named(self._spec.folder)}") from lost

    def _attempt(self, again: bool, machines: int) -> None:
        self._view.phase("starting Ray")
        address = self._config.cluster.address
        with private_ray() if address == "local" else nullcontext() as temporary:
            from cluster.live.connection import connected  # Ray reads its settings when it is imported
            from cluster.live.run import LiveRun

            with connected(address, temporary, AGAIN_SECONDS if machines > 1 else 0.0):
                self._interrupts.reinstall()
                if self._before is not None:
                    self._cut_anew(self._before, LiveRun(self._before, self._weights_N, True, machines))
                    self._before = None
                self._run_on_ray(LiveRun(self._spec, self._weights_N, again, machines))

    def _cut_anew(self, before: RunSpec, live: LiveRun) -> None:
        """Bring the run to rest with the shards that it has, and cut the snapshot of that anew."""
        counts = f"{before.layout.shards} shards into {self._spec.layout.shards}"
        self._view.phase(f"bringing the run to rest, to cut {counts}")
        try:
            live.start()
            rundir.write_connection(before.folder, before.token, live.targets, {"pid": os.getpid()}, before.identity)
            while live.poll():
                for note in live.notes():
                    self._view.say(f"note: {note}")
                time.sleep(LOOK_SECONDS)
            live.settle(RESTING_SECONDS)
            live.save_now(RESTING_SECONDS)
        finally:
            live.close()
            rundir.remove_connection(before.folder)
        cut_anew(before, self._spec)
        self._view.say(f"cut {counts}")

    def _run_on_ray(self, live: LiveRun) -> None:
        try:
            self._view.phase("starting shards and workers")
            live.start()
            with rendezvous.gateway(self._spec, live, str(self._facts["data_fingerprint"])) as join:
                self._view.say(f"others may join: {rendezvous.command(join, self._spec.folder)}")
                facts: dict[str, int | str] = {
                    "pid": os.getpid(),
                    "workers": self._spec.cluster.workers,
                    "total_samples": self._spec.plan.samples,
                    "join": join,
                    "policy": self._config.policy_note,
                    "prefetch": self._spec.program.prefetch,
                }
                self._connected(live.targets, facts)
                live.moved.append(lambda targets: self._connected(targets, facts))
                self._interrupts.orderly = True
                classes = len(self._traits.classes)
                earlier = self._started - (self._first or self._started)
                watch = Watch(self._config, self._spec, classes, live, self._view, self._seconds, earlier)
                self._watch = watch
                self._advisor = Advisor(self._config, self._spec, self._dataset, self._weights_N, self._view.say)
                try:
                    watch.until_ended(lambda: self._interrupts.seen)
                finally:
                    self._advisor.close()
                self._ending, self._message = watch.ending()
            if self._ending is not Ending.COMPLETED:
                self._view.phase("writing a snapshot")
                live.save_now(ORDERLY_SECONDS)
            self._view.phase("writing the weights")
            self._save(live)
            if self._config.cluster.replicas:
                self._compare(live.standbys())
        finally:
            live.close()

    def _compare(self, alike: Mapping[int, bool]) -> None:
        """Say and sum up whether standbys hold what their shards hold."""
        self._facts = self._facts | {"standbys": {str(shard): same for shard, same in alike.items()}}
        for shard in (shard for shard, same in alike.items() if not same):
            self._view.say(f"warning: the standby of shard {shard} does not hold the same: please report this")

    def _connected(self, targets: dict[Address, str], facts: dict[str, int | str]) -> None:
        rundir.write_connection(self._spec.folder, self._spec.token, targets, facts, self._spec.identity)

    def _save(self, live: LiveRun) -> None:
        """Write latest and average; before the first averaged version the average is the latest."""
        live.settle(ORDERLY_SECONDS)
        weights_N = torch.empty(self._spec.layout.size)
        for name in ("latest", "average"):
            versions = live.read(name == "average", weights_N)
            if versions == 0:
                live.read(False, weights_N)
                self._view.say("no version was averaged yet: the average is the latest weights")
            averaged = versions if name == "average" else 0
            card = Card(self._spec.model.name, self._spec.run, averaged, self._traits).metadata()
            self._hashes[name] = rundir.write_weights(self._spec.folder, name, self._spec.layout, weights_N, card)

    def _finish(self) -> dict[str, Any]:
        """Evaluate the files that were written, and write the summary."""
        self._view.phase("evaluating")
        limit = time.monotonic() + EVALUATION_BUDGET_SECONDS if self._ending is Ending.SIGNAL else None
        torch.set_num_threads(1)  # of each of the threads below
        threads = len(os.sched_getaffinity(0))
        evaluator = Evaluator(self._spec.model, self._spec.data, self._spec.layout, threads)
        found: dict[str, tuple[Evaluation | None, str]] = {}
        for name in rundir.WEIGHTS:
            weights_N = rundir.read_weights(self._spec.folder / f"{name}.safetensors", self._spec.layout)
            found[name] = _within(limit, evaluator, weights_N), self._hashes[name]
        if self._watch is not None and (average := found["average"][0]) is not None:
            self._watch.evaluated(average)
        outcomes = Outcomes(self._first or self._started, time.time(), self._ending.value, self._message, found)
        facts = self._facts | {"warnings": warnings_of(self._spec.folder)}
        summary = summarise(self._spec.folder, self._spec.plan, facts, outcomes, self._measures)
        if broken := complaint(summary["conservation"]):
            self._view.say(broken)
        self._view.end(_results(self._spec.folder, summary))
        return summary

    def _measures(self, staleness: float) -> dict[str, Any]:
        return {"stability": self._advisor.verdict(staleness)}

    def _seconds(self) -> float:
        return time.time() - self._started


class _TimeUp(Exception):  # noqa: N818 -- not a fault
    pass


def _within(limit: float | None, evaluator: Evaluator, weights_N: Tensor) -> Evaluation | None:
    """An evaluation, or None if it is not done by the limit (seconds on the monotonic clock)."""

    def look(_: int) -> None:
        if limit is not None and time.monotonic() > limit:
            raise _TimeUp

    with suppress(_TimeUp):
        return evaluator.evaluate(weights_N, look)
    return None


def _results(folder: Path, summary: dict[str, Any]) -> list[tuple[str, str]]:
    average, staleness, leases = summary["evaluation"]["average"], summary["staleness"], summary["leases"]
    error = "not evaluated"
    if average["top1_error"] is not None:
        error = f"{percent(average['top1_error'])} of {average['examples']:,} test images (average)"
    speed = f"{summary['images_per_second']:,.0f} images/s"
    again = f"{leases['reissued']} grants repeated, {leases['outstanding']} unfinished"
    skipped = summary["skipped_examples"]
    named = rundir.named(folder / "unreadable.txt")
    return [
        ("ended by", summary["stopped_by"]),
        ("top-1 error", error),
        ("updates", f"{summary['updates']:,} in {summary['seconds']:.1f} s, {speed}"),
        ("staleness", f"mean {staleness['mean']:.1f}, p95 {staleness['p95']}, max {staleness['max']}"),
        ("leases", f"{leases['applied']:,} applied once each, {again}"),
        *([("unreadable", f"{skipped:,} examples skipped, named in {named}")] if skipped else []),
        ("weights", rundir.named(folder / "average.safetensors")),
    ]

"""Replay: a recorded run again, in one process, compared bit for bit with what it left behind.

    identical    every record comes out again, and with it the weights and the average        exit code 0
    different    the first event that differs is named                                        exit code 1
    incomplete   a journal ends before what was applied: nothing can be said beyond that      exit code 3

Before it starts it says what differs between this process and those that computed the run: versions, instruction sets,
data. Such a difference need not change a bit, but it may.

Shape suffix: N = parameters of the model.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import torch
from msgspec import structs
from torch import Tensor

from cluster.copies import Copies
from cluster.machines import build_averager, build_batches, build_computation, build_ledger, build_shard, no_gradient
from cluster.recording import Recording
from cluster.replayed import Replay, ReplayPieces
from cluster.witnesses import CannotGoOn, Difference, unlike
from distbelief import memory, rundir
from distbelief.card import Card
from distbelief.counter import Counter
from distbelief.draft import Draft, draft
from distbelief.output import writable, written
from ps.errors import BadInput, RunFailed, require
from ps.journal import ShardOpened
from ps.repartition import repartition
from workers.arithmetic import arithmetic
from workers.images import Traits

IDENTICAL, DIFFERENT, INCOMPLETE = "identical", "different", "incomplete"
EXIT_CODES = {IDENTICAL: 0, DIFFERENT: 1, INCOMPLETE: 3}
SHOWN = 5

Look = Callable[[int, int], None]  # updates done, and all of them


@dataclass(frozen=True, slots=True)
class Hashes:
    """sha256 (hexadecimal) over the values of one vector, as recorded and as replayed; "" where there is none."""

    recorded: str
    replayed: str

    @property
    def same(self) -> bool:
        return bool(self.recorded) and self.recorded == self.replayed


@dataclass(slots=True)
class Replayed:
    """What a replay came to.

    Attributes:
        verdict: IDENTICAL, DIFFERENT or INCOMPLETE.
        versions: Each shard's, at the end.
        updates: Over all shards.
        weights: "latest" and "average" to their hashes; empty for a run that had no weights.
        differences: In the order in which they were found; the first is the one that matters.
        output: File that the weights were written to.
    """

    verdict: str = IDENTICAL
    versions: tuple[int, ...] = ()
    updates: int = 0
    weights: dict[str, Hashes] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    output: str = ""


def replay_command(run: Path, until: int | None, output: Path | None, as_json: bool) -> int:
    """`distbelief replay`: print what came out; return the exit code. Raises BadInput, RunFailed."""
    if output is not None and until is None:
        raise BadInput("--output: got a file without --until UPDATE, expected both; a whole replay only compares")
    recording, drafted = _opened(run)
    if output is not None:
        require(_learned(recording), "--output", str(output), f"none: {run} was run without weights")
        writable(output)
    notes = notes_of(recording, drafted)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    with Counter("replaying", "updates", sys.stderr) as counter:
        found = _replay(run, recording, drafted, until, output, counter.show)
    if as_json:
        click.echo(json.dumps({"identical": found.verdict == IDENTICAL, **asdict(found), "notes": notes}))
    else:
        click.echo("\n".join(_lines(found, until)))
    return EXIT_CODES[found.verdict]


def replay(run: Path, until: int | None = None, output: Path | None = None) -> Replayed:
    """Run a recorded run again and compare.

    Args:
        run: Run directory.
        until: Stop where every shard has applied so many updates, and write the weights there.
        output: Where to; by default into the run directory.

    Raises:
        BadInput: Not a run directory, or it has not so many updates.
        RunFailed: Its journals are missing, or of another run.
        JournalDamaged: One of them is damaged.
    """
    return _replay(run, *_opened(run), until, output, lambda _done, _all: None)


def _opened(run: Path) -> tuple[Recording, Draft]:
    config = rundir.config_of(run)
    recording = Recording.read(run / rundir.JOURNAL)
    if not config.program.pure:
        raise BadInput(
            f"{run}: got a run of the program {config.program.kind} whose workers pull while they compute or keep a "
            "copy for life, expected one whose pushes follow from one pull"
        )
    if config.cluster.gpus_per_worker:
        raise BadInput(f"{run}: got a run with gradients of a GPU, expected one that was computed on cores")
    drafted = draft(config)
    mine = build_ledger(drafted.spec).opened(0.0)
    theirs = structs.replace(recording.opened, now=0.0, seed=mine.seed)  # another seed is a difference, not another run
    if mine != theirs:
        raise RunFailed(f"{run}: config.toml and data are not those of the journals: {unlike(theirs, mine)}")
    return recording, drafted


def _learned(recording: Recording) -> bool:
    """Whether there were weights."""
    return any(isinstance(r, ShardOpened) and r.elements for records in recording.shards for r in records)


def notes_of(recording: Recording, drafted: Draft) -> list[str]:
    """What may change bits: what differs between those that computed the run and this process."""
    here = arithmetic(0.0, drafted.spec.cluster.threads, drafted.dataset)
    found: dict[str, None] = {}
    for actor, there in sorted(recording.arithmetic.items()):
        for name in here.__struct_fields__:
            ours, theirs = getattr(here, name), getattr(there, name)
            applies = actor.startswith("host") or name in ("torch", "processor")
            if name != "now" and applies and ours != theirs:
                found[f"{name} differs: recorded {theirs}, here {ours}; bits may differ"] = None
    return list(found)


def _replay(
    run: Path, recording: Recording, drafted: Draft, until: int | None, output: Path | None, look: Look
) -> Replayed:
    spec = drafted.spec
    learned = _learned(recording)
    found = Replayed()
    if recording.opened.seed != spec.plan.seed:
        found.differences.append(f"ledger: seed: recorded {recording.opened.seed}, replayed {spec.plan.seed}")
    if lost := _lost(recording):
        found.verdict, found.differences = INCOMPLETE, [*found.differences, str(lost)]
        return found
    most = sum(max(map(part.updates, range(len(part.shards)))) for part in recording.parts)
    if until is not None:
        require(0 <= until <= most, "--until", until, f"an update of this run, 0 to {most}")
    torch.set_num_threads(spec.cluster.threads)
    copies = Copies(memory.for_versions(), spec.layout.size)
    try:
        again, whole = _played(drafted, recording, copies, learned, until, look)
        if whole and learned:
            _compare(run, drafted, again, until, output, found)
    finally:
        copies.close()
    found.versions, found.updates = again.versions(), sum(again.versions())
    found.differences += map(str, again.differences)
    if found.differences or not all(hashes.same for hashes in found.weights.values()):
        found.verdict = DIFFERENT
    return found


def _played(
    drafted: Draft, recording: Recording, copies: Copies, learned: bool, until: int | None, look: Look
) -> tuple[Replay, bool]:
    """Run a recording again, piece by piece where the parameters were cut anew; return the last one, and whether it
    came to its end.
    """
    machines = _pieces(drafted) if learned else _pieces_without_weights(drafted)
    done, updates = 0, sum(map(sum, (map(part.updates, range(len(part.shards))) for part in recording.parts)))
    before: list[Difference] = []
    for part in recording.parts:
        again = Replay(machines, part, copies)
        ends_at = part.ends_at
        last = part.after is None or ends_at is None or (until is not None and until <= ends_at)
        try:
            again.run(until if last else None, lambda here, done=done: look(done + here, updates))  # type: ignore[misc]
            if not last and part.after is not None:
                machines = _cut_anew(drafted, again, part, part.after)
        except CannotGoOn:
            again.differences[:0] = before
            return again, False  # why is among the differences
        again.differences[:0] = before
        if last:
            break
        done, before = done + again.updates, again.differences
    return again, True


def _cut_anew(drafted: Draft, again: Replay, before: Recording, after: Recording) -> ReplayPieces:
    """What the shards came to, cut anew as it was. Raises CannotGoOn if they are not at rest."""
    old, new = (_with_shards(drafted, len(part.shards)) for part in (before, after))
    try:
        states, average = repartition(*again.states(), old.spec.bounds, new.spec.bounds)
    except ValueError as error:
        difference = Difference("ledger", -1, f"the parameters were cut anew; replayed, {error}")
        again.differences.append(difference)
        raise CannotGoOn(difference) from error
    pieces = _pieces(new)
    for shard, state in zip(pieces.shards, states, strict=True):
        shard.recall(state, state.openings)
    pieces.averager.recall(average)
    return pieces


def _with_shards(drafted: Draft, shards: int) -> Draft:
    spec = drafted.spec
    cluster = replace(spec.cluster, shards=shards)
    return replace(drafted, spec=replace(spec, cluster=cluster, layout=replace(spec.layout, shards=shards)))


def _pieces(drafted: Draft) -> ReplayPieces:
    spec = drafted.spec
    return ReplayPieces(
        [build_shard(spec, shard, drafted.weights_N[bound].clone()) for shard, bound in enumerate(spec.bounds)],
        build_averager(spec),
        spec.plan,
        build_computation(spec, drafted.dataset, build_batches(spec, drafted.dataset).batch),
        spec.bounds,
        spec.program.steps(spec.plan, spec.schedule.build(spec.plan.examples, spec.plan.samples)),
    )


def _pieces_without_weights(drafted: Draft) -> ReplayPieces:
    spec = drafted.spec
    shards = [build_shard(spec, shard, None) for shard in range(spec.layout.shards)]
    return ReplayPieces(shards, build_averager(spec), spec.plan, no_gradient, [slice(0, 0)] * len(shards))


def _lost(recording: Recording) -> Difference | None:
    """The first shard whose journal lacks a lease that the ledger knows to be on every shard."""
    there: set[int] = set()  # on every shard, when the parameters were cut anew
    begun = 0
    for part in recording.parts:
        held = [there | part.held(shard) for shard in range(len(part.shards))]
        there = set.intersection(*held)
        if part.after is not None:
            begun = part.ends_at or begun
            continue
        for shard, records in enumerate(part.shards):
            if lacking := part.finished.keys() - held[shard]:
                ends = f"the journal ends at version {begun + part.updates(shard)}"
                what = f"{ends} without lease {min(lacking)}, which was applied"
                return Difference(f"shard-{shard}", len(records), what)
    return None


def _compare(run: Path, drafted: Draft, again: Replay, until: int | None, output: Path | None, found: Replayed) -> None:
    """Compare the weights with the files that the run left, or write them where the replay was stopped."""
    layout = drafted.spec.layout
    replayed_N = torch.empty(layout.size)
    if until is not None:
        again.read(False, replayed_N)
        path = output or run / f"replayed-{until}.safetensors"
        card = Card(drafted.spec.model.name, f"{run.name} at update {until}", 0, Traits.of(drafted.dataset))
        found.output = str(written(path, rundir.weights_file(layout, replayed_N, card.metadata())))
        return
    for name in ("latest", "average"):
        if again.read(name == "average", replayed_N) == 0:
            again.read(False, replayed_N)  # before the first averaged version the average is the latest
        path = run / f"{name}.safetensors"
        recorded_N = rundir.read_weights(path, layout) if path.exists() else None
        found.weights[name] = Hashes("" if recorded_N is None else digest(recorded_N), digest(replayed_N))
        if recorded_N is None:
            found.differences.append(f"{path.name}: got no such file, expected one to compare with")
        elif not found.weights[name].same and not again.differences:
            found.differences.append(f"{path.name}: {_first_unlike(drafted, recorded_N, replayed_N)}")


def digest(vector_N: Tensor) -> str:
    """sha256 (hexadecimal) over the values of a float32 vector."""
    array: Any = vector_N.numpy()
    return hashlib.sha256(array).hexdigest()


def _first_unlike(drafted: Draft, recorded_N: Tensor, replayed_N: Tensor) -> str:
    recorded, replayed = drafted.spec.layout.views(recorded_N), drafted.spec.layout.views(replayed_N)
    for name, tensor in recorded.items():
        unlike_there = (tensor.view(torch.int32) != replayed[name].view(torch.int32)).flatten()
        if count := int(unlike_there.sum()):
            return f"every event is the same, but {count} values of {name} are not: the file was changed, or is older"
    raise AssertionError("called for equal weights")


# --- for a person -----------------------------------------------------------------------------------------------------


def _lines(found: Replayed, until: int | None) -> list[str]:
    lines = [
        f"{name:8} recorded {hashes.recorded or 'nothing'}\n{'':8} replayed {hashes.replayed}"
        for name, hashes in found.weights.items()
    ]
    if found.differences:
        lines.append(f"first difference: {found.differences[0]}")
        lines += [f"            then: {line}" for line in found.differences[1:SHOWN]]
        if len(found.differences) > SHOWN:
            lines.append(f"            and {len(found.differences) - SHOWN:,} more")
    where = f"{found.updates:,} updates on {len(found.versions)} shards"
    if found.output:
        lines.append(f"weights at update {until} of every shard: {found.output}")
    match found.verdict:
        case "identical" if found.weights:
            lines.append(f"bit-identical: weights, average, and the history of {where}")
        case "identical":
            lines.append(f"identical so far: {where}" if until is not None else f"identical: the history of {where}")
        case "different":
            lines.append("NOT identical")
        case _:
            lines.append("incomplete: a journal lost its end, and what it lost cannot be run again")
    return lines

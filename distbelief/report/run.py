"""Report of one run, live or simulated: what it was, how it went, and how to run it again, on one page.

The numbers are those of summary.json and of the journals; nothing is measured here. A run without a summary (it goes
on, or was killed) is shown as far as its journals tell.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from distbelief import rundir
from distbelief.conservation import complaint
from distbelief.histogram import mean
from distbelief.output import written
from distbelief.progress import duration, number, percent
from distbelief.report import course, html
from distbelief.report.html import Html
from distbelief.report.subject import Subject
from distbelief.status import RUNS, newest
from distbelief.words import cluster_of, rule_of
from workers.own import called

REPORT = "report.html"
LEASES = {
    "granted": "grants in all",
    "applied": "leases that every shard applied, once each",
    "reissued": "grants of a lease that had been granted before",
    "duplicates_ignored": "pushes of a lease that the shard had already, which changed nothing",
    "discarded": "gradients that came too late for their mode",
    "outstanding": "leases granted and not applied everywhere",
}


def report_command(run: Path | None, output: Path | None) -> int:
    """`distbelief report`: write the page and say where it is; return the exit code. Raises as `write_report`."""
    folder = newest(RUNS) if run is None else run
    output = output or folder / REPORT
    write_report(folder, output)
    click.echo(f"report  {output}")
    return 0


def write_report(run: Path, output: Path) -> None:
    """Write a run's page to a file.

    Raises:
        BadInput: Not a run directory, or the file cannot be written.
        JournalDamaged: A journal of the run is damaged.
    """
    written(output, run_page(Subject.read(run)).encode())


def run_page(subject: Subject) -> str:
    """The whole page."""
    config, clock = subject.config, "in virtual time" if subject.simulated else "live"
    modes = f"consistency {config.consistency.kind}, correction {config.correction.kind}"
    lead = html.paragraph(
        f"{called(config.model.name)} on {called(config.data.name)}, {cluster_of(config)}, {clock}; {modes}"
    )
    sections = [
        _at_a_glance(subject), _notices(subject), course.learning(subject), course.staleness(subject),
        course.time(subject), _leases(subject), _measured(subject), _what_it_was(subject), _again(subject),
    ]  # fmt: skip
    return html.page(subject.folder.name, lead, sections)


def _at_a_glance(subject: Subject) -> Html:
    summary = subject.summary
    if summary is None:
        finished, counts = subject.history.finished, subject.staleness
        return html.tiles(
            [
                ("updates", f"{len(finished):,}"),
                ("examples", f"{sum(each.samples for each in finished):,}"),
                ("mean staleness", number(mean(counts), 2)),
            ]
        )
    evaluation, staleness, seconds = summary["evaluation"], summary["staleness"], summary["seconds"]
    return html.tiles(
        [
            ("top-1 error, average", percent(evaluation["average"]["top1_error"])),
            ("top-1 error, latest", percent(evaluation["latest"]["top1_error"])),
            ("training loss, last epoch", number(summary["train_loss"] if subject.learned else None, 4)),
            ("updates", f"{summary['updates']:,}"),
            ("mean staleness", number(staleness["mean"], 2)),
            ("staleness, 95 % at most", f"{staleness['p95']:,}"),
            ("images per second", number(summary["images_per_second"])),
            (subject.clock, f"{seconds:.1f}s" if seconds < 60 else duration(seconds)),
        ]
    )


def _notices(subject: Subject) -> Html:
    """What a reader must not miss."""
    summary = subject.summary
    if summary is None:
        lines = ["no summary.json: the run goes on, or was killed; this is what its journals say"]
        return html.notices("warning", [*lines, *_incomplete(subject)])
    ending = f"ended by {summary['stopped_by']}" + (f": {summary['message']}" if summary["message"] else "")
    failed = summary["stopped_by"] in ("diverged", "failed")
    bad = [line for line in (ending if failed else "", complaint(summary.get("conservation"))) if line]
    early = [] if failed or summary["stopped_by"] == "completed" else [ending]
    warnings = [*early, *_warnings(summary), *_incomplete(subject)]
    if bad or warnings:
        return html.joined(html.notices("bad", bad), html.notices("warning", warnings))
    return html.notices("good", ["completed: every lease was applied exactly once, and nothing was skipped"])


def _warnings(summary: dict[str, Any]) -> list[str]:
    leases, average = summary["leases"], summary["evaluation"]["average"]
    advice = (summary.get("stability") or {}).get("advice", "").removeprefix("warning: ")
    found = [
        (advice, advice),
        (not summary["replayable"], "not replayable: its journals are not enough to run it again"),
        (leases["reissued"], f"{leases['reissued']:,} grants were repeated: their leases were lost, late or too stale"),
        (leases["outstanding"], f"{leases['outstanding']:,} leases were granted and not applied on every shard"),
        (
            summary["skipped_examples"],
            f"{summary['skipped_examples']:,} examples could not be read; unreadable.txt names them",
        ),
        (
            summary["skipped_average_versions"],
            f"the average missed {summary['skipped_average_versions']:,} versions: the averager was behind",
        ),
        (average["sha256"] and average["top1_error"] is None, "the weights were not evaluated"),
    ]
    own = [text for present, text in found if present]
    return list(dict.fromkeys([*own, *map(str, summary.get("warnings") or ())]))


def _incomplete(subject: Subject) -> list[str]:
    """What this page was made without."""
    found = []
    if subject.lacking:
        found.append(f"no journal of {', '.join(subject.lacking)}: what it would say is missing on this page")
    if subject.damaged:
        found.append(f"{subject.damaged:,} lines of {rundir.METRICS} are damaged and left out")
    return found


def _measured(subject: Subject) -> Html:
    """What theory speaks of, as far as it was measured."""
    summary = subject.summary or {}
    pairs = []
    conservation = summary.get("conservation") or {}
    if conservation.get("holds") is not None:
        shards, workers = conservation["staleness_and_ages"], conservation["others_open"]
        law = "holds" if conservation["holds"] else "broken"
        pairs.append(
            ("conservation of staleness", f"{law}: {shards:,} updates at the shards, {workers:,} at the workers")
        )
    if stability := summary.get("stability"):
        at = f"at staleness {stability['staleness']:.3g} and momentum {stability['momentum']:g}"
        pairs.append(("largest curvature", f"{stability['curvature']:.4g}"))
        pairs.append(("largest stable rate", f"{stability['limit']:.3g} {at}"))
        pairs.append(("stability ratio", f"{stability['ratio']:.3g}: the rate over that one"))
    if (momentum := summary.get("effective_momentum")) is not None:
        alone = 1 - 1 / subject.config.cluster.workers
        pairs.append(("effective momentum", f"{momentum:.4f}; of memoryless workers without momentum: {alone:.4f}"))
    if (rate := summary.get("effective_rate")) is not None:
        pairs.append(("effective rate", f"{rate:.4g}"))
    if gap := summary.get("gap"):
        pairs.append(
            ("gap, pull to application", f"mean {gap['mean']:.3g}, largest {gap['largest']:.3g} (root mean square)")
        )
    return html.section("Measured", html.facts(pairs)) if pairs else Html("")


def _what_it_was(subject: Subject) -> Html:
    config, summary = subject.config, subject.summary
    parameters = f"{summary['parameters']:,} parameters, " if summary else ""
    cluster = cluster_of(config)
    pairs = [
        ("run", str(subject.folder)),
        ("started", "at virtual time 0" if subject.simulated else _moment(subject.began)),
        ("data", f"{called(config.data.name)}, {config.run.epochs} epochs in batches of {config.run.batch_size}"),
        ("model", f"{called(config.model.name)}, {parameters}{config.model.precision}"),
        ("cluster", cluster if subject.simulated else f"{cluster}, address {config.cluster.address}"),
        ("consistency", config.consistency.kind),
        ("correction", config.correction.kind),
        ("worker program", config.program.kind),
        ("rule", rule_of(config)),
        *([("policy", config.policy_note)] if config.policy_note else []),
        ("seed", str(config.run.seed)),
    ]
    if subject.simulated:
        chosen = config.simulate
        mean_seconds = f"mean {chosen.compute_seconds:g} s"
        compute = (
            f"as measured in {chosen.source}" if chosen.compute == "empirical" else f"{chosen.compute}, {mean_seconds}"
        )
        slow = f", {chosen.slow_workers} workers {chosen.slow_factor:g} times slower" if chosen.slow_workers else ""
        pairs.append(("simulated cluster", f"compute {compute}{slow}; gradients {chosen.gradients}"))
    settings = html.folded("Every setting (config.toml)", html.code(config.to_toml()))
    return html.section("What it was", html.facts(pairs), settings)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if seconds else "never"


def _leases(subject: Subject) -> Html:
    granted, finished = sum(subject.history.granted.values()), len(subject.history.finished)
    counts = subject.summary["leases"] if subject.summary else {"granted": granted, "applied": finished}
    rows = [
        [name.replace("_", " "), f"{counts[name]:,}", meaning] for name, meaning in LEASES.items() if name in counts
    ]
    return html.section("Leases", html.table(["leases", "count", "what is counted"], rows, "words"))


def _again(subject: Subject) -> Html:
    """How to check it and to run it again."""
    run, summary = subject.folder, subject.summary
    start = "simulate" if subject.simulated else "launch"
    commands = [
        shlex.join(["distbelief", *words])
        for words in (
            ["verify", str(run)],
            ["replay", str(run)],
            [start, "--config", str(run / rundir.CONFIG)],
        )
    ]
    pairs = []
    if summary:
        pairs += [
            (f"sha256 of {name}.safetensors", found["sha256"] or "-") for name, found in summary["evaluation"].items()
        ]
        pairs.append(("sha256 of the journals", summary["journal_sha256"]))
        pairs.append(("fingerprint of the data", summary.get("data_fingerprint", "-")))
    actors = subject.history.arithmetic.values()
    for torch, processor, threads in Counter((each.torch, each.processor, each.threads) for each in actors):
        pairs.append(("computed with", f"torch {torch}, {processor}, threads per gradient: {threads}"))
    numbers = (
        html.folded("Every number (summary.json)", html.code(json.dumps(summary, indent=1))) if summary else Html("")
    )
    text = "Check that every example was applied exactly once; run it again to the bit; start one like it:"
    return html.section("Again", html.paragraph(text), html.code("\n".join(commands)), html.facts(pairs), numbers)

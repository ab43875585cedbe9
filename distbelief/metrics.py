"""Metrics: a run's numbers over time, as lines of JSON and for TensorBoard, and the moments that a person sees."""

from __future__ import annotations

import json
import math
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorboardX import SummaryWriter

from distbelief.histogram import mean, percentile, total
from distbelief.progress import Moment
from distbelief.rundir import METRICS
from distbelief.timing import PARTS, means
from distbelief.troubles import Spent
from ps.leases import LeasePlan
from workers.evaluation import Evaluation

if TYPE_CHECKING:
    from cluster.spec import RunStatus

DRAWN_WORKERS = 32  # that TensorBoard gets curves of, however many there are
WINDOW_SECONDS = 10.0  # that throughput is the mean of


class Meter:
    """Turns statuses into moments: throughput over a sliding window, staleness over all shards, and the time that is
    left.
    """

    def __init__(self, plan: LeasePlan, workers: int) -> None:
        self._plan = plan
        self._workers = workers
        self._window: deque[tuple[float, int, int]] = deque()  # seconds, samples, leases
        self.average_error: float | None = None

    def moment(self, seconds: float, status: RunStatus) -> Moment:
        """The run at this many seconds from its start."""
        ledger = status.ledger
        self._window.append((seconds, ledger.samples, ledger.finished))
        while len(self._window) > 2 and seconds - self._window[1][0] >= WINDOW_SECONDS:
            self._window.popleft()
        began, samples, leases = self._window[0]
        elapsed = max(seconds - began, 1e-9)
        images_per_second = (ledger.samples - samples) / elapsed
        staleness = total([shard.staleness for shard in status.shards])
        left = self._plan.samples - ledger.samples
        return Moment(
            seconds=seconds,
            updates=ledger.finished,
            samples=ledger.samples,
            total_samples=self._plan.samples,
            epochs=ledger.samples / self._plan.examples,
            images_per_second=images_per_second,
            updates_per_second=(ledger.finished - leases) / elapsed,
            workers_alive=status.workers,
            workers=self._workers,
            staleness_mean=mean(staleness),
            staleness_p95=percentile(staleness, 0.95),
            loss=ledger.recent_loss,
            average_error=self.average_error,
            eta_seconds=left / images_per_second if images_per_second > 0 else None,
        )


class _Forgiving:
    """Writes TensorBoard's events as far as they can be written: where the thread that does so ended at an error, such
    as a full disk, whoever adds an event would wait for it for ever.
    """

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def write_event(self, event: Any) -> None:
        with suppress(OSError):
            self._writer.write_event(event)

    def flush(self) -> None:
        with suppress(OSError):
            self._writer.flush()

    def close(self) -> None:
        with suppress(OSError):
            self._writer.close()


class MetricsLog:
    """Writes metrics.jsonl and TensorBoard's event file.

    One line per moment and per evaluation, each complete in itself; what is not known, or not finite, is left out.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / METRICS
        torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
        self._lines = path.open("a", encoding="utf-8")
        if torn:  # a run that was killed while it wrote, and is taken up
            self._lines.write("\n")
        self._board = SummaryWriter(str(folder / "tensorboard"), flush_secs=5)
        writer: Any = self._board.file_writer.event_writer  # open from the beginning
        writer._worker._record_writer = writer._ev_writer = _Forgiving(writer._ev_writer)

    def moment(self, moment: Moment, status: RunStatus) -> None:
        rates = [shard.rate for shard in status.shards]
        values = {
            "loss": moment.loss,
            **{f"auxiliary_loss_{head}": loss for head, loss in enumerate(status.ledger.recent_auxiliary, 1)},
            "train_error": status.ledger.recent_error,
            "rate": rates[0],
            "images_per_second": moment.images_per_second,
            "updates_per_second": moment.updates_per_second,
            "staleness_mean": moment.staleness_mean,
            "staleness_p95": moment.staleness_p95,
            "workers": moment.workers_alive,
            "leases_outstanding": status.ledger.outstanding,
        }
        self._write(moment, "train", values)

    def evaluation(self, moment: Moment, evaluation: Evaluation) -> None:
        values = {
            "average_top1_error": evaluation.top1_error,
            "average_top5_error": evaluation.top5_error,
            "average_loss": evaluation.loss,
        }
        self._write(moment, "evaluation", values)

    def times(self, moment: Moment, workers: Mapping[int, Spent]) -> None:
        """Seconds per lease by what they went into: the mean of all workers, and each worker's for TensorBoard."""
        if workers:
            self._write(moment, "time", means(workers))
        for worker, spent in islice(workers.items(), DRAWN_WORKERS):
            for part in PARTS:
                self._board.add_scalar(f"time_of_worker_{worker}/{part}", getattr(spent, part), moment.samples)

    def staleness(self, histogram: Counter[int], moment: Moment) -> None:
        """The run's staleness so far, for TensorBoard's histograms."""
        if histogram:
            edges = list(range(max(histogram) + 2))
            counts = [histogram.get(k, 0) for k in edges[:-1]]
            self._board.add_histogram_raw(
                "train/staleness",
                min=min(histogram), max=max(histogram), num=sum(counts),
                sum=sum(k * n for k, n in histogram.items()), sum_squares=sum(k * k * n for k, n in histogram.items()),
                bucket_limits=[edge + 0.5 for edge in edges[:-1]], bucket_counts=counts, global_step=moment.samples,
            )  # fmt: skip

    def close(self) -> None:
        with suppress(OSError):  # a line that there was no room for, which was said
            self._lines.close()
        self._board.close()

    def _write(self, moment: Moment, kind: str, values: dict[str, float]) -> None:
        finite = {key: value for key, value in values.items() if math.isfinite(value)}
        line = {"kind": kind, "seconds": round(moment.seconds, 3), "updates": moment.updates, "samples": moment.samples}
        self._lines.write(json.dumps({**line, "epochs": round(moment.epochs, 4), **finite}, allow_nan=False) + "\n")
        self._lines.flush()
        for key, value in finite.items():
            self._board.add_scalar(f"{kind}/{key}", value, moment.samples)


def published(moment: Moment, status: RunStatus, seconds: Mapping[str, float]) -> dict[str, float]:
    """What is offered to Prometheus, by name (see distbelief/grafana.json); without what is not known.

    Args:
        seconds: Per lease, by what they went into.
    """
    values = {
        "progress": moment.share,
        "loss": moment.loss,
        "train_error": status.ledger.recent_error,
        "images_per_second": moment.images_per_second,
        "updates_per_second": moment.updates_per_second,
        "staleness_mean": moment.staleness_mean,
        "staleness_p95": moment.staleness_p95,
        "workers": float(moment.workers_alive),
        "leases_outstanding": float(status.ledger.outstanding),
        "leases_reissued": float(status.ledger.reissued),
        "average_top1_error": math.nan if moment.average_error is None else moment.average_error,
        **{f"{part}_seconds": value for part, value in seconds.items()},
    }
    return {name: value for name, value in values.items() if math.isfinite(value)}

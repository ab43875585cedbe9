"""Metrics: moments from scripted statuses, strict lines of JSON, and an event file in TensorBoard's own format."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from distbelief.metrics import Meter, MetricsLog, published
from distbelief.progress import Moment
from distbelief.rundir import METRICS
from distbelief.timing import PARTS
from distbelief.troubles import Spent
from ps.leases import LeasePlan
from workers.evaluation import Evaluation

PLAN = LeasePlan(examples=1000, batch_size=10, epochs=4, seed=0)
MOMENT = Moment(
    seconds=12.34567, updates=7, samples=64, total_samples=1000, epochs=0.123456, images_per_second=8.0,
    updates_per_second=0.5, workers_alive=3, workers=4, staleness_mean=2.5, staleness_p95=4, loss=0.75,
    average_error=None, eta_seconds=None,
)  # fmt: skip


def status(samples: int = 0, *staleness: dict[int, int], **ledger: Any) -> Any:
    """What Meter and MetricsLog read of a RunStatus."""
    told = {
        "finished": samples // 10,
        "recent_loss": math.nan,
        "recent_error": 0.25,
        "outstanding": 2,
        "reissued": 0,
        "recent_auxiliary": (),
        **ledger,
    }
    shards = tuple(SimpleNamespace(staleness=histogram, rate=0.5) for histogram in staleness or ({},))
    return SimpleNamespace(ledger=SimpleNamespace(samples=samples, **told), shards=shards, workers=3)


# --- moments ----------------------------------------------------------------------------------------------------------


def test_before_the_first_update_little_is_known() -> None:
    moment = Meter(PLAN, 4).moment(0.5, status())
    assert (moment.seconds, moment.updates, moment.samples, moment.total_samples) == (0.5, 0, 0, 4000)
    assert (moment.workers_alive, moment.workers) == (3, 4)
    assert (moment.images_per_second, moment.updates_per_second, moment.eta_seconds) == (0.0, 0.0, None)
    assert (math.isnan(moment.staleness_mean), math.isnan(moment.staleness_p95), math.isnan(moment.loss)) == (True,) * 3
    assert moment.average_error is None


def test_speed_staleness_and_time_left_by_hand() -> None:
    meter = Meter(PLAN, 4)
    meter.average_error = 0.125
    meter.moment(1.0, status(100))
    moment = meter.moment(3.0, status(500, {0: 1, 2: 2}, {2: 1, 9: 1}, recent_loss=0.5))
    assert (moment.images_per_second, moment.updates_per_second) == (200.0, 20.0)
    assert moment.eta_seconds == 3500 / 200
    assert moment.epochs == 0.5
    assert (moment.staleness_mean, moment.staleness_p95) == (15 / 5, 9)
    assert (moment.loss, moment.average_error) == (0.5, 0.125)


def test_speed_is_that_of_the_last_ten_seconds() -> None:
    meter = Meter(PLAN, 4)
    speeds = [meter.moment(float(t), status(10 * t if t <= 10 else 100 + 50 * (t - 10))) for t in range(31)]
    assert [speeds[t].images_per_second for t in (1, 10, 15, 20, 30)] == [10.0, 10.0, 30.0, 50.0, 50.0]


def test_speed_is_known_when_the_statuses_are_further_apart_than_that() -> None:
    meter = Meter(PLAN, 4)
    speeds = [meter.moment(seconds, status(samples)) for seconds, samples in ((0.0, 0), (25.0, 100), (75.0, 1100))]
    assert [moment.images_per_second for moment in speeds] == [0.0, 4.0, 20.0]


def test_a_run_that_stands_still_has_no_time_left_to_tell() -> None:
    meter = Meter(PLAN, 4)
    moments = [meter.moment(seconds, status(100)) for seconds in (0.0, 5.0, 30.0)]
    assert [(moment.images_per_second, moment.eta_seconds) for moment in moments] == [(0.0, None)] * 3


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path) -> Iterator[MetricsLog]:
    log = MetricsLog(tmp_path)
    yield log
    log.close()


def lines(folder: Path) -> list[dict[str, Any]]:
    """Every line of metrics.jsonl, read as strictly as JSON is."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    text = (folder / METRICS).read_text("utf-8")
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def events(folder: Path) -> list[Event]:
    """Every record of the event file: length, checksum of the length, body, checksum of the body."""
    (file,) = (folder / "tensorboard").iterdir()
    data, at, found = file.read_bytes(), 0, []
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        body = data[at + 12 : at + 12 + length]
        assert struct.unpack_from("<I", data, at + 8)[0] == masked_crc32c(data[at : at + 8])
        assert struct.unpack_from("<I", data, at + 12 + length)[0] == masked_crc32c(body)
        found.append(Event.FromString(body))
        at += 16 + length
    return found


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    return {
        (value.tag, event.step): value.simple_value
        for event in events(folder)
        for value in event.summary.value
        if value.HasField("simple_value")
    }


def test_a_moment_is_one_line_and_as_many_scalars(log: MetricsLog, tmp_path: Path) -> None:
    log.moment(MOMENT, status(recent_auxiliary=(1.5, 1.25)))
    log.close()
    values = {
        "loss": 0.75, "auxiliary_loss_1": 1.5, "auxiliary_loss_2": 1.25, "train_error": 0.25, "rate": 0.5,
        "images_per_second": 8.0, "updates_per_second": 0.5,
        "staleness_mean": 2.5, "staleness_p95": 4, "workers": 3, "leases_outstanding": 2,
    }  # fmt: skip
    head = {"kind": "train", "seconds": 12.346, "updates": 7, "samples": 64, "epochs": 0.1235}
    assert lines(tmp_path) == [{**head, **values}]
    assert scalars(tmp_path) == {(f"train/{name}", 64): value for name, value in values.items()}


def test_an_evaluation_is_one_line_and_as_many_scalars(log: MetricsLog, tmp_path: Path) -> None:
    log.evaluation(MOMENT, Evaluation(0.25, 0.125, 0.5, 360))
    log.close()
    values = {"average_top1_error": 0.25, "average_top5_error": 0.125, "average_loss": 0.5}
    (line,) = lines(tmp_path)
    assert line["kind"] == "evaluation"
    assert {name: line[name] for name in values} == values
    assert scalars(tmp_path) == {(f"evaluation/{name}", 64): value for name, value in values.items()}


@pytest.mark.parametrize("unknown", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_left_out(unknown: float, log: MetricsLog, tmp_path: Path) -> None:
    log.evaluation(MOMENT, Evaluation(0.25, 0.125, unknown, 360))
    log.moment(MOMENT, status(recent_error=unknown))
    log.close()
    first, second = lines(tmp_path)
    assert "average_loss" not in first
    assert "train_error" not in second
    assert first["average_top1_error"] == 0.25
    assert all(math.isfinite(value) for value in scalars(tmp_path).values())


def test_lines_are_there_before_the_log_is_closed_and_a_second_log_appends(log: MetricsLog, tmp_path: Path) -> None:
    log.moment(MOMENT, status())
    assert len(lines(tmp_path)) == 1
    log.close()
    again = MetricsLog(tmp_path)
    again.moment(MOMENT, status())
    again.close()
    assert lines(tmp_path)[0] == lines(tmp_path)[1]


def test_staleness_is_a_histogram_with_a_bucket_per_value(log: MetricsLog, tmp_path: Path) -> None:
    log.staleness(Counter(), MOMENT)
    log.staleness(Counter({1: 3, 4: 2}), MOMENT)
    log.close()
    (event,) = [event for event in events(tmp_path) if event.summary.value]
    (value,) = event.summary.value
    assert (value.tag, event.step) == ("train/staleness", MOMENT.samples)
    histogram = value.histo
    assert (histogram.min, histogram.max, histogram.num, histogram.sum, histogram.sum_squares) == (1, 4, 5, 11, 35)
    assert list(histogram.bucket_limit) == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert list(histogram.bucket) == [0, 3, 0, 0, 2]


def test_where_the_workers_time_went(log: MetricsLog, tmp_path: Path) -> None:
    log.times(MOMENT, {})
    workers = {0: Spent("host-0", 4, 0.1, 0.2, 0.3, 1.0, 0.5), 7: Spent("host-1", 4, 0.1, 0.2, 0.3, 3.0, 0.5)}
    log.times(MOMENT, workers)
    log.close()
    (line,) = lines(tmp_path)
    assert (line["kind"], line["compute"], line["exchange"]) == ("time", 2.0, 0.5)
    found = scalars(tmp_path)
    assert found["time_of_worker_7/compute", MOMENT.samples] == 3.0
    assert len([tag for tag, _ in found if tag.startswith("time_of_worker_0/")]) == 5


def test_where_no_event_can_be_written_nobody_waits(log: MetricsLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than TensorBoard's queue holds."""
    tried = threading.Event()

    def full(*_: object) -> None:
        tried.set()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(EventsWriter, "write_event", full)
    monkeypatch.setattr(EventsWriter, "flush", full)
    for _ in range(100):
        log.moment(MOMENT, status())
    log.close()
    assert tried.is_set()


def test_the_dashboard_draws_what_is_published_and_nothing_else() -> None:
    moment, seconds = replace(MOMENT, average_error=0.1), dict.fromkeys(PARTS, 0.1)
    names = {f"ray_distbelief_{name}" for name in published(moment, status(), seconds)}
    dashboard = json.loads((resources.files("distbelief") / "grafana.json").read_text("utf-8"))
    panels = dashboard["panels"]
    drawn = {
        name for panel in panels for t in panel["targets"] for name in re.findall(r"ray_distbelief_\w+", t["expr"])
    }
    assert drawn == names
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels]
    assert len(set(places)) == len({panel["id"] for panel in panels}) == len(panels)


def test_what_is_not_known_is_not_published() -> None:
    found = published(replace(MOMENT, loss=math.nan, average_error=None), status(), {})
    assert "loss" not in found
    assert "average_top1_error" not in found
    assert found["workers"] == float(MOMENT.workers_alive)


def test_a_run_that_is_taken_up_begins_on_a_new_line(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text('{"kind": "train", "seco')
    for _ in range(2):
        log = MetricsLog(tmp_path)
        log.evaluation(MOMENT, Evaluation(0.25, 0.0, 1.0, 360))
        log.close()
    torn, *whole = (tmp_path / METRICS).read_text().splitlines()
    assert torn == '{"kind": "train", "seco'
    assert [json.loads(line)["kind"] for line in whole] == ["evaluation", "evaluation"]

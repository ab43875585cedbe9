"""Planned faults in live runs: each fires once, the run goes on by itself, and every example counts once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from distbelief.verify import EXACTLY_ONCE, verify
from ps.journal import FaultFired
from ps.wire.files import journals, read_journal
from tests.distbelief.test_live import launched, summary_of

pytestmark = pytest.mark.slow

KILLS = """
[[fault]]
actor = "shard-0"
do = "kill"
when = "after"
event = 150

[[fault]]
actor = "ledger"
do = "kill"
when = "after"
event = 150

[[fault]]
actor = "averager"
do = "kill"
event = 20

[[fault]]
actor = "host-0"
do = "kill"
event = 60

[[fault]]
actor = "shard-1"
do = "stop"
seconds = 2
event = 100

[[fault]]
actor = "shard"
do = "drop"
when = "after"
every = 80
"""


@pytest.mark.timeout(600)
def test_a_run_survives_what_is_planned_for_it(tmp_path: Path) -> None:
    (tmp_path / "faults.toml").write_text(KILLS)
    options = ["--workers", "4", "--shards", "2", "--epochs", "12", "--batch-size", "16", "--faults", "faults.toml"]
    with launched(tmp_path, *options) as process:
        _, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert "6 planned in " in err
    run = tmp_path / "run"
    fired = [r for path in journals(run / "journal") for r in read_journal(path) if isinstance(r, FaultFired)]
    killed = sorted((r.actor, r.event) for r in fired if r.do == "kill")
    assert killed == [("averager", 20), ("host-0", 60), ("ledger", 150), ("shard-0", 150)]
    assert [(r.actor, r.event) for r in fired if r.do == "stop"] == [("shard-1", 100)]
    counted = dict(Counter(r.do for r in fired))
    assert counted["drop"] > 3
    assert summary_of(tmp_path)["stopped_by"] == "completed"
    assert summary_of(tmp_path)["faults"] == counted
    found = verify(run)
    assert (found.verdict, found.problems, found.faults) == (EXACTLY_ONCE, (), counted)

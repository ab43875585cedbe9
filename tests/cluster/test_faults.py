"""The plan of faults: what a file may say, and which of an actor's events a fault strikes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from cluster.faults import Fault, FaultPlan, corrupted, read_faults
from ps.errors import BadInput
from ps.messages import Exchange, Message, NextLease, Push, Reading

PULL = Exchange(0, 1, 0, None, torch.empty(2))
PUSH = Exchange(0, 2, 0, Push(3, 0, 4, (Reading(0, 0),), torch.ones(2)), None)


def read(folder: Path, text: str) -> FaultPlan:
    file = folder / "faults.toml"
    file.write_text(text)
    return read_faults(file, shards=2, seed=7)


def events(plan: FaultPlan, actor: str, count: int, message: Message = PULL, after: int = 0) -> list[tuple[int, str]]:
    """Of this actor's next events, those that something strikes."""
    schedule = plan.of(actor, after)
    return [(schedule.event, fault.do) for _ in range(count) for fault in schedule.due(message)]


def test_a_file_says_what_happens_where(tmp_path: Path) -> None:
    plan = read(
        tmp_path,
        """
        [[fault]]
        actor = "shard-1"
        event = 3
        do = "kill"
        when = "after"

        [[fault]]
        actor = "worker"
        every = 20
        times = 2
        do = "delay"
        seconds = 1
        """,
    )
    kill, delay = Fault("shard-1", "kill", event=3, when="after"), Fault("worker", "delay", 0, 20.0, 2, seconds=1.0)
    assert plan == FaultPlan((kill, delay), 7)
    assert events(plan, "shard-1", 10) == [(3, "kill")]
    assert events(plan, "shard-0", 10) == []
    assert len(events(plan, "worker-5", 1000)) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got no [[fault]], expected one or more; see distbelief launch --help"),
        ("seed = 3\n", "got 'seed', expected [[fault]] and nothing else"),
        ("fault = 3\n", "got no [[fault]], expected one or more; see distbelief launch --help"),
        ("fault = [3]\n", "fault 1: got 3, expected a table: [[fault]] and then actor, do, event or every"),
        ("[[fault]]\nactor = 'shard-0'\nevent = 3\n", "fault 1: got no do, expected do = ..."),
        ("[[fault]]\ndo = 'kill'\nevent = 3\n", "fault 1: got no actor, expected actor = ..."),
        ("[[fault]]\nactor = 'shard-0'\ndo = 'kil'\nevent = 3\n",
         "fault 1: do: got 'kil', expected one of kill, stop, delay, drop, duplicate, corrupt "
         "(did you mean \"kill\"?)"),
        ("[[fault]]\nactor = 'shard-2'\ndo = 'kill'\nevent = 3\n",
         "fault 1: actor: got 'shard-2', expected shard-0 to shard-1"),
        ("[[fault]]\nactor = 'standby-2'\ndo = 'kill'\nevent = 3\n",
         "fault 1: actor: got 'standby-2', expected standby-0 to standby-1"),
        ("[[fault]]\nactor = 'standby'\ndo = 'kill'\nevent = 3\n",
         "fault 1: actor: got 'standby', expected another: this run has no standbys; add --replicas 1"),
        ("[[fault]]\nactor = 'standby'\ndo = 'corrupt'\nevent = 3\n",
         "fault 1: do: got 'corrupt', expected another: no gradient reaches the standby"),
        ("[[fault]]\nactor = 'shart'\ndo = 'kill'\nevent = 3\n",
         "fault 1: actor: got 'shart', expected one of shard, standby, worker, host, ledger, averager, the first four "
         "also with a number as in shard-0 (did you mean \"shard\"?)"),
        ("[[fault]]\nactor = 'ledger-0'\ndo = 'kill'\nevent = 3\n",
         "fault 1: actor: got 'ledger-0', expected one of shard, standby, worker, host, ledger, averager, the first "
         "four also with a number as in shard-0 (did you mean \"ledger\"?)"),
        ("[[fault]]\nactor = 'ledger'\ndo = 'kill'\nevnt = 3\n",
         "fault 1: got 'evnt', expected one of actor, do, event, every, times, when, seconds "
         "(did you mean \"event\"?)"),
        ("[[fault]]\nactor = 'ledger'\ndo = 'kill'\nevent = 'x'\n",
         "fault 1: event: got 'x', expected a whole number"),
        ("[[fault]]\nactor = 'ledger'\ndo = 'kill'\n",
         "fault 1: event: got 0, expected event = N, or every = N, 1 or more"),
        ("[[fault]]\nactor = 'ledger'\ndo = 'kill'\nevent = 3\nevery = 3\n",
         "fault 1: event: got 3, expected event = N, or every = N, 1 or more"),
        ("[[fault]]\nactor = 'ledger'\ndo = 'kill'\nevent = -3\n", "fault 1: event: got -3, expected 1 or more"),
        ("[[fault]]\nactor = 'ledger'\ndo = 'kill'\nevery = inf\n",
         "fault 1: every: got inf, expected a number of events, 1 or more"),
        ("[[fault]]\nactor = 'ledger'\ndo = 'kill'\nevent = 3\ntimes = 2\n",
         "fault 1: times: got 2, expected none: an event happens once"),
        ("[[fault]]\nactor = 'ledger'\ndo = 'kill'\nevery = 3\ntimes = -2\n",
         "fault 1: times: got -2, expected 1 or more"),
        ("[[fault]]\nactor = 'ledger'\ndo = 'kill'\nevent = 3\nwhen = 'befor'\n",
         "fault 1: when: got 'befor', expected before or after (did you mean \"before\"?)"),
        ("[[fault]]\nactor = 'ledger'\ndo = 'delay'\nevent = 3\nseconds = 1\nwhen = 'after'\n",
         "fault 1: when: got 'after', expected before: only kill and drop may come after"),
        ("[[fault]]\nactor = 'ledger'\ndo = 'stop'\nevent = 3\n", "fault 1: seconds: got 0.0, expected above 0"),
        ("[[fault]]\nactor = 'ledger'\ndo = 'drop'\nevent = 3\nseconds = 2\n",
         "fault 1: seconds: got 2.0, expected none: drop takes no time"),
        ("[[fault]]\nactor = 'ledger'\ndo = 'corrupt'\nevent = 3\n",
         "fault 1: do: got 'corrupt', expected another: no gradient reaches the ledger"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    expected = f"{tmp_path}/faults.toml: {message}"
    with pytest.raises(BadInput, match=f"^{re.escape(expected)}$"):
        read(tmp_path, text)


def test_a_file_that_is_not_there_or_no_toml_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^--faults: cannot read .*none\.toml: No such file or directory$"):
        read_faults(tmp_path / "none.toml", 1, 0)
    with pytest.raises(BadInput, match=r"^--faults: .*faults\.toml is not TOML: "):
        read(tmp_path, "[[fault")


def test_at_random_it_strikes_each_actor_at_events_of_its_own_that_the_seed_gives_again() -> None:
    plan = FaultPlan((Fault("shard", "drop", every=50.0),), 3)
    first, second = events(plan, "shard-0", 5000), events(plan, "shard-1", 5000)
    assert first != second
    assert 70 < len(first) < 130
    assert events(plan, "shard-0", 5000) == first
    assert events(FaultPlan(plan.faults, 4), "shard-0", 5000) != first


def test_after_a_restart_what_fired_does_not_fire_again() -> None:
    plan = FaultPlan((Fault("shard", "kill", every=50.0), Fault("shard-0", "kill", event=60)), 3)
    every = events(plan, "shard-0", 1000)
    stopped = every[3][0]
    assert events(plan, "shard-0", 1000 - stopped, after=stopped) == every[4:]


def test_a_corruption_waits_for_a_gradient() -> None:
    schedule = FaultPlan((Fault("shard-0", "corrupt", event=2),)).of("shard-0")
    struck = [schedule.due(message) for message in (PULL, PULL, NextLease(0, 1, None), PUSH, PUSH)]
    assert [len(faults) for faults in struck] == [0, 0, 0, 1, 0]


def test_a_corrupted_push_is_another_message_and_the_sender_keeps_its_gradient() -> None:
    message = corrupted(PUSH)
    assert isinstance(message, Exchange)
    assert message.push is not None
    assert PUSH.push is not None
    assert message.push.gradient_N.isnan().tolist() == [True, False]
    assert PUSH.push.gradient_N.tolist() == [1.0, 1.0]
    assert (message.number, message.push.lease) == (PUSH.number, PUSH.push.lease)

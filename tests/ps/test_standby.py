"""Two replicas of a shard as a script: who hears what when, who may lead, and what is refused."""

from __future__ import annotations

import pytest
import torch
from msgspec.structs import replace

from ps.journal import PullHandled, PushHandled, Record, ShardOpened, ShardSaved
from ps.layout import Segment
from ps.messages import (
    JOURNAL,
    LEDGER,
    Address,
    Claim,
    CloseRound,
    Exchange,
    Exchanged,
    Forward,
    Forwarded,
    Inventory,
    Message,
    Outcome,
    Push,
    Reading,
    Refusal,
    Refused,
    Role,
    Ruling,
    Tick,
    WhoHas,
)
from ps.rules import Momentum
from ps.schedule import ScheduleSettings
from ps.shard import Outbox, Shard
from ps.snapshot import encode
from ps.standby import LAG, SEEDING_SECONDS, SILENT_SECONDS, Replica, Standing

N = 8
SHARD, STANDBY = Address(Role.SHARD, 0), Address(Role.STANDBY, 0)
CONSTANT = ScheduleSettings(rate=0.1).build(1000, 1000)


def shard(index: int = 0) -> Shard:
    return Shard(index, 1, torch.zeros(N), (Segment(0, N, 1.0, 1.0),), Momentum(0.5), 0.0, CONSTANT, 0)


def push(lease: int, version: int = 0, incarnation: int = 0, value: float = 1.0) -> Exchange:
    gradient_N = torch.full((N,), value)
    reading = (Reading(incarnation, version),)
    return Exchange(0, lease + 1, 0, Push(lease, 0, 1, reading, gradient_N), torch.empty(N))


def forwards(outbox: Outbox) -> list[Forward]:
    return [item for to, item in outbox if to == STANDBY and isinstance(item, Forward)]


def answers(outbox: Outbox) -> list[Message]:
    return [item for to, item in outbox if to.role in (Role.WORKER, Role.LEDGER)]  # type: ignore[misc]


def records(outbox: Outbox) -> list[Record]:
    return [item for to, item in outbox if to == JOURNAL]  # type: ignore[misc]


def passed(standby: Replica, leader: Replica, outbox: Outbox) -> Outbox:
    """What comes of it where the standby is handed what it is forwarded, and the other its word, until all is quiet."""
    out = list(outbox)
    for forward in forwards(outbox):
        for _, said in standby.handle(0.0, forward):
            assert isinstance(said, Forwarded)
            out += passed(standby, leader, leader.handle(0.0, said))
    return out


def pair() -> tuple[Replica, Replica]:
    """In step."""
    leader, standby = Replica(shard()), Replica(shard(), leads=False)
    seed, outbox = leader.seed(0.0)
    standby.follow(seed)
    passed(standby, leader, outbox)
    assert leader.standing is standby.standing is Standing.IN_STEP
    return leader, standby


def ruled(replica: Replica, granted: bool = True) -> Outbox:
    """What comes of a claim that the ledger answers so."""
    ((to, claim),) = replica.claim()
    assert to == LEDGER
    assert isinstance(claim, Claim)
    return replica.handle(0.0, Ruling(claim.shard, claim.incarnation, claim.pair, claim.leads, granted))


def alike(one: Replica, other: Replica) -> bool:
    return b"".join(encode(one.state())) == b"".join(encode(other.state()))


def test_alone_it_is_as_a_shard_without_a_standby() -> None:
    leader, plain = Replica(shard()), shard()
    for message in (push(0), push(0), push(1, version=5), WhoHas(3, (0, 1))):
        assert leader.handle(7.0, message) == plain.handle(7.0, message)
    assert leader.status().standby == "none"


def test_nobody_hears_before_the_standby_holds_it_and_both_are_the_same_then() -> None:
    leader, standby = pair()
    outbox = leader.handle(7.0, push(0))
    assert (answers(outbox), records(outbox)) == ([], [])
    (forward,) = forwards(outbox)
    assert (forward.now, forward.in_step, forward.incarnation) == (7.0, True, 0)
    assert leader.handle(7.0, WhoHas(9, (0,))) == [], "nor in another way"
    ((to, said),) = standby.handle(100.0, forward)
    assert (to, said) == (SHARD, Forwarded(0, forward.number, 1))
    assert alike(leader, standby)
    heard = leader.handle(7.5, said)  # type: ignore[arg-type]
    assert [type(answer) for answer in answers(heard)] == [
        Exchanged,
        *map(type, answers(shard().handle(0, WhoHas(9, ())))),
    ]
    (record,) = records(heard)
    assert isinstance(record, PushHandled)
    assert (record.now, record.version) == (7.0, 1)


def test_what_is_refused_and_what_is_pulled_is_forwarded_too_and_no_buffer_of_a_worker_is_filled_twice() -> None:
    leader, standby = pair()
    pull = Exchange(1, 1, 0, None, torch.full((N,), 7.0))
    out = passed(standby, leader, leader.handle(1.0, pull))
    assert isinstance(answers(out)[0], Exchanged)
    assert pull.weights_N is not None
    pull.weights_N.fill_(7.0)
    refused = passed(standby, leader, leader.handle(1.0, push(3, version=9)))
    (answer,) = answers(refused)
    assert isinstance(answer, Refused)
    assert answer.refusal is Refusal.FUTURE
    infinite = passed(standby, leader, leader.handle(1.0, push(4, value=float("inf"))))
    assert [type(each) for each in answers(infinite)] == [Refused]
    assert standby.shard.refused == 2
    assert torch.equal(pull.weights_N, torch.full((N,), 7.0))
    assert alike(leader, standby)


def test_an_exchange_that_is_asked_for_again_is_answered_with_the_weights_that_it_was_filled_with() -> None:
    """The first answer is still held back when the second call comes, and another update lies between them."""
    leader, standby = pair()
    held = leader.handle(1.0, push(0)) + leader.handle(1.0, replace(push(1), worker=1))
    again = push(0)
    out = passed(standby, leader, held + leader.handle(2.0, again))
    told = [answer for answer in answers(out) if isinstance(answer, Exchanged) and answer.number == again.number]
    assert [(answer.outcome, answer.reading.version) for answer in told] == [(Outcome.DUPLICATE, 2)]
    assert again.weights_N is not None
    assert torch.equal(again.weights_N, leader.shard._w_N)
    assert [type(record) for record in records(out)] == [PushHandled] * 3
    assert alike(leader, standby)


def test_forwards_are_handled_in_their_order_and_once() -> None:
    leader, standby = pair()
    first, second = (forwards(leader.handle(1.0, push(lease)))[0] for lease in (0, 1))
    assert standby.handle(2.0, second) == []
    said = [item for _, item in standby.handle(2.0, first)]
    assert said == [Forwarded(0, first.number, 1), Forwarded(0, second.number, 2)]
    assert [item for _, item in standby.handle(2.0, first)] == [Forwarded(0, first.number, -1)]
    assert standby.shard.version == 2
    assert alike(leader, standby)


def test_a_standby_takes_over_with_what_was_not_answered_and_is_not_believed_by_the_other() -> None:
    leader, standby = pair()
    written = records(passed(standby, leader, leader.handle(1.0, push(0))))
    lost = leader.handle(2.0, push(1))
    standby.handle(2.0, forwards(lost)[0])  # its word is lost
    assert ruled(standby) == []
    outbox = standby.succeed(3.0, recorded=len(written))
    made = records(outbox)
    assert [type(record) for record in made] == [PushHandled, ShardOpened]
    assert isinstance(made[0], PushHandled)
    assert (made[0].lease, made[0].now, made[0].version) == (1, 2.0, 2)
    assert isinstance(made[1], ShardOpened)
    assert (made[1].incarnation, made[1].version, made[1].promoted) == (1, 2, True)
    assert [item for to, item in outbox if to == LEDGER] == [Inventory(0, 0, 1, 2, (0, 2), ())]
    with pytest.raises(ValueError, match="shard 0 got what shard 0 forwards, but it leads"):
        standby.handle(4.0, forwards(leader.handle(4.0, push(2)))[0])
    assert answers(leader.handle(4.0, push(3))) == []
    again, read_before = standby.handle(5.0, push(1)), standby.handle(5.0, push(4, version=2))
    assert [getattr(answer, "outcome", None) for answer in answers(again)] == [Outcome.DUPLICATE]
    assert [getattr(answer, "outcome", None) for answer in answers(read_before)] == [Outcome.APPLIED]


def test_records_that_the_other_wrote_are_not_written_again() -> None:
    leader, standby = pair()
    for lease in range(4):
        passed(standby, leader, leader.handle(1.0, push(lease)))
    assert len(standby._unwritten) == 1, "the others are written for certain"
    ruled(standby)
    assert [type(record) for record in records(standby.succeed(2.0, recorded=4))] == [ShardOpened]


@pytest.mark.parametrize("recorded", [2, 5])
def test_it_does_not_go_on_from_a_journal_of_something_else(recorded: int) -> None:
    leader, standby = pair()
    for lease in range(4):
        passed(standby, leader, leader.handle(1.0, push(lease)))
    ruled(standby)
    with pytest.raises(ValueError, match=f"the journal has {recorded} records, expected 3 to 4"):
        standby.succeed(2.0, recorded)
    assert not standby.leads


def test_one_that_is_not_in_step_cannot_take_over() -> None:
    leader, standby = Replica(shard()), Replica(shard(), leads=False)
    with pytest.raises(ValueError, match="not in step"):
        standby.claim()
    seed, outbox = leader.seed(0.0)
    standby.follow(seed)
    standby.handle(0.0, forwards(outbox)[0])
    with pytest.raises(ValueError, match="not in step"):
        standby.claim()
    with pytest.raises(ValueError, match="the ledger has not granted it"):
        standby.succeed(1.0, 0)
    with pytest.raises(ValueError, match="shard 0 got a seed, but it leads"):
        leader.follow(seed)


def test_while_a_standby_comes_up_answers_wait_only_if_it_is_far_behind() -> None:
    leader, standby = Replica(shard()), Replica(shard(), leads=False)
    passed(standby, leader, leader.handle(0.0, push(100)))
    seed, outbox = leader.seed(0.0)
    gradients, waiting, sent = [], [], forwards(outbox)
    for lease in range(LAG + 2):
        message = push(lease, value=float(lease))
        out = leader.handle(1.0, message)
        assert message.push is not None
        gradients.append(message.push.gradient_N.fill_(-1.0))  # its owner has the answer and goes on
        sent += forwards(out)
        waiting.append(not answers(out))
    assert waiting == [False] * (LAG - 1) + [True] * 3
    early = [item for forward in sent for _, item in standby.handle(2.0, forward)]
    assert early == []
    heard = [said for _, said in standby.follow(seed)]
    assert len(heard) == len(sent)
    released: Outbox = []
    for said in heard:
        released += passed(standby, leader, leader.handle(3.0, said))  # type: ignore[arg-type]
    assert len(answers(released)) == 3
    assert alike(leader, standby)
    assert leader.standing is standby.standing is Standing.IN_STEP


def test_once_the_standby_is_gone_everybody_is_answered_and_its_word_counts_no_more() -> None:
    leader, standby = pair()
    outbox = leader.handle(1.0, push(0))
    said = standby.handle(1.0, forwards(outbox)[0])[0][1]
    saved = leader.in_order([(JOURNAL, leader.saved(1.0, 5))])
    assert saved == []
    assert leader.holds_back(leader.number)
    out = ruled(leader)
    assert [type(record) for record in records(out)] == [PushHandled, ShardSaved]
    assert len(answers(out)) == 1
    assert not leader.holds_back(leader.number)
    assert leader.handle(2.0, said) == []  # type: ignore[arg-type]
    assert len(answers(leader.handle(2.0, push(1)))) == 1


def test_a_standby_that_is_silent_while_answers_wait_is_given_up_by_the_ledgers_word() -> None:
    leader, standby = pair()
    held = leader.handle(100.0, push(0))
    leader.handle(100.0 + SILENT_SECONDS, push(1))
    assert leader.handle(100.0 + SILENT_SECONDS, Tick()) == [], "not yet"
    late = 100.5 + SILENT_SECONDS
    assert leader.handle(late, Tick()) == [(LEDGER, Claim(0, 0, 0, True))]
    assert leader.handle(late + 1, Tick()) == [], "it is asked once"
    for ruling in (Ruling(0, 0, 0, False, True), Ruling(0, 1, 0, True, True), Ruling(0, 0, 5, True, True)):
        assert leader.handle(late + 1, ruling) == [], "of another"
    out = leader.handle(late + 2, Ruling(0, 0, 0, True, True))
    assert len(answers(out)) == len(records(out)) == 2
    assert leader.standing is Standing.ALONE
    assert [type(said) for _, said in standby.handle(late + 3, forwards(held)[0])] == [Forwarded], "it does not know"
    assert ruled(standby, granted=False) == []
    with pytest.raises(ValueError, match="the ledger has not granted it"):
        standby.succeed(late + 3, 2)
    assert leader.seed(late + 4)[0].number > 0, "it may have another"


def test_a_standby_that_says_something_is_not_silent_however_much_waits_for_it() -> None:
    leader, standby = pair()
    outbox = [*leader.handle(0.0, push(0)), *leader.handle(0.0, push(1))]
    ((_, said),) = standby.handle(0.0, forwards(outbox)[0])
    leader.handle(SILENT_SECONDS, said)  # type: ignore[arg-type]
    assert leader.handle(SILENT_SECONDS + 1.0, Tick()) == []
    assert len(leader.handle(2 * SILENT_SECONDS + 1.0, Tick())) == 1


def test_without_anything_that_waits_nobody_is_given_up_and_one_that_follows_gives_up_nobody() -> None:
    leader, standby = pair()
    assert leader.handle(1e6, Tick()) == standby.handle(1e6, Tick()) == []
    assert Replica(shard()).handle(1e6, Tick()) == []
    assert Replica(shard()).claim() == [], "it is alone"


def test_a_standby_that_comes_up_is_given_more_time() -> None:
    leader = Replica(shard())
    leader.seed(0.0)
    for lease in range(LAG + 1):
        leader.handle(0.0, push(lease))
    assert leader.handle(SEEDING_SECONDS, Tick()) == []
    assert len(leader.handle(SEEDING_SECONDS + 1.0, Tick())) == 1


def test_one_that_the_ledger_decided_against_waits_for_ever() -> None:
    leader, _ = pair()
    leader.handle(1.0, push(0))
    assert ruled(leader, granted=False) == []
    assert leader.handle(1e6, Tick()) == []
    assert leader.holds_back(leader.number)
    with pytest.raises(ValueError, match="it has one or is one"):
        leader.seed(2.0)


def test_a_standby_answers_nobody_but_its_shard() -> None:
    leader, standby = pair()
    with pytest.raises(ValueError, match="standby of shard 0 got Exchange, expected Forward"):
        standby.handle(0.0, push(0))
    (forward,) = forwards(leader.handle(1.0, push(0)))
    with pytest.raises(ValueError, match="got what incarnation 3 forwards, expected 0"):
        standby.handle(1.0, Forward(0, 3, forward.number, 0, True, 1.0, forward.message))
    with pytest.raises(ValueError, match="shard 0 got what shard 1 forwards"):
        standby.handle(1.0, Forward(1, 0, forward.number, 0, True, 1.0, forward.message))
    assert standby.shard.version == 0


def test_two_that_are_not_the_same_are_not_used_any_longer() -> None:
    leader, standby = pair()
    (forward,) = forwards(leader.handle(1.0, push(0)))
    with pytest.raises(RuntimeError, match="version 1 here, 7 at the standby"):
        leader.handle(1.0, Forwarded(0, forward.number, 7))
    impossible = CloseRound(1, 3, (0,), 1, False)
    with pytest.raises(RuntimeError, match="was handled by the one that leads"):
        standby.handle(1.0, Forward(0, 0, forward.number, 0, True, 1.0, impossible))


def test_a_standby_of_a_shard_that_came_back_begins_anew() -> None:
    """What it was forwarded before, and had not handled, is of messages that were counted by another."""
    leader, standby = pair()
    leader.handle(1.0, push(0))
    (late,) = forwards(leader.handle(1.0, push(1)))
    assert standby.handle(1.0, late) == []
    back = Replica(shard())
    back.shard.recall(shard().state(), (0, 0))
    seed, outbox = back.seed(2.0)
    standby.follow(seed)
    out = passed(standby, back, [*outbox])
    out = passed(standby, back, back.handle(3.0, push(0, incarnation=1)))
    out += passed(standby, back, back.handle(3.0, Exchange(1, 1, 0, None, torch.empty(N))))
    assert [type(record) for record in records(out)] == [PushHandled, PullHandled]
    assert alike(back, standby)

"""Cutting: a run that is at rest gets another number of shards, on disk.

    states of the newest set  ->  cut anew  ->  a set of the new layout  ->  one record in the ledger's journal

The record is what makes it so: a run that is killed before it goes on as it was, after it as it is from now on.
"""

from __future__ import annotations

import time  # noqa: TID251 -- the record says when
from typing import TYPE_CHECKING

from msgspec.structs import replace

from cluster.machines import build_ledger
from ps.errors import RunFailed
from ps.messages import AVERAGER, LEDGER, Address, Role
from ps.repartition import repartition
from ps.states import AveragerState, ShardState
from ps.wire.files import SUFFIX, JournalWriter
from ps.wire.snapshots import Manifest, newest, next_number, publish, write_state

if TYPE_CHECKING:
    from cluster.spec import RunSpec
    from ps.states import State

SETS_KEPT = 2  # at least: the one before is what the run goes on from until the record is there


def cut_anew(before: RunSpec, after: RunSpec) -> None:
    """Make the newest snapshot of a run at rest, whose processes are gone, one of the shards that it has afterwards.

    Raises:
        RunFailed: The newest snapshot is not whole, or is not of a run at rest. The run is as it was.
        OSError: It cannot be written; likewise.
    """
    addresses = [Address(Role.SHARD, shard) for shard in range(before.layout.shards)]
    found = [newest(before.snapshots, str(address), before.cutting) for address in [*addresses, AVERAGER]]
    if damaged := [line for each in found for line in each.damaged]:
        raise RunFailed(f"cannot be cut anew: {damaged[0]}; resume the run, then try again")
    shards = [each.state for each in found if isinstance(each.state, ShardState)]
    averager = found[-1].state
    if len(shards) < len(addresses) or not isinstance(averager, AveragerState):
        raise RunFailed(
            f"cannot be cut anew: got no snapshot in {before.snapshots}, expected one; mend that, then resume"
        )
    try:
        made, average = repartition(shards, averager, before.bounds, after.bounds)
    except ValueError as error:
        raise RunFailed(f"cannot be cut anew: {error}; resume the run, then try again") from error
    number = next_number(after.snapshots)
    states: dict[str, State] = {f"shard-{state.shard}": state for state in made} | {str(AVERAGER): average}
    sha256 = {actor: write_state(after.snapshots, number, actor, state) for actor, state in states.items()}
    publish(after.snapshots, Manifest(number, after.cutting, sha256), max(SETS_KEPT, after.snapshot.keep))
    for state in made:  # what it is from now on is said in the ledger's, before it opens
        JournalWriter(
            after.journal / f"shard-{state.shard}{SUFFIX}", after.run, f"shard-{state.shard}", again=True
        ).close()
    journal = JournalWriter(after.journal / f"{LEDGER}{SUFFIX}", after.run, str(LEDGER), again=True)
    journal.write([replace(build_ledger(after).opened(time.time()), resumed=True, cut=after.cut)])
    journal.close()

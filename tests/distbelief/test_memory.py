"""Memory: what a run is said to take, and what this machine is said to have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.spec import ClusterSettings, RunSpec
from distbelief import memory
from ps.averager import AverageSettings
from ps.consistency import ConsistencySettings
from ps.correction_settings import CorrectionSettings
from ps.errors import BadInput
from ps.layout import Layout, TensorSpec
from ps.leases import LeasePlan
from ps.ledger import LedgerSettings
from ps.rules import RuleSettings
from ps.schedule import ScheduleSettings
from workers.datasets import DataSettings
from workers.models import ModelSettings
from workers.program_settings import ProgramSettings

MEBIBYTE = 1 << 20
PARAMETERS = 1 << 18  # one vector: 1 MiB

Groups = Callable[..., None]


def spec(workers: int = 8, shards: int = 2, rule: str = "momentum") -> RunSpec:
    return RunSpec(
        run="r", folder=Path(), token="", plan=LeasePlan(10, 1, 1, 0),
        layout=Layout((TensorSpec("w", (PARAMETERS,)),), shards), model=ModelSettings(), data=DataSettings(),
        rule=RuleSettings(rule=rule), schedule=ScheduleSettings(), average=AverageSettings(), ledger=LedgerSettings(),
        cluster=ClusterSettings(workers=workers, shards=shards),
    )  # fmt: skip


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Groups:
    """A machine with 10,000 bytes free, and a control group with these files."""
    monkeypatch.setattr(memory, "CONTROL_GROUP", tmp_path)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=10_000))

    def write(**files: str) -> None:
        for name, text in files.items():
            (tmp_path / f"memory.{name}").write_text(text)

    return write


# --- what a run takes -------------------------------------------------------------------------------------------------


def test_needed_bytes_by_hand() -> None:
    # Vectors: weights, velocity, 2 for the averager, 4 mailboxes of 2; the average; 8 workers; 2 turns of 5.
    vectors = 1 + 1 + 2 + 8 + 1 + 8 + 10
    processes = 2 + 2 + 2 + 2  # shards; ledger and averager; hosts; driver and evaluator
    assert memory.needed_bytes(spec(), 2) == (vectors + processes * 200 + 450) * MEBIBYTE


def test_each_worker_is_a_vector_and_each_slot_another() -> None:
    base = memory.needed_bytes(spec(), 2)
    assert memory.needed_bytes(spec(workers=9), 2) - base == MEBIBYTE
    assert memory.needed_bytes(spec(rule="sgd"), 2) - base == -MEBIBYTE
    assert memory.needed_bytes(spec(rule="adamw"), 2) - base == MEBIBYTE
    assert memory.needed_bytes(spec(shards=3), 2) - base == 200 * MEBIBYTE
    assert memory.needed_bytes(spec(), 3) - base == 205 * MEBIBYTE


def test_the_state_that_a_correction_keeps_per_worker_counts_and_its_weights_of_open_pulls() -> None:
    base = memory.needed_bytes(spec(), 2)
    dana, compensated = (replace(spec(), correction=CorrectionSettings(kind)) for kind in ("dana", "dc-asgd"))
    assert memory.needed_bytes(dana, 2) - base == (8 + 1) * MEBIBYTE  # a velocity per worker, and their sum
    assert memory.needed_bytes(compensated, 2) - base == (8 + 1) * MEBIBYTE  # and a work space


def test_gradients_that_wait_for_a_round_count_and_the_copies_of_local_steps() -> None:
    base = memory.needed_bytes(spec(), 2)
    rounds = replace(spec(), consistency=ConsistencySettings("sync"))
    local = replace(spec(), program=ProgramSettings("local", push_every=4))
    assert memory.needed_bytes(rounds, 2) - base == 8 * MEBIBYTE
    assert memory.needed_bytes(local, 2) - base == 8 * MEBIBYTE


def test_a_standby_takes_what_its_shard_takes_and_a_process() -> None:
    doubled = replace(spec(), cluster=ClusterSettings(workers=8, shards=2, replicas=1))
    assert memory.needed_bytes(doubled, 2) - memory.needed_bytes(spec(), 2) == (12 + 2 * 200) * MEBIBYTE


# --- what the machine has ---------------------------------------------------------------------------------------------


def test_without_a_control_group_it_is_the_machine_s(groups: Groups) -> None:
    assert memory.available_bytes() == 10_000


@pytest.mark.parametrize(
    ("limit", "used", "cached", "available"),
    [("max", 9_000, 0, 10_000), ("5000", 2_000, 0, 3_000), ("5000", 4_900, 4_000, 4_100), ("90000", 2_000, 0, 10_000),
     ("5000", 6_000, 0, 0)],
)  # fmt: skip
def test_a_control_group_s_limit_counts_but_not_its_file_cache(
    groups: Groups, limit: str, used: int, cached: int, available: int
) -> None:
    groups(max=f"{limit}\n", current=f"{used}\n", stat=f"anon 5\ninactive_file {cached}\nactive_file 7\n")
    assert memory.available_bytes() == available


def test_this_machine_has_some() -> None:
    assert 0 < memory.available_bytes() < 1 << 50


# --- both together ----------------------------------------------------------------------------------------------------


def test_a_run_that_fits_to_the_byte_goes_on_and_one_byte_more_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = memory.needed_bytes(spec(), 2)
    monkeypatch.setattr(memory, "available_bytes", lambda: needed)
    memory.check(spec(), 2)
    monkeypatch.setattr(memory, "available_bytes", lambda: needed - 1)
    with pytest.raises(BadInput) as caught:
        memory.check(spec(), 2)
    assert str(caught.value) == (
        "memory: 8 workers with 262,144 parameters need about 2.0 GiB, 2.0 GiB are free; "
        "use fewer workers or a smaller model"
    )

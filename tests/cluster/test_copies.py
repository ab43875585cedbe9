"""Copies: in memory, then on disk, then forgotten."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from cluster.copies import Copies


@pytest.fixture
def copies() -> Iterator[Copies]:
    """Room for two vectors of 5,000 elements in memory."""
    made = Copies(2 * 5000 * 4, 5000)
    yield made
    made.close()


def test_vectors_come_back_from_memory_and_from_disk(copies: Copies) -> None:
    vectors = [torch.arange(n, dtype=torch.float32) + n for n in (5000, 5000, 5000, 17)]
    for number, vector_N in enumerate(vectors):
        copies.keep(number, vector_N.clone())
    assert copies.memory_bytes == 2 * 5000 * 4
    assert copies.spilled_bytes > 0
    for number, vector_N in enumerate(vectors):
        out_N = torch.empty_like(vector_N)
        copies.load(number, out_N)
        assert torch.equal(out_N, vector_N)


def test_what_is_kept_is_a_copy(copies: Copies) -> None:
    vector_N = torch.zeros(8)
    copies.keep("a", vector_N)
    vector_N.fill_(1.0)
    out_N = torch.empty(8)
    copies.load("a", out_N)
    assert torch.equal(out_N, torch.zeros(8))


def test_a_vector_is_forgotten_after_its_last_use_and_its_place_used_again(copies: Copies) -> None:
    vector_N = torch.ones(5000)
    for key in "abc":
        copies.keep(key, vector_N)
    copies.keep("c", vector_N, uses=2)
    on_disk = copies.spilled_bytes
    for left in (True, True, False):
        copies.release("c")
        assert ("c" in copies) is left
    assert copies.spilled_bytes == 0
    copies.keep("d", 2 * vector_N)
    assert copies.spilled_bytes == on_disk
    assert copies._end == on_disk
    copies.release("a")
    copies.keep("e", vector_N)
    assert copies.memory_bytes == 2 * 5000 * 4
    assert len(copies) == 3


def test_what_is_looked_at_is_what_is_kept_in_memory_or_comes_from_disk(copies: Copies) -> None:
    for number, value in enumerate((1.0, 2.0, 3.0)):
        copies.keep(number, torch.full((5000,), value))
    room_N = torch.zeros(5000)
    kept_N = copies.view(0, room_N)
    assert torch.equal(kept_N, torch.ones(5000))
    assert torch.equal(room_N, torch.zeros(5000))
    assert copies.view(2, room_N) is room_N
    assert torch.equal(room_N, torch.full((5000,), 3.0))


def test_memory_that_was_used_is_used_again_for_the_same_length_only(copies: Copies) -> None:
    copies.keep("a", torch.ones(5000))
    used = copies.view("a", torch.empty(0)).data_ptr()
    copies.release("a")
    copies.keep("short", torch.ones(16))
    copies.keep("b", torch.full((5000,), 2.0))
    found_N = copies.view("b", torch.empty(0))
    assert found_N.data_ptr() == used
    assert torch.equal(found_N, torch.full((5000,), 2.0))
    assert torch.equal(copies.view("short", torch.empty(0)), torch.ones(16))

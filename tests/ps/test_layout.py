"""Layouts: names to places and back, cuts, segments, fingerprints."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from ps.errors import BadInput
from ps.layout import LINE, Layout, Segment, TensorSpec
from ps.streams import torch_stream


class Net(nn.Module):
    """One weight is tied, one layer is frozen, one parameter has no dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(9, 5)
        self.second = nn.Linear(5, 5)
        self.frozen = nn.Linear(5, 3).requires_grad_(False)
        self.tied = nn.Linear(5, 5)
        self.tied.weight = self.second.weight
        self.last = nn.Conv2d(3, 2, (5, 1))
        self.gain = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("mean", torch.zeros(4))


WEIGHTS = ("first.weight", "second.weight", "last.weight")
BIASES = ("gain", "first.bias", "second.bias", "tied.bias", "last.bias")
SIZE = 45 + 25 + 30 + 1 + 5 + 5 + 5 + 2


def layout_of(net: nn.Module, shards: int = 1) -> Layout:
    return Layout.of(net.named_parameters(), shards, bias_rate_multiplier=2.0, bias_decay_multiplier=0.0)


def of_size(size: int, shards: int) -> Layout:
    return Layout((TensorSpec("w", (size,)),), shards)


def test_weights_come_first_then_biases_tied_once_frozen_never() -> None:
    layout = layout_of(Net())
    assert tuple(spec.name for spec in layout.tensors) == WEIGHTS + BIASES
    assert layout.size == SIZE
    assert layout.tensors[2] == TensorSpec("last.weight", (2, 3, 5, 1))
    assert layout.tensors[3] == TensorSpec("gain", (), 2.0, 0.0)


def test_the_flat_order_does_not_depend_on_multipliers() -> None:
    plain = Layout.of(Net().named_parameters(), 1)
    assert [spec.name for spec in plain.tensors] == [spec.name for spec in layout_of(Net()).tensors]
    assert plain.segments(0) == (Segment(0, SIZE, 1.0, 1.0),)


def test_views_share_memory_without_gaps_or_overlap() -> None:
    layout = layout_of(Net())
    flat_N = torch.arange(SIZE, dtype=torch.float32)
    views = layout.views(flat_N)
    assert torch.equal(torch.cat([view.reshape(-1) for view in views.values()]), flat_N)
    views["last.weight"].fill_(-1.0)
    assert (flat_N == -1.0).sum() == 30
    assert torch.equal(flat_N[70:100], torch.full((30,), -1.0))


def test_flatten_and_views_are_inverse() -> None:
    net = Net()
    layout = layout_of(net, shards=3)
    flat_N = torch.full((SIZE,), torch.nan)
    layout.flatten(dict(net.named_parameters()), flat_N)
    assert not flat_N.requires_grad
    assert flat_N.isfinite().all()
    for name, parameter in net.named_parameters():
        assert (name in layout.views(flat_N)) is parameter.requires_grad
        if parameter.requires_grad:
            assert torch.equal(layout.views(flat_N)[name], parameter)


def test_flatten_takes_a_state_dict_with_its_buffers_frozen_and_tied_ones() -> None:
    net = Net()
    flat_N, again_N = torch.zeros(SIZE), torch.zeros(SIZE)
    layout_of(net).flatten(dict(net.named_parameters()), flat_N)
    layout_of(net).flatten(net.state_dict(), again_N)
    assert torch.equal(flat_N, again_N)


@pytest.mark.parametrize(
    ("size", "shards"),
    [(1, 1), (16, 1), (17, 2), (33, 2), (160, 3), (160, 10), (1000, 7), (1000, 63), (13_378_280, 1), (13_378_280, 7)],
)
def test_cuts_are_contiguous_even_and_at_lines(size: int, shards: int) -> None:
    layout = of_size(size, shards)
    bounds = [layout.bounds(shard) for shard in range(shards)]
    assert bounds[0].start == 0
    assert bounds[-1].stop == size
    assert all(a.stop == b.start for a, b in pairwise(bounds))
    assert all(cut.start % LINE == 0 for cut in bounds)
    lines = [-(-(cut.stop - cut.start) // LINE) for cut in bounds]
    assert min(lines) >= 1
    assert max(lines) - min(lines) <= 1


@pytest.mark.parametrize("shards", [1, 2, 3, 8])
def test_segments_cover_each_shard_and_know_their_multipliers(shards: int) -> None:
    layout = layout_of(Net(), shards)
    rate_N, decay_N = torch.full((SIZE,), torch.nan), torch.full((SIZE,), torch.nan)
    for shard in range(shards):
        held_rate_N, held_decay_N = rate_N[layout.bounds(shard)], decay_N[layout.bounds(shard)]
        segments = layout.segments(shard)
        assert [s.start for s in segments] == [0, *(s.stop for s in segments[:-1])]
        assert segments[-1].stop == len(held_rate_N)
        for segment in segments:
            held_rate_N[segment.start : segment.stop] = segment.rate_multiplier
            held_decay_N[segment.start : segment.stop] = segment.decay_multiplier
    for name, view in layout.views(rate_N).items():
        assert torch.equal(view, torch.full_like(view, 2.0 if name in BIASES else 1.0))
    for name, view in layout.views(decay_N).items():
        assert torch.equal(view, torch.full_like(view, 0.0 if name in BIASES else 1.0))
    assert sum(len(layout.segments(shard)) for shard in range(shards)) <= shards + 1


def test_neighbouring_tensors_with_equal_multipliers_are_one_segment() -> None:
    specs = (TensorSpec("a", (10,)), TensorSpec("none", (0,), 9.0), TensorSpec("b", (3,)), TensorSpec("c", (20,), 2.0))
    assert Layout(specs, 1).segments(0) == (Segment(0, 13, 1.0, 1.0), Segment(13, 33, 2.0, 1.0))
    assert Layout(specs, 2).segments(1) == (Segment(0, 17, 2.0, 1.0),)


def test_fingerprint_tells_apart_whatever_matters() -> None:
    layout = Layout((TensorSpec("a", (4, 8)), TensorSpec("b", (16,))), 2)
    others = [
        replace(layout, shards=1),
        replace(layout, tensors=layout.tensors[::-1]),
        *(
            replace(layout, tensors=(replace(layout.tensors[0], **change), layout.tensors[1]))
            for change in ({"name": "x"}, {"shape": (8, 4)}, {"rate_multiplier": 2.0}, {"decay_multiplier": 0.0})
        ),
    ]
    prints = {one.fingerprint() for one in (layout, *others)}
    assert len(prints) == 1 + len(others)
    assert layout.fingerprint() == replace(layout).fingerprint()
    assert (
        layout.fingerprint() == "f01b42d4b7116c0f251688984ff2c5068bbed42e5fe6581b74c56912b2759acd"
    )  # written in run directories


@pytest.mark.parametrize(("size", "shards"), [(16, 2), (33, 4), (100, 0), (100, -1)])
def test_a_number_of_shards_that_cannot_be_is_refused(size: int, shards: int) -> None:
    lines = -(-size // LINE)
    with pytest.raises(BadInput, match=f"^shards: got {shards}, expected 1 to {lines} "):
        of_size(size, shards)


def test_a_model_without_trainable_parameters_is_refused() -> None:
    with pytest.raises(BadInput, match="no trainable parameter"):
        Layout.of(nn.Linear(3, 3).requires_grad_(False).named_parameters(), 1)


def test_a_name_given_twice_is_refused() -> None:
    with pytest.raises(BadInput, match="got w more than once"):
        Layout((TensorSpec("w", (16,)), TensorSpec("w", (16,))), 1)


@pytest.mark.parametrize("shard", [-1, 2])
def test_a_shard_that_is_not_there_is_refused(shard: int) -> None:
    layout = of_size(64, 2)
    with pytest.raises(IndexError, match=f"got {shard}, expected 0 to 1"):
        layout.bounds(shard)
    with pytest.raises(IndexError, match=f"got {shard}, expected 0 to 1"):
        layout.segments(shard)


@pytest.mark.parametrize("flat", [torch.zeros(SIZE + 1), torch.zeros(SIZE, 1)])
def test_a_vector_of_another_shape_is_refused(flat: Tensor) -> None:
    layout = layout_of(Net())
    with pytest.raises(ValueError, match=rf"expected \({SIZE},\)"):
        layout.views(flat)
    with pytest.raises(ValueError, match=rf"expected \({SIZE},\)"):
        layout.flatten(dict(Net().named_parameters()), flat)


def test_flatten_refuses_what_does_not_fit_before_it_writes() -> None:
    layout = layout_of(Net())
    flat_N = torch.rand(SIZE, generator=torch_stream(0, "flat"))
    before_N = flat_N.clone()
    named = dict(Net().named_parameters())
    renamed = {name.replace("last.bias", "last.bais"): value for name, value in named.items()}
    with pytest.raises(BadInput, match=r'got none named last.bias, expected one \(did you mean "last.bais"\?\)'):
        layout.flatten(renamed, flat_N)
    with pytest.raises(BadInput, match=r"^last.bias: got shape \(3,\), expected \(2,\)$"):
        layout.flatten({**named, "last.bias": torch.zeros(3)}, flat_N)
    assert torch.equal(flat_N, before_N)

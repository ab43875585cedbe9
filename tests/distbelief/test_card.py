"""Card: what a weights file says of itself comes back as it was, and what says nothing is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from distbelief.card import Card, read_card
from ps.errors import BadInput
from workers.datasets import KNOWN, DataSettings, load
from workers.images import Traits

CARD = Card(
    "googlenet", "20261122-1-ab", 7, Traits("imagefolder", ("Ähre", 'a "b"'), (3, 224, 224), (1.5, 0.1, 3.0), 1 / 57)
)


def written(folder: Path, metadata: dict[str, str] | None) -> Path:
    safetensors.torch.save_file({"w": torch.zeros(2)}, folder / "x.safetensors", metadata=metadata)
    return folder / "x.safetensors"


def test_a_card_comes_back_as_it_was(tmp_path: Path) -> None:
    assert read_card(written(tmp_path, CARD.metadata())) == CARD


def test_an_open_data_set_s_traits_come_back_to_the_bit(tmp_path: Path) -> None:
    traits = Traits.of(load(DataSettings(), "test"))
    assert read_card(written(tmp_path, Card("inception-mini", "r", 0, traits).metadata())).traits == traits
    assert traits.classes == KNOWN["digits"].classes


@pytest.mark.parametrize("missing", sorted(CARD.metadata()))
def test_a_file_that_does_not_say_everything_is_refused(missing: str, tmp_path: Path) -> None:
    metadata = {key: value for key, value in CARD.metadata().items() if key != missing}
    with pytest.raises(BadInput, match=r"weights: got .*x\.safetensors without a word .*, expected a file that"):
        read_card(written(tmp_path, metadata))


@pytest.mark.parametrize(
    "wrong",
    [{"classes": "three"}, {"classes": "3"}, {"image_shape": '["x"]'}, {"mean": '["x"]'}, {"averaged_versions": ""}],
)
def test_nonsense_is_refused(wrong: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"without a word"):
        read_card(written(tmp_path, CARD.metadata() | wrong))


def test_no_metadata_at_all(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"without a word"):
        read_card(written(tmp_path, None))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"^weights: got no .*gone, expected one; distbelief resume .* goes on with a run"
    ):
        read_card(tmp_path / "gone")

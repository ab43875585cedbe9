"""One's own data: every kind of example, where the splits are, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ps.errors import BadInput
from ps.streams import numpy_stream
from workers.decode import BadImage
from workers.own_data import OwnData, as_fed


def data(given: Any, split: str = "train", classes: int = 0) -> OwnData:
    return OwnData.of(given, "mine:data", split, classes)


def pairs(count: int = 6, classes: int = 3) -> list[tuple[np.ndarray[Any, Any], int]]:
    return [(np.full(4, index, np.float64), index % classes) for index in range(count)]


class Set:
    """A data set with what attributes a test likes."""

    def __init__(self, items: Sequence[Any], **attributes: Any) -> None:
        self.items = items
        self.reads = 0
        vars(self).update(attributes)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        return self.items[index]


def refusal(given: Any) -> str:
    with pytest.raises(BadInput) as caught:
        data(given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- images -----------------------------------------------------------------------------------------------------------


def test_numbers_are_fed_as_they_are() -> None:
    for given in (np.array([[1.5, -2.0]]), torch.tensor([[1.5, -2.0]], dtype=torch.float64), [[1.5, -2.0]]):
        found = as_fed(given, "here")
        assert (found.dtype, found.tolist()) == (np.float32, [[1.5, -2.0]])
    assert as_fed(np.array([3, 300]), "here").tolist() == [3.0, 300.0]


def test_pictures_are_fed_channels_first_over_255() -> None:
    gray, colour = np.arange(6, dtype=np.uint8).reshape(2, 3), np.zeros((2, 3, 3), np.uint8)
    colour[0, 1] = (255, 51, 0)
    assert as_fed(gray, "here").shape == (1, 2, 3)
    for given in (colour, Image.fromarray(colour), torch.from_numpy(colour.transpose(2, 0, 1).copy())):
        found = as_fed(given, "here")
        assert found.shape == (3, 2, 3)
        assert found[:, 0, 1].tolist() == pytest.approx([1.0, 0.2, 0.0])
    assert as_fed(Image.fromarray(colour).convert("RGBA"), "here").shape == (3, 2, 3)
    assert as_fed(Image.fromarray(gray), "here").shape == (1, 2, 3)


@pytest.mark.parametrize("given", ["text", None, 3.0, np.array(["a"])])
def test_what_is_no_image(given: Any) -> None:
    with pytest.raises(
        BadInput, match=r"here: got an image of type .*, expected numbers: an array, a tensor or a pict"
    ):
        as_fed(given, "here")


# --- data sets --------------------------------------------------------------------------------------------------------


def test_a_list_of_pairs() -> None:
    found = data(pairs())
    assert (len(found), found.classes, found.image_shape, found.name) == (6, ("0", "1", "2"), (4,), "mine:data")
    assert (found.read(5).image.tolist(), found.read(5).label) == ([5.0] * 4, 2)
    assert not found.stands_in


def test_where_the_classes_come_from() -> None:
    named = Set(pairs(), classes=["cat", "dog", "cow"])
    assert (data(named).classes, named.reads) == (("cat", "dog", "cow"), 1)
    given = Set(pairs())
    assert (len(data(given, classes=7).classes), given.reads) == (7, 1)
    labelled = Set(pairs(), targets=torch.tensor([0, 1, 2, 0, 1, 4]))
    assert (len(data(labelled).classes), labelled.reads) == (5, 1)
    assert len(data(Set([(torch.zeros(2), torch.tensor(9))])).classes) == 10


def test_splits() -> None:
    train, test = pairs(6), pairs(3)
    assert [len(data({"train": train, "test": test}, split)) for split in ("train", "test")] == [6, 3]
    assert [len(data(lambda: {"train": train, "test": test}, split)) for split in ("train", "test")] == [6, 3]
    asked = data(lambda split: train, "train"), data(lambda split: test, "test")
    assert [(len(found), found.stands_in) for found in asked] == [(6, False), (3, False)]
    for only in (train, {"train": train}, lambda: train, lambda: {"train": train}):
        found = data(only, "test")
        assert (len(found), found.stands_in) == (6, True)


def test_the_fingerprint_is_that_of_the_content() -> None:
    other = pairs()
    other[3][0][1] = 77
    found = {data(given).fingerprint() for given in (pairs(), other, pairs(5), [*pairs()[:5], (np.full(4, 5.0), 1)])}
    assert len(found) == 4
    assert data(pairs()).fingerprint() == data(Set(pairs(), classes=["a", "b", "c"])).fingerprint()


def test_an_augmentation_of_one_s_own_draws_from_the_lease() -> None:
    source = Set(pairs(), augment=lambda image, generator: image + generator.integers(0, 100))
    augment = data(source).augmentation
    images = [data(source).read(index).image for index in range(3)]
    once, again, other = (augment(images, 3, numpy_stream(1, name)) for name in ("a", "a", "b"))
    assert once.dtype == np.float32
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)


def test_an_augmentation_that_fails() -> None:
    augment = data(Set(pairs(), augment=lambda image, generator: image / None)).augmentation
    with pytest.raises(BadInput, match=r"^data\.name: augment raised TypeError: unsupported .*; expected it to give "):
        augment([np.zeros(4)], 1, numpy_stream(1, "a"))


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_data_that_can_only_be_iterated() -> None:
    def stream() -> Iterator[Any]:
        yield from pairs()

    expected = "that iterates only; expected len(data) and data[index] -> (image, label): a lease names its examples"
    assert expected in refusal(stream)
    assert expected in refusal({1, 2})


def test_what_is_no_data_set() -> None:
    assert refusal(5).startswith("data.name: got mine:data, a int that has no length and no [index]; expected ")
    assert refusal([]) == "data.name: got mine:data, which is empty, expected at least one example"
    assert refusal([np.zeros(3)]) == "mine:data[0]: got ndarray, expected a pair (image, label)"
    assert refusal(Set([(np.zeros(3), "cat")])).startswith("mine:data[0]: got the label 'cat', expected a whole number")
    assert refusal(Set([(np.zeros(3), 0.5)])).startswith("mine:data[0]: got the label 0.5, expected a whole number")
    assert refusal({"a": (np.zeros(3), 0)}).startswith("mine:data[0]: got KeyError: 0; expected (image, label)")
    assert refusal(lambda: 1 / 0) == "data.name: got mine:data, which raised ZeroDivisionError: division by zero"


def test_a_bad_example_is_one_that_cannot_be_read() -> None:
    found = data([*pairs(), (np.zeros(5), 0), (np.zeros(4), 9), 7], classes=3)
    for index, what in ((6, "an image of shape (5,), expected (4,)"), (7, "the label 9, expected 0 to 2"), (8, "int")):
        with pytest.raises(BadImage) as caught:
            found.read(index)
        assert str(caught.value).startswith(f"mine:data[{index}]: got {what}")

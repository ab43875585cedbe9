"""A run on a folder of which some images cannot be read: it goes on, counts and names them, or ends, as configured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ps.journal import LeaseFinished
from ps.ledger import LedgerStatus
from ps.messages import LEDGER
from ps.wire.files import read_journal
from tests.cluster.world import served
from workers.decode import BadImage

UNREADABLE = {"1.jpg": b"", "3.jpg": b"no picture", "6.jpg": b"\xff\xd8\xff\xe0 cut"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight training images, three of them unreadable; two to evaluate on."""
    root = tmp_path_factory.mktemp("pictures")
    for split, count in (("train", 8), ("val", 2)):
        for number in range(count):
            place = root / split / f"class-{number % 2}"
            place.mkdir(parents=True, exist_ok=True)
            colours = np.full((40, 60, 3), (30 * number, 200, 99), np.uint8)
            Image.fromarray(colours).save(place / f"{number}.jpg")
    for name, content in UNREADABLE.items():
        next((root / "train").glob(f"*/{name}")).write_bytes(content)
    return root


def settings(folder: Path, bad_images: str, batch_size: int) -> dict[str, object]:
    return {
        "data__name": "imagefolder", "data__root": str(folder), "data__bad_images": bad_images,
        "model__name": "inception-mini", "run__batch_size": batch_size, "cluster__workers": 2,
    }  # fmt: skip


@pytest.mark.parametrize("batch_size", [1, 4])
def test_skipped_examples_are_counted_and_named(folder: Path, tmp_path: Path, batch_size: int) -> None:
    """With one example per lease, a lease has nothing readable: it is applied all the same, and is done."""
    with served(tmp_path / "run", **settings(folder, "skip", batch_size)) as world:
        world.host(turns=1).run()
        status = world.status(LEDGER)
    assert isinstance(status, LedgerStatus)
    assert (status.ending, status.finished, status.skipped) == ("completed", 8 // batch_size, 3)
    assert 0.0 < status.loss < 10.0
    finished = [r for r in read_journal(world.spec.journal / "ledger.journal") if isinstance(r, LeaseFinished)]
    assert sum(record.skipped for record in finished) == 3
    named = world.spec.unreadable.read_text().splitlines()
    assert sorted(Path(line.split(":")[0]).name for line in named) == sorted(UNREADABLE)
    assert all("got" in line and "expected" in line for line in named)


def test_the_first_unreadable_example_ends_the_run_where_that_is_asked_for(folder: Path, tmp_path: Path) -> None:
    with (
        served(tmp_path / "run", **settings(folder, "fail", 4)) as world,
        pytest.raises(BadImage, match=r"train/class-\d/\d\.jpg: got \d+ bytes that do not decode"),
    ):
        world.host(turns=1).run()
    assert not world.spec.unreadable.exists()

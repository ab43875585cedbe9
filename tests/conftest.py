"""What all tests share: where the real data sets are, if they are, and the pinned numbers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.golden import Golden


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite-golden", action="store_true", help="pin the numbers under tests/golden anew")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """The numbers that are pinned for this test file."""
    return Golden(request.path.stem.removeprefix("test_"), request.config.getoption("--rewrite-golden"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the real data sets (fashion-mnist, caltech101-10, ...), named by DISTBELIEF_TEST_DATA."""
    named = os.environ.get("DISTBELIEF_TEST_DATA", "")
    if not named or not Path(named).is_dir():
        pytest.skip("DISTBELIEF_TEST_DATA does not name the folder of the real data sets")
    return Path(named).absolute()

"""What all tests share: where the real data sets are, if they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the real data sets (fashion-mnist, caltech101-10, ...), named by DISTBELIEF_TEST_DATA."""
    named = os.environ.get("DISTBELIEF_TEST_DATA", "")
    if not named or not Path(named).is_dir():
        pytest.skip("DISTBELIEF_TEST_DATA does not name the folder of the real data sets")
    return Path(named).absolute()

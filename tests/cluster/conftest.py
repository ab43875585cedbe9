"""One thread per operation, as in a shard's process; more of them take turns on the cores of whoever else runs."""

from __future__ import annotations

from tests.ps.conftest import one_thread as one_thread

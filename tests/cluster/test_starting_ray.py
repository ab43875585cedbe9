"""A Ray that does not come up at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from ps.errors import BadInput, RunFailed

live = pytest.importorskip("cluster.live.connection")


def failing(monkeypatch: pytest.MonkeyPatch, times: int) -> list[str]:
    """Let Ray fail to start so often; return the addresses that were tried."""
    tried: list[str] = []

    def init(address: str, **_: object) -> None:
        tried.append(address)
        if len(tried) <= times:
            raise RuntimeError("The current node timed out during startup.\nThis could ...")

    monkeypatch.setattr(live.ray, "init", init)
    monkeypatch.setattr(live.ray, "shutdown", lambda: None)
    return tried


def test_a_local_ray_that_was_too_slow_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = failing(monkeypatch, 1)
    with live.connected("local", tmp_path):
        pass
    assert tried == ["local", "local"]


def test_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, 2)
    message = r"^Ray did not start on this machine: The current node timed out during startup\.$"
    with pytest.raises(RunFailed, match=message), live.connected("local", tmp_path):
        pass


def test_a_cluster_that_does_not_answer_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = failing(monkeypatch, 1)
    message = r"^cluster.address: got 'auto', expected a Ray cluster there"
    with pytest.raises(BadInput, match=message), live.connected("auto", None):
        pass
    assert tried == ["auto"]


def test_what_ray_s_daemons_print_goes_to_the_log(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing(monkeypatch, 0)
    data = {"lines": ["A worker died or was killed"], "pid": "raylet", "is_err": False}
    printing = live.worker.print_to_stdstream
    with caplog.at_level("DEBUG"), live.connected("local", tmp_path):
        live.worker.print_to_stdstream(data, ignore_prefix=False)
    assert capsys.readouterr().out == ""
    assert caplog.messages == ["Ray: A worker died or was killed"]
    assert live.worker.print_to_stdstream is printing

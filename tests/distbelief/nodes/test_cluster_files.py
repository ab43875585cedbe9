"""Cluster files: ours are what Ray reads; what a person wrote is kept, and closed to others in Ray's copy."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from distbelief import cli
from distbelief.nodes.file import ClusterFile, Login
from ps.errors import BadInput

ROOT = Path(__file__).parents[3]
OURS = [ROOT / "cluster.yaml", *sorted((ROOT / "cluster").glob("*.yaml"))]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_there_is_one_for_machines_of_one_s_own_and_for_two_clouds() -> None:
    assert [path.name for path in OURS] == ["cluster.yaml", "aws.yaml", "gcp.yaml", "local.yaml"]
    assert (ROOT / "cluster.yaml").read_text() == (ROOT / "cluster" / "local.yaml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_ray_s_own_validator_takes_it_as_written_and_as_prepared(path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    for content in (yaml.safe_load(path.read_text()), ClusterFile.read(path).closed()):
        validate_config(prepare_config(content))


@pytest.mark.slow
def test_the_validator_sees_a_slip() -> None:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    content = yaml.safe_load((ROOT / "cluster.yaml").read_text()) | {"worker_start_commands": []}
    with pytest.raises(ValidationError, match="worker_start_commands"):
        validate_config(prepare_config(content))


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_every_line_is_explained(path: Path) -> None:
    """Every key that begins at the left has a comment above or below it."""
    lines = path.read_text().splitlines()
    keys = [i for i, line in enumerate(lines) if line and line[0] not in " #"]
    assert all(lines[i - 1].startswith("#") or lines[i + 1].lstrip().startswith("#") for i in keys)


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_on_a_cloud_workers_may_be_taken_away_and_shards_not(name: str) -> None:
    kinds = yaml.safe_load((ROOT / "cluster" / name).read_text())["available_node_types"]
    spare = {kind: "spot" in str(node["node_config"]).lower() for kind, node in kinds.items()}
    assert spare == {"head": False, "shards": False, "workers": True}
    assert [kind for kind, node in kinds.items() if "distbelief_shards" in node["resources"]] == ["shards"]


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_every_node_states_its_resources_and_has_fast_health_checks(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    setup = " ".join(content["setup_commands"])
    assert "RAY_health_check_failure_threshold=3" in setup
    assert "RAY_AUTH_MODE=disabled" in setup
    assert "RAY_USAGE_STATS_ENABLED=0" in setup
    for role in ("head", "worker"):
        start = content[f"{role}_start_ray_commands"][-1]
        for option in ("--num-cpus", "--object-store-memory", "--node-ip-address", "--disable-usage-stats"):
            assert option in start


# --- what is read ----------------------------------------------------------------------------------------------------


def test_the_machines_and_how_to_log_in() -> None:
    file = ClusterFile.read(ROOT / "cluster.yaml")
    assert file.name == "distbelief"
    assert file.own_machines
    assert file.nodes == ["192.168.1.10", "192.168.1.11", "192.168.1.12"]
    assert file.login == Login("ubuntu", "~/.ssh/id_ed25519")
    assert not ClusterFile.read(ROOT / "cluster" / "aws.yaml").own_machines


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "got no YAML"),
        ("a: b", "got no provider"),
        ("provider: local", "got no provider"),
        ("provider: {type: local, head_ip: 10.0.0.1}", r"got no provider\.worker_ips"),
    ],
)
def test_what_is_no_cluster_file_is_said(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(BadInput, match=message):
        ClusterFile.read(tmp_path / "file")


def test_a_missing_file_is_said_with_what_writes_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["cluster", "check", "/nowhere/cluster.yaml"]) == 2
    assert "distbelief cluster init" in capsys.readouterr().err


# --- what Ray gets ---------------------------------------------------------------------------------------------------


def test_the_copy_is_closed_and_has_this_program_s_wheel(home: Path) -> None:
    file = ClusterFile.read(ROOT / "cluster.yaml")
    prepared = file.prepare()
    content: dict[str, Any] = yaml.safe_load(prepared.read_text())
    assert prepared.is_relative_to(home)
    token = Path(content["file_mounts"]["~/.distbelief/token"])
    assert len(token.read_text()) == 64
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    (wheel,) = Path(content["file_mounts"]["~/.distbelief/package"]).iterdir()
    assert wheel.name.startswith("distbelief-")
    assert "RAY_AUTH_MODE=token" in content["setup_commands"][-1]
    assert content["setup_commands"][:-1] == file.content["setup_commands"]
    assert {key for key in content if content[key] != file.content[key]} == {"file_mounts", "setup_commands"}


def test_the_token_stays_the_same_and_another_cluster_has_another() -> None:
    file = ClusterFile.read(ROOT / "cluster.yaml")
    first = file.prepare() and file.token.read_text()
    assert (file.prepare() and file.token.read_text()) == first
    other = ClusterFile(file.path, file.content | {"cluster_name": "other"})
    assert (other.prepare() and other.token.read_text()) != first


# --- init ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ["local", "aws", "gcp"])
def test_init_writes_a_file_once(tmp_path: Path, capsys: pytest.CaptureFixture[str], provider: str) -> None:
    path = str(tmp_path / "mine.yaml")
    assert cli.run(["cluster", "init", path, "--provider", provider]) == 0
    assert Path(path).read_text() == (ROOT / "cluster" / f"{provider}.yaml").read_text()
    assert cli.run(["cluster", "init", path]) == 2
    assert "File exists" in capsys.readouterr().err

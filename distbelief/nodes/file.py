"""Cluster file: what `ray up` reads, with the traps taken out of it.

What a person wrote stays as it is; what `distbelief cluster` adds goes into a copy of it, under
~/.distbelief/clusters/NAME, beside the cluster's token and the wheel that its machines install.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from distbelief.nodes import wheel
from ps.errors import BadInput
from ps.wire.files import write_whole

HOME = Path("~/.distbelief")  # of every machine
PACKAGE = "~/.distbelief/package"
TOKEN = "~/.distbelief/token"
# What a shell on a node begins with: our commands and the cluster's settings.
ENVIRONMENT = ". ~/.distbelief/environment"
_CLOSED = (
    "printf 'export %s\\n' RAY_AUTH_MODE=token 'RAY_AUTH_TOKEN_PATH=\"$HOME/.distbelief/token\"' "
    ">> ~/.distbelief/environment && chmod 600 ~/.distbelief/token"
)


@dataclass(frozen=True, slots=True)
class Login:
    """How to log in to a machine of one's own."""

    user: str
    key: str
    proxy: str = ""


@dataclass(frozen=True, slots=True)
class ClusterFile:
    """One cluster file.

    Attributes:
        path: Where it is.
        content: What it says.
    """

    path: Path
    content: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> ClusterFile:
        """Raises BadInput if it cannot be read or is no cluster file."""
        expected = "a cluster file; `distbelief cluster init` writes one"
        try:
            content = yaml.safe_load(path.read_text("utf-8"))
        except OSError as error:
            raise BadInput(f"cannot read {path}: {error.strerror}; expected {expected}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            where = getattr(error, "problem_mark", None)
            line = f" (line {where.line + 1})" if where else ""
            raise BadInput(f"{path}: got no YAML{line}, expected {expected}") from error
        if not isinstance(content, dict) or not isinstance(content.get("provider"), dict):
            raise BadInput(f"{path}: got no provider, expected {expected}")
        found = cls(path, content)
        if found.own_machines:
            for name in ("head_ip", "worker_ips"):
                if name not in content["provider"]:
                    raise BadInput(f"{path}: got no provider.{name}, expected the machines' addresses")
        return found

    @property
    def name(self) -> str:
        return str(self.content.get("cluster_name", "default"))

    @property
    def own_machines(self) -> bool:
        """Whether it names machines that are there already, rather than a cloud that makes them."""
        return bool(self.content["provider"].get("type") == "local")

    @property
    def nodes(self) -> list[str]:
        """Addresses of one's own machines, the head's first."""
        provider = self.content["provider"]
        return [str(provider["head_ip"]), *map(str, provider["worker_ips"])]

    @property
    def login(self) -> Login:
        auth = self.content.get("auth", {})
        key = str(auth.get("ssh_private_key", ""))
        return Login(str(auth.get("ssh_user", "")), key, str(auth.get("ssh_proxy_command", "")))

    @property
    def home(self) -> Path:
        """Where this machine keeps what belongs to the cluster."""
        return (HOME / "clusters" / self.name).expanduser()

    @property
    def token(self) -> Path:
        return self.home / "token"

    def prepare(self) -> Path:
        """Write the copy that `ray up` gets, the token and the wheel; return the copy's path."""
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self.token.exists():
            write_whole(self.token, secrets.token_hex(32).encode(), mode=0o600)
        wheel.build(self.home / "package")
        prepared = self.home / "cluster.yaml"
        write_whole(prepared, yaml.safe_dump(self.closed(), sort_keys=False, width=1000).encode(), mode=0o600)
        return prepared

    def closed(self) -> dict[str, Any]:
        """The content with this program's wheel for its package, and closed to whoever lacks the token."""
        content = dict(self.content)
        mounts = {TOKEN: str(self.token), PACKAGE: str(self.home / "package")}
        content["file_mounts"] = dict(content.get("file_mounts") or {}) | mounts
        content["setup_commands"] = [*(content.get("setup_commands") or []), _CLOSED]
        return content

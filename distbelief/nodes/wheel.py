"""Wheel: this very program, packed for other machines, from wherever it runs: a checkout, or an installed package."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("ps", "workers", "cluster", "distbelief")
_WHEEL = "Wheel-Version: 1.0\nGenerator: distbelief\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def build(folder: Path) -> Path:
    """Write the wheel into this folder, in place of what is there; return its path.

    Its version says which code it is: the program's own, and after a plus sign a digest of its files. So a machine that
    has it already does not install it again, and one that has anything else does.
    """
    files = dict(sorted(_sources().items()))
    digest = hashlib.sha256(b"".join(name.encode() + content for name, content in files.items())).hexdigest()[:12]
    version = f"{metadata.version('distbelief')}+{digest}"
    files |= _about(version)
    folder.mkdir(parents=True, exist_ok=True)
    for earlier in folder.glob("*.whl"):
        earlier.unlink()
    path = folder / f"distbelief-{version}-py3-none-any.whl"
    record = f"distbelief-{version}.dist-info/RECORD"
    lines = [f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in files.items()]
    files[record] = "".join([*lines, f"{record},,\n"]).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return path


def _sources() -> dict[str, bytes]:
    """Every file of our packages, by its name in the wheel."""
    found = {}
    for package in PACKAGES:
        spec = find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        root = Path(spec.origin).parent
        for path in root.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                found[f"{package}/{path.relative_to(root).as_posix()}"] = path.read_bytes()
    return found


def _about(version: str) -> dict[str, bytes]:
    """The files that say what this is."""
    installed = metadata.distribution("distbelief")
    described = installed.read_text("METADATA") or installed.read_text("PKG-INFO")  # the latter: beside a checkout
    lines = (described or "").splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("Version:"))
    lines[at] = f"Version: {version}"
    home = f"distbelief-{version}.dist-info"
    return {
        f"{home}/METADATA": ("\n".join(lines) + "\n").encode(),
        f"{home}/entry_points.txt": (installed.read_text("entry_points.txt") or "").encode(),
        f"{home}/WHEEL": _WHEEL.encode(),
    }


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()

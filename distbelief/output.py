"""Output: the file that a person names with --output, looked at before any work, and written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from ps.errors import BadInput
from ps.wire.files import write_whole


def writable(path: Path) -> Path:
    """The same path, if a file can be written there. Raises BadInput."""
    if path.is_dir() or not path.name:
        raise BadInput(f"--output: got {path}, a directory; expected a file in it")
    if not path.parent.is_dir():
        raise BadInput(f"--output: cannot write {path}: {path.parent} is no directory; name another file")
    if not os.access(path.parent, os.W_OK):
        raise BadInput(f"--output: cannot write {path}: {path.parent} is read-only; name another file")
    return path


def written(path: Path, data: bytes) -> Path:
    """Write the file; return its path. Raises BadInput if it cannot be written."""
    try:
        write_whole(writable(path), data)
    except OSError as error:
        raise BadInput(f"--output: cannot write {path}: {error.strerror}; name another file") from error
    return path

"""Files that only their owner may read, and names in folders that survive a power cut."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO


def open_private(path: Path, *, mode: int = 0o600) -> IO[bytes]:
    """Open an empty file for writing. Only its owner may read it."""
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    os.fchmod(number, mode)
    return open(number, "wb")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable (fsync)."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)

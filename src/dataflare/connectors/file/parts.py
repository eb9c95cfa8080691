"""The names in a folder of parts: published parts, waiting parts in staging, and the facts in
names.

Always true: a published name contains lineage, epoch, subtask and number, so the same rows never
appear under two names; a staged name never ends in a data extension, and contains the checksum of
its content.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Set
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from dataflare.checkpoint.files import make_folder
from dataflare.connectors.file.names import UNPUBLISHED
from dataflare.sdk.durable_files import sync_folder


class WaitingPart(Struct, frozen=True):
    """A part in staging. name: its published path, relative to the folder. digest: of its
    content."""

    name: str
    path: Path
    digest: str | None


class PartsFolder(Struct, frozen=True):
    """Names in the folder. extension: of published parts, with its dot. private: only the owner may
    access folders made here."""

    path: Path
    lineage8: str
    extension: str
    overwrite: bool
    private: bool = False

    def make(self, folder: Path) -> None:
        """Make a folder, with its parents, durably."""
        make_folder(folder, private=self.private)

    @property
    def staging(self) -> Path:
        return self.path / f".dataflare-{self.lineage8}"

    def part_name(self, epoch: int, subtask: int, number: int) -> str:
        return f"part-{self.lineage8}-{epoch}-{subtask}-{number}{self.extension}"

    def staged(self, name: str, digest: str) -> Path:
        """Where a part waits. name: relative to the folder, with its partition. The name in staging
        contains the checksum of the content."""
        return self.staging / f"{name}~{digest.replace(':', '-')}{UNPUBLISHED}"

    def waiting(self) -> list[WaitingPart]:
        """All parts that wait, in order of epoch."""
        parts = [part for file in self.staged_files() if (part := self._waiting(file)) is not None]
        return sorted(parts, key=lambda part: (self.epoch_of(part.name) or 0, part.name))

    def _waiting(self, file: Path) -> WaitingPart | None:
        inside = file.relative_to(self.staging).as_posix().removesuffix(UNPUBLISHED)
        # Earlier versions kept a part's partition in its file name, and no checksum.
        name, _, digest = inside.replace("\x1f", "/").partition("~")
        if self.epoch_of(name) is None:
            return None
        return WaitingPart(name, file, digest.replace("-", ":") or None)

    def staged_files(self) -> list[Path]:
        """Every file in staging, at any depth."""
        walked = os.walk(self.staging)
        return [Path(parent, name) for parent, _, names in walked for name in names]

    def clear_staging(self, keep: Set[Path] = frozenset()) -> None:
        """Remove all files in staging except `keep`, and folders that are empty then."""
        for parent, _, names in os.walk(self.staging, topdown=False):
            for name in names:
                if Path(parent, name) not in keep:
                    Path(parent, name).unlink()
            with suppress(OSError):  # it is not empty
                os.rmdir(parent)

    def note_base(self, epoch: int) -> None:
        """Record, durably, the last epoch before this run: overwrite replaces parts up to it at the
        end."""
        self.make(self.staging)
        (self.staging / f"base-{epoch}").touch()
        sync_folder(self.staging)

    def base(self) -> int | None:
        """The last epoch before this run; None once the run has been published."""
        names = [f.name for f in self.staging.glob("base-*")] if self.staging.is_dir() else []
        return int(names[0].removeprefix("base-")) if names else None

    def epoch_of(self, name: str) -> int | None:
        """The epoch in a part's name, None if it is not a part of this lineage."""
        match = re.match(rf"part-{self.lineage8}-(\d+)-\d+-\d+\.", name.rpartition("/")[2])
        return int(match.group(1)) if match else None

    def data_files(self) -> Iterator[Path]:
        """Every published file of this extension, from all lineages and programs."""
        for parent, folders, names in os.walk(self.path):
            folders[:] = sorted(f for f in folders if not f.startswith((".", "_")))
            for name in sorted(names):
                if name.endswith(self.extension) and not name.startswith((".", "_")):
                    yield Path(parent, name)

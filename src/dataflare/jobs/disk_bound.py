"""What a run keeps on the disk of this machine, against `resources.disk`.

Always true: a checkpoint that would be above the bound is not published, so the last one stays and the run goes on from
it once the bound is raised.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dataflare.errors import Blame, RunError
from dataflare.jobs.letters import local_place
from dataflare.model import human
from dataflare.planner.dead_letters import STEP, error_handling

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow

CODE = "E0616"
_EVERY_S, _REST = 1.0, 50
"""Looks are so far apart, and at least so many times as long as a look takes."""


class DiskBound:
    """folders: those of the run: its workflow's, those of its checkpoints and scratch files. They may lie in each other. warn:
    called with what cannot be measured."""

    def __init__(
        self,
        workflow: Workflow,
        folders: Sequence[Path],
        warn: Callable[[Iterable[str]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = workflow.settings.resources.disk
        self._folders = folders
        self._warn = warn
        self.use(workflow)
        self._clock, self._next_look = clock, 0.0

    def use(self, workflow: Workflow) -> None:
        """The workflow, which may have more tables than before."""
        self._letters = list(_letter_folders(workflow))

    def check(self, final: bool = False) -> None:
        """Raise RunError (E0616) where the run has more on disk than the bound allows. Blocks for a moment."""
        if self._most is None:
            return
        sizes = self._sizes()
        total = sum(sizes.values())
        if total <= self._most:
            return
        raise RunError(
            f"the run has {human.size(total)} on disk, and 'resources.disk' allows {human.size(self._most)}",
            code=CODE,
            blame=Blame.USER,
            notes=[
                ", ".join(f"{what}: {human.size(size)}" for what, size in sizes.items()),
                f"in {', '.join(str(folder) for folder in self._roots())}",
            ],
            help="raise 'resources.disk' in the settings, or delete what is not needed there (`dataflare dlq purge`), and "
            "run again: the run goes on from its last checkpoint",
        )

    def exceeded(self) -> RunError | None:
        """The error of `check`, if it is time for a look."""
        began = self._clock()
        if self._most is None or began < self._next_look:
            return None
        try:
            self.check()
        except RunError as error:
            return error
        finally:
            now = self._clock()
            self._next_look = now + max(_EVERY_S, _REST * (now - began))
        return None

    def _roots(self) -> list[Path]:
        """The folders that lie in none of the others."""
        folders = list(dict.fromkeys([*self._folders, *self._letters]))
        return [
            folder for folder in folders if not any(other in folder.parents for other in folders)
        ]

    def _sizes(self) -> dict[str, int]:
        sizes = {"state": 0, "redo files": 0, "dead letters": 0}
        for root in self._roots():
            for entry in self._files(root):
                parts = Path(entry.path).relative_to(root).parts
                kind = "state"
                if any(folder in Path(entry.path).parents for folder in self._letters) or parts[
                    0
                ].startswith(STEP):
                    kind = "dead letters"
                elif "redo" in parts[:2]:
                    kind = "redo files"
                try:
                    sizes[kind] += entry.stat(follow_symlinks=False).st_size
                except OSError as error:
                    self._left_out(entry.path, error)
        return sizes

    def _files(self, folder: Path) -> Iterator[os.DirEntry[str]]:
        """All files below a folder. What goes meanwhile is left out, and what cannot be read is warned of."""
        try:
            entries = [(e, e.is_dir(follow_symlinks=False)) for e in os.scandir(folder)]
        except OSError as error:
            self._left_out(str(folder), error)
            return
        for entry, is_folder in entries:
            if is_folder:
                yield from self._files(Path(entry.path))
            else:
                yield entry

    def _left_out(self, path: str, error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            reason = error.strerror or error
            self._warn([f"'resources.disk' does not count {path}: it cannot be read: {reason}"])


def _letter_folders(workflow: Workflow) -> Iterator[Path]:
    for step in workflow.steps():
        letters = error_handling(workflow, step.name).dead_letter
        if letters is not None and letters.path is not None and "://" not in letters.path:
            yield local_place(workflow, letters.path)

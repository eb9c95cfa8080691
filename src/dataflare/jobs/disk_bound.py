"""What a run keeps on the disk of this machine, against `resources.disk`.

Always true:
- a checkpoint that would be above the bound is not published, so the last one stays and the run goes on from it once the
  bound is raised. Where a look takes more than a fiftieth of a second, the checkpoint may go by the look before;
- the event loop never waits for a look.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING

from dataflare.errors import RunError
from dataflare.jobs.letters import local_place
from dataflare.model import human
from dataflare.planner.dead_letters import STEP, error_handling

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow

CODE = "E0616"
_EVERY_S, _REST = 1.0, 50
"""Looks are so far apart, and at least so many times as long as a look takes: they take a fiftieth of a processor, however
many files there are."""
_STATE, _REDO, _LETTERS = "state", "redo files", "dead letters"


class DiskBound:
    """Measured on threads, by one at a time. folders: those of the run: its workflow's, those of its checkpoints and scratch
    files. They may lie in each other. warn: called with what cannot be measured."""

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
        self._clock, self._lock = clock, threading.Lock()
        self._next_look, self._last = 0.0, dict[str, int]()

    def use(self, workflow: Workflow) -> None:
        """The workflow, which may have more tables than before."""
        self._letters = list(_letter_folders(workflow))

    @property
    def is_bound(self) -> bool:
        return self._most is not None

    def look_in_s(self) -> float:
        """The seconds until it is time for a look."""
        return max(0.0, self._next_look - self._clock())

    def check(self) -> None:
        """Raise RunError (E0616) where the run has more on disk than the bound allows: now, or, where a look takes long, when
        it was measured last. Blocking."""
        if self._most is None:
            return
        with self._lock:
            if not self._last or self._clock() >= self._next_look:
                began = self._clock()
                self._last = self._sizes()
                now = self._clock()
                took = now - began
                # Where a look is quick, each checkpoint has its own.
                self._next_look = now + (_REST * took if _REST * took > _EVERY_S else 0.0)
            sizes = self._last
        total = sum(sizes.values())
        if total <= self._most:
            return
        raise RunError(
            f"the run has {human.size(total)} on disk, and 'resources.disk' allows {human.size(self._most)}",
            code=CODE,
            notes=[
                ", ".join(f"{what}: {human.size(size)}" for what, size in sizes.items()),
                f"in {', '.join(str(folder) for folder in self._roots())}",
            ],
            help="raise 'resources.disk' in the settings, or delete what is not needed there (`dataflare dlq purge`), and "
            "run again: the run goes on from its last checkpoint",
        )

    def _roots(self) -> list[Path]:
        """The folders that lie in none of the others."""
        folders = list(dict.fromkeys([*self._folders, *self._letters]))
        return [
            folder for folder in folders if not any(other in folder.parents for other in folders)
        ]

    def _sizes(self) -> dict[str, int]:
        sizes = {_STATE: 0, _REDO: 0, _LETTERS: 0}
        letters = {str(folder) for folder in self._letters}
        for root in map(str, self._roots()):
            self._add(root, _LETTERS if root in letters else _STATE, 0, letters, sizes)
        return sizes

    def _add(
        self, folder: str, kind: str, depth: int, letters: Set[str], sizes: dict[str, int]
    ) -> None:
        """Add the sizes of all files below a folder. What goes meanwhile is left out, and what cannot be read is warned of.
        depth: below a root. letters: the folders of dead letters."""
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    of_entry = kind
                    if depth == 0 and entry.name.startswith(STEP):
                        of_entry = _LETTERS
                    try:
                        if entry.is_dir(follow_symlinks=False):
                            if entry.path in letters:
                                of_entry = _LETTERS
                            elif of_entry == _STATE and depth < 2 and entry.name == "redo":
                                of_entry = _REDO
                            self._add(entry.path, of_entry, depth + 1, letters, sizes)
                        else:
                            sizes[of_entry] += entry.stat(follow_symlinks=False).st_size
                    except OSError as error:
                        self._left_out(entry.path, error)
        except OSError as error:
            self._left_out(folder, error)

    def _left_out(self, path: str, error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            reason = error.strerror or error
            self._warn([f"'resources.disk' does not count {path}: it cannot be read: {reason}"])


def _letter_folders(workflow: Workflow) -> Iterator[Path]:
    for step in workflow.steps():
        letters = error_handling(workflow, step.name).dead_letter
        if letters is not None and letters.path is not None and "://" not in letters.path:
            yield local_place(workflow, letters.path)

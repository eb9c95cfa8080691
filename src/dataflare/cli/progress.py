"""Show a run while it runs: a live view on a terminal, notices elsewhere, nothing with `--quiet`.

The engine's thread hands over a progress object a few times a second; drawing it happens in Rich's
own thread, so that the engine never waits for a terminal.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Self

from dataflare.cli import terminal

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow


class Progress:
    """Says nothing: `--quiet`. said: the notices that have been shown."""

    def __init__(self) -> None:
        self.said: set[str] = set()

    @staticmethod
    def of(workflow: Workflow, *, quiet: bool) -> Progress:
        """The view that fits this terminal and this workflow."""
        if quiet:
            return Progress()
        if not terminal.is_terminal(sys.stderr):
            return Notices()
        from dataflare.cli.live import LiveView

        return LiveView(workflow)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        return None

    def listen(self, progress: Any) -> None:
        """Take news of the run. Called by the engine's thread; must not wait."""


class Notices(Progress):
    """One line for each notice, for logs."""

    def listen(self, progress: Any) -> None:
        if progress.message and progress.message not in self.said:
            self.said.add(progress.message)
            self.note(progress.message)

    def note(self, message: str) -> None:
        """Show one notice."""
        terminal.say(message)

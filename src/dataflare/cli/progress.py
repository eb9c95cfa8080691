"""Show the progress of a run: a live view on a terminal, notices elsewhere, nothing with `--quiet`.

The engine's thread passes a progress object a few times a second. Rich draws it on another thread, so
that the engine never waits for a terminal.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Self

from dataflare.cli import terminal

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow


class Progress:
    """Shows nothing, for `--quiet`. shown_notices: the notices that were shown."""

    def __init__(self) -> None:
        self.shown_notices: set[str] = set()

    @staticmethod
    def of(workflow: Workflow, *, quiet: bool) -> Progress:
        """The view for this terminal and this workflow."""
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
        """Receive progress. Called by the engine's thread, so it must not wait."""


class Notices(Progress):
    """One line for each notice, for logs."""

    def listen(self, progress: Any) -> None:
        if progress.message and progress.message not in self.shown_notices:
            self.shown_notices.add(progress.message)
            self.note(progress.message)

    def note(self, message: str) -> None:
        """Show one notice."""
        terminal.say(terminal.notice_line(message))

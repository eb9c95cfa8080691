"""What a run did, for people, on standard error when it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dataflare.cli import terminal

if TYPE_CHECKING:
    from dataflare.jobs import RunResult
    from dataflare.workflow.model import Workflow


def print_summary(result: RunResult, workflow: Workflow) -> None:
    """One line."""
    terminal.say(f"{workflow.name}: {result.status} in {result.duration_s:.2f} s")

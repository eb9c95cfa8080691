"""A tracer that remembers, and runs that it traces: for tests of headers that name a trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dataflare.jobs import RunOptions, run
from dataflare.sdk.runtime import current
from dataflare.workflow.load import load_text

GIVEN = f"00-{'a' * 32}-{'b' * 16}-01"
OWN = f"00-{'c' * 32}-"
"""How the headers of the tracer's own spans begin."""


class Spans:
    """Of every batch. links: by name, those of the last span."""

    def __init__(self) -> None:
        self.links: dict[str, list[Any]] = {}

    def is_due(self, what: str = "batches") -> bool:
        return True

    def begin(self, name: str, *, links: Any = (), **_: Any) -> Any:
        self.links[name] = [*links]
        parent = f"{OWN}{len(self.links):016x}-01"
        return SimpleNamespace(context=name, traceparent=parent, end=lambda error=None: None)


def traced_run(text: str, folder: Path, *, traced: bool = True) -> Spans:
    """Run a workflow to its end."""
    spans = Spans()

    @contextmanager
    def observer(_: Any) -> Iterator[None]:
        current().tracer = spans if traced else None
        yield

    options = RunOptions(folder / "home", observers=[observer])
    result = run(load_text(text, base=folder), options)
    assert result.error is None, result.error
    return spans

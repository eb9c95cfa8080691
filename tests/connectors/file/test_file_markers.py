"""The hidden file that says who wrote to a place: a writer that another one has replaced publishes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataflare.connectors.file.marker import FileMarker
from dataflare.errors import RunError
from dataflare.model.types import Schema
from dataflare.sdk.context import DestinationContext

OURS, OTHER = (f"{digit * 8}-0000-4000-8000-000000000000" for digit in "12")


def marker(folder: Path, lineage: str, attempt: int = 1, token: str = "a") -> FileMarker:
    context = DestinationContext(
        "out", lineage, attempt, Schema.of({}), folder, token=token, workflow="load"
    )
    return FileMarker(folder, context, "out.csv")


@pytest.mark.parametrize(
    ("lineage", "attempt", "token"),
    [(OTHER, 1, "b"), (OURS, 6, "b"), (OURS, 5, "b")],
    ids=["another lineage", "a newer attempt", "a copy of the state folder"],
)
def test_a_running_writer_is_fenced(tmp_path: Path, lineage: str, attempt: int, token: str) -> None:
    running = marker(tmp_path, OURS, attempt=5)
    running.begin(0)
    with running.lock():
        running.write(1, 10, "{}")
    marker(tmp_path, lineage, attempt, token).write(1, 0, None)
    with pytest.raises(RunError) as caught, running.lock():
        pass
    assert caught.value.code == "E0804"

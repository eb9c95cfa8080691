"""Which lineage `--adopt` takes over, from what the destinations say of those that wrote to them. Pure."""

from __future__ import annotations

import pytest

from dataflare.checkpoint.manifest import Manifest
from dataflare.errors import RunError
from dataflare.jobs.ownership import adoption
from dataflare.sdk.destination import Owner
from dataflare.workflow import Workflow, load_text

OURS, OTHER = (f"{digit * 8}-0000-4000-8000-000000000000" for digit in "12")


@pytest.fixture
def workflow() -> Workflow:
    return load_text(
        "name: load\n"
        "sources: {s: {type: inline, config: {rows: [{a: 1}]}}}\n"
        "destinations: {one: {type: stdout, inputs: [s]}}\n"
    )


def manifest(epoch: int, lineage: str = OURS) -> Manifest:
    return Manifest(lineage, "run", 1, epoch, "2024-01-01T00:00:00Z")


def owner(epoch: int, *, lineage: str = OURS, attempt: int = 1, rows: int = 10) -> Owner:
    return Owner(lineage, attempt, epoch, rows, manifest(epoch, lineage).to_text())


def test_the_newest_checkpoint_is_taken_over_with_the_newest_attempt(workflow: Workflow) -> None:
    """The destinations may have been killed between two commits of one epoch."""
    owners = {"one": owner(4, attempt=3), "two": owner(5, attempt=2), "three": owner(4)}
    taken = adoption(workflow, owners)
    assert taken is not None
    assert (taken.manifest, taken.attempt) == (manifest(5), 3)


def test_a_destination_without_rows_of_the_lineage_does_not_count(workflow: Workflow) -> None:
    assert adoption(workflow, {"one": owner(4, rows=0)}) is None
    taken = adoption(workflow, {"one": owner(4), "two": owner(9, lineage=OTHER, rows=0)})
    assert taken is not None
    assert taken.manifest == manifest(4)


@pytest.mark.parametrize(
    ("owners", "why"),
    [
        ({"one": owner(4), "two": owner(4, lineage=OTHER)}, "several lineages"),
        ({"one": Owner(OURS, 1, 4, 10, None)}, "no checkpoint"),
        ({"one": Owner(OURS, 1, 4, 10, manifest(4).to_text()[:-9])}, "its end is missing"),
    ],
)
def test_what_cannot_be_taken_over_is_refused(
    workflow: Workflow, owners: dict[str, Owner], why: str
) -> None:
    with pytest.raises(RunError, match=why) as caught:
        adoption(workflow, owners)
    assert (caught.value.code, caught.value.exit_status) == ("E0806", 2)

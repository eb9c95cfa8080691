"""What the marker row becomes when a run goes back to an earlier epoch. Pure."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from dataflare.errors import CheckpointError
from dataflare.model.types import Schema
from dataflare.sdk.sql.marker import MarkerRow, marker_rows, marker_rows_by_step, rewind_marker
from dataflare.sdk.sql.store import Target


def target(attempt: int = 2, token: str = "b") -> Target:
    return Target("out", "lineage", attempt, "t", "upsert", Schema.of({}), token=token)


def test_a_marker_that_goes_back_carries_no_manifest_of_a_later_epoch() -> None:
    """`--adopt` goes on from the manifest that a marker carries."""
    stored = MarkerRow(1, 5, 40, "manifest 5", "a")
    assert rewind_marker(stored, target(), 3, can_rewind=True) == MarkerRow(2, 3, 40, None, "b")


def test_a_marker_that_stays_is_taken_over_with_its_manifest() -> None:
    stored = MarkerRow(1, 5, 40, "manifest 5", "a")
    for epoch in (5, 6):
        taken_over = MarkerRow(2, 5, 40, "manifest 5", "b")
        assert rewind_marker(stored, target(), epoch, can_rewind=False) == taken_over


def test_a_marker_of_this_attempt_stays_as_it_is() -> None:
    assert (
        rewind_marker(MarkerRow(2, 5, 40, "manifest 5", "b"), target(), 5, can_rewind=False) is None
    )


def test_appended_rows_do_not_go_back() -> None:
    with pytest.raises(CheckpointError) as caught:
        rewind_marker(MarkerRow(1, 5, 40, "manifest 5", "a"), target(), 4, can_rewind=False)
    assert caught.value.code == "E0705"


def test_of_other_lineages_the_one_that_wrote_last_is_the_owner() -> None:
    """The rows come newest first."""
    newest, oldest = ("two", 1, 7, 9, "{}", "c"), ("three", 1, 9, 9, "{}", "d")
    own = ("lineage", 1, 5, 40, "{}", "a")
    found = marker_rows(target(), [newest, own, oldest])
    assert found.own == MarkerRow(1, 5, 40, "{}", "a")
    assert found.other is not None
    assert (found.other.lineage, found.other.epoch) == ("two", 7)


def test_of_a_statement_for_several_steps_each_gets_its_own_rows() -> None:
    one, two = target(), replace(target(), step="two")
    rows = [
        ("other", 1, 7, 9, "{}", "c", "out", "t"),
        ("elsewhere", 1, 8, 9, "{}", "c", "out", "another table"),
        ("lineage", 1, 5, 40, "{}", "a", "two", "another table"),
    ]
    found = marker_rows_by_step([one, two], rows)
    assert found["out"].other is not None
    assert (found["out"].own, found["out"].other.lineage) == (None, "other")
    assert (found["two"].own, found["two"].other) == (MarkerRow(1, 5, 40, "{}", "a"), None)

"""What the marker row becomes when a run goes back to an earlier epoch. Pure."""

from __future__ import annotations

import pytest

from dataflare.connectors.sql.marker import Stored, rewound
from dataflare.connectors.sql.store import Target
from dataflare.errors import CheckpointError
from dataflare.model.types import Schema


def target(attempt: int = 2, token: str = "b") -> Target:
    return Target("out", "lineage", attempt, "t", "upsert", Schema.of({}), token=token)


def test_a_marker_that_goes_back_carries_no_manifest_of_a_later_epoch() -> None:
    """`--adopt` goes on from the manifest that a marker carries."""
    stored = Stored(1, 5, 40, "manifest 5", "a")
    assert rewound(stored, target(), 3, can_rewind=True) == Stored(2, 3, 40, None, "b")


def test_a_marker_that_stays_is_taken_over_with_its_manifest() -> None:
    stored = Stored(1, 5, 40, "manifest 5", "a")
    for epoch in (5, 6):
        taken_over = Stored(2, 5, 40, "manifest 5", "b")
        assert rewound(stored, target(), epoch, can_rewind=False) == taken_over


def test_a_marker_of_this_attempt_stays_as_it_is() -> None:
    assert rewound(Stored(2, 5, 40, "manifest 5", "b"), target(), 5, can_rewind=False) is None


def test_appended_rows_do_not_go_back() -> None:
    with pytest.raises(CheckpointError) as caught:
        rewound(Stored(1, 5, 40, "manifest 5", "a"), target(), 4, can_rewind=False)
    assert caught.value.code == "E0705"

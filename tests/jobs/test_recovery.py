"""What a run resumes from, and what it leaves of the checkpoints that it does not use."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dataflare.checkpoint.manifest import Manifest
from dataflare.checkpoint.resolve import manifest_name
from dataflare.checkpoint.store import LocalStore
from dataflare.jobs.recovery import Recovered, recover

LINEAGE = "0badcafe-0000-4000-8000-000000000000"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """With the checkpoints 1 to 4."""
    made = LocalStore(tmp_path, LINEAGE)
    for epoch in range(1, 5):
        made.publish(Manifest(LINEAGE, "run", 1, epoch, "2024-01-01T00:00:00Z"))
    return made


def damage(store: LocalStore, *epochs: int) -> None:
    for epoch in epochs:
        path = store.home / manifest_name(epoch)
        path.write_bytes(path.read_bytes()[:-40])


def recovered(store: LocalStore, *, base: int = 0, last: int = 4, resume: bool = True) -> Recovered:
    return asyncio.run(recover(store, {}, base_epoch=base, last_epoch=last, resume=resume))


def epochs(store: LocalStore) -> list[int]:
    return [fact.epoch for fact in store.list_manifests()]


def test_checkpoints_that_are_passed_over_are_told_and_removed(store: LocalStore) -> None:
    damage(store, 3, 4)
    found = recovered(store)
    assert found.epoch == 2
    *passed, goes_on = found.notices
    assert [notice.partition(" is")[0] for notice in passed] == ["checkpoint 4", "checkpoint 3"]
    assert "checkpoint 2" in goes_on
    assert epochs(store) == [2, 1]


def test_a_run_that_begins_keeps_those_of_the_run_before_only(store: LocalStore) -> None:
    assert recovered(store, base=2, last=2, resume=False) == Recovered(None, 2)
    assert epochs(store) == [2, 1]


def test_checkpoints_of_the_run_before_are_not_resumed_from(store: LocalStore) -> None:
    assert recovered(store, base=4).manifest is None
    assert recovered(store, base=3).epoch == 4


def test_a_checkpoint_that_is_gone_is_told(store: LocalStore) -> None:
    (store.home / manifest_name(4)).unlink()
    found = recovered(store)
    assert found.epoch == 3
    assert "checkpoint 4 is missing" in found.notices


def test_what_a_writer_that_was_killed_left_is_removed(store: LocalStore) -> None:
    left = store.home / ".tmp-1-manifest-0000000005.json"
    left.write_bytes(b"{")
    recovered(store)
    assert not left.exists()

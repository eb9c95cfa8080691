"""Two processes that both believe to have the workflow: only the one that began last publishes."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoint_samples import LINEAGE, manifest
from msgspec.structs import replace

from dataflare.checkpoint import files
from dataflare.checkpoint.shared_store import SharedStore
from dataflare.errors import CheckpointError


def stores(folder: Path) -> tuple[SharedStore, SharedStore]:
    return SharedStore(folder / "orders", LINEAGE), SharedStore(folder / "orders", LINEAGE)


def test_the_one_that_began_before_publishes_nothing_any_more(tmp_path: Path) -> None:
    before, after = stores(tmp_path)
    before.rewind(0)
    before.publish(manifest(1))
    after.rewind(1)
    with pytest.raises(
        CheckpointError, match="another process of this workflow has taken over"
    ) as told:
        before.publish(manifest(2))
    assert told.value.code == "E0705"
    after.publish(manifest(2))
    assert [fact.epoch for fact in after.list_manifests()] == [2, 1]


def test_of_two_that_publish_at_once_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = stores(tmp_path)
    before.rewind(0)
    real = files.write_whole

    def overtaken(path: Path, data: bytes, **more: object) -> None:
        """The other one begins and publishes between the look at the mark and the write."""
        monkeypatch.setattr(files, "write_whole", real)
        after.rewind(0)
        after.publish(manifest(1))
        real(path, data, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "write_whole", overtaken)
    with pytest.raises(CheckpointError, match="taken over"):
        before.publish(replace(manifest(1), attempt=99))
    (fact,) = after.list_manifests()
    assert fact.manifest == manifest(1)
    assert not [*after.home.glob(".tmp-*")]


def test_what_an_attempt_goes_on_from_may_be_published_again(tmp_path: Path) -> None:
    before, after = stores(tmp_path)
    before.rewind(0)
    before.publish(manifest(1))
    after.publish(manifest(1))
    after.rewind(1)
    after.publish(manifest(2))
    assert [fact.epoch for fact in after.list_manifests()] == [2, 1]

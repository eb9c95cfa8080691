"""What checkpoints say of a source comes back whole, and their size follows the open splits."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from checkpoint_samples import LINEAGE, manifest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from dataflare.checkpoint import source_record
from dataflare.checkpoint.manifest import Manifest, SourceSnapshot, SplitState
from dataflare.checkpoint.snapshots import ranges_of
from dataflare.checkpoint.source_record import SourceRecord, read_source
from dataflare.checkpoint.store import LocalStore
from dataflare.errors import CheckpointError
from dataflare.model.progress import Position, Split

ODD_NAME = b"caf\xe9".decode("utf-8", "surrogateescape")


def splits_of(count: int) -> list[Split]:
    facts = {"schema": {"id": "int64"}, "path": ODD_NAME}
    return [
        Split(f"part-{number:05}", {**facts, "size": number}, number) for number in range(count)
    ]


def done(split: Split) -> SplitState:
    return SplitState(split, Position({"row": split.bytes_estimate}), done=True)


def publish(store: LocalStore, record: SourceRecord, epoch: int, attempt: int = 1) -> Manifest:
    """One checkpoint, as the coordinator takes it."""
    if record.must_write:
        record.write(store, "in", attempt, epoch)
    published = replace(manifest(epoch), operators={}, sources={"in": record.snapshot()})
    store.publish(published)
    return published


def stored(store: LocalStore) -> SourceSnapshot:
    """What the newest checkpoint says."""
    newest = store.list_manifests(thorough=True)[0]
    assert newest.usable
    assert newest.manifest is not None
    return newest.manifest.sources["in"]


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_it_comes_back_whole_whatever_was_read_restarted_and_collected(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = LocalStore(tmp_path_factory.mktemp("store"), LINEAGE)
    inline = data.draw(st.sampled_from([0, 40, 500, 1 << 20]))
    listed = splits_of(data.draw(st.integers(0, 40)))
    later = [Split("later", {"n": 1}), Split("much later")]
    carried = data.draw(st.none() | st.dictionaries(st.text(), st.integers(), max_size=3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_record, "INLINE_BYTES", inline)
        record = SourceRecord(SourceSnapshot(tuple(listed), {}, carried))
        model: dict[str, SplitState] = {}
        attempt = 1
        for epoch in range(1, data.draw(st.integers(2, 14))):
            unread = [split for split in (*listed, *later) if not _is_done(model, split)]
            changed = data.draw(st.lists(st.sampled_from(unread), max_size=9)) if unread else []
            states = [data.draw(_state_of(split)) for split in {s.id: s for s in changed}.values()]
            record.update(states)
            model |= {state.split.id: state for state in states}
            publish(store, record, epoch, attempt)
            store.collect(retain=data.draw(st.integers(1, 3)))
            snapshot = stored(store)
            whole = read_source(store, snapshot)
            assert (whole.splits, whole.states, whole.carried) == (tuple(listed), model, carried)
            assert whole.counts()[0] == sum(state.done for state in model.values())
            if data.draw(st.booleans()):
                attempt += 1
                record = SourceRecord.read(store, snapshot)
                record.update([state for state in model.values() if state.done])  # told again
                assert record.done == {id_ for id_, state in model.items() if state.done}


def _is_done(model: dict[str, SplitState], split: Split) -> bool:
    return split.id in model and model[split.id].done


def _state_of(split: Split) -> st.SearchStrategy[SplitState]:
    positions = st.none() | st.builds(lambda row: Position({"row": row}), st.integers(0, 9))
    watermarks = st.none() | st.integers(0, 9)
    return st.builds(SplitState, st.just(split), positions, st.booleans(), watermarks)


def test_the_size_of_a_manifest_follows_the_open_splits(tmp_path: Path) -> None:
    """6,000 splits, read 100 in an epoch. Each position is written about as often as chunks are merged."""
    store, listed = LocalStore(tmp_path, LINEAGE), splits_of(6_000)
    carried = {"ledger": "x" * 100_000}
    record = SourceRecord(SourceSnapshot(tuple(listed), {}, carried))
    written = 0
    for epoch in range(1, 61):
        read = listed[(epoch - 1) * 100 : epoch * 100]
        half = SplitState(listed[min(epoch * 100, 5_999)], Position({"row": 1}))
        record.update([half, *(done(split) for split in read)])
        published = publish(store, record, epoch)
        assert len(published.to_text()) < 12_000
        new = [c for c in published.chunks.values() if f"{epoch:010d}" in c.name]
        written += sum(chunk.rows for chunk in new if "-done-" in chunk.name)
        store.collect(retain=2)
    parts = stored(store).stored
    assert parts is not None
    assert len(parts.done) < 25
    assert written < 4 * 6_000
    assert len(parts.done_listed) == 1
    assert len(list((store.home / "chunks").iterdir())) < 40
    assert len(read_source(store, stored(store)).states) == 6_000


def test_a_short_source_has_no_chunk(tmp_path: Path) -> None:
    store, listed = LocalStore(tmp_path, LINEAGE), splits_of(20)
    record = SourceRecord(SourceSnapshot(tuple(listed), {}, {"cursor": 7}))
    record.update(done(split) for split in listed)
    assert not publish(store, record, 1).chunks


def test_splits_read_out_of_order_are_ranges() -> None:
    places = list(range(100))
    random.Random(3).shuffle(places)
    ranges: Sequence[tuple[int, int]] = ()
    for first in range(0, 100, 7):
        ranges = ranges_of([*ranges, *((place, place) for place in places[first : first + 7])])
    assert ranges == ((0, 99),)
    assert ranges_of([(3, 4), (9, 9), (5, 5)]) == ((3, 5), (9, 9))


def test_a_lost_listing_is_an_error_and_never_an_empty_source(tmp_path: Path) -> None:
    store = LocalStore(tmp_path, LINEAGE)
    record = SourceRecord(SourceSnapshot(tuple(splits_of(200)), {}))
    published = publish(store, record, 1)
    (chunk,) = published.chunks.values()
    (store.home / "chunks" / chunk.name).unlink()
    (fact,) = store.list_manifests()
    assert not fact.usable
    assert "listing" in str(fact.problem)
    with pytest.raises(CheckpointError) as caught:
        read_source(store, published.sources["in"])
    assert caught.value.code == "E0701"


def test_splits_that_were_found_later_leave_the_manifest_when_they_are_done(tmp_path: Path) -> None:
    """A split of a file has its schema and its columns, about 700 bytes, and no listing has it."""
    store = LocalStore(tmp_path, LINEAGE)
    record = SourceRecord(SourceSnapshot((Split("first"),), {}))
    later = [Split(f"later-{n:04}", {"columns": "c" * 700}) for n in range(1_500)]
    written = 0
    for epoch in range(1, 51):
        read = later[(epoch - 1) * 30 : epoch * 30]
        record.update([SplitState(each) for each in read])
        record.update([done(each) for each in read])
        published = publish(store, record, epoch)
        assert len(published.to_text()) < 16_000
        new = [c for c in published.chunks.values() if f"{epoch:010d}" in c.name]
        written += sum(chunk.rows for chunk in new)
        store.collect(retain=2)
    assert written < 4 * 1_500
    assert read_source(store, stored(store)).states == {each.id: done(each) for each in later}
    again = SourceRecord.read(store, stored(store))
    again.update([done(each) for each in later])  # told again
    assert len(publish(store, again, 51).to_text()) < 16_000

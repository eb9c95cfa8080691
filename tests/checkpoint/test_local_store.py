"""The store on a folder: whole or not there, damage found, nothing needed is deleted."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from checkpoint_samples import LINEAGE, manifest, marker
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from polars.testing import assert_frame_equal

from dataflare.checkpoint.files import make_folder, workflow_folder
from dataflare.checkpoint.manifest import StateChunk
from dataflare.checkpoint.resolve import Resume, decide_resume, manifest_name
from dataflare.checkpoint.store import LocalStore, chunk_name
from dataflare.errors import CheckpointError, InternalError, SystemError_, WorkflowError

ROWS = pl.DataFrame({"key": [1, 2, 3], "total": [1.5, None, -0.0]})


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "orders", LINEAGE)


def epochs(store: LocalStore) -> list[int]:
    return [fact.epoch for fact in store.list_manifests()]


def with_chunk(store: LocalStore, epoch: int) -> StateChunk:
    """Publish an epoch with one chunk of its own."""
    chunk = store.write_chunk(chunk_name("totals", 0, 1, epoch, 0), ROWS)
    store.publish(manifest(epoch, [chunk]))
    return chunk


def test_what_was_published_is_found_newest_first(store):
    for epoch in (1, 2, 10):
        store.publish(manifest(epoch))
    assert [fact.manifest for fact in store.list_manifests()] == [
        manifest(10),
        manifest(2),
        manifest(1),
    ]


def test_an_empty_store_has_nothing_and_makes_no_folder(store, tmp_path):
    assert store.list_manifests() == []
    assert store.collect() == 0
    store.rewind(0)
    store.clear()
    assert list(tmp_path.iterdir()) == []


def test_another_process_finds_what_was_published(store):
    chunk = with_chunk(store, 1)
    again = LocalStore(store.folder, LINEAGE)
    assert again.list_manifests()[0].manifest == manifest(1, [chunk])
    assert_frame_equal(again.read_chunk(chunk), ROWS)


def test_a_lineage_does_not_see_another(store):
    store.publish(manifest(1))
    other = "1f8fad5b-d9cb-469f-a165-70867728950e"
    assert LocalStore(store.folder, other).list_manifests() == []
    twin = LocalStore(store.folder, LINEAGE[:8] + "-0000-469f-a165-70867728950e")
    assert "another lineage" in str(twin.list_manifests()[0].problem)
    with pytest.raises(InternalError, match="lineage"):
        store.publish(manifest(2, lineage=other))


def test_every_type_of_state_comes_back(store):
    frame = pl.DataFrame(
        {
            "text": ["ä", "", None],
            "binary": [b"\x00\xff", b"", None],
            "number": pl.Series([2**63 - 1, -(2**63), None]),
            "hash": pl.Series([2**64 - 1, 0, None], dtype=pl.UInt64),
            "float": [float("inf"), -0.0, None],
            "decimal": [Decimal("1.50"), Decimal("-9"), None],
            "at": [datetime(2024, 1, 1, tzinfo=UTC), datetime(1969, 1, 1, tzinfo=UTC), None],
            "long": [timedelta(microseconds=1), timedelta(days=-3), None],
            "list": [[1, None], [], None],
            "struct": [{"a": 1, "b": "x"}, {"a": None, "b": None}, None],
            "bool": [True, False, None],
            "nothing": [None, None, None],
        }
    )
    assert_frame_equal(store.read_chunk(store.write_chunk("all.arrow", frame)), frame)
    assert_frame_equal(
        store.read_chunk(store.write_chunk("none.arrow", frame.clear())), frame.clear()
    )


def test_a_chunk_says_its_size_and_key_groups(store):
    chunk = store.write_chunk("c.arrow", ROWS, (64, 127))
    assert chunk.rows == 3
    assert chunk.num_bytes == (store.home / "chunks" / "c.arrow").stat().st_size
    assert chunk.key_groups == (64, 127)
    assert store.verify_chunk(chunk) is None


def test_a_chunk_never_changes_once_written(store):
    store.write_chunk("c.arrow", ROWS)
    with pytest.raises(InternalError, match="exists already"):
        store.write_chunk("c.arrow", ROWS)
    with pytest.raises(InternalError, match="not a chunk name"):
        store.write_chunk("../c.arrow", ROWS)


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=70),
    st.sampled_from(["", "--changes"]),
)
@example("Order Lines", "--changes")
@example("表" * 70, "--changes")
def test_a_step_of_any_table_has_chunks(table, ending):
    name = chunk_name(f"shop.{table}{ending}", 3, 12, 1_000_000, 40)
    assert StateChunk(name, 1, 1, "0" * 16).name == name
    assert "/" not in name
    assert len(name) < 250


def test_long_names_of_tables_stay_different():
    tables = ["表" * 60 + last for last in "一丁七"]
    assert len({chunk_name(f"shop.{each}", 0, 1, 1, 0) for each in tables}) == 3


def flip_first(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def flip_middle(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 128]) + data[middle + 1 :]


DAMAGE = {
    "gone": (None, "is missing"),
    "empty": (lambda data: b"", "has 0 bytes"),
    "short": (lambda data: data[:-1], "bytes instead of"),
    "long": (lambda data: data + b"\0", "bytes instead of"),
    "first bit": (flip_first, "checksum"),
    "middle bit": (flip_middle, "checksum"),
    "zeros": (lambda data: bytes(len(data)), "checksum"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_chunk_makes_its_checkpoint_unusable(store, kind):
    with_chunk(store, 1)
    chunk = with_chunk(store, 2)
    change, said = DAMAGE[kind]
    path = store.home / "chunks" / chunk.name
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    newest, older = store.list_manifests()
    assert (newest.chunks_ok, older.usable) == (False, True)
    assert said in str(newest.problem)
    with pytest.raises(CheckpointError) as raised:
        store.read_chunk(chunk)
    assert raised.value.code == "E0701"
    decision = decide_resume([newest, older], {})
    assert isinstance(decision, Resume)
    assert decision.manifest.epoch == 1


@pytest.mark.parametrize("length", [0, 1, 50, 300, -1])
def test_a_truncated_manifest_is_a_fact_not_an_exception(store, length):
    store.publish(manifest(1))
    store.publish(manifest(2))
    path = store.home / manifest_name(2)
    path.write_bytes(path.read_bytes()[:length])
    newest, older = store.list_manifests()
    assert newest.manifest is None
    assert newest.problem
    assert older.usable


@pytest.mark.parametrize("data", [b"\xff\xfe", b"{}", "ü".encode(), b"\0" * 700])
def test_bytes_that_are_no_manifest_are_a_fact(store, data):
    store.publish(manifest(1))
    (store.home / manifest_name(1)).write_bytes(data)
    (fact,) = store.list_manifests()
    assert fact.manifest is None
    assert fact.problem


def test_a_manifest_under_anothers_name_or_a_folder_in_its_place_is_a_fact(store):
    store.publish(manifest(1))
    (store.home / manifest_name(1)).rename(store.home / manifest_name(3))
    (store.home / manifest_name(4)).mkdir()
    facts = store.list_manifests()
    assert [fact.epoch for fact in facts] == [4, 3]
    assert "cannot be read" in str(facts[0].problem)
    assert "checkpoint 1 under the name of another" in str(facts[1].problem)


def test_older_checkpoints_are_read_through_only_when_asked(store):
    old = with_chunk(store, 1)
    with_chunk(store, 2)
    (store.home / "chunks" / old.name).unlink()
    assert [fact.chunks_ok for fact in store.list_manifests()] == [True, True]
    assert [fact.chunks_ok for fact in store.list_manifests(thorough=True)] == [True, False]


def test_a_manifest_beside_the_rows_is_judged_by_the_chunks_that_are_here(store):
    chunk = with_chunk(store, 2)
    text = manifest(2, [chunk]).to_text()
    stranger = manifest(2, lineage="1f8fad5b-d9cb-469f-a165-70867728950e").to_text()
    markers = {
        "good": marker(2, text=text),
        "none": None,
        "without": marker(2),
        "other epoch": marker(3, text=text),
        "other lineage": marker(2, text=stranger),
    }
    judged = store.judge(markers)
    assert {step: fact.usable for step, fact in judged.items()} == {
        "good": True,
        "without": False,
        "other epoch": False,
        "other lineage": False,
    }
    (store.home / "chunks" / chunk.name).unlink()
    assert not store.judge(markers)["good"].usable


# -- deleting


def test_only_the_retained_and_what_they_name_stays(store):
    chunks = [with_chunk(store, epoch) for epoch in range(1, 6)]
    for epoch in range(1, 6):
        (store.redo_folder("out") / f"{epoch}-0.arrow").write_bytes(b"rows")
    assert store.collect(retain=2) == 9
    assert epochs(store) == [5, 4]
    assert sorted(os.listdir(store.home / "chunks")) == [chunk.name for chunk in chunks[3:]]
    assert sorted(os.listdir(store.home / "redo" / "out")) == ["4-0.arrow", "5-0.arrow"]


def test_a_chunk_for_the_next_checkpoint_is_not_collected_but_a_dead_attempts_is(store):
    with_chunk(store, 1)
    waiting = store.write_chunk("next.arrow", ROWS)
    merged = store.write_chunk("merged.arrow", ROWS)
    store.release_chunk(merged.name)
    assert store.collect() == 1
    assert store.verify_chunk(waiting) is None
    assert store.verify_chunk(merged) is not None
    assert LocalStore(store.folder, LINEAGE).collect() == 1
    assert store.verify_chunk(waiting) is not None


def test_a_chunk_that_was_published_and_is_named_no_more_goes(store):
    chunk = with_chunk(store, 1)
    store.publish(manifest(2))
    store.collect(retain=1)
    assert store.verify_chunk(chunk) is not None


def test_a_damaged_manifest_does_not_count_as_retained(store):
    chunk = with_chunk(store, 1)
    store.publish(manifest(2))
    (store.home / manifest_name(2)).write_bytes(b"")
    assert store.collect(retain=1) == 0
    assert store.verify_chunk(chunk) is None


def test_rewinding_forgets_newer_manifests_and_interrupted_writes(store):
    for epoch in (1, 2, 3):
        with_chunk(store, epoch)
    leftover = store.home / "chunks" / ".tmp-1-x.arrow"
    leftover.write_bytes(b"half")
    store.collect()
    assert leftover.exists()
    store.rewind(1)
    assert epochs(store) == [1]
    assert not leftover.exists()
    assert store.collect() == 2


def test_starting_over_forgets_every_lineage_and_keeps_the_lock_and_the_history(store, tmp_path):
    with_chunk(store, 1)
    LocalStore(store.folder, "1f8fad5b-d9cb-469f-a165-70867728950e").redo_folder("out")
    make_folder(store.folder / "runs")
    (store.folder / "lock").touch()
    (store.folder / "current.json").write_text("{}")
    store.clear()
    assert sorted(os.listdir(store.folder)) == ["lock", "runs"]
    assert store.list_manifests() == []


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 3)),
        st.tuples(st.just("publish"), st.sets(st.integers(0, 15))),
        st.tuples(st.just("collect"), st.integers(1, 3)),
    ),
    max_size=15,
)


@settings(max_examples=20, deadline=None)
@given(OPERATIONS)
def test_whatever_is_written_published_and_collected_the_retained_stay_whole(
    tmp_path_factory, steps
):
    store = LocalStore(tmp_path_factory.mktemp("store"), LINEAGE)
    chunks: list[StateChunk] = []
    waiting: set[str] = set()
    published: list[frozenset[str]] = []
    epoch = 0
    for number, (what, value) in enumerate(steps):
        if what == "write":
            chunks.append(store.write_chunk(f"c{number}.arrow", ROWS))
            waiting.add(chunks[-1].name)
        elif what == "publish":
            named = [
                c for i, c in enumerate(chunks) if i in value and store.verify_chunk(c) is None
            ]
            epoch += 1
            store.publish(manifest(epoch, named))
            published.append(frozenset(c.name for c in named))
            waiting -= published[-1]
        else:
            store.collect(retain=value)
            if published:
                published = published[-value:]
                there = set(os.listdir(store.home / "chunks")) if chunks else set()
                assert there == waiting.union(*published)
    facts = store.list_manifests(thorough=True)
    assert len(facts) == len(published)
    assert all(fact.usable for fact in facts)


# -- names, sizes, errors


def test_names_that_leave_their_folder_are_refused(store, tmp_path):
    for name in ("..", "a/b", "", "A", "ä", "a" * 64, "a\n", "9a"):
        with pytest.raises(WorkflowError) as raised:
            workflow_folder(tmp_path, name)
        assert raised.value.code == "E0106"
    assert workflow_folder(tmp_path, "orders-2_b") == tmp_path / "orders-2_b"
    for name in ("..", "a/b", "", ".a", "9a", "a\n", "a" * 201, "9a.b", "a/b.c"):
        with pytest.raises(WorkflowError) as raised:
            store.redo_folder(name)
        assert raised.value.code == "E0106"
    assert store.redo_folder("Out_1-x").is_dir()
    of_table = store.redo_folder("shop.a/../b c")
    assert of_table.name == "shop.a%2F..%2Fb%20c"
    assert of_table.parent == store.redo_folder("shop").parent
    with pytest.raises(InternalError, match="lineage"):
        LocalStore(tmp_path, "../../etc")


def test_sizes_are_for_people(store):
    assert store.sizes().total == 0
    chunk = with_chunk(store, 1)
    (store.redo_folder("out") / "1-0.arrow").write_bytes(b"12345")
    sizes = store.sizes()
    assert (sizes.chunks, sizes.redo) == (chunk.num_bytes, 5)
    assert sizes.last_manifest == sizes.manifests == len(manifest(1, [chunk]).to_text())


def test_a_folder_that_cannot_be_made_is_a_system_error(tmp_path):
    (tmp_path / "orders").write_text("a file")
    with pytest.raises(SystemError_, match="cannot write a checkpoint") as raised:
        LocalStore(tmp_path / "orders", LINEAGE).publish(manifest(1))
    assert raised.value.exit_status == 1


def test_a_checkpoint_can_be_published_again_and_replaced(store):
    store.publish(manifest(1))
    changed = replace(manifest(1), attempt=2)
    store.publish(changed)
    assert [fact.manifest for fact in store.list_manifests()] == [changed]

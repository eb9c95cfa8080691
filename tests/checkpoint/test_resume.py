"""What a run resumes from: a table of what may be found, and laws for everything else."""

from __future__ import annotations

import pytest
from checkpoint_samples import manifest, marker
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from dataflare.checkpoint.manifest import StateChunk
from dataflare.checkpoint.resolve import (
    ManifestFact,
    Refuse,
    Resume,
    StartOver,
    decide_resume,
    deletable,
    manifest_epoch,
    manifest_name,
    redo_epoch,
    retained,
)

CHUNK = StateChunk("totals.arrow", 1, 1, "0" * 16)


def good(epoch: int) -> ManifestFact:
    return ManifestFact(epoch, manifest(epoch))


def damaged(epoch: int) -> ManifestFact:
    return ManifestFact(epoch, None, "its end is missing", False)


def without_chunks(epoch: int) -> ManifestFact:
    return ManifestFact(
        epoch, manifest(epoch, [CHUNK]), "state chunk totals.arrow is missing", False
    )


def beside(epoch: int, *, of: int | None = None, chunks: tuple[StateChunk, ...] = ()):
    """The marker of a destination that keeps a manifest beside its rows."""
    return marker(epoch, text=manifest(of or epoch, chunks).to_text())


@pytest.mark.parametrize(
    ("found", "markers", "expected"),
    [
        ([], {}, "over"),
        ([], {"out": None}, "over"),
        ([], {"out": marker(0)}, "over"),
        ([], {"out": marker(4, can_rewind=True)}, "over"),
        ([], {"out": marker(4)}, "E0702"),
        ([], {"out": beside(4)}, "4 beside"),
        ([good(3)], {}, "3"),
        ([good(2), good(3), good(1)], {}, "3"),
        ([good(3), damaged(4)], {}, "3"),
        ([good(3), without_chunks(4), damaged(5)], {}, "3"),
        ([damaged(1)], {}, "E0701"),
        ([damaged(1), without_chunks(2)], {"out": None}, "E0701"),
        ([damaged(2)], {"out": marker(2, can_rewind=True)}, "E0701"),
        ([good(3)], {"out": marker(3)}, "3"),
        ([good(3)], {"out": marker(2)}, "3"),
        ([good(3)], {"out": None}, "3"),
        ([good(3)], {"out": marker(4)}, "E0702"),
        ([good(3)], {"out": marker(4, can_rewind=True)}, "3"),
        ([good(3), damaged(4)], {"out": marker(4)}, "E0702"),
        ([good(3), damaged(4)], {"out": beside(4)}, "4 beside"),
        ([damaged(4)], {"out": beside(4)}, "4 beside"),
        ([good(4)], {"out": beside(4)}, "4"),
        ([good(5)], {"out": beside(4)}, "5"),
        ([good(3)], {"out": beside(5), "other": marker(4)}, "5 beside"),
        ([good(3)], {"out": beside(4), "other": marker(5)}, "E0702"),
        ([good(3)], {"out": beside(4), "other": marker(5, can_rewind=True)}, "4 beside"),
        ([good(3)], {"out": beside(4, of=5)}, "E0702"),
        ([good(3)], {"out": beside(4, chunks=(CHUNK,))}, "E0702"),
        ([good(3)], {"out": marker(4, text="{")}, "E0702"),
    ],
)
def test_the_newest_that_can_be_trusted_is_taken(found, markers, expected):
    decision = decide_resume(found, markers)
    match decision:
        case StartOver():
            assert expected == "over"
        case Refuse(error):
            assert expected == error.code
        case Resume(taken, _, from_destination):
            assert expected == f"{taken.epoch}{' beside' if from_destination else ''}"


def test_state_chunks_of_a_manifest_beside_the_rows_are_believed_when_the_store_saw_them():
    markers = {"out": beside(4, chunks=(CHUNK,))}
    seen = {"out": ManifestFact(4, manifest(4, [CHUNK]))}
    decision = decide_resume([good(3)], markers, seen)
    assert isinstance(decision, Resume)
    assert (decision.manifest.epoch, decision.from_destination) == (4, True)


def test_what_was_passed_over_is_told():
    decision = decide_resume([damaged(5), without_chunks(4), good(3), damaged(2)], {})
    assert isinstance(decision, Resume)
    assert decision.skipped == (
        (5, "its end is missing"),
        (4, "state chunk totals.arrow is missing"),
    )


def test_a_refusal_lists_each_problem_and_what_to_do():
    decision = decide_resume([damaged(1), without_chunks(2)], {})
    assert isinstance(decision, Refuse)
    assert decision.error.notes == [
        "checkpoint 2: state chunk totals.arrow is missing",
        "checkpoint 1: its end is missing",
    ]
    assert "--fresh" in str(decision.error.help)


def test_a_destination_that_is_ahead_is_named_with_its_epoch():
    decision = decide_resume([good(3), damaged(9)], {"sums": marker(9), "rows": marker(3)})
    assert isinstance(decision, Refuse)
    error = decision.error
    assert (
        "checkpoint 9 (manifest-0000000009.json) cannot be used: its end is missing"
        in error.message
    )
    assert "checkpoint 3 is older" in error.message
    assert "'sums'" in error.message
    assert "'rows'" not in error.message
    assert error.notes == ["destination 'sums' holds checkpoint 9"]
    assert "restore this file from a backup" in str(error.help)
    assert "--fresh" in str(error.help)


FACTS = st.builds(
    lambda make, epoch: make(epoch),
    st.sampled_from([good, damaged, without_chunks]),
    st.integers(1, 6),
)
MARKERS = st.none() | st.one_of(
    st.builds(lambda e, r: marker(e, can_rewind=r), st.integers(0, 8), st.booleans()),
    st.builds(beside, st.integers(1, 8)),
    st.builds(lambda e: beside(e, chunks=(CHUNK,)), st.integers(1, 8)),
)


@given(
    found=st.lists(FACTS, max_size=5, unique_by=lambda fact: fact.epoch),
    markers=st.dictionaries(st.sampled_from(["a", "b", "c"]), MARKERS),
)
def test_nothing_resumes_behind_a_destination_or_from_what_is_damaged(found, markers):
    usable = {fact.epoch for fact in found if fact.usable}
    usable |= {
        m.epoch for m in markers.values() if m and m.manifest and "totals.arrow" not in m.manifest
    }
    bound = max((m.epoch for m in markers.values() if m and not m.can_rewind), default=0)
    match decide_resume(found, markers):
        case Resume(taken, skipped, from_destination):
            assert taken.epoch == max(usable)
            assert taken.epoch >= bound
            assert not taken.chunks
            assert from_destination == (taken.epoch not in {f.epoch for f in found if f.usable})
            assert all(epoch >= taken.epoch for epoch, _ in skipped)
        case StartOver():
            assert not found
            assert not usable
            assert bound == 0
        case Refuse(error):
            assert error.code == ("E0702" if usable or not found else "E0701")
            assert bound > max(usable, default=0) or (found and not usable)


def test_a_damaged_checkpoint_that_no_older_one_can_replace_is_named_with_the_way_out() -> None:
    decision = decide_resume([good(1), without_chunks(2), without_chunks(3)], {"out": marker(3)})
    assert isinstance(decision, Refuse)
    error = decision.error
    assert error.message.startswith(
        "checkpoint 3 (manifest-0000000003.json) cannot be used: state chunk totals.arrow is missing; "
        "checkpoint 1 is older, and destination 'out' holds newer rows"
    )
    assert error.help is not None
    assert error.help.startswith("restore this file from a backup")
    assert error.notes[-1] == "checkpoint 2: state chunk totals.arrow is missing"


@given(st.lists(FACTS, max_size=5), st.dictionaries(st.sampled_from("ab"), MARKERS), st.randoms())
def test_the_order_in_which_things_are_found_does_not_matter(found, markers, random):
    shuffled = list(found)
    random.shuffle(shuffled)
    one, other = decide_resume(found, markers), decide_resume(shuffled, markers)
    assert type(one) is type(other)
    if isinstance(one, Resume) and isinstance(other, Resume):
        assert one.manifest.epoch == other.manifest.epoch


# -- what may be deleted


def test_names_say_their_epoch():
    assert manifest_epoch(manifest_name(12)) == 12
    assert manifest_epoch("manifest-12.json") is None
    assert manifest_epoch("manifest-0000000012.json.bak") is None
    assert redo_epoch("0000000012-3.arrow") == 12
    assert redo_epoch("12-3.arrow") == 12
    assert redo_epoch("12.arrow") == 12
    assert redo_epoch("open-12-3.arrow") is None
    assert redo_epoch("12") is None


def test_the_newest_are_retained_and_at_least_one():
    several = [manifest(epoch) for epoch in (2, 5, 3)]
    assert [each.epoch for each in retained(several, 2)] == [5, 3]
    assert [each.epoch for each in retained(several, 0)] == [5]
    assert retained([], 3) == []


def test_what_no_retained_manifest_needs_may_go():
    chunk = replace(CHUNK, name="kept.arrow")
    keep = [manifest(5, [chunk], redo={"out": "4-0.arrow"}), manifest(6)]
    names = {
        "manifest-0000000004.json",
        "manifest-0000000005.json",
        "manifest-0000000007.json",
        "chunks/kept.arrow",
        "chunks/merged.arrow",
        "chunks/next.arrow",
        "redo/out/4-0.arrow",
        "redo/out/3-0.arrow",
        "redo/out/5-0.arrow",
        "redo/out/open-1-0.arrow",
        "redo/other/4-0.arrow",
        "notes.txt",
    }
    assert deletable(keep, names, unpublished=["next.arrow"]) == {
        "manifest-0000000004.json",
        "chunks/merged.arrow",
        "redo/out/3-0.arrow",
        "redo/other/4-0.arrow",
    }
    assert deletable([], names) == set()


CHUNKS = st.lists(st.sampled_from([f"c{n}.arrow" for n in range(6)]), unique=True, max_size=4)


@given(
    published=st.dictionaries(st.integers(1, 9), st.tuples(CHUNKS, st.integers(1, 9)), min_size=1),
    unpublished=CHUNKS,
    count=st.integers(1, 4),
)
def test_nothing_a_retained_manifest_names_may_go_and_all_else_does(published, unpublished, count):
    manifests = {
        epoch: manifest(
            epoch,
            [replace(CHUNK, name=name) for name in chunks],
            redo={"out": f"{redo}-0.arrow"},
        )
        for epoch, (chunks, redo) in published.items()
    }
    keep = retained(manifests.values(), count)
    oldest = min(each.epoch for each in keep)
    names = {manifest_name(epoch) for epoch in range(1, 12)}
    names |= {f"chunks/c{n}.arrow" for n in range(6)}
    names |= {f"redo/out/{epoch}-0.arrow" for epoch in range(1, 12)}
    kept = {manifest_name(epoch) for epoch in range(oldest, 12)}
    kept |= {f"redo/out/{epoch}-0.arrow" for epoch in range(oldest, 12)}
    kept |= {f"chunks/{name}" for name in unpublished}
    for each in keep:
        kept |= {f"chunks/{name}" for name in each.chunks}
        kept.add(f"redo/out/{published[each.epoch][1]}-0.arrow")
    assert deletable(keep, names, unpublished=unpublished) == names - kept

"""A manifest's text gives back the manifest, or says what is wrong: never half of it."""

from __future__ import annotations

import json

import pytest
import xxhash
from checkpoint_samples import manifest, rich_manifest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from dataflare.checkpoint.manifest import (
    Damaged,
    Manifest,
    SourceSnapshot,
    SplitState,
    StateChunk,
)
from dataflare.errors import InternalError
from dataflare.model.progress import Position, Split

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=4)


def reframed(text: str, **changes: object) -> str:
    """The text with other values in its body and a checksum that fits."""
    body = json.dumps(
        {**json.loads(text)["body"], **changes}, sort_keys=True, separators=(",", ":")
    )
    checksum = xxhash.xxh3_64_hexdigest(body.encode())
    return (
        f'{{"format":"dataflare checkpoint","version":2,"checksum":"{checksum}","body":{body}}}\n'
    )


def test_a_manifest_comes_back_as_it_was():
    assert Manifest.from_text(rich_manifest().to_text()) == rich_manifest()


@given(position=OBJECTS, carried=JSON, facts=OBJECTS)
def test_any_json_comes_back_as_it_was(position, carried, facts):
    split = Split("s", facts)
    source = SourceSnapshot((split,), {"s": SplitState(split, Position(position))}, carried)
    made = replace(manifest(1), sources={"in": source}, counters=facts)
    assert Manifest.from_text(made.to_text()) == made


def test_the_text_is_one_line_of_ascii_json_and_always_the_same():
    text = rich_manifest().to_text()
    assert text.isascii()
    assert text.index("\n") == len(text) - 1
    assert json.loads(text)["body"]["epoch"] == 41
    assert text == Manifest.from_text(text).to_text()


def test_a_text_of_the_first_version_is_still_read():
    text = (
        '{"format":"dataflare checkpoint","version":1,"checksum":"aafa0944f0fb365c","body":'
        '{"attempt":1,"committables":{"out":[{"data":{"file":"2-0.arrow"},"subtask":0}]},'
        '"counters":{},"created_at":"2024-01-31T12:00:00.000Z","encryption":null,"epoch":2,'
        '"final":false,"fingerprints":{"in":"f"},"hash_id":"splitmix64/xxh3 v1",'
        '"lineage":"0f8fad5b-d9cb-469f-a165-70867728950e","operators":{"totals":[{"chunks":'
        '[{"checksum":"00000000000000aa","key_groups":[0,127],"name":"c.arrow","num_bytes":9,'
        '"rows":1}],"facts":null,"subtask":0}]},"run_id":"r","sources":{"in":{"carried":null,'
        '"splits":[{"bytes_estimate":null,"data":{},"id":"a"}],"states":{"a":{"done":false,'
        '"position":{"row":7}}}}}}}\n'
    )
    read = Manifest.from_text(text)
    assert read.epoch == 2
    assert read.sources["in"].states["a"].position == Position({"row": 7})
    assert read.chunks["c.arrow"].key_groups == (0, 127)
    assert read.to_text().partition('"body"')[2] == text.partition('"body"')[2]


def test_every_truncation_is_noticed():
    text = rich_manifest().to_text()
    for length in range(len(text)):
        with pytest.raises(Damaged) as raised:
            Manifest.from_text(text[:length])
        assert raised.value.code == "E0701"


def test_every_flipped_bit_is_noticed():
    data = rich_manifest().to_text().encode()
    for place in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            with pytest.raises(Damaged):
                Manifest.from_text(flipped.decode("latin-1"))


@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
def test_no_other_text_is_taken_for_a_manifest(text):
    with pytest.raises(Damaged):
        Manifest.from_text(text)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: "", "it is empty"),
        (lambda text: "x" + text, "does not begin"),
        (lambda text: text[:-40], "its end is missing"),
        (lambda text: text.replace('"epoch":41', '"epoch":42'), "checksum"),
        (lambda text: text.replace('"version":4', '"version":7'), "version 7"),
        (lambda text: text + text, "its frame was changed|checksum"),
        (lambda text: reframed(text, hash_id="md5"), "hashed by 'md5'"),
        (lambda text: reframed(text, encryption={"key": 1}), "encrypted"),
        (lambda text: reframed(text, sources=[]), "not a manifest"),
    ],
)
def test_the_error_says_what_is_wrong(damage, said):
    with pytest.raises(Damaged, match=said):
        Manifest.from_text(damage(rich_manifest().to_text()))


def test_a_chunk_cannot_be_named_out_of_its_folder():
    for name in ("../x", "a/b", "", ".tmp-1", "a\n"):
        with pytest.raises(ValueError, match="not a chunk name"):
            StateChunk(name, 1, 1, "0" * 16)
    text = rich_manifest().to_text()
    chunk = {"name": "../../x", "rows": 1, "num_bytes": 1, "checksum": "0", "key_groups": None}
    step = [{"subtask": 0, "chunks": [chunk], "facts": None}]
    with pytest.raises(Damaged, match="not a chunk name"):
        Manifest.from_text(reframed(text, operators={"s": step}))


@pytest.mark.parametrize("value", [float("nan"), object(), {1, 2}, b"x"])
def test_what_is_not_json_is_our_fault_and_never_stored(value):
    with pytest.raises(InternalError, match="not JSON"):
        replace(manifest(1), counters={"in": value}).to_text()


def test_states_follow_the_listing_and_those_found_later_come_last():
    snapshot = rich_manifest().sources["orders"]
    assert [(s.split.id, s.done) for s in snapshot.all_states()] == [
        ("a.csv", False),
        ("b.csv", False),
        ("c.csv", True),
    ]


def test_a_state_does_not_repeat_its_listed_split():
    snapshot = rich_manifest().sources["orders"].to_json()
    assert "split" not in snapshot["states"]["a.csv"]
    assert snapshot["states"]["c.csv"]["split"]["id"] == "c.csv"

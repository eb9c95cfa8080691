"""A list of JSON objects as lines: what Python's own parser reads, in pieces of any size."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare.errors import DataError
from dataflare.formats import json_array
from dataflare.formats.json_array import ArrayLines

TEXTS = st.text(st.sampled_from('ab,:[]{}"\\\n é\t'), max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXTS,
    lambda each: st.lists(each, max_size=3) | st.dictionaries(TEXTS, each, max_size=3),
    max_leaves=6,
)
OBJECTS = st.lists(st.dictionaries(TEXTS, VALUES, min_size=1, max_size=3), max_size=8)
SIZES = st.sampled_from([1, 3, 7, 30, 1 << 20])
INDENTS = st.sampled_from([None, 0, 2])
SEPARATORS = st.sampled_from([(",", ":"), (", ", ": "), (" ,\r\n", " : ")])


class Memory:
    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        return self._data.read(size)

    def read_lines(self, size: int) -> bytes:
        return self.read(size)

    def close(self) -> None:
        pass


def lines(data: bytes, size: int = 1 << 20) -> list[bytes]:
    """The lines of a text that is read in pieces of this size, or in 60 pieces."""
    size = max(size, len(data) // 60)
    with patch.object(json_array, "_READ_BYTES", size):
        stream, text = ArrayLines(Memory(data), Path("a.json")), b""
        while piece := stream.read(5):
            text += piece
    assert not text or text.endswith(b"\n")
    return text.split(b"\n")[:-1]


def first_of_each(pairs: list[tuple[str, Any]]) -> Any:
    return tuple(pairs)


def parsed(text: bytes) -> Any:
    return json.loads(text, object_pairs_hook=first_of_each)


@settings(max_examples=60)
@given(rows=OBJECTS, size=SIZES, indent=INDENTS, separators=SEPARATORS, mark=st.booleans())
def test_each_item_is_a_line(rows, size, indent, separators, mark):
    text = json.dumps(rows, indent=indent, separators=separators, ensure_ascii=False).encode()
    found = lines((b"\xef\xbb\xbf" if mark else b"") + text + b" \n", size)
    assert [json.loads(line) for line in found] == rows


@settings(max_examples=30)
@given(row=st.dictionaries(TEXTS, VALUES, min_size=1), size=SIZES, indent=INDENTS)
def test_one_object_is_one_line(row, size, indent):
    (line,) = lines(json.dumps(row, indent=indent).encode(), size)
    assert json.loads(line) == row


@pytest.mark.parametrize(
    "broken",
    [
        '{"a": tru}',
        '{"a": 1,}',
        '{"a" 1}',
        '{"a": "x\ny"}',
        '{"a": 1} {"b": 2}',
        "5",
        "x",
        '{"a": ' + "[" * 2_000 + "]" * 2_000 + "}",
        '{"a": "\\ud83d"}',
    ],
)
@settings(max_examples=25)
@given(rows=OBJECTS, at=st.integers(0, 8), size=SIZES, separators=SEPARATORS)
def test_a_broken_item_leaves_the_others_alone(broken, rows, at, size, separators):
    items = [json.dumps(row, separators=separators) for row in rows]
    at = min(at, len(items))
    found = lines(f"[{', '.join([*items[:at], broken, *items[at:]])}]".encode(), size)
    assert len(found) == len(rows) + 1
    assert [json.loads(line) for line in [*found[:at], *found[at + 1 :]]] == rows


@given(
    rows=OBJECTS,
    edits=st.lists(
        st.tuples(st.integers(0, 200), st.integers(0, 2), st.sampled_from([b"", *(
            bytes([c]) for c in b'[]{},:"\\ 1\n'
        )])),
        min_size=1,
        max_size=3,
    ),
    size=SIZES,
)  # fmt: skip
def test_a_damaged_text_is_never_read_as_if_it_were_whole(rows, edits, size):
    """Either the text is JSON, and all of it is read, or it is an error, or a line of it is."""
    text = json.dumps(rows).encode()
    for at, removed, added in edits:
        at = min(at, len(text))
        text = text[:at] + added + text[at + removed :]
    try:
        whole = parsed(text) if text.strip() else []
        is_sound = True
    except ValueError:
        whole, is_sound = None, False
    try:
        found = [parsed(line) for line in lines(text, size)]
    except (ValueError, DataError):
        # A text that is neither a list nor an object is refused too.
        assert not is_sound or text.lstrip()[:1] not in (b"[", b"{")
        return
    assert is_sound, (text, found)
    assert found == (whole if text.lstrip()[:1] == b"[" or not text.strip() else [whole])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}\n', "line 2 is not valid JSON: unexpected end of data"),
        ('[{"a": 1},\n\n]', "line 3 is not valid JSON: an item is missing after a comma"),
        ('[{"a": 1},\n,{"a": 1}]', "line 2 is not valid JSON: an item is missing before a comma"),
        ('[{"a": 1}]\n\n{"a": 2}', "line 3 is not valid JSON: text follows its end"),
        ("7", "is not a JSON object but 7"),
    ],
)
@pytest.mark.parametrize("size", [2, 1 << 20])
def test_what_is_wrong_with_the_list_is_said_with_its_line(text, message, size):
    with pytest.raises(DataError) as caught:
        lines(text.encode(), size)
    assert caught.value.code == "E0503"
    assert caught.value.message.endswith(message)

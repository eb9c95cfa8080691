"""Rows that could not be read, read again: never another row that has come to their place."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from file_kit import read, source
from hypothesis import given
from hypothesis import strategies as st

from dataflare.sdk.source import UnreadRow

pytestmark = pytest.mark.rotates(3)

CONTRACT = {"id": "int64", "n": "int64"}
BAD = "bad"
ROWS = st.lists(st.booleans(), min_size=1, max_size=12)
"""Whether each row is good."""
EDITS = st.lists(
    st.tuples(st.sampled_from(["delete", "insert", "fix", "break"]), st.integers(0, 14)), max_size=4
)


def text(rows: list[tuple[int, str]], kind: str) -> str:
    if kind == "csv":
        return "\n".join(["id,n", *(f"{i},{n}" for i, n in rows), ""])
    objects = [json.dumps({"id": i, "n": n if n == BAD else int(n)}) for i, n in rows]
    return "\n".join([*objects, ""]) if kind == "ndjson" else f"[{', '.join(objects)}]"


def again(kind: str, folder: Path, unread: list[UnreadRow]) -> list[int | None]:
    """The ids of the rows that are read now, None for one that stays a letter."""
    answers = asyncio.run(source(f"a.{kind}", folder, contract=CONTRACT).reread(unread))
    return [each.row["id"].item() if each.row is not None else None for each in answers]


@pytest.mark.parametrize("kind", ["csv", "ndjson", "json"])
@given(good=ROWS, edits=EDITS)
def test_no_row_is_given_that_was_read_before(kind: str, good: list[bool], edits) -> None:
    """Whatever is done to the file: a row that is given was refused, or is new in it."""
    rows = [(i, str(i) if is_good else BAD) for i, is_good in enumerate(good)]
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / f"a.{kind}").write_text(text(rows, kind))
        first = read(f"a.{kind}", folder, contract=CONTRACT)
        unread = [UnreadRow(bad.place, bad.raw, bad.neighbours) for bad in first.bad]
        changed = list(rows)
        for number, (edit, at) in enumerate(edits):
            if edit == "insert":
                changed.insert(at, (100 + number, "5"))
            elif at < len(changed) and edit == "delete":
                del changed[at]
            elif at < len(changed):
                changed[at] = (changed[at][0], "5" if edit == "fix" else BAD)
        (folder / f"a.{kind}").write_text(text(changed, kind))
        given_again = [each for each in again(kind, folder, unread) if each is not None]
    assert len(set(given_again)) == len(given_again)
    assert not set(given_again) & set(first.frame["id"].to_list())


@pytest.mark.parametrize("kind", ["csv", "ndjson", "json"])
@given(good=ROWS, fixed=st.sets(st.integers(0, 11)))
def test_rows_that_are_fixed_in_place_are_read(
    kind: str, good: list[bool], fixed: set[int]
) -> None:
    if not any(good):
        return  # without a good row beside them, only unchanged rows are known again
    rows = [(i, str(i) if is_good else BAD) for i, is_good in enumerate(good)]
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / f"a.{kind}").write_text(text(rows, kind))
        first = read(f"a.{kind}", folder, contract=CONTRACT)
        unread = [UnreadRow(bad.place, bad.raw, bad.neighbours) for bad in first.bad]
        changed = [(i, str(i) if i in fixed else n) for i, n in rows]
        (folder / f"a.{kind}").write_text(text(changed, kind))
        found = again(kind, folder, unread)
    # What follows the last good row has nothing behind it to be known by, except the last row itself.
    last = max(i for i, is_good in enumerate(good) if is_good)
    for bad, row in zip([i for i, is_good in enumerate(good) if not is_good], found, strict=True):
        if bad < last or bad == len(rows) - 1:
            assert row == (bad if bad in fixed else None)
        else:
            assert row in (None, bad)

"""Two destinations of a workflow may not write over each other."""

from __future__ import annotations

import pytest

from dataflare.errors import PlanError
from dataflare.planner import check
from dataflare.workflow import load_text


def with_destinations(first: str, second: str, tmp_path):
    return load_text(
        f"""\
name: w
sources:
  a: {{type: inline, config: {{rows: [{{id: 1}}]}}}}
destinations:
  y: {{inputs: [a], {first}}}
  z: {{inputs: [a], {second}}}
""",
        base=tmp_path,
    )


TABLE = "type: sqlite, config: {path: out.db, table: t, mode: append}"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("type: file, config: {path: a.csv}", "type: file, config: {path: x/../a.csv}"),
        ("type: file, config: {path: link.csv}", "type: file, config: {path: target.csv}"),
        (TABLE, TABLE.replace("append", "overwrite")),
        (TABLE.replace("append", "overwrite"), TABLE),
    ],
)
def test_the_second_is_refused(first, second, tmp_path):
    (tmp_path / "link.csv").symlink_to("target.csv")
    with pytest.raises(PlanError, match="destinations 'y' and 'z' both write to") as caught:
        check(with_destinations(first, second, tmp_path))
    assert caught.value.code == "E0321"
    assert caught.value.step == "z"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("type: file, config: {path: a.csv}", "type: file, config: {path: b.csv}"),
        (TABLE, TABLE),
        (TABLE, TABLE.replace("table: t", "table: u").replace("append", "overwrite")),
        (TABLE, TABLE.replace("out.db", "other.db").replace("append", "overwrite")),
        ("type: stdout", "type: stdout"),
        ("type: blackhole", "type: blackhole"),
    ],
)
def test_two_places_and_added_rows_are_fine(first, second, tmp_path):
    check(with_destinations(first, second, tmp_path))

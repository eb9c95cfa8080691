"""Tests of workflows: given rows in, expected rows out, told apart row by row."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec.structs import replace

from dataflare.connectors.inline.values import frame_of
from dataflare.errors import WorkflowError
from dataflare.jobs.compare import Arrived, Revision, compare, revised
from dataflare.jobs.rewrite_tests import rewritten
from dataflare.jobs.workflow_test import CaseResult, run_test
from dataflare.model.types import Schema
from dataflare.workflow.load import load_text
from dataflare.workflow.model import WorkflowTest
from dataflare.workflow.nodes import SpotMap

WORKFLOW = """\
name: shop
settings: {guarantee: exactly_once, error_handling: {on_error: dead_letter}}
sources:
  orders:
    type: file
    config: {path: not-there.csv}
    schema: {id: int64, customer: int64, amount: "decimal(10, 2)", at: "timestamp[us, UTC]", note: string}
  customers: {type: sqlite, config: {path: not-there.db, table: customers}}
transformations:
  dear: {type: filter, inputs: [orders], config: {condition: "amount >= 10"}}
  named:
    type: lookup
    inputs: [dear]
    config: {source: customers, mapping: {key: customer, remote_key: id, fields: [name]}}
  numbered: {type: map, inputs: [named], config: {derive: {number: "CAST(note AS BIGINT)"}}}
  total: {type: aggregate, inputs: [numbered], config: {group_by: [name], measures: {sum: "sum(amount)"}}}
destinations:
  out: {type: file, inputs: [numbered], config: {path: out.csv}}
  totals: {type: sqlite, inputs: [total], config: {path: t.db, table: totals}}
"""
ORDERS: list[dict[str, Any]] = [
    {"id": 1, "customer": 7, "amount": "20.50", "at": "2024-01-31", "note": "3"},
    {"id": 2, "customer": 8, "amount": 30, "at": "2024-01-31T12:00:00+02:00"},
    {"id": 3, "amount": 5},
]
BAD: list[dict[str, Any]] = [{"id": 1, "customer": 7, "amount": 20, "note": "x"}]
GIVEN: dict[str, list[dict[str, Any]]] = {"orders": ORDERS, "customers": [{"id": 7, "name": "Ann"}]}


def case(expect: Any, given: Any = GIVEN, tmp: Path = Path(), **more: Any) -> CaseResult:
    node = SpotMap(more)
    return run_test(
        load_text(WORKFLOW, base=tmp), WorkflowTest(name="t", given=given, expect=expect, node=node)
    )


def test_rows_go_through_lookups_and_aggregates_and_nothing_is_written(tmp_path: Path) -> None:
    expect = {
        "out": [{"id": 2, "name": None, "number": None}, {"id": 1, "name": "Ann", "number": 3}],
        "dear.rejected": [{"id": 3, "amount": 5.0}],
        "totals": [{"name": "Ann", "sum": "20.5"}, {"name": None, "sum": 30}],
        "dear": [{"id": 1}, {"id": 2, "at": "2024-01-31T10:00:00Z"}],
    }
    result = case(expect, tmp=tmp_path)
    assert result.passed, result
    assert list(tmp_path.iterdir()) == []


def test_differences_are_missing_unexpected_and_different_rows() -> None:
    expect = {"dear": [{"id": 1, "amount": 20.51}, {"id": 9, "amount": 99}]}
    result = case(expect)
    assert result.status == "failed"
    found = [(each.kind, each.columns) for each in result.differences["dear"]]
    assert found == [("different", ["amount"]), ("missing", []), ("unexpected", [])]


def test_no_rows_expected_is_an_expectation() -> None:
    assert case({"dear.rejected": []}, {"orders": ORDERS[:2]}).passed
    assert [d.kind for d in case({"dear.rejected": []}).differences["dear.rejected"]] == [
        "unexpected"
    ]


def test_an_actual_row_answers_one_expected_row() -> None:
    assert not case({"dear": [{"customer": 7}, {"customer": 7}]}).passed


def test_rows_that_name_other_columns_are_matched_as_a_whole() -> None:
    # The first row that fits the first expectation is the only one that fits the second.
    expect = {"dear": [{"at": None}, {"id": 2, "at": None}]}
    given = {"orders": [{"id": 2, "amount": 10}, {"id": 4, "amount": 10}]}
    assert case(expect, given).passed


def test_order_counts_only_when_asked_for() -> None:
    expect = {"dear": [{"id": 2}, {"id": 1}]}
    assert case(expect).passed
    assert not case(expect, ordered=True).passed


def test_a_given_step_stands_for_its_rows_and_takes_its_types() -> None:
    given = {
        "dear": [{"id": 5, "note": "12", "amount": "1.20"}],
        "customers": [{"id": 7, "name": "A"}],
    }
    assert case({"numbered": [{"id": 5, "number": 12, "amount": 1.2}]}, given).passed


def test_a_given_output_of_a_step_stands_for_it() -> None:
    text = WORKFLOW + "  less: {type: file, inputs: [dear.rejected], config: {path: less.csv}}\n"
    test = WorkflowTest(
        name="t", given={"dear.rejected": [{"id": 4}]}, expect={"less": [{"id": 4}]}
    )
    assert run_test(load_text(text), test).passed


def test_given_rows_of_a_lookup_are_its_table() -> None:
    given = {"orders": ORDERS[:1], "named": [{"id": 7, "name": "Bob"}]}
    assert case({"named": [{"id": 1, "name": "Bob"}]}, given).passed


def test_a_source_without_given_rows_is_named() -> None:
    with pytest.raises(WorkflowError, match="no rows for source 'customers'") as raised:
        case({"out": []}, {"orders": ORDERS})
    assert raised.value.code == "E0115"


def test_an_unknown_column_is_an_error_of_the_file() -> None:
    with pytest.raises(WorkflowError, match="'dear' has no column 'amuont'") as raised:
        case({"dear": [{"amuont": 5}]})
    assert raised.value.help == "did you mean 'amount'?"


def test_rows_that_fail_are_told() -> None:
    given = {**GIVEN, "orders": BAD}
    result = case({"out": [{"id": 1}]}, given)
    assert not result.passed
    assert len(result.failed_rows) == 1
    assert "step 'numbered' refused" in result.failed_rows[0]


def test_a_row_that_fails_the_run_is_the_tests_error() -> None:
    workflow = load_text(WORKFLOW.replace("on_error: dead_letter", "on_error: fail"))
    given = {**GIVEN, "orders": BAD}
    test = WorkflowTest(name="t", given=given, expect={"out": []})
    result = run_test(replace(workflow), test)
    assert result.status == "error"
    assert result.error is not None
    assert result.error.step == "numbered"


def revision(changed: Any = None, removed: Any = (), added: Any = (), rows: Any = None) -> Revision:
    """rows: only where the list may be written anew."""
    return Revision(changed or {}, removed, added, [{}] if rows is None else rows)


BLOCK = """\
tests:  # tests
  - name: one
    expect:
      a:   # rows of a

        - {x: 1}   # first
        # between
        - x: 2  # second
          y: |
            text

      b: [{x: 1}]  # kept
      c: [
        {x: 1, y: "a"},  # one
        {x: , y: 'b'}  # two
      ]
  - {name: two, expect: {a: [{x: 1}], b: []}}   # also
"""


def test_only_the_values_that_differ_are_rewritten() -> None:
    changes = {
        (2, "a"): revision({0: {"x": 5}, 1: {"x": None, "y": "$x ${a}"}}),
        (2, "c"): revision({0: {"y": "c: d"}, 1: {"x": 7, "y": "e"}}, added=[{"x": 8, "y": "f"}]),
        (17, "b"): revision(added=[{"x": 1.0}], rows=[{"x": 1.0}]),
        (17, "a"): revision(removed=[0], rows=[]),
    }
    assert rewritten(BLOCK, changes) == (
        "tests:  # tests\n"
        "  - name: one\n"
        "    expect:\n"
        "      a:   # rows of a\n"
        "\n"
        "        - {x: 5}   # first\n"
        "        # between\n"
        "        - x: null  # second\n"
        '          y: "$x $${a}"\n'
        "\n"
        "      b: [{x: 1}]  # kept\n"
        "      c: [\n"
        '        {x: 1, y: "c: d"},  # one\n'
        '        {x: 7 , y: "e"},  # two\n'
        "        {x: 8, y: f}\n"
        "      ]\n"
        "  - {name: two, expect: {a: [], b: [{x: 1.0}]}}   # also\n"
    )


def test_rows_leave_with_their_line_and_come_behind_the_others() -> None:
    text = rewritten(BLOCK, {(2, "a"): revision(removed=[0]), (2, "c"): revision(removed=[1])})
    assert "      a:   # rows of a\n\n        # between\n        - x: 2  # second\n" in text
    assert '        {x: 1, y: "a"},  # one\n          # two\n      ]\n' in text
    text = rewritten(BLOCK, {(2, "a"): revision(removed=[1]), (2, "c"): revision(removed=[0])})
    assert "        - {x: 1}   # first\n        # between\n\n      b:" in text
    assert "      c: [\n        {x: , y: 'b'}  # two\n      ]\n" in text
    added = [{"x": 3}, {"x": 4}]
    text = rewritten(BLOCK, {(2, "a"): revision(added=added), (2, "b"): revision(added=added)})
    assert "            text\n        - {x: 3}\n        - {x: 4}\n\n      b:" in text
    assert "      b: [{x: 1}, {x: 3}, {x: 4}]  # kept\n" in text


def test_long_rows_beside_a_key_go_below_it_and_a_block_can_become_empty() -> None:
    rows = [{"name": "a" * 30, "number": n} for n in range(2)]
    changes = {
        (2, "b"): revision(added=rows, rows=rows),
        (2, "a"): revision(removed=[0, 1], rows=[]),
    }
    text = rewritten(BLOCK, changes)
    assert f"      b:\n        - {{name: {'a' * 30}, number: 0}}\n" in text
    assert "      a: []" in text


@pytest.mark.parametrize(
    ("old", "new", "written"),
    [
        ("1.50", Decimal("2.50"), "2.50"),
        ('"1.50"', Decimal("2.50"), '"2.50"'),
        ("1", Decimal("1E+3"), "1000"),
        ("1.5", Decimal("0.1234567890123456789"), '"0.1234567890123456789"'),
        ("'a'", "b", '"b"'),
        ("a", "b c", "b c"),
        ("2024-01-31", date(2024, 2, 1), "2024-02-01"),
        ('"2024-01-31"', date(2024, 2, 1), '"2024-02-01"'),
        ("2024-01-31T00:00:00Z", datetime(2024, 2, 1, tzinfo=UTC), "2024-02-01T00:00:00Z"),
        ("[1, 2]", [1, 3], "[1, 3]"),
    ],
)
def test_a_value_is_written_as_the_one_before_it(old: str, new: Any, written: str) -> None:
    text = f"tests:\n  - expect: {{a: [{{x: {old}}}]}}  # c\n"
    found = rewritten(text, {(2, "a"): revision({0: {"x": new}})})
    assert found == text.replace(f"x: {old}}}", f"x: {written}}}")


def test_a_file_that_was_updated_holds() -> None:
    """Rows that changed, left or came in addition, ordered or not, whatever the columns named."""
    amounts = [{"id": n, "amount": f"1{n}.10", "customer": 7} for n in range(4)]
    given = {**GIVEN, "orders": amounts}
    for ordered in (False, True):
        for expected in (
            "[]",
            "\n        - {id: 1, amount: 9}  # one\n        - {amount: 12.10}\n        - id: 77",
            "[{id: 3}, {id: 2}, {id: 1}, {id: 0}, {id: 5}]",
            "[{id: 0}]",
        ):
            text = f"tests:\n  - name: t\n    expect:\n      dear: {expected}\n"
            rows = yaml.safe_load(text)["tests"][0]["expect"]["dear"]
            result = case({"dear": rows}, given)
            made = revised(rows, result.actual["dear"], "dear", ordered=ordered)
            after = yaml.safe_load(rewritten(text, {(2, "dear"): made}))
            now = after["tests"][0]["expect"]["dear"]
            assert not compare(now, result.actual["dear"], "dear", ordered=ordered)


def test_a_shared_expectation_is_not_rewritten() -> None:
    text = "tests:\n  - expect: {a: &rows [{x: 1}]}\n  - expect: {a: *rows}\n"
    for line in (2, 3):
        with pytest.raises(WorkflowError, match="shared by an anchor"):
            rewritten(text, {(line, "a"): revision({0: {"x": 2}})})


@pytest.mark.parametrize(
    ("type_", "value", "other"),
    [
        ("timestamp[ns]", "1969-12-31T23:59:58.999999001", "1969-12-31T23:59:58.999999002"),
        ("timestamp[ns, UTC]", "2026-01-01T00:00:00.000000001Z", "2026-01-01T00:00:00Z"),
        ("time", "01:00:00.123456001", "01:00:00.123456"),
        ("list<time>", ["01:00:00.123456001", None], ["01:00:00.123456", None]),
        ("struct<a: timestamp[ns]>", {"a": "2026-01-01T00:00:00.000000001"}, {"a": "2026-01-01"}),
    ],
)
def test_nanoseconds_are_compared(type_: str, value: Any, other: Any) -> None:
    schema = Schema.of({"k": "int64", "x": type_})
    arrived = Arrived.of(frame_of([{"k": 1, "x": value}, {"k": 2}], schema, "t"), schema)
    assert compare([{"k": 2, "x": None}, {"k": 1, "x": value}], arrived, "out") == []
    (difference,) = compare([{"k": 2, "x": None}, {"k": 1, "x": other}], arrived, "out")
    assert difference.columns == ["x"]
    assert difference.actual == {"k": 1, "x": value}

"""Tests of workflows: given rows in, expected rows out, told apart row by row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dataflare.errors import WorkflowError
from dataflare.jobs.rewrite_tests import rewritten
from dataflare.jobs.workflow_test import CaseResult, run_test
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


BLOCK = """\
tests:  # tests
  - name: one
    expect:
      a:   # rows of a

        - {x: 1}   # lost
        - x: 2
          y: |
            text

      b: [{x: 1}]  # kept
  - {name: two, expect: {a: [{x: 1}], b: []}}   # also
"""


def test_only_the_rows_of_an_expectation_are_rewritten() -> None:
    rows: list[dict[str, Any]] = [{"x": 5, "y": "yes: no"}, {"x": None, "y": "$x ${a}"}]
    text = rewritten(BLOCK, {(2, "a"): rows, (12, "b"): [{"x": 1.0}], (12, "a"): []})
    assert text == (
        "tests:  # tests\n"
        "  - name: one\n"
        "    expect:\n"
        "      a:   # rows of a\n"
        "\n"
        '        - {x: 5, y: "yes: no"}\n'
        '        - {x: null, y: "$x $${a}"}\n'
        "\n"
        "      b: [{x: 1}]  # kept\n"
        "  - {name: two, expect: {a: [], b: [{x: 1.0}]}}   # also\n"
    )


def test_long_rows_beside_a_key_go_below_it_and_a_block_can_become_empty() -> None:
    rows = [{"name": "a" * 30, "number": n} for n in range(2)]
    text = rewritten(BLOCK, {(2, "b"): rows, (2, "a"): []})
    assert f"      b:\n        - {{name: {'a' * 30}, number: 0}}\n" in text
    assert "      a: []" in text


def test_a_shared_expectation_is_not_rewritten() -> None:
    text = "tests:\n  - expect: {a: &rows [{x: 1}]}\n  - expect: {a: *rows}\n"
    for line in (2, 3):
        with pytest.raises(WorkflowError, match="shared by an anchor"):
            rewritten(text, {(line, "a"): []})

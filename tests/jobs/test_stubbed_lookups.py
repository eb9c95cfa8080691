"""A workflow's test gives the rows of a system that is asked key by key; the system is not asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataflare.errors import WorkflowError
from dataflare.jobs.workflow_test import run_test
from dataflare.workflow.load import load_text

WORKFLOW = """\
name: enrich
sources:
  orders: {type: inline, config: {rows: [{id: 1, customer: 7}, {id: 2, customer: 8}]}}
transformations:
  named:
    type: lookup
    inputs: [orders]
    config:
      source: {type: redis, connection: "redis://127.0.0.1:1/0"}
      mapping: {key: customer, fields: [name]}
      cache: {size: 10, ttl: 1m}
destinations:
  out: {type: blackhole, inputs: [named]}
tests:
  - name: names
    given: {named: [{customer: 7, name: Ada}]}
    expect: {out: [{id: 1, customer: 7, name: Ada}, {id: 2, customer: 8, name: null}]}
  - name: forgotten
    given: {}
    expect: {out: []}
"""


def test_given_rows_stand_for_the_system(tmp_path: Path) -> None:
    workflow = load_text(WORKFLOW, base=tmp_path)
    result = run_test(workflow, workflow.tests[0])
    assert result.passed, result


def test_a_system_without_given_rows_is_not_asked(tmp_path: Path) -> None:
    workflow = load_text(WORKFLOW, base=tmp_path)
    with pytest.raises(WorkflowError, match="gives no rows for the table of the lookup 'named'"):
        run_test(workflow, workflow.tests[1])

"""Errors show no value that a `mask` step hides."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataflare.errors import DataFlareError
from dataflare.jobs import RunOptions, run
from dataflare.workflow.load import load_text

TEXT = """\
name: hidden
sources:
  rows: {type: inline, config: {rows: [{id: 1, amount: "7 EUR", email: "ann@hidden.example"}]}}
transformations:
  step: {type: %s, inputs: [rows], config: {%s}}
  masked: {type: mask, inputs: [step], config: {columns: {email: redact}}}
destinations:
  out: {type: file, inputs: [masked], config: {path: out.csv}}
"""
CODE = """\
def step(frame):
    raise ValueError(f"cannot handle {frame['email'][0]}, {frame['amount'][0]}")
"""


def error_of(folder: Path, kind: str, config: str) -> DataFlareError:
    (folder / "hidden_step.py").write_text(CODE)
    result = run(load_text(TEXT % (kind, config), base=folder), RunOptions(folder / "home"))
    assert result.error is not None
    return result.error


@pytest.mark.parametrize(
    ("kind", "config"),
    [("map", "cast: {amount: int64}"), ("python", 'function: "hidden_step:step"')],
)
def test_an_error_hides_what_a_mask_step_hides(tmp_path: Path, kind: str, config: str) -> None:
    error = error_of(tmp_path, kind, config)
    told = "\n".join([error.message, *error.notes])
    assert "***" in told
    assert ("7 EUR" in told) == (kind == "map")  # of columns out of Python code nothing is known
    assert "ann@hidden" not in told

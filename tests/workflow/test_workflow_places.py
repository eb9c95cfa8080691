"""An error that does not know its place points to what it names in the step's config."""

from __future__ import annotations

import pytest

from dataflare.errors import ConfigError, DataError, SystemError_
from dataflare.workflow import load_text

TEXT = """\
name: w
sources:
  a:
    type: file
    config: {path: data/in.csv, format: csv, columns: [id, csv], more: {delimiter: ";"}}
transformations:
  m: {type: map, inputs: [a], config: {derive: {x: "id % 2"}, drop: [id]}}
destinations:
  z: {type: blackhole, inputs: [m]}
"""


@pytest.mark.parametrize(
    ("step", "error", "place"),
    [
        ("a", SystemError_("no such file: /tmp/x/data/in.csv", code="E0601"), "5:20"),
        ("a", DataError("data/in.csv line 3: 1 field", code="E0502"), "5:20"),
        ("a", ConfigError("'columns' names 'id', which is not there"), "5:56"),
        ("a", ConfigError("'columns' is too long"), "5:46"),
        ("a", ConfigError("a csv file has no columns"), "4:11"),
        ("a", SystemError_("the disk is full", code="E0603"), "5:20"),
        ("a", ConfigError("the file metadata/in.csvx is odd"), "4:11"),
        ("m", DataError("step 'm': x: id % 2: division by zero (in.csv line 3)", code="E0519"), "7:53"),
        ("m", DataError("the row is odd", code="E0540"), "7:13"),
        ("z", ConfigError("nothing is known of it"), "9:13"),
    ],
)  # fmt: skip
def test_what_it_names_is_found(step, error, place):
    workflow = load_text(TEXT, file="w.yaml", environ={})
    spot = workflow.step(step).place_of(error)
    assert f"{spot.line}:{spot.column}" == place

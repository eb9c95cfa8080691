"""A workflow file as Python builds the same workflow, and turns back into the same file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from test_python_is_yaml import EXAMPLES, ROOT, YAML

from dataflare import Workflow
from dataflare.errors import WorkflowError
from dataflare.workflow.dsl.source_code import to_python

FILES = [*EXAMPLES, ROOT / "demo" / "flights.yaml"]


def built(code: str) -> Workflow:
    names: dict[str, Any] = {"__name__": "converted"}
    exec(compile(code, "converted.py", "exec"), names)
    made: Workflow = names["wf"]
    return made


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_become_python_that_builds_them(path: Path) -> None:
    there = Workflow.from_yaml(path)
    back = built(to_python(there))
    back.base = there.base
    assert back.to_json() == there.to_json()


def test_every_step_type_there_and_back(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(YAML)
    there = Workflow.from_yaml(tmp_path / "w.yaml")
    back = built(to_python(there))
    assert back.to_json() == there.to_json()
    assert to_python(back) == to_python(there)


ODD = """\
name: odd
version: "1.0"
params: {least: {type: int64, default: 1}}
sources:
  a-b: {type: inline, config: {rows: [{class: "it's", d: "say \\"x\\"\\n", also: 1}]}}
  wf: {type: file, config: {path: "${param:least}.csv"}, schema: {id: int64}, description: two}
transformations:
  all: {type: union, inputs: [a-b, wf.rejected], config: {strict: false}}
  class: {type: filter, inputs: all, config: {condition: "d <> ''"}, error_handling: {on_error: skip}}
destinations:
  out:
    type: memory
    inputs: [class, class.rejected]
    config: {name: x, description: none, retry_policy: {max_attempts: 2}}
tests:
  - {name: t, description: of all, ordered: true, given: {wf: [{id: 1}]}, expect: {class: [{id: 1}]}}
"""


def test_names_that_python_has_taken_and_several_inputs(tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text(ODD)
    there = Workflow.from_yaml(tmp_path / "odd.yaml")
    code = to_python(there)
    assert 'class_ = all.filter("class"' in code
    assert 'class_.to("out", "memory", also=[class_["rejected"]]' in code.replace("\n", "").replace(
        "(    ", "("
    ).replace(",    ", ", ")
    expected = there.to_yaml().replace("inputs: all", "inputs: [all]")
    assert yaml.safe_load(built(code).to_yaml()) == yaml.safe_load(expected)


def test_what_has_no_method_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(ODD.replace("type: union", "type: onion"))
    with pytest.raises(WorkflowError) as caught:
        to_python(Workflow.from_yaml(tmp_path / "w.yaml"))
    assert caught.value.code == "E0125"
    assert "there is no method for type 'onion'" in caught.value.message

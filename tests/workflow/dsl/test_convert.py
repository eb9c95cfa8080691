"""A workflow file as Python builds the same workflow, and turns back into the same file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_python_is_yaml import EXAMPLES, ROOT, YAML

from dataflare import Workflow
from dataflare.errors import WorkflowError
from dataflare.operators import registry as operators
from dataflare.sdk import registry
from dataflare.workflow.dsl.source_code import to_python
from dataflare.workflow.parse import parse

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


def there_and_back(tree: dict[str, Any], folder: Path) -> None:
    """The tree as a file, as Python, and as a file again is the same tree."""
    file = folder / "w.yaml"
    file.write_text(yaml.safe_dump(tree, sort_keys=False))
    back = yaml.safe_load(built(to_python(Workflow.from_yaml(file))).to_yaml())
    assert back == yaml.safe_load(file.read_text())


def tree_of(**sections: Any) -> dict[str, Any]:
    source = {"a": {"type": "inline", "config": {"rows": []}}}
    made = {"name": "w", "version": "1.0", "sources": source, **sections}
    made["destinations"] = made.get("destinations", {"z": {"type": "blackhole", "inputs": ["a"]}})
    for step in made["destinations"].values():
        step.setdefault("config", {})
    return made


KINDS = [
    *(("source", type_) for type_ in registry.source_types()),
    *(("destination", type_) for type_ in registry.destination_types()),
]


@pytest.mark.parametrize(("kind", "type_"), KINDS)
def test_every_option_of_a_connector_there_and_back(kind: str, type_: str, tmp_path: Path) -> None:
    fields = getattr(registry, kind)(type_).Config.model_fields
    config = {info.alias or name: f"a {name}" for name, info in fields.items()}
    step: dict[str, Any] = {"type": type_, "config": {**config, "also": 1, "on_error": None}}
    if kind == "source":
        there_and_back(tree_of(sources={"a": step}), tmp_path)
    else:
        there_and_back(tree_of(destinations={"z": {**step, "inputs": ["a", "a.b"]}}), tmp_path)


@pytest.mark.parametrize(("kind", "type_"), KINDS)
def test_every_example_of_a_connector_there_and_back(kind: str, type_: str, tmp_path: Path) -> None:
    example = yaml.safe_load(getattr(registry, kind)(type_).example)
    steps = {"s": example} if "type" in example else example
    for step in steps.values():
        step.setdefault("config", {})
        if kind == "destination":
            step.setdefault("inputs", ["a"])
            others = [r.partition(".")[0] for r in step["inputs"]]
            sources = {name: {"type": "inline", "config": {"rows": []}} for name in others}
            there_and_back(tree_of(sources=sources, destinations=steps), tmp_path)
        else:
            end = {"z": {"type": "blackhole", "inputs": list(steps)}}
            there_and_back(tree_of(sources=steps, destinations=end), tmp_path)


@pytest.mark.parametrize("type_", operators.step_types())
def test_every_example_of_a_step_and_its_nulls_there_and_back(type_: str, tmp_path: Path) -> None:
    class_ = operators.step(type_)
    example = json.loads(json.dumps(parse(class_.example, "example.yaml", [])[0]))
    step = {**example, "inputs": ["a"]}
    there_and_back(tree_of(transformations={"s": step}), tmp_path)
    config = dict(step.get("config", {}))
    for name, info in class_.Config.model_fields.items():
        if not info.is_required():
            config.setdefault(info.alias or name, None)
    if type_ == "lookup":
        config["mapping"] = {"key": "k", "remote_key": None, "fields": None}
    if config:
        there_and_back(tree_of(transformations={"s": {**step, "config": config}}), tmp_path)


PAGES = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
BLOCKS = [
    (page, block)
    for page in PAGES
    for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    if {"sources", "destinations", "transformations"} & set(yaml.safe_load(block))
]


@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=lambda each: getattr(each, "stem", ""))
def test_every_workflow_of_the_docs_there_and_back(page: Path, block: str, tmp_path: Path) -> None:
    file = tmp_path / "w.yaml"
    file.write_text(block)
    there = Workflow.from_yaml(file)
    assert listed(built(to_python(there)).to_yaml()) == listed(there.to_yaml())


def listed(text: str) -> Any:
    """The tree, a single input as a list of one, and each step with a config."""
    tree = {"name": "", "version": "1.0", **yaml.safe_load(text)}
    for section in ("sources", "transformations", "destinations"):
        for step in (tree.get(section) or {}).values():
            step.setdefault("config", {})
            if isinstance(step.get("inputs"), str):
                step["inputs"] = [step["inputs"]]
    return tree


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


def test_a_type_of_ones_own_is_a_processor(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(ODD.replace("type: union", "type: 'peel:Onion'"))
    there = Workflow.from_yaml(tmp_path / "w.yaml")
    code = to_python(there)
    assert 'a_b.process("all", "peel:Onion", wf_["rejected"], strict=False)' in code
    expected = there.to_yaml().replace("inputs: all", "inputs: [all]")
    assert yaml.safe_load(built(code).to_yaml()) == yaml.safe_load(expected)


def test_an_option_without_a_parameter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(ODD.replace("{strict: false}", "{strikt: false}"))
    with pytest.raises(WorkflowError) as caught:
        to_python(Workflow.from_yaml(tmp_path / "w.yaml"))
    assert caught.value.code == "E0125"
    assert "its method has no option 'strikt'" in caught.value.message

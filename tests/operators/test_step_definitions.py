"""Every step type: its example, its config and its schema for editors; those that wait."""

from __future__ import annotations

import json

import pytest
from flows import flow, refused

from dataflare.errors import PlanError
from dataflare.operators import registry
from dataflare.operators.base import StepConfig
from dataflare.planner import plan
from dataflare.workflow import bind
from dataflare.workflow.parse import parse

ROWS = [{"n": 1}]


@pytest.mark.parametrize("type_", registry.step_types())
def test_the_example_is_a_step_of_its_type(type_: str):
    step = registry.step(type_)
    example = parse(step.example, "example.yaml", [])[0]
    assert example["type"] == type_ == step.type
    assert example["inputs"]
    made = bind(step.Config, example.get("config", {}), step="example")
    assert isinstance(made, StepConfig)
    assert step.summary.endswith(".")


@pytest.mark.parametrize("type_", registry.step_types())
def test_every_setting_is_described_for_editors(type_: str):
    schema = registry.step(type_).Config.model_json_schema()
    assert schema["additionalProperties"] is False
    json.dumps(schema)
    described = [schema, *schema.get("$defs", {}).values()]
    for part in described:
        for name, setting in part.get("properties", {}).items():
            assert setting.get("description"), f"{type_}: {name}"
            assert not name.endswith("_"), f"{type_}: {name}"


@pytest.mark.parametrize("type_", ["parse", "python"])
def test_a_setting_is_called_schema(type_: str):
    config = registry.step(type_).Config
    assert "schema" in config.model_json_schema()["properties"]
    given = {"column": "t"} if type_ == "parse" else {"function": "m:f"}
    assert bind(config, {**given, "schema": {"a": "int64"}}, step="x").schema_ == {"a": "int64"}


def test_a_wrong_schema_is_shown_under_its_own_name():
    assert refused("step: {type: parse, inputs: [s], config: {column: n, schema: 5}}", s=ROWS) == (
        "error[E0405]: wrong value for 'schema' in step 'step'\n"
        " --> flow.yaml:6:64\n"
        "  |\n"
        "6 |   step: {type: parse, inputs: [s], config: {column: n, schema: 5}}\n"
        "  |                                                                ^\n"
        "   = expected: a mapping\n"
        "   = found: 5"
    )


def test_an_unknown_setting_is_named_with_those_there_are():
    block = refused("step: {type: parse, inputs: [s], config: {column: n, schema_: {}}}", s=ROWS)
    assert block.startswith("error[E0403]: unknown key 'schema_' in step 'step'")
    assert "did you mean 'schema'?" in block


@pytest.mark.parametrize("type_", registry.LATER)
def test_steps_that_wait_are_refused_by_name(type_: str):
    header, place, *_ = refused(f"step: {{type: {type_}, inputs: [s]}}", s=ROWS).splitlines()
    assert header.startswith(
        f"error[E0314]: the step type '{type_}' is not available in this version"
    )
    assert place == " --> flow.yaml:6:16"


def test_an_unknown_type_has_a_nearest_name():
    with pytest.raises(PlanError) as caught:
        registry.step("fliter")
    assert (caught.value.code, caught.value.help) == ("E0313", "did you mean 'filter'?")


@pytest.mark.parametrize(
    "type_", [t for t in registry.step_types() if t not in ("union", "join", "sql")]
)
def test_only_some_steps_take_several_inputs(type_: str):
    configs = {
        "aggregate": "measures: {k: count(*)}",
        "window": "kind: tumbling, size: 1s, measures: {k: count(*)}",
        "filter": "condition: n > 1",
        "route": "routes: {a: n > 1}",
        "validate": "rules: [{name: r, expect: n > 1}]",
        "explode": "column: n",
        "parse": "column: n",
        "mask": "columns: {n: hash}",
        "sample": "fraction: 1",
        "limit": "rows: 1",
        "deduplicate": "key: n",
        "history": "key: n",
        "sort": "by: n",
        "lookup": "source: s, mapping: {key: n}",
        "python": "function: 'math:sqrt'",
    }
    block = refused(
        f"step: {{type: {type_}, inputs: [s, t], config: {{{configs.get(type_, '')}}}}}",
        s=ROWS,
        t=ROWS,
    )
    assert block.startswith(f"error[E0318]: step 'step' ({type_}) takes one input, and has 2")
    assert "help: join them first in a step of type union" in block


def test_an_event_time_is_a_column_with_times():
    rows = "config: {rows: [{n: 1}]}"
    block = refused(
        "step: {type: map, inputs: [s]}", s=f"{{type: inline, {rows}, event_time: {{column: n}}}}"
    )
    assert block.startswith("error[E0330]: the event time of source 's' is 'n'")
    assert "int64" in block
    block = refused(
        "step: {type: map, inputs: [s]}", s=f"{{type: inline, {rows}, event_time: {{column: m}}}}"
    )
    assert block.startswith("error[E0203]: unknown column 'm' in the event_time")
    assert "its columns: n" in block


def test_errors_of_several_steps_come_together():
    from dataflare.errors import ManyErrors

    workflow = flow(
        "one: {type: filter, inputs: [s], config: {condition: m > 1}}\n"
        "two: {type: map, inputs: [s], config: {drop: [m]}}\n"
        "three: {type: filter, inputs: [one], config: {condition: 'nosuch(1)'}}\n"
        "step: {type: union, inputs: [two, three]}",
        s=ROWS,
    )
    with pytest.raises(ManyErrors) as caught:
        plan(workflow)
    assert [(error.code, error.step) for error in caught.value.errors] == [
        ("E0203", "one"),
        ("E0203", "two"),
        ("E0202", "three"),
    ]

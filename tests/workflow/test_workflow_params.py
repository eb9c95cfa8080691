"""Parameters: the same text gives the same value from everywhere, or a clear error."""

from __future__ import annotations

import asyncio

import pytest

from dataflare.errors import DataFlareError, render
from dataflare.planner.bind import bind_workflow
from dataflare.workflow import load_text

REST = "sources: {a: {type: inline}}\ndestinations: {z: {type: x, inputs: [a]}}\n"


def load(params, **given):
    return load_text(f"name: w\nparams: {params}\n{REST}", file="w.yaml", params=given, environ={})


def refused(params, **given):
    with pytest.raises(DataFlareError) as caught:
        load(params, **given)
    return caught.value


def test_what_is_given_wins_over_the_default():
    workflow = load("{n: {type: int64, default: 1, description: how many}}", n="2")
    param = workflow.params["n"]
    assert (param.value, param.given, param.description) == (2, True, "how many")
    assert load("{n: {type: int64, default: 1}}").params["n"].value == 1


def test_the_type_is_text_when_none_is_said():
    assert load("{n: {default: 5}, m: }", m="7").params["n"].value == "5"


def test_null_is_a_default():
    assert load("{n: {type: int64, default: null}}").params["n"].value is None


def test_a_default_may_come_from_the_environment():
    assert load("{n: {type: int64, default: '${N:-3}'}}").params["n"].value == 3


def test_values_from_python_may_be_typed_already():
    assert load("{n: {type: int64}, b: {type: bool}}", n=5, b=True).params["n"].value == 5


@pytest.mark.parametrize(
    ("type_", "text", "expected"),
    [
        ("int64", "1.5", "a whole number"),
        ("int64", "", "a whole number"),
        ("int64", "true", "a whole number"),
        ("int8", "128", "a whole number from -128 to 127"),
        ("uint8", "-1", "a whole number from 0 to 255"),
        ("float64", "abc", "a number"),
        ("float64", "9" * 400, "a number that fits 64 bits"),
        ("bool", "yes", "true or false"),
        ("date", "31.01.2023", "a date such as 2023-01-31"),
        ("time", "25:00", "a time such as 13:45:00"),
        (
            "time",
            "13:45:00.0000001",
            "a time such as 13:45:00, with at most 6 digits behind the seconds",
        ),
        (
            "timestamp[ns]",
            "2023-01-31T13:45:00.123456789Z",
            "a timestamp such as 2023-01-31T13:45:00Z, with at most 6 digits behind the seconds",
        ),
        ("timestamp", "yesterday", "a timestamp such as 2023-01-31T13:45:00Z"),
        ("duration", "10", "a duration such as 250ms, 10s, 5m, 1h or 7d"),
        ("decimal(3, 1)", "1.25", "a decimal number with 3 digits, 1 after the point"),
        ("decimal(3, 1)", "100", "a decimal number with 3 digits, 1 after the point"),
        ("decimal(3, 1)", "NaN", "a decimal number with 3 digits, 1 after the point"),
        ("list<int64>", "[1, x]", "JSON text of the type list<int64>"),
        ("list<int64>", '[1, "x"]', "a whole number"),
        ("struct<a: int64>", '{"b": 1}', "a mapping with the keys a"),
    ],
)
def test_a_value_of_another_type_says_what_was_expected(type_, text, expected):
    error = refused(f"{{p: {{type: '{type_}'}}}}", p=text)
    assert error.code == "E0110"
    assert error.notes == [f"expected: {expected}"]
    assert error.spot.text == f"p={text}"


def test_the_command_line_is_shown_like_a_file():
    assert render(refused("{count: {type: int8}}", count="many")) == (
        "error[E0110]: the value of parameter 'count' is not of the type int8\n"
        " --> --param:1:7\n"
        "  |\n"
        "1 | count=many\n"
        "  |       ^^^^\n"
        "   = expected: a whole number\n"
        "   = help: change it: --param count=VALUE"
    )


def test_an_unknown_parameter_names_the_nearest():
    assert render(refused("{since: {default: x}, until: {default: y}}", sinse="z")) == (
        "error[E0110]: unknown parameter 'sinse'\n"
        " --> --param:1:1\n"
        "  |\n"
        "1 | sinse=z\n"
        "  | ^^^^^\n"
        "   = declared parameters: since, until\n"
        "   = help: did you mean 'since'?"
    )


def test_a_workflow_without_parameters_says_so():
    with pytest.raises(DataFlareError) as caught:
        load_text(f"name: w\n{REST}", params={"x": "1"}, environ={})
    assert caught.value.notes == ["this workflow declares no parameters"]


def test_parameters_cannot_be_used_to_declare_parameters():
    error = refused("{a: {default: x}, b: {default: '${param:a}'}}")
    assert error.message == "the parameter 'a' cannot be used here"


def test_a_missing_variable_in_a_default_is_one_error():
    error = refused("{n: {type: int64, default: '${N}'}}")
    assert error.message == "the environment variable 'N' is not set"


def test_a_password_on_the_command_line_is_not_shown():
    block = render(refused("{password: {type: int64}}", password="hunter2"))
    assert "1 | password=*******" in block
    assert "hunter2" not in block


def test_a_value_of_several_lines_is_drawn_on_one():
    block = render(refused("{n: {type: int64}}", n="a\nb"))
    assert block.splitlines()[3:5] == ["1 | n=a\ufffdb", "  |   ^^^"]


def test_a_time_zone_that_is_none_is_refused():
    error = refused("{p: {type: 'timestamp[us, Mars/Base]'}}", p="2023-01-01")
    assert error.code in ("E0110", "E0112")
    assert "Mars/Base" in render(error)


@pytest.mark.parametrize("type_", ["float64", "float32", "int64", "int8"])
def test_a_whole_expression_has_the_type_of_its_parameter(type_):
    workflow = load_text(
        f"""\
name: w
params: {{n: {{type: {type_}, default: 2}}}}
sources: {{a: {{type: inline, config: {{rows: [{{id: 1}}]}}}}}}
transformations:
  b: {{type: map, inputs: [a], config: {{derive: {{x: "${{param:n}}"}}}}}}
destinations: {{z: {{type: blackhole, inputs: [b]}}}}
"""
    )
    graph = asyncio.run(bind_workflow(workflow, offline=True))
    assert [str(node.schema["x"]) for node in graph if node.id == "b"] == [type_]

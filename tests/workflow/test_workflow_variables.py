"""Variables: found, typed, with their places, and never able to add structure."""

from __future__ import annotations

import datetime
import pickle
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.errors import DataFlareError
from dataflare.model.types import parse_type
from dataflare.workflow import load_text
from dataflare.workflow.variables import VARIABLES_MAX


class Vault:
    """Secrets for a test."""

    place = "a test"

    def __init__(self, **values):
        self.values = values

    def get(self, name):
        return self.values.get(name)


def config(written, *, params="{}", given=None, environ=None, secrets=None):
    """The value of one config key, written as YAML."""
    text = (
        f"name: w\nparams: {params}\nsources:\n  a:\n    type: inline\n    config:\n      key: {written}\n"
        "destinations: {z: {type: blackhole, inputs: [a]}}\n"
    )
    workflow = load_text(
        text, file="w.yaml", params=given, environ=environ or {}, secrets=secrets or Vault()
    )
    return workflow.sources["a"].config["key"]


def problems(written, **more):
    with pytest.raises(DataFlareError) as caught:
        config(written, **more)
    return getattr(caught.value, "errors", [caught.value])


anything = st.text(st.characters(exclude_categories=["Cs"]))


@given(anything)
def test_any_value_of_the_environment_comes_through_unchanged(value):
    assert config("${V}", environ={"V": value}) == value
    assert config("'<${V}>'", environ={"V": value}) == f"<{value}>"
    assert config("{a: [\"${V}\"], b: '${V}'}", environ={"V": value}) == {"a": [value], "b": value}


@given(anything)
def test_any_secret_and_any_text_parameter_comes_through_unchanged(value):
    assert config("'${secret:S}!'", secrets=Vault(S=value)) == value + "!"
    assert config("'${param:p}!'", params="{p: {type: string}}", given={"p": value}) == value + "!"


def test_a_value_is_not_looked_through_for_variables():
    assert config("${A}", environ={"A": "${B}", "B": "no"}) == "${B}"


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("${A}", "one"),
        ("${A:-two}", "one"),
        ("${NOPE:-two}", "two"),
        ("${EMPTY:-two}", "two"),
        ("${EMPTY}", ""),
        ("${NOPE:-}", ""),
        ("'${NOPE:-{\"a\": 1}}'", '{"a": 1}'),
        ("'${NOPE:-a:-b}'", "a:-b"),
        ("'x${A}y${A}z'", "xoneyonez"),
        ("$${A}", "${A}"),
        ("'$${A} ${A} $${'", "${A} one ${"),
        ("$A", "$A"),
        ("'$$${A}'", "$${A}"),
        ("cost $ {A}", "cost $ {A}"),
    ],
)
def test_the_forms_of_variables(written, value):
    assert config(written, environ={"A": "one", "EMPTY": ""}) == value


def test_keys_hold_no_variables():
    assert config("{'${A}': 1}", environ={"A": "one"}) == {"${A}": 1}


@pytest.mark.parametrize(
    ("type_", "given", "value"),
    [
        ("int64", "5", 5),
        ("float64", "2", 2.0),
        ("bool", "true", True),
        ("string", "5", "5"),
        ("timestamp", "2023-01-01 02:00:00+02:00", "2023-01-01T00:00:00Z"),
        ("timestamp", "2023-01-01", "2023-01-01T00:00:00"),
        ("'timestamp[us, UTC]'", "2023-01-01", "2023-01-01T00:00:00Z"),
        ("date", "2023-01-31", "2023-01-31"),
        ("'decimal(10, 2)'", "1.50", "1.50"),
        ("duration", "90s", "90000000us"),
        ("list<int64>", "[1, 2]", [1, 2]),
        ("'struct<a: int8>'", '{"a": 1}', {"a": 1}),
    ],
)
def test_a_string_that_is_one_variable_takes_the_parameters_type(type_, given, value):
    found = config("${param:p}", params=f"{{p: {{type: {type_}}}}}", given={"p": given})
    assert found == value
    assert isinstance(found, type(value))


def test_inside_a_text_a_parameter_is_text():
    params = "{n: {type: int64, default: 7}, b: {type: bool, default: true}}"
    assert config("'rows_${param:n}_${param:b}'", params=params) == "rows_7_true"


@pytest.mark.parametrize(
    ("type_", "given", "value", "exact"),
    [
        ("float32", "1.5", 1.5, "float32"),
        ("decimal(4, 1)", "1.5", Decimal("1.5"), "decimal(4, 1)"),
        ("date", "2023-01-31", datetime.date(2023, 1, 31), "date"),
        (
            "timestamp[ms]",
            "2023-01-31T01:00:00+01:00",
            datetime.datetime(2023, 1, 31, tzinfo=datetime.UTC),
            "timestamp[ms, UTC]",
        ),
        (
            "timestamp",
            "2023-01-31T01:00:00",
            datetime.datetime(2023, 1, 31, 1),
            "timestamp[us]",
        ),
        (
            "timestamp[us, Europe/Berlin]",
            "2023-01-31T01:00:00",
            datetime.datetime(2023, 1, 31, 0, tzinfo=datetime.UTC),
            "timestamp[us, Europe/Berlin]",
        ),
        ("duration", "1h", datetime.timedelta(hours=1), "duration[us]"),
    ],
)
def test_a_variable_in_a_text_keeps_its_typed_value(type_, given, value, exact):
    text = config("'x > ${param:p}'", params=f"{{p: {{type: '{type_}'}}}}", given={"p": given})
    (variable,) = text.variables
    assert (variable.value, variable.type) == (value, parse_type(exact))
    assert variable.shown == "${param:p}"
    assert text.shown == "x > ${param:p}"


@given(
    st.lists(
        st.sampled_from(
            ["${A}", "${LONGER:-dd}", "$${", "${param:p}", " and ", "__00", "${secret:S}", "x"]
        ),
        max_size=12,
    )
)
def test_template_and_raw_text_agree_character_by_character(parts):
    raw = "".join(parts)
    environ = {"A": "a value", "LONGER": ""}
    more = {"params": "{p: {default: q}}", "secrets": Vault(S="s")}
    text = config(f"'<{raw}>'", environ=environ, **more)
    assert len(text.template) == len(raw) + 2 - parts.count("$${")
    assert text.shown == f"<{raw}>".replace("$${", "${")
    line = text.spot.text
    for i, char in enumerate(text.template):
        spot = text.spot_of(i, i + 1)
        written = line[spot.column - 1]
        assert char == written or char in "_0123456789ab" or (char == "{" and written == "$")
    for variable in text.variables:
        assert variable.placeholder.isidentifier()
        assert variable.placeholder.startswith("__")
        assert len(variable.placeholder) == len(variable.shown)
        start = text.template.index(variable.placeholder)
        spot = text.spot_of(start, start + len(variable.placeholder))
        assert line[spot.column - 1 :].startswith(variable.shown)
    assert len({v.placeholder for v in text.variables}) == len(text.variables)


def test_places_hold_in_a_block_of_several_lines():
    written = "|\n        one ${A}\n        $${ two ${A} three\n"
    text = config(written, environ={"A": "a\nb"})
    assert text == "one a\nb\n${ two a\nb three\n"
    start = text.template.index("three")
    spot = text.spot_of(start, start + 5)
    assert (spot.line, spot.text[spot.column - 1 :][:5]) == (9, "three")


def test_many_variables_in_a_text_are_fine_and_too_many_are_an_error():
    text = config("'" + "${A}" * VARIABLES_MAX + "'", environ={"A": "b"})
    assert text == "b" * VARIABLES_MAX
    (error,) = problems("'" + "${A}" * (VARIABLES_MAX + 1) + "'", environ={"A": "b"})
    assert error.message == f"more than {VARIABLES_MAX} variables in one text"


@pytest.mark.parametrize(
    "written",
    ["${}", "${1A}", "${A-b}", "${A:+b}", "'${A'", "${param:}", "${secret:}", "${env:A}", "${ A }"],
)
def test_what_is_no_variable_is_refused(written):
    (error,) = problems(written, environ={"A": "b"})
    assert (error.code, error.spot.line) == ("E0110", 7)


def test_everything_that_is_missing_is_listed_at_once():
    errors = problems("['${A}', '${B} ${secret:S}', '${param:p}', '${A}']", params="{q: {}}")
    assert [error.message for error in errors] == [
        "the parameter 'q' has no value",
        "the environment variable 'A' is not set",
        "the environment variable 'B' is not set",
        "the secret 'S' was not found",
        "unknown parameter 'p'",
    ]
    assert errors[1].notes == ["also at w.yaml:7:56"]


def test_a_missing_variable_is_not_complained_about_twice():
    text = (
        "name: ${N}\nversion: '${V}'\nsettings: {parallelism: '${P}', checkpoint: '${C}'}\n"
        "sources: {a: {type: '${T}', config: '${G}'}}\n"
        "destinations: {z: {type: x, inputs: ['${I}']}}\n"
    )
    with pytest.raises(DataFlareError) as caught:
        load_text(text, environ={})
    assert {error.message for error in caught.value.errors} == {
        f"the environment variable '{name}' is not set" for name in "NVPCTGI"
    }


def test_numbers_of_the_environment_fit_settings():
    text = (
        "name: w\nsettings: {parallelism: '${P}', checkpoint: {interval: '${I}', incremental: '${B}'}}\n"
        "sources: {a: {type: inline}}\ndestinations: {z: {type: x, inputs: [a]}}\n"
    )
    settings = load_text(text, environ={"P": "3", "I": "2m", "B": "false"}).settings
    assert (settings.parallelism, settings.checkpoint.interval) == (3, 120.0)
    assert settings.checkpoint.incremental is False


def test_a_text_survives_pickling_with_its_variables_and_places():
    text = config("'x ${A}'", environ={"A": "b"})
    again = pickle.loads(pickle.dumps(text))
    assert (again, again.template, again.variables, again.starts) == (
        text,
        text.template,
        text.variables,
        text.starts,
    )

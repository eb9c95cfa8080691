"""Configs bound to models: every slip is found, at its place, once."""

from __future__ import annotations

import enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator

from dataflare.errors import ConfigError, DataFlareError, ExpressionError, ManyErrors, render
from dataflare.expr import ExprText
from dataflare.model.text import SourceText
from dataflare.model.units import Duration, Size
from dataflare.workflow import bind, load_text


class Incremental(BaseModel):
    column: str
    lag: Duration = 0.0


class Hash(BaseModel):
    structure: Literal["hash"]
    prefix: str = ""


class Json(BaseModel):
    structure: Literal["json"]
    path: str


class Color(enum.Enum):
    RED = "red"


class Config(BaseModel):
    table: str = Field(description="the table to read")
    batch_size: int = Field(default=10, ge=1, le=1000)
    ratio: float = 1.0
    incremental: Incremental | None = None
    tables: list[Incremental] = []
    named: dict[str, Incremental] = {}
    mode: Literal["append", "upsert"] = "append"
    lookup: Hash | Json | None = None
    key: str | list[str] = "id"
    from_: str | None = Field(default=None, alias="from")
    wait: Duration = 1.0
    limit: Size | None = None
    anything: Any = None
    color: Color = Color.RED
    header: bool = True

    @field_validator("table")
    @classmethod
    def _no_dots(cls, value):
        if "." in value:
            raise ValueError("a table's name has no dot; give 'schema' for that")
        return value


def step(config, environ=None):
    text = (
        f"name: w\nsources:\n  a:\n    type: t\n    config: {config}\n"
        "destinations: {z: {type: x, inputs: [a]}}\n"
    )
    return load_text(text, file="w.yaml", environ=environ or {}).sources["a"]


def bound(config, model=Config, environ=None):
    return bind(model, step(config, environ).config, step="a")


def refused(config, model=Config, environ=None):
    with pytest.raises(DataFlareError) as caught:
        bound(config, model, environ)
    return getattr(caught.value, "errors", [caught.value])


def test_values_come_out_as_the_model_says():
    made = bound(
        "{table: '${T}', batch_size: '${N}', from: x, key: [a, b], wait: 1m, limit: 2KiB, color: red, "
        "mode: upsert, header: 'false', incremental: {column: c, lag: 5s}, lookup: {structure: json, path: p}}",
        environ={"T": "orders", "N": "20"},
    )
    assert (made.table, made.batch_size, made.from_, made.key) == ("orders", 20, "x", ["a", "b"])
    assert (made.wait, made.limit, made.color, made.header) == (60.0, 2048, Color.RED, False)
    assert made.incremental == Incremental(column="c", lag="5s")
    assert isinstance(made.lookup, Json)
    assert type(made.table) is str


def test_what_takes_anything_gets_texts_with_their_places():
    made = bound("{table: t, anything: {q: ['x ${A}']}}", environ={"A": "b"})
    text = made.anything["q"][0]
    assert isinstance(text, SourceText)
    assert text.shown == "x ${A}"


BLOCKS = {
    "{tabel: x}": """\
error[E0403]: unknown key 'tabel' in step 'a'
 --> w.yaml:5:14
  |
5 |     config: {tabel: x}
  |              ^^^^^
   = known keys: anything, batch_size, color, from, header, incremental, key, limit, lookup, mode, named, ratio, table, tables, wait
   = help: did you mean 'table'?
""",
    "{table: t, batch_size: many, mode: upsrt, ratio: [1]}": """\
error[E0405]: wrong value for 'batch_size' in step 'a'
 --> w.yaml:5:28
  |
5 |     config: {table: t, batch_size: many, mode: upsrt, ratio: [1]}
  |                                    ^^^^
   = expected: a whole number
   = found: text 'many'

error[E0405]: wrong value for 'mode' in step 'a'
 --> w.yaml:5:40
  |
5 |     config: {table: t, batch_size: many, mode: upsrt, ratio: [1]}
  |                                                ^^^^^
   = expected: one of 'append', 'upsert'
   = found: text 'upsrt'
   = help: did you mean 'upsert'?

error[E0405]: wrong value for 'ratio' in step 'a'
 --> w.yaml:5:54
  |
5 |     config: {table: t, batch_size: many, mode: upsrt, ratio: [1]}
  |                                                              ^^^
   = expected: a number
   = found: a list
""",
    "{table: 5, batch_size: 0}": """\
error[E0405]: wrong value for 'table' in step 'a'
 --> w.yaml:5:21
  |
5 |     config: {table: 5, batch_size: 0}
  |                     ^
   = expected: text
   = found: 5
   = help: write it in quotes: "5"

error[E0405]: wrong value for 'batch_size' in step 'a'
 --> w.yaml:5:36
  |
5 |     config: {table: 5, batch_size: 0}
  |                                    ^
   = expected: at least 1
   = found: 0
""",
    "{table: a.b}": """\
error[E0405]: 'table' in step 'a': a table's name has no dot; give 'schema' for that
 --> w.yaml:5:21
  |
5 |     config: {table: a.b}
  |                     ^^^
""",
    "{table: t, incremental: {colum: c}, tables: [{column: c, lag: 5}], named: {x: {}}}": """\
error[E0404]: missing key 'incremental.column' in step 'a'
 --> w.yaml:5:24
  |
5 |     config: {table: t, incremental: {colum: c}, tables: [{column: c, lag: 5}], named: {x: {}}}
  |                        ^^^^^^^^^^^
   = help: add 'column'

error[E0405]: wrong value for 'tables.0.lag' in step 'a'
 --> w.yaml:5:75
  |
5 |     config: {table: t, incremental: {colum: c}, tables: [{column: c, lag: 5}], named: {x: {}}}
  |                                                                           ^
   = expected: a duration such as 250ms, 10s, 5m, 1h or 7d
   = found: 5

error[E0404]: missing key 'named.x.column' in step 'a'
 --> w.yaml:5:88
  |
5 |     config: {table: t, incremental: {colum: c}, tables: [{column: c, lag: 5}], named: {x: {}}}
  |                                                                                        ^
   = help: add 'column'
""",
    "{table: t, key: 5}": """\
error[E0405]: wrong value for 'key' in step 'a'
 --> w.yaml:5:29
  |
5 |     config: {table: t, key: 5}
  |                             ^
   = expected: text, or a list
   = found: 5
""",
}


@pytest.mark.parametrize("config", BLOCKS)
def test_the_block_says_what_is_wrong_where_and_what_to_do(config):
    errors = refused(config)
    lines = "\n\n".join(render(error) for error in errors)
    expected = BLOCKS[config].rstrip("\n")
    assert _with_columns(lines) == _with_columns(expected)
    assert all(isinstance(error, ConfigError) and error.step == "a" for error in errors)
    assert all(error.spot.column == _caret(render(error)) for error in errors)


def _with_columns(text):
    """The text without the numbers of columns: the carets say the same, and are read by people."""
    return [line for line in text.splitlines() if "-->" not in line]


def _caret(block):
    return next(line.index("^") for line in block.splitlines() if "^" in line) - 3


def test_unknown_keys_are_found_below_although_the_model_ignores_them():
    (error,) = refused("{table: t, tables: [{column: c, lagg: 5s}]}")
    assert (error.code, error.help) == ("E0403", "did you mean 'lag'?")
    assert error.message == "unknown key 'tables.0.lagg' in step 'a'"


def test_a_member_of_a_union_knows_its_own_keys():
    (error,) = refused("{table: t, lookup: {structure: hash, prefx: p}}")
    assert error.notes == ["known keys: prefix, structure"]


def test_extra_keys_pass_where_the_model_allows_them():
    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")
        a: int

    assert bound("{a: 1, b: 2}", Open).model_extra == {"b": 2}


def test_forbidden_keys_are_named_once():
    class Closed(BaseModel):
        model_config = ConfigDict(extra="forbid")
        a: int = 1

    assert [error.message for error in refused("{b: 2}", Closed)] == ["unknown key 'b' in step 'a'"]


def test_tagged_unions_are_walked_through():
    class One(BaseModel):
        kind: Literal["one"]
        size: int

    class Two(BaseModel):
        kind: Literal["two"]

    def kind(value):
        return value.get("kind") if isinstance(value, dict) else None

    class Outer(BaseModel):
        what: Annotated[
            Annotated[One, Tag("one")] | Annotated[Two, Tag("two")], Discriminator(kind)
        ]

    (error,) = refused("{what: {kind: one, size: big}}", Outer)
    assert error.message == "wrong value for 'what.size' in step 'a'"
    assert error.spot.text[error.spot.column - 1 :].startswith("big")
    (error,) = refused("{what: {kind: three}}", Outer)
    assert error.message == "wrong value for 'what' in step 'a'"


def test_an_error_of_ours_in_a_validator_keeps_its_kind():
    class Strict(BaseModel):
        a: str

        @field_validator("a")
        @classmethod
        def _refuse(cls, value):
            raise ExpressionError("no such function", code="E0204")

    (error,) = refused("{a: f(x)}", Strict)
    assert (type(error), error.code, error.step) == (ExpressionError, "E0204", "a")
    assert error.spot.line == 5


def test_no_secret_and_no_password_is_in_an_error():
    config = "{table: t, batch_size: '${secret:S}', ratio: 'postgres://u:hunter2@h', wait: '${E}'}"
    blocks = "\n".join(
        render(e) for e in refused(config, environ={"S": "topsecret", "E": "envvalue"})
    )
    assert "${secret:S}" in blocks
    assert "found: text 'postgres://u:***@h'" in blocks
    assert not [word for word in ("topsecret", "hunter2", "envvalue") if word in blocks]


def test_a_value_under_a_name_like_password_is_not_shown():
    class Login(BaseModel):
        password: int

    blocks = "\n".join(render(error) for error in refused("{password: hunter2}", Login))
    assert "hunter2" not in blocks
    assert "config: {password: *******}" in blocks


def test_a_step_without_config_points_to_its_name():
    text = "name: w\nsources:\n  a: {type: t}\ndestinations: {z: {type: x, inputs: [a]}}\n"
    workflow = load_text(text, file="w.yaml", environ={})
    with pytest.raises(ConfigError) as caught:
        bind(Config, workflow.sources["a"].config, step="a")
    assert str(caught.value.spot) == "w.yaml:3:3"


def test_true_is_no_number():
    assert [error.notes for error in refused("{table: t, batch_size: true, ratio: false}")] == [
        ["expected: a number", "found: true"],
        ["expected: a number", "found: false"],
    ]


def test_expressions_keep_their_places_and_variables():
    class Filter(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        condition: ExprText

    made = bound("{condition: \"x > '${A}'\"}", Filter, environ={"A": "b"})
    assert made.condition.source.shown == "x > '${A}'"
    assert made.condition.source.spot.text[made.condition.source.spot.column - 1 :][:3] == "x >"


def test_plain_values_from_python_need_no_places():
    assert bind(Config, {"table": "t", "wait": "2s"}, step="a").wait == 2.0
    with pytest.raises(ManyErrors) as caught:
        bind(Config, {"tabel": "t", "wait": 2}, step="a")
    assert [error.code for error in caught.value.errors] == ["E0403", "E0405"]
    assert all(error.spot is None for error in caught.value.errors)

"""Expressions in config models, and the two columns that the engine adds."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import polars as pl
import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from dataflare.expr import NOW_COLUMN, ROWKEY_COLUMN, ExprText, Typed, check
from dataflare.model.text import SourceText
from dataflare.model.types import Schema


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid")
    condition: ExprText


@pytest.mark.parametrize(
    ("given", "shown"), [("a > 1", "a > 1"), (True, "true"), (1, "1"), (1.5, "1.5")]
)
def test_a_config_field_takes_text_and_what_yaml_makes_of_it(given: object, shown: str) -> None:
    made = Config.model_validate({"condition": given})
    assert str(made.condition) == shown
    assert made.model_dump(mode="json") == {"condition": shown}


def test_a_config_field_keeps_the_place_of_its_text() -> None:
    text = SourceText("a > 1", starts=())
    assert Config(condition=text).condition.source is text  # type: ignore[arg-type]


def test_a_config_field_refuses_what_is_no_text() -> None:
    with pytest.raises(ValidationError, match="an expression is expected, as a string"):
        Config.model_validate({"condition": ["a"]})
    schema = Config.model_json_schema()["properties"]["condition"]
    assert schema["type"] == ["string", "number", "boolean"]


def values(typed: Typed, keys: list[int]) -> list[str]:
    rows = pl.DataFrame({ROWKEY_COLUMN: pl.Series(keys, dtype=pl.UInt64)})
    return rows.with_columns(x=typed.lower().value)["x"].to_list()


def test_uuid_follows_from_the_row_and_differs_between_rows_and_calls() -> None:
    typed = check("uuid()", Schema(()), step="s")
    assert typed.needs == {ROWKEY_COLUMN}
    first = values(typed, [1, 2, 3])
    assert first == values(check("uuid()", Schema(()), step="s"), [1, 2, 3])
    assert len(set(first)) == 3
    form = r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    assert all(re.fullmatch(form, each) for each in first)
    other = values(check("uuid()", Schema(()), step="s", name="b"), [1, 2, 3])
    assert not set(first) & set(other)
    both = values(check("uuid() || uuid()", Schema(()), step="s"), [1])[0]
    assert both[:36] != both[36:]


def test_now_is_the_batch_time() -> None:
    typed = check("year(now()) * 10000 + month(current_date)", Schema(()))
    assert typed.needs == {NOW_COLUMN}
    moment = pl.Series([datetime(2024, 2, 29, 23, 59, tzinfo=UTC)])
    rows = pl.DataFrame({NOW_COLUMN: moment.cast(pl.Datetime("us", "UTC"))})
    assert rows.with_columns(x=typed.lower().value)["x"].to_list() == [20240002]


def test_a_bare_column_is_known_as_one() -> None:
    schema = Schema.of({"a b": "int64"})
    assert check('"a b"', schema).is_column == "a b"
    assert check('"a b" + 0', schema).is_column is None

"""Rows are shown whole, except their secrets."""

from __future__ import annotations

import polars as pl

from dataflare.formats.visible import visible_json, visible_line
from dataflare.security.redact import Redactor
from dataflare.security.shown_rows import rows_without_secrets


def shown(columns: dict[str, object], *secrets: str) -> list[dict[str, object]]:
    frame = pl.DataFrame({name: [value, value] for name, value in columns.items()})
    return list(rows_without_secrets(frame, Redactor(secrets).redact))


def test_texts_that_look_like_half_a_secret_change_no_other_value_and_no_row() -> None:
    columns = {
        "a": "password='x",
        "b": "y' z",
        "lines": "a\u2028b\x85c\x0cd\x1ce\nf\rg",
        "open": "token={abc",
        "end": 'api_key="',
        "last": "plain",
        "closed": "}",
    }
    assert shown(columns) == [columns, columns]


def test_secrets_are_hidden_in_texts_at_any_depth_and_as_numbers() -> None:
    columns = {
        "text": "my s3cret",
        "nested": {"x": ['q"s3cret"', "url postgres://u:pass@h/d"]},
        "n": 12345,
        "whole": 12345.0,
        "other": 123456,
        "flag": True,
        "infinite": float("inf"),
        "big": 2**63 - 5,
    }
    hidden = {
        "text": "my ***",
        "nested": {"x": ['q"***"', "url postgres://u:***@h/d"]},
        "n": "***",
        "whole": "***",
        "infinite": None,
    }
    assert shown(columns, "s3cret", "12345") == [{**columns, **hidden}] * 2


def test_texts_for_terminals_stay_on_their_line_and_json_stays_the_same_value() -> None:
    assert visible_line("a\n12:00 error\x1b[2J\x9b\u202e") == "a\\n12:00 error\\x1b[2J\\x9b\\u202e"
    assert visible_json('{"a": "\x9b\u202e\u2028"}') == '{"a": "\\u009b\\u202e\\u2028"}'

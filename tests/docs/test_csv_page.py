"""What docs/csv.md says of dialects, types and rows that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dataflare import load, run
from dataflare.jobs import RunOptions

WORKFLOW = """\
name: page
version: "1.0"
sources:
  a:
    type: file
    config: {path: in.csv%s}%s
destinations:
  o: {type: file, inputs: [a], config: {path: out.ndjson}}
"""


def result_of(folder: Path, text: str | bytes, config: str, schema: str) -> Any:
    """The rows, or the code of the error."""
    (folder / "in.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    more = f", {config}" if config else ""
    types = f"\n    schema: {schema}" if schema else ""
    (folder / "w.yaml").write_text(WORKFLOW % (more, types))
    result = run(load(folder / "w.yaml"), RunOptions(folder / "home"))
    if result.error is not None:
        return result.error.code
    return [tuple(json.loads(line).values()) for line in (folder / "out.ndjson").open()]


FOUND = {
    "semicolon": ("a;b\n1;x\n", [(1, "x")]),
    "tab": ("a\tb\n1\tx\n", [(1, "x")]),
    "bar": ("a|b\n1|x\n", [(1, "x")]),
    "single quotes": ("a,b\n'x,1',2\n'y',3\n", [("x,1", 2), ("y", 3)]),
    "backslash": ('a,b\n"x \\" y",1\n"z",2\n', [('x " y', 1), ("z", 2)]),
    "comments above": ("# hello\n# more\na,b\n1,2\n", [(1, 2)]),
    "comments below": ("# hello\na,b\n1,2\n#x,3\n# no\n", [("1", 2), ("#x", 3)]),
    "sep=": ("sep=;\na;b\n1;2\n", [(1, 2)]),
    "title": ("My report\n\na,b\n1,2\n", [(1, 2)]),
    "UTF-16": ("a,b\n1,ü\n".encode("utf-16"), [(1, "ü")]),
    "cp1252": ("a,b\n1,für\n".encode("cp1252"), [(1, "für")]),
    "not cp1252 for sure": ("a,b\n1,ü\n".encode("cp1252"), "E0504"),
    "decimal comma": ("a;b\n1,5;x\n", [(1.5, "x")]),
    "thousands": ("a;b\n1.234,50;x\n", [(1234.5, "x")]),
    "two readings": ("a;b\n1,234;x\n", [("1,234", "x")]),
    "whole numbers": ("a\n1\n2\n", [(1,), (2,)]),
    "a leading zero": ("a,n\n1,1\n02116,2\n", [("1", 1), ("02116", 2)]),
    "a leading plus": ("a,n\n1,1\n+4915,2\n", [("1", 1), ("+4915", 2)]),
    "beyond 64 bits": ("a\n99999999999999999999\n", [("99999999999999999999",)]),
    "fractions": ("a\n1.5\n2\n1e3\n", [(1.5,), (2.0,), (1000.0,)]),
    "beyond a float": ("a\n9007199254740993\n1.5\n", [("9007199254740993",), ("1.5",)]),
    "20 digits beside a fraction": (
        "a\n12345678901234567890\n1.5\n",
        [("12345678901234567890",), ("1.5",)],
    ),
    "overflow": ("a\n1e400\n1.5\n", [("1e400",), ("1.5",)]),
    "digits that a float loses": (
        "a\n0.1\n0.1000000000000000012345\n",
        [("0.1",), ("0.1000000000000000012345",)],
    ),
    "17 digits": ("a\n0.1\n0.30000000000000004\n", [(0.1,), (0.30000000000000004,)]),
    "truth": ("a\ntrue\nfalse\n", [(True,), (False,)]),
    "an offset": ("a\n2024-01-01T10:00:00+05:30\n", [("2024-01-01T04:30:00Z",)]),
    "nanoseconds": ("a\n2024-01-01T10:00:00.123456789\n", [("2024-01-01T10:00:00.123456789",)]),
    "two formats": (
        "a\n2024-01-01T10:00:00\n2024-01-01 10:00:00\n",
        [("2024-01-01T10:00:00",), ("2024-01-01 10:00:00",)],
    ),
    "several kinds": ("a\n1\nx\n", [("1",), ("x",)]),
    "quoted empty cells": (
        'a,b,c\n1,,x\n"","",""\n3,,\n',
        [(1, None, "x"), (None, "", ""), (3, None, None)],
    ),
    "too few fields": ("a,b\n1,2\n3\n", "E0502"),
    "too many fields": ("a,b\n1,2\n3,4,5\n", "E0502"),
    "a quote out of place": ('a,b\n1,"x"y\n', "E0506"),
}


@pytest.mark.parametrize("claim", FOUND)
def test_what_is_found(tmp_path: Path, claim: str) -> None:
    text, expected = FOUND[claim]
    assert result_of(tmp_path, text, "", "") == expected


@pytest.mark.parametrize(
    ("config", "text", "expected"),
    [
        ('date_format: "%d.%m.%Y"', "d\n31.12.2024\n01.02.2024\n", ["2024-12-31", "2024-02-01"]),
        ('date_format: "%d.%m.%Y %H:%M"', "d\n31.12.2024 10:00\n", ["2024-12-31T10:00:00"]),
        ("quote: null", 'd\n"x"\n', ['"x"']),
        ("null_values: [NA]", "d\nx\nNA\n", ["x", None]),
    ],
)
def test_what_can_be_said(tmp_path: Path, config: str, text: str, expected: list[Any]) -> None:
    assert result_of(tmp_path, text, config, "") == [(value,) for value in expected]


DECLARED = {
    "half away from zero": ('"decimal(6, 2)"', "1.005", "1.01"),
    "half away from zero as a whole": ("int64", "1.5", 2),
    "does not fit": ("int8", "300", "E0501"),
    "too many digits": ('"decimal(6, 2)"', "12345.1", "E0501"),
    "a zero is dropped": ("int64", "02116", 2116),
    "a zero is kept": ("string", "02116", "02116"),
    **{f"true as {word}": ("bool", word, True) for word in ("true", "T", "Yes", "y", "1")},
    **{f"false as {word}": ("bool", word, False) for word in ("False", "f", "NO", "n", "0")},
    "us is cut": ('"timestamp[us]"', "2024-01-01T00:00:00.1234569", "2024-01-01T00:00:00.123456"),
    "ms is rounded": ('"timestamp[ms]"', "2024-01-01T00:00:00.9996", "2024-01-01T00:00:01"),
    "s is rounded": ('"timestamp[s]"', "2024-01-01T00:00:01.5", "2024-01-01T00:00:02"),
    "twice": (
        '"timestamp[us, Europe/Berlin]"',
        "2024-10-27 02:30:00",
        "2024-10-27T02:30:00+01:00",
    ),
    "never": ('"timestamp[us, Europe/Berlin]"', "2024-03-31 02:30:00", "E0501"),
}


@pytest.mark.parametrize("claim", DECLARED)
def test_what_is_declared(tmp_path: Path, claim: str) -> None:
    type_, text, expected = DECLARED[claim]
    result = result_of(tmp_path, f"a\n{text}\n", "", f"{{a: {type_}}}")
    assert result == expected if isinstance(result, str) else result == [(expected,)]

"""Random typed expressions over random rows, here and on DuckDB: `make fuzz EXPRESSIONS=100000 SEED=1`.

Prints each difference that docs/reference/functions.md does not list, with the seed that repeats it.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import duckdb
import oracle
import polars as pl
from generate import JSON_TEXTS, LEAVES, build, columns_of

from dataflare.errors import ExpressionError
from dataflare.model.types import parse_type

_TEXTS = ["", " ", "a", "abc", "ABC", "12", "-3.7", "1.005", "0x1F", "1e2", "true", "a%b", "x\ny", "2024-02-29",
          "2024-02-29 13:45:10.5", "héé", "ß", "日本", "a,b,c", "it's", "nan", '{"a": [1, {"b": null}]}', '{"a": 1, "a": 2}']  # fmt: skip
_FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, 2.5, -2.5, 1e18, 9.3e18, 1e300, 1e-300, float("nan"), float("inf"),
           float("-inf"), 1e-7, 123.456]  # fmt: skip
_EPOCH = datetime(1970, 1, 1)


def value(rng: random.Random, type_: str) -> Any:
    if rng.random() < 0.15:
        return None
    if type_.startswith(("int", "uint")):
        bits = int(type_.strip("uint"))
        low, high = (
            (0, 2**bits - 1) if type_[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        )
        near = [v for v in (low, low + 1, high, 0, 1, -1, 2, 7, 100) if low <= v <= high]
        return rng.choice(near) if rng.random() < 0.6 else rng.randint(low, high)
    if type_ == "float64":
        return rng.choice(_FLOATS) if rng.random() < 0.5 else rng.uniform(-1e6, 1e6)
    if type_ == "float32":
        return rng.choice([0.0, 0.5, -1.5, 2.5, 1e10, float("nan"), float("inf"), 16777216.0])
    if type_.startswith("decimal"):
        precision, scale = map(int, re.findall(r"\d+", type_))
        digits = rng.randint(1, precision)
        return Decimal(rng.randint(-(10**digits) + 1, 10**digits - 1)).scaleb(-scale)
    if type_ == "string":
        return rng.choice(_TEXTS)
    if type_ == "bool":
        return rng.random() < 0.5
    if type_ == "json":
        return rng.choice(JSON_TEXTS)
    if type_ == "binary":
        return rng.choice([b"", b"a", "é".encode(), rng.randbytes(rng.randint(1, 5))])
    if type_.startswith("list"):
        return [value(rng, type_[5:-1]) for _ in range(rng.randint(0, 4))]
    if type_.startswith("struct"):
        return {"a": value(rng, "int64"), "b": value(rng, "string")}
    if type_ == "null":
        return None
    if type_ == "time":
        return (
            _EPOCH
            + timedelta(
                microseconds=rng.choice([0, 1, 86_399_999_999, rng.randrange(86_400_000_000)])
            )
        ).time()
    if type_ == "duration[us]":
        return timedelta(microseconds=rng.randint(-(10**14), 10**14))
    if type_ == "date":
        return date(1800, 1, 1) + timedelta(days=rng.randint(0, 146_000))
    moment = _EPOCH + timedelta(microseconds=rng.randint(-(10**15), 2 * 10**15))
    if type_ == "timestamp[ms]":
        moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    return moment.replace(tzinfo=UTC) if parse_type(type_).timezone else moment


def rows(rng: random.Random, text: str) -> pl.DataFrame:
    count, columns = rng.randint(1, 6), columns_of(text)
    return oracle.frame([{n: value(rng, oracle.COLUMNS[n]) for n in columns} for _ in range(count)])


def found(seed: int, count: int) -> Iterator[tuple[int, str]]:
    """The number and text of each difference."""
    kinds = list(LEAVES)
    for number in range(count):
        rng = random.Random(f"{seed}/{number}")
        depth = rng.choice([1, 1, 2, 2, 3])
        text = build(rng.choice, rng.choice(kinds), depth)
        data = rows(rng, text)
        try:
            lines = oracle.differences(text, data, lenient=depth > 1)
        except ExpressionError as error:
            lines = [] if is_refused_there(text, data) else [f"{text}\n  refused here: {error}"]
        except (duckdb.Error, UnicodeDecodeError):
            continue  # what DuckDB itself cannot bind is not a difference of values
        except Exception as error:
            lines = [f"{text}\n  {type(error).__name__}: {str(error)[:200]}"]
        yield from ((number, line) for line in lines if not is_listed(line))


def is_refused_there(text: str, data: pl.DataFrame) -> bool:
    try:
        oracle.duckdb_values(text, data)
    except duckdb.Error:
        return True
    return False


def is_listed(line: str) -> bool:
    """Whether the docs name this kind of difference."""
    return any(re.search(pattern, line, re.DOTALL) for pattern in LISTED)


LISTED = [
    r"DECIMAL\(4, 4\).*here b?'-?0\.\d.*DuckDB b?'-?\.\d",
    r"//.*here -?\d+\.\d+(e-\d+)?, DuckDB Decimal\('-?\d+'\)$",
    r"AS TIME\).*'\d{4}-\d\d-\d\d.*here ('ERROR'|None), DuckDB",
    r"epoch\(.*here -?\d+\.\d+, DuckDB -?\d+\.\d+$",
    r"list_sum\(.*here 'ERROR', DuckDB",
    r"(AT TIME ZONE|timezone\(|TIMESTAMPTZ|tz).*here .*\b21\d\d\b.*DuckDB .*\b21\d\d\b",
    r"AS JSON\).*here ('ERROR'|None), DuckDB",
    r"(ceil|floor)\(.*here Decimal\('-?\d+'\), DuckDB -?\d",
]
"""Patterns over a printed difference, one for each kind in the docs that a drawn expression can meet."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--count", type=int, default=100_000)
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    total = 0
    for number, line in found(given.seed, given.count):
        total += 1
        print(f"[{given.seed}/{number}] {line}", flush=True)
    print(f"{given.count:,} expressions, {total:,} differences that the docs do not list")
    sys.exit(total > 0)


if __name__ == "__main__":
    main()

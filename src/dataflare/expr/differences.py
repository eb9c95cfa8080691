"""The differences between our expressions and DuckDB's, each with an example. Plain data.

Always true: the page of functions lists them, and the tests run each example in both.
"""

from __future__ import annotations

from msgspec import Struct


class Difference(Struct, frozen=True):
    """here, duckdb: the value as text, `error` or `refused`."""

    what: str
    example: str
    here: str
    duckdb: str


DIFFERENCES = (
    Difference(
        "A number in JSON keeps its digits where a float would not.",
        """'{"a": 0.12345678901234567890}' ->> '$.a'""",
        "0.12345678901234567890",
        "0.12345678901234568",
    ),
    Difference(
        "JSON is RFC 8259: NaN, trailing commas and numbers beyond a float are not JSON.",
        "json_valid('[1,]')",
        "False",
        "True",
    ),
    Difference(
        "Text is a date or time only in years 0 to 9999, without `infinity`, `epoch`, zone names and 24:00.",
        "TRY_CAST('infinity' AS timestamp) IS NULL",
        "True",
        "False",
    ),
    Difference(
        "Text with a date is not a time.",
        "TRY_CAST('2024-02-29 10:00:00' AS time) IS NULL",
        "True",
        "False",
    ),
    Difference(
        "Space around a date or time, and an offset of one digit, are allowed.",
        "TRY_CAST('2024-02-29 ' AS timestamp) IS NULL",
        "False",
        "True",
    ),
    Difference(
        "epoch() of an instant is the nearest float.",
        "epoch(TIMESTAMPTZ '2025-12-22 21:34:03.331466+00')",
        "1766439243.331466",
        "1766439243.3314662",
    ),
    Difference(
        "ceil() and floor() of an integer beyond 64 bits keep all digits.",
        "CAST(ceil(CAST(18446744073709551615 AS HUGEINT)) AS string)",
        "18446744073709551615",
        "1.8446744073709552e+19",
    ),
    Difference(
        "Zones have no summer time after 2099.",
        "CAST(TIMESTAMP '2107-08-01 00:00:00' AT TIME ZONE 'America/New_York' AS string)",
        "2107-08-01 05:00:00+00",
        "2107-08-01 04:00:00+00",
    ),
    Difference(
        "An integer beyond 64 bits is a decimal, and // of decimals has a fraction.",
        "CAST(7 AS HUGEINT) // 2",
        "3.5",
        "3",
    ),
    Difference(
        "Sums of a list's integers have 64 bits.",
        "list_sum([9223372036854775807, 1])",
        "error",
        "9223372036854775808",
    ),
    Difference(
        "A decimal without whole digits may have an exponent in text.",
        "CAST('5e-1' AS decimal(4, 4))",
        "0.5000",
        "error",
    ),
    Difference(
        "A decimal as text has a digit before the point.",
        "CAST(CAST(0.25 AS decimal(2, 2)) AS string)",
        "0.25",
        ".25",
    ),
    Difference("A number has one sign.", "TRY_CAST('+-1' AS double) IS NULL", "True", "False"),
    Difference(
        "list_distinct() keeps the order of the elements.",
        "list_distinct([3, 1, 3, 2])",
        "[3, 1, 2]",
        "[1, 3, 2] in any order",
    ),
    Difference(
        "list_position() does not find NULL.", "list_position([1, NULL], NULL)", "None", "2"
    ),
    Difference(
        "A pattern, format or path is a literal.",
        "regexp_matches('a', 'a' || '')",
        "refused",
        "True",
    ),
)

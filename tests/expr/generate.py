"""Typed expressions and rows, drawn by Hypothesis, in text that both DuckDB and we read."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import polars as pl
from hypothesis import strategies as st
from oracle import COLUMNS, frame

TEXT = st.one_of(
    st.sampled_from(["", " ", "a", "abc", "ABC", "12", "-3.7", " 8 ", "1e2", "true", "a%b", "a_b", "x\ny",
                     "2024-02-29", "2024-02-29 13:45:10.5", "héé", "€uro", "日本", "a,b,c", "it's", "nan"]),
    st.text(alphabet="abAB1 %_,.é€\n-", max_size=8),
)  # fmt: skip
FLOATS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, 1e18, -1e18, 9.3e18, 1e300,
                     float("nan"), float("inf"), float("-inf"), 1e-7, 123.456]),
    st.floats(min_value=-1e6, max_value=1e6),
)  # fmt: skip


def _integers(low: int, high: int) -> st.SearchStrategy[int]:
    near = [v for v in (low, low + 1, high, high - 1, 0, 1, -1, 2, 7, -7, 100) if low <= v <= high]
    return st.one_of(st.sampled_from(near), st.integers(low, high))


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int8": _integers(-128, 127),
    "uint8": _integers(0, 255),
    "int32": _integers(-(2**31), 2**31 - 1),
    "int64": _integers(-(2**63), 2**63 - 1),
    "float64": FLOATS,
    "float32": st.sampled_from([0.0, 0.5, -1.5, 2.5, 1e10, float("nan"), float("inf"), 16777216.0]),
    "decimal(10, 2)": st.integers(-(10**10) + 1, 10**10 - 1).map(lambda v: Decimal(v).scaleb(-2)),
    "decimal(18, 4)": st.one_of(st.integers(-99999, 99999), st.integers(-(10**18) + 1, 10**18 - 1)).map(
        lambda v: Decimal(v).scaleb(-4)
    ),
    "string": TEXT,
    "bool": st.booleans(),
    "date": st.one_of(
        st.sampled_from([date(2024, 2, 29), date(1970, 1, 1), date(1999, 12, 31), date(2020, 1, 31)]),
        st.dates(date(1800, 1, 1), date(2200, 1, 1)),
    ),
    "timestamp[us]": st.one_of(
        st.sampled_from([datetime(2024, 2, 29, 13, 45, 30, 250000), datetime(1969, 12, 31, 23, 59, 59, 999999)]),
        st.datetimes(datetime(1800, 1, 1), datetime(2200, 1, 1)),
    ),
    "timestamp[us, UTC]": st.datetimes(datetime(1950, 1, 1), datetime(2037, 1, 1)).map(
        lambda v: v.replace(tzinfo=UTC)
    ),
}  # fmt: skip


@st.composite
def frames(draw: st.DrawFn) -> pl.DataFrame:
    rows = st.fixed_dictionaries({n: st.none() | VALUES[t] for n, t in COLUMNS.items()})
    return frame(draw(st.lists(rows, min_size=1, max_size=5)))


LEAVES = {
    "int": ["i8", "j8", "u8", "i32", "j32", "i64", "j64", "0", "1", "-1", "3", "127", "1000", "2147483648"],
    "double": ["f", "g", "h", "0.5e0", "2e0", "-1e0", "0e0"],
    "dec": ["dec", "dek", "1.5", "0.25", "-2.50"],
    "text": ["s", "r", "'a'", "'Ab'", "''", "'12'", "'a,b'"],
    "bool": ["p", "q", "true", "false"],
    "date": ["d", "e", "DATE '2024-02-29'", "DATE '1999-12-31'"],
    "ts": ["ts", "tt", "TIMESTAMP '2024-02-29 13:45:30.25'"],
}  # fmt: skip

SAFE = {
    "int": """
        length({text}) | strpos({text}, {text.}) | ascii({text}) | year({date}) | month({ts}) | day({ts})
        | dayofweek({date}) | isodow({ts}) | week({date}) | dayofyear({ts}) | quarter({date}) | hour({ts})
        | second({ts}) | millisecond({ts}) | epoch_us({ts}) | epoch_ms({ts}) | isoyear({date}) | century({date})
        | decade({date}) | yearweek({date}) | ({date} - {date}) | greatest({int}, {int}) | least({int}, {int})
        | nullif({int}, {int}) | sign({double}) | sign({dec}) | EXTRACT(minute FROM {ts}) | strlen({text})
        | date_diff('<day;week;month;quarter;year;hour;minute;second;millisecond;decade>', {ts}, {ts})
        | date_diff('<day;week;month;year>', {date}, {date}) | microsecond({ts}) | if({bool!}, {int}, {int})""",
    "double": """
        ({double} + {double}) | ({double} - {double}) | ({double} * {double}) | ({double} / {double})
        | ({int} / {int}) | (-({double})) | ({dec} / {int}) | abs({double}) | sqrt({double}) | floor({double})
        | ceil({double}) | round({double}) | round({double.}, <1;2;-1>) | trunc({double}) | exp({double}) | ln({double})
        | log10({double}) | log2({double}) | cbrt({double}) | sin({double.}) | cos({double.}) | atan({double})
        | atan2({double}, {double}) | degrees({double}) | radians({double}) | power({double.}, <2;0;-1;0.5>)
        | asin({double}) | acos({double}) | tanh({double}) | greatest({double}, {double}) | least({double}, {double})
        | CAST({int} AS DOUBLE) | CAST({dec} AS DOUBLE) | epoch({ts}) | ({double} + {int}) | ({dec} * {double})
        | nullif({double}, {double}) | floor({int}) | ceil({int})""",
    "dec": """
        ({dec.} + {dec.}) | ({dec.} - {dec.}) | (-({dec})) | abs({dec}) | ({dec.} + {int.}) | ({int.} * {dec.})
        | ({dec.} * {dec.}) | nullif({dec.}, {dec.}) | greatest({dec.}, {dec.})""",
    "text": r"""
        upper({text}) | lower({text}) | trim({text}) | ltrim({text}) | rtrim({text}, 'a ')
        | substr({text}, <1;2;0;-2;i8>, <1;3;0;-1;j8>) | substr({text}, <1;3;-1;i8>) | left({text}, <2;-1;i8>)
        | right({text}, <2;-1;i8>) | replace({text}, <'a';'ab';''>, {text.}) | repeat({text.}, <2;0;-1>)
        | lpad({text}, <0;3;9>, <'*';'xy'>) | rpad({text}, <0;3;9>, <'*';'xy'>) | concat({text}, {int.}, {text})
        | ({text} || {text}) | ({text} || {int.}) | concat_ws('-', {text}, {text.})
        | split_part({text}, ',', <1;2;0;-1;5>) | regexp_replace({text}, '[a-b]+', 'X', 'g')
        | regexp_replace({text}, '(a)(.)', '\2$1\1') | regexp_extract({text}, '([a-z])(.)', <0;1;2>)
        | md5({text}) | sha256({text}) | sha1({text}) | hex({text}) | translate({text}, 'ab', 'x')
        | CAST({int} AS VARCHAR) | CAST({double} AS VARCHAR) | CAST({dec} AS VARCHAR) | CAST({bool!} AS VARCHAR)
        | CAST({date} AS VARCHAR) | CAST({ts} AS VARCHAR) | strftime({ts}, '%Y/%m/%d %H:%M:%S.%f %j %a %B %I %p')
        | strftime({date}, '%d.%m.%y') | dayname({date}) | CAST(tz AS VARCHAR) | nullif({text}, {text})
        | greatest({text}, {text}) | base64(encode({text})) | monthname({ts}) | reverse({text})""",
    "bool": r"""
        ({int} <=;<>;<;<=;>;>=;==;!=> {int}) | ({double} <=;<>;<;<=;>;>=> {double}) | ({dec} <=;<;>=> {dec})
        | ({text} <=;<>;<;<=;>;>=> {text}) | ({date} <=;<;>=> {date}) | ({ts} <=;<;>=> {ts})
        | ({int} IS <NOT ;>DISTINCT FROM {int}) | ({double} IS <NOT ;>DISTINCT FROM {double})
        | ({text} IS <NOT ;>DISTINCT FROM {text}) | ({int} BETWEEN {int} AND {int.})
        | ({double} BETWEEN {double} AND {double.}) | ({text} BETWEEN {text} AND {text.})
        | ({int} IN ({int}, {int.})) | ({int.} IN (1, 2, 3, NULL)) | ({int.} NOT IN (0, 1, 127))
        | ({text} IN ('a', 'b', '', 'Ab')) | ({text} NOT IN ({text.}, NULL, {text}))
        | ({double} IN ({double.}, {double.})) | ({bool} IS <NOT ;>NULL) | ({text} IS NULL)
        | ({bool!} AND {bool!}) | ({bool!} OR {bool!}) | (NOT {bool}) | ({bool} IS <NOT ;><TRUE;FALSE>)
        | ({text} <NOT ;>LIKE <'a%';'%b';'%a_b%';'_';'%';'a.b';'ab'>) | ({text} ILIKE '<A%;%B_;_é%>')
        | ({text} LIKE 'a!%%' ESCAPE '!') | starts_with({text}, {text.}) | ends_with({text}, {text.})
        | contains({text}, {text.}) | regexp_matches({text}, <'^[a-z]+.$';'\w\b';'[^\d]$';'(?i)B'>)
        | regexp_full_match({text}, 'a.*') | isnan({double}) | isinf({double}) | isfinite({double})
        | ({int} < {double}) | ({dec} > {int}) | ({dec} <= {double}) | ({ts} >= {date}) | (tz > '2000-01-01')
        | (ts <<;>=> '2024-02-29 10:00:00') | ({date} = '2024-02-29') | list_contains([1, NULL, 3], {int.})""",
    "date": """
        ({date} + <1;-40;0;400>) | ({date} - 3) | CAST({ts} AS DATE) | last_day({date}) | greatest({date}, {date.})
        | least({date}, {date}) | nullif({date}, {date})""",
    "ts": """
        ({ts} <+;-> INTERVAL '<1 day;-3 hours;1 month;14 months;90 minutes;1 year 2 days>')
        | date_trunc('<second;minute;hour;day;week;month;quarter;year;decade;century>', {ts})
        | date_trunc('<day;month;week>', {date}) | CAST({date} AS TIMESTAMP) | ({date} + INTERVAL '<1 day;2 months>')
        | least({ts}, {ts.}) | time_bucket(INTERVAL '<15 minutes;3 days;2 months;1 week>', {ts}) | CAST(tz AS TIMESTAMP)
        | (tz AT TIME ZONE '<Europe/Paris;America/New_York>') | ({ts} + INTERVAL (i8) HOUR)""",
}

RISKY = {
    "int": """
        ({int} + {int}) | ({int} - {int}) | ({int} * {int}) | ({int} % {int}) | ({int} // {int}) | (-({int}))
        | abs({int}) | round({int}, -1) | CAST({double} AS <TINYINT;INTEGER;BIGINT>)
        | CAST({dec} AS <TINYINT;INTEGER;BIGINT>) | CAST({int} AS <TINYINT;SMALLINT;INTEGER;BIGINT;UTINYINT;UBIGINT>)
        | CAST({text} AS <TINYINT;INTEGER;BIGINT>) | TRY_CAST({text} AS INTEGER) | TRY_CAST({int} AS TINYINT)
        | CAST({bool!} AS INTEGER) | TRY_CAST({double} AS SMALLINT) | epoch_ns({ts.})""",
    "double": """
        CAST({text} AS DOUBLE) | TRY_CAST({text} AS DOUBLE) | CAST({double.} AS FLOAT) | ({double} // {double})
        | ({double.} % <2e0;3e0;1e0>)""",
    "dec": """
        round({dec.}, <0;1;2;3>) | round({dec.}) | floor({dec.}) | ceil({dec.}) | trunc({dec.}) | ({dec.} % {dec.})
        | CAST({dec.} AS DECIMAL(<5, 1;18, 3;38, 10;4, 4>)) | CAST({double.} AS DECIMAL(<5, 1;18, 3>))
        | CAST({int.} AS DECIMAL(<5, 1;18, 3>)) | CAST({text.} AS DECIMAL(<5, 1;18, 3>))""",
    "text": "lpad({text}, 3, '') | decode(from_base64({text.})) | decode(unhex({text.}))",
    "bool": "CAST({text} AS BOOLEAN) | CAST({int} AS BOOLEAN) | CAST({double} AS BOOLEAN)",
    "date": """
        TRY_CAST({text.} AS DATE) | CAST({text.} AS DATE)
        | make_date(CAST(year(d) AS INTEGER), CAST(u8 % 14 AS INTEGER), CAST(u8 % 33 AS INTEGER))""",
    "ts": """
        TRY_CAST({text.} AS TIMESTAMP) | CAST({text.} AS TIMESTAMP) | make_timestamp(CAST(i32 AS BIGINT))
        | try_strptime({text.}, '%Y-%m-%d')""",
}

COMMON = """
    CASE WHEN {bool!} THEN {@} ELSE {@} END | COALESCE({@}, {@}) | CASE WHEN {bool!} THEN {@} END
    | CASE {int!} WHEN 1 THEN {@} WHEN 0 THEN {@} ELSE {@} END"""


def _split(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\s\|\s", text.strip())]


_HOLE = re.compile(r"\{(@|[a-z]+)([.!]?)\}")
_CHOICE = re.compile(
    r"<([^<>]*;[^<>]*)>|<(<;>=)>|<(=;<>;<;<=;>;>=;==;!=)>|<(=;<>;<;<=;>;>=)>|<(=;<;>=)>"
)


Choose = Callable[[Sequence[str]], str]


def build(choose: Choose, kind: str, depth: int, safe: bool = False) -> str:
    """One expression of a kind. `safe`: no operation that can be an error of a row, for the places
    where DuckDB evaluates what SQL need not."""
    if depth <= 0:
        return choose(LEAVES[kind])
    rules = _split(SAFE[kind]) + _split(COMMON) + ([] if safe else _split(RISKY[kind]))
    template = choose([*rules, choose(LEAVES[kind])])
    template = _CHOICE.sub(
        lambda m: choose(next(g for g in m.groups() if g is not None).split(";")), template
    )

    def hole(match: re.Match[str]) -> str:
        inner = kind if match[1] == "@" else match[1]
        if match[2] == ".":
            return choose(LEAVES[inner])
        return build(choose, inner, depth - 1, safe or match[2] == "!")

    return _HOLE.sub(hole, template)


@st.composite
def expressions(draw: st.DrawFn, kind: str, depth: int = 2) -> str:
    return build(lambda options: draw(st.sampled_from(options)), kind, depth)

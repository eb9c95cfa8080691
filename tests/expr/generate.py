"""Typed expressions and rows, drawn by Hypothesis, in text that both DuckDB and we read."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
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


JSON_TEXTS = ["{}", "[]", "null", "1", "-7", "true", '"a"', '""', '{"a": 1}', '{"a": {"b": [1, null, "x"]}}',
              '{"a": "\\u00e9\\n", "b": 1.5}', "[1, 2, 3]", '[{"a": null}, "a"]', '{"a b": [], "a": false}',
              '{"a": 18446744073709551615}', '{"a": -9223372036854775808, "": 0}']  # fmt: skip

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
    "timestamp[ms]": st.datetimes(datetime(1800, 1, 1), datetime(2200, 1, 1)).map(
        lambda v: v.replace(microsecond=v.microsecond // 1000 * 1000)
    ),
    "timestamp[ns]": st.datetimes(datetime(1800, 1, 1), datetime(2200, 1, 1)),
    "duration[us]": st.timedeltas(timedelta(-1000), timedelta(1000)),
    "int16": _integers(-(2**15), 2**15 - 1),
    "uint16": _integers(0, 2**16 - 1),
    "uint32": _integers(0, 2**32 - 1),
    "uint64": _integers(0, 2**64 - 1),
    "binary": st.one_of(st.sampled_from([b"", b"a", b"\x00\xff", "é".encode()]), st.binary(max_size=5)),
    "time": st.one_of(st.sampled_from([time(), time(13, 45, 30, 250000), time(23, 59, 59, 999999)]), st.times()),
    "json": st.sampled_from(JSON_TEXTS),
    "list<int64>": st.lists(st.none() | _integers(-(2**63), 2**63 - 1), max_size=4),
    "list<string>": st.lists(st.none() | TEXT, max_size=4),
    "struct<a: int64, b: string>": st.fixed_dictionaries(
        {"a": st.none() | _integers(-(2**63), 2**63 - 1), "b": st.none() | TEXT}
    ),
    "null": st.none(),
}  # fmt: skip


def columns_of(text: str) -> list[str]:
    """The columns that an expression names (or has as a word in a text)."""
    words = set(re.findall(r"\w+", text))
    return [name for name in COLUMNS if name in words]


LEFT_OUT = {
    "aggregates": "test_merge.py and test_own_aggregates.py draw rows for them",
    "typeof": "types have Arrow's names here",
    "current_date": "the clock", "now": "the clock", "uuid": "follows from run, split and row",
    "to_date": "DuckDB has none", "to_utc": "DuckDB has none", "hmac": "DuckDB has none",
    "initcap": "DuckDB has none", "regexp_count": "DuckDB has none", "xxh3": "DuckDB has none",
    "xxhash": "DuckDB has none", "mask_all": "DuckDB has none", "mask_email": "DuckDB has none",
    "mask_keep_first": "DuckDB has none", "mask_keep_last": "DuckDB has none", "redact": "DuckDB has none",
}  # fmt: skip
"""Functions that no drawn expression has, and why; their examples on the functions' page are tests."""
TYPES_LEFT_OUT = {
    "timestamp[s]": "Arrow's and DuckDB's seconds are held as milliseconds here",
    "duration[s]": "as timestamp[s]", "duration[ms]": "DuckDB's INTERVAL has one unit", "duration[ns]": "as duration[ms]",
}  # fmt: skip
"""Column types that no drawn row has, and why. Casts to them are drawn."""


@st.composite
def frames(draw: st.DrawFn, text: str) -> pl.DataFrame:
    """Rows with values in the columns of an expression, and NULL in others."""
    rows = st.fixed_dictionaries({n: st.none() | VALUES[COLUMNS[n]] for n in columns_of(text)})
    return frame(draw(st.lists(rows, min_size=1, max_size=5)))


LEAVES = {
    "int": ["i8", "j8", "u8", "i16", "u16", "u32", "u64", "i32", "j32", "i64", "j64", "0", "1", "-1", "3", "127", "1000", "2147483648"],
    "double": ["f", "g", "h", "0.5e0", "2e0", "-1e0", "0e0"],
    "dec": ["dec", "dek", "1.5", "0.25", "-2.50"],
    "text": ["s", "r", "'a'", "'Ab'", "''", "'12'", "'a,b'"],
    "bool": ["p", "q", "true", "false"],
    "date": ["d", "e", "DATE '2024-02-29'", "DATE '1999-12-31'"],
    "ts": ["ts", "tt", "TIMESTAMP '2024-02-29 13:45:30.25'"],
    "tz": ["tz", "TIMESTAMPTZ '2024-02-29 13:45:30.25+02'"],
    "time": ["tm", "TIME '12:30:00'"],
    "bin": ["b", "encode(s)"],
    "json": ["js", "CAST('{\"a\": [1, null]}' AS JSON)"],
    "list": ["li", "[1, NULL, 3]", "[i8, 2]"],
    "texts": ["lt", "['a', NULL, 'b']"],
    "struct": ["st", "{'a': i64, 'b': s}"],
}  # fmt: skip

SAFE = {
    "int": """
        length({text}) | strpos({text}, {text.}) | ascii({text}) | year({date}) | month({ts}) | day({ts})
        | dayofweek({date}) | isodow({ts}) | week({date}) | dayofyear({ts}) | quarter({date}) | hour({ts})
        | second({ts}) | millisecond({ts}) | epoch_us({ts}) | epoch_ms({ts}) | isoyear({date}) | century({date})
        | decade({date}) | yearweek({date}) | ({date} - {date}) | greatest({int}, {int}) | least({int}, {int})
        | nullif({int}, {int}) | sign({double}) | sign({dec}) | EXTRACT(minute FROM {ts}) | strlen({text})
        | date_diff('<day;week;month;quarter;year;hour;minute;second;millisecond;decade>', {ts}, {ts})
        | date_diff('<day;week;month;year>', {date}, {date}) | microsecond({ts}) | if({bool!}, {int}, {int})
        | minute({ts}) | date_part('<year;month;day;dow;doy;week;quarter;hour;minute;second;isodow;isoyear;epoch>', {ts})
        | bit_length({text}) | position({text.} IN {text}) | octet_length({bin}) | json_array_length({json})
        | json_array_length({json}, '$.a') | length({list}) | length({texts}) | list_position({list}, <1;3>)
        | list_position({texts}, 'a') | list_extract({list}, <1;2;-1;0;i8>) | ({list})[<1;3;-1>] | list_max({list})
        | list_min({list}) | struct_extract({struct}, 'a') | ({struct}).a | hour({time}) | second({time})
        | microsecond({time}) | hour({tz}) | day({tz}) | year(t3) | second(t9) | microsecond(t9) | epoch_us({tz})
        | epoch_ms(t3) | date_diff('<day;hour;month>', {tz}, {tz})""",
    "double": """
        ({double} + {double}) | ({double} - {double}) | ({double} * {double}) | ({double} / {double})
        | ({int} / {int}) | (-({double})) | ({dec} / {int}) | abs({double}) | sqrt({double}) | floor({double})
        | ceil({double}) | round({double}) | round({double.}, <1;2;-1>) | trunc({double}) | exp({double}) | ln({double})
        | log10({double}) | log2({double}) | cbrt({double}) | sin({double.}) | cos({double.}) | atan({double})
        | atan2({double}, {double}) | degrees({double}) | radians({double}) | power({double.}, <2;0;-1;0.5>)
        | asin({double}) | acos({double}) | tanh({double}) | greatest({double}, {double}) | least({double}, {double})
        | CAST({int} AS DOUBLE) | CAST({dec} AS DOUBLE) | epoch({ts}) | ({double} + {int}) | ({dec} * {double})
        | nullif({double}, {double}) | floor({int}) | ceil({int})
        | tan({double.}) | sinh({double}) | cosh({double}) | log({double}) | log(<2;10;0.5e0>, {double}) | (pi() * {double})
        | list_avg({list}) | epoch({tz}) | epoch(t9)""",
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
        | greatest({text}, {text}) | base64(encode({text})) | monthname({ts}) | reverse({text})
        | base64({bin}) | hex({bin}) | md5({bin}) | sha1({bin}) | sha256({bin}) | chr(<65;233;8364>)
        | json_type({json}) | json_type({json}, '$.a') | json_extract_string({json}, '<$.a;$.a.b[1];$[0];$."a b">')
        | ({json} ->> '$.a') | array_to_string({list}, '-') | array_to_string({texts}, <',';''>) | ({texts})[<1;-1>]
        | list_max({texts}) | list_min({texts}) | CAST({time} AS VARCHAR)
        | CAST({tz} AS VARCHAR) | struct_extract({struct}, 'b') | ({struct}).b | CAST({json} AS VARCHAR)
        | CAST(t3 AS VARCHAR) | CAST(t9 AS VARCHAR) | COALESCE(nu, {text}) | concat(nu, {text})
        | strftime({tz}, '%Y-%m-%d %H:%M') | strftime(t9, '%Y %H:%M:%S')""",
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
        | (ts <<;>=> '2024-02-29 10:00:00') | ({date} = '2024-02-29') | list_contains([1, NULL, 3], {int.})
        | list_contains({list}, {int.}) | list_contains({texts}, {text.}) | contains({list}, <1;i8>)
        | ({list} = {list}) | ({texts} <=;<>> {texts})
        | ({bin} <=;<;>=> {bin}) | ({time} <=;<;>=> {time}) | ({tz} <=;<;>=> {tz}) | json_exists({json}, '$.a')
        | json_exists({json}, '$.a.b[0]') | json_valid({json}) | (t3 < {ts}) | (t9 >= {ts})
        | ({ts} - {ts} > INTERVAL '<1 day;3 hours>') | (du < INTERVAL '1 day') | (nu IS NULL) | (nu = {int})
        | ({list} IS NULL) | ({struct} IS NOT NULL) | (t9 = t3) | regexp_matches({text}, 'A', 'i')""",
    "date": """
        ({date} + <1;-40;0;400>) | ({date} - 3) | CAST({ts} AS DATE) | last_day({date}) | greatest({date}, {date.})
        | least({date}, {date}) | nullif({date}, {date}) | CAST(t3 AS DATE) | CAST(t9 AS DATE) | CAST({tz} AS DATE)
        | last_day({ts})""",
    "ts": """
        ({ts} <+;-> INTERVAL '<1 day;-3 hours;1 month;14 months;90 minutes;1 year 2 days>')
        | date_trunc('<second;minute;hour;day;week;month;quarter;year;decade;century>', {ts})
        | date_trunc('<day;month;week>', {date}) | CAST({date} AS TIMESTAMP) | ({date} + INTERVAL '<1 day;2 months>')
        | least({ts}, {ts.}) | time_bucket(INTERVAL '<15 minutes;3 days;2 months;1 week>', {ts}) | CAST(tz AS TIMESTAMP)
        | (tz AT TIME ZONE '<Europe/Paris;America/New_York>') | ({ts} + INTERVAL (i8) HOUR) | date_add({date}, INTERVAL '<1 day;-1 month>') | CAST(t3 AS TIMESTAMP)
        | CAST(t9 AS TIMESTAMP) | ({ts} + du) | ({ts} - du) | timezone('<UTC;Europe/Paris>', {tz})
        | date_trunc('<hour;month>', t3) | epoch_ms({int.})""",
    "tz": """
        ({ts} AT TIME ZONE '<UTC;Europe/Paris;America/New_York>') | timezone('<UTC;Asia/Tokyo>', {ts})
        | CAST({ts} AS TIMESTAMPTZ) | ({tz} <+;-> INTERVAL '<1 day;3 hours;1 month>') | nullif({tz}, {tz})
        | greatest({tz}, {tz}) | least({tz}, {tz.}) | date_trunc('<hour;day;month;year>', {tz})
        | time_bucket(INTERVAL '<15 minutes;1 month>', {tz}) | CAST({date} AS TIMESTAMPTZ)""",
    "time": "CAST({ts} AS TIME) | nullif({time}, {time}) | greatest({time}, {time}) | least({time}, {time.})",
    "bin": "encode({text}) | nullif({bin}, {bin}) | greatest({bin}, {bin}) | unhex(hex({bin})) | from_base64(base64({bin}))",
    "json": """
        json_extract({json}, '<$.a;$.a.b;$[0];$[1].a;$."a b";$>') | ({json} -> '<$.a;$[0]>') | nullif({json}, {json})""",
    "list": """
        list_append({list}, {int.}) | list_concat({list}, {list}) | list_reverse({list}) | list_sort({list})
        | list_reverse_sort({list}) | list_sort(list_distinct({list})) | ({list})[<1;2;-2>:<2;-1;5>]
        | ({list} || {list}) | [{int.}, {int.}]""",
    "texts": """
        string_split({text}, '<,;a;>') | regexp_extract_all({text}, '<[a-z];\\w+>') | json_keys({json})
        | list_append({texts}, {text.}) | list_concat({texts}, {texts}) | list_reverse({texts}) | list_sort({texts})
        | list_reverse_sort({texts}) | list_sort(list_distinct({texts})) | ({texts})[<1;2;-2>:<2;-1;5>]
        | ({texts} || {texts}) | [{text}, {text}] | json_keys({json}, '$.a')""",
    "struct": "{'a': {int}, 'b': {text}}",
}

RISKY = {
    "int": """
        ({int} + {int}) | ({int} - {int}) | ({int} * {int}) | ({int} % {int}) | ({int} // {int}) | (-({int}))
        | abs({int}) | round({int}, -1) | CAST({double} AS <TINYINT;INTEGER;BIGINT>)
        | CAST({dec} AS <TINYINT;INTEGER;BIGINT>) | CAST({int} AS <TINYINT;SMALLINT;INTEGER;BIGINT;UTINYINT;UBIGINT>)
        | CAST({text} AS <TINYINT;INTEGER;BIGINT>) | TRY_CAST({text} AS INTEGER) | TRY_CAST({int} AS TINYINT)
        | CAST({bool!} AS INTEGER) | TRY_CAST({double} AS SMALLINT) | epoch_ns({ts.})
        | list_sum({list}) | CAST({text} AS <SMALLINT;UBIGINT;UINTEGER>) | CAST({int} AS <USMALLINT;UINTEGER>)""",
    "double": """
        CAST({text} AS DOUBLE) | TRY_CAST({text} AS DOUBLE) | CAST({double.} AS FLOAT) | ({double} // {double})
        | ({double.} % <2e0;3e0;1e0>)""",
    "dec": """
        round({dec.}, <0;1;2;3>) | round({dec.}) | floor({dec.}) | ceil({dec.}) | trunc({dec.}) | ({dec.} % {dec.})
        | CAST({dec.} AS DECIMAL(<5, 1;18, 3;38, 10;4, 4>)) | CAST({double.} AS DECIMAL(<5, 1;18, 3>))
        | CAST({int.} AS DECIMAL(<5, 1;18, 3>)) | CAST({text.} AS DECIMAL(<5, 1;18, 3>))""",
    "text": "lpad({text}, 3, '') | decode(from_base64({text.})) | decode(unhex({text.})) | decode({bin.})",
    "bool": "CAST({text} AS BOOLEAN) | CAST({int} AS BOOLEAN) | CAST({double} AS BOOLEAN)",
    "date": """
        TRY_CAST({text.} AS DATE) | CAST({text.} AS DATE)
        | make_date(CAST(year(d) AS INTEGER), CAST(u8 % 14 AS INTEGER), CAST(u8 % 33 AS INTEGER))""",
    "ts": """
        TRY_CAST({text.} AS TIMESTAMP) | CAST({text.} AS TIMESTAMP) | make_timestamp(CAST(i32 AS BIGINT))
        | try_strptime({text.}, '%Y-%m-%d') | strptime({text.}, '%Y-%m-%d')
        | make_timestamp(year(d), month(d), day(d), CAST(u8 % 25 AS BIGINT), 30, <0;1.5;f>)
        | CAST(ts AS TIMESTAMP_<S;MS>)""",
    "tz": "to_timestamp(<i32;f;1.5e0>) | CAST({text.} AS TIMESTAMPTZ) | TRY_CAST({text.} AS TIMESTAMPTZ)",
    "time": "CAST({text.} AS TIME) | TRY_CAST({text.} AS TIME)",
    "bin": "unhex({text.}) | from_base64({text.})",
    "json": "CAST({text.} AS JSON) | TRY_CAST({text.} AS JSON)",
    "list": "CAST([{text.}, '1'] AS BIGINT[]) | CAST([{double.}] AS INTEGER[])",
    "texts": "CAST({list} AS VARCHAR[]) | list_append({texts}, {text})",
    "struct": "{'a': {int}, 'b': {text}}",
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

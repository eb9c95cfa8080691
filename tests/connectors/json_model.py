"""Random rows of JSON as text, and what Python's own parser says that they hold."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

KEYS = ("a", "b", "é", "a b")
EXACT_MAX = 2**53
EDGES = [n + d for n in (2**31, 2**53, 2**63, 2**64, 2**127) for d in (-1, 0, 1)]

NUMBERS = st.one_of(
    st.integers(-100, 100).map(str),
    st.sampled_from([sign * edge for sign in (-1, 1) for edge in EDGES]).map(str),
    st.integers(-(10**45), 10**45).map(str),
    st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?", fullmatch=True),
)
TEXTS = st.tuples(st.text('ab1.5"\\/{}[]:, é\U0001f600\n\x01', max_size=6), st.booleans()).map(
    lambda pair: json.dumps(pair[0], ensure_ascii=pair[1])
)
HALVES = st.sampled_from([r'"\ud83d"', r'"a\uDE00b"', r'"\ude00\ud83d"'])
SCALARS = st.one_of(NUMBERS, TEXTS, st.sampled_from(["null", "true", "false"]))


def _objects(values: st.SearchStrategy[str], colon: str = ":") -> st.SearchStrategy[str]:
    """Objects; now and then a key stands twice."""
    fields = st.lists(st.tuples(st.sampled_from(KEYS), values), max_size=4)
    return fields.map(
        lambda pairs: "{" + ",".join(f"{json.dumps(k)}{colon}{v}" for k, v in pairs) + "}"
    )


VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]"),
        _objects(inner),
    ),
    max_leaves=4,
)
ROWS = st.one_of(_objects(SCALARS), _objects(VALUES, " : "), _objects(NUMBERS, ": "))
ROWS_WITH_HALVES = _objects(st.one_of(SCALARS, HALVES))


class Written(Decimal):
    """A number with a fraction or an exponent. text: as it was written."""

    text: str

    def __new__(cls, text: str) -> Written:
        made = super().__new__(cls, text)
        made.text = text
        return made


def model(row: str) -> Any:
    """What a row holds: the first of equal keys, and every digit."""

    def first(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return dict(reversed(pairs))

    return json.loads(row, object_pairs_hook=first, parse_float=Written)


def is_half(row: str) -> bool:
    """Whether half of a surrogate pair stands anywhere in a row."""
    try:
        json.dumps(json.loads(row, object_pairs_hook=list), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def same(value: Any, got: Any) -> bool:
    """Whether what was read is what was written, whatever type the column has."""
    if value is None or got is None:
        empty = isinstance(got, dict) and all(each is None for each in got.values())
        return value is None and (got is None or empty)
    match got:
        case bool():
            return value is got
        case int():
            return type(value) is int and value == got
        case float():
            return isinstance(value, int | Written) and _same_float(value, got)
        case str():
            return _same_text(value, got)
        case list():
            return isinstance(value, list) and len(value) == len(got) and all(map(same, value, got))
        case dict():
            return (
                isinstance(value, dict)
                and all(same(value.get(k), v) for k, v in got.items())
                and all(v is None or k in got for k, v in value.items())
            )
    return False


def _same_float(value: int | Written, got: float) -> bool:
    if abs(value) <= EXACT_MAX:
        return got == float(value)
    return math.isfinite(got) and Decimal(value) in (Decimal(got), Decimal(repr(got)))


def _same_text(value: Any, got: str) -> bool:
    match value:
        case str():
            return got == value
        case bool():
            return got == str(value).lower()
        case int():
            return got == str(value)
        case Written():
            return got == value.text
    return bool(json.loads(got, parse_float=Decimal) == value) or model(got) == value

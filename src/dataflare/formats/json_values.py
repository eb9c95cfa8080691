"""JSON values as they were written: no digit of a number is lost, and every reader follows the same
rules.

Always true: a whole number is an `int` of any size; a number with a fraction or an exponent is a
`Number`, which keeps its text; the first of two equal keys of an object is used, as in DuckDB; half
a surrogate pair is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

import msgspec
import orjson

from dataflare.formats.number_bytes import BEYOND_FLOAT
from dataflare.formats.number_text import differs

FLOAT_WHOLE_MAX = 1 << 53
"""Up to here a float64 holds every whole number."""
DEPTH_MAX = 128
"""A row whose lists and objects are nested deeper than this is refused."""
_DEEP = f"not read: nested deeper than {DEPTH_MAX} lists and objects"
_HALF = "half of a character, which no text can hold"
FLOAT_ERROR = 4.5e-16
"""Two units in the last place of a float64, as a share of it."""
_BEYOND_FLOAT = re.compile(BEYOND_FLOAT)
_FLOAT32_MAX = 3.4028235677973366e38
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_SPACED_KEY = re.compile(rb'"[ \t\n\r]+:')


class Number(str):
    """A number with a fraction or an exponent, as it was written."""

    __slots__ = ()
    __repr__ = str.__str__  # shown as it was written, not in quotes


class BadJson(ValueError):
    """A text that is not JSON, or JSON that no reader accepts. The message describes the
    problem."""


def _first_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in pairs:
        row.setdefault(name, value)
    return row


_quick = msgspec.json.Decoder(float_hook=Number)
_careful = json.JSONDecoder(object_pairs_hook=_first_of_each, parse_float=Number)


def decode(text: bytes, *, compact: bool = False) -> Any:
    """The value of a JSON text. compact: there is no space before its colons, so no search for it
    is needed. Raises BadJson."""
    try:
        value = _quick.decode(text)
        if (text.count(b'":') if compact else _keys_in(text)) != _keys(value):
            value = _careful.decode(text.decode())
    except (RecursionError, _TooDeep):
        raise BadJson(_DEEP) from None
    except ValueError as error:
        raise BadJson(_problem(text, error)) from None
    return value


def repeated_key(text: bytes) -> str | None:
    """The first key that stands twice in one object of a JSON text; None if there is none, or if the text
    is not JSON."""
    try:
        if _keys_in(text) == _keys(_quick.decode(text)):
            return None
        _strict.decode(text.decode())
    except _Repeated as error:
        return error.key
    except (ValueError, RecursionError, _TooDeep):
        return None
    return None


def repeated_key_of(lines: Iterable[bytes]) -> str | None:
    """The first such key of lines of JSON."""
    return next((key for line in lines if (key := repeated_key(line)) is not None), None)


def repeated_key_warning(name: str, key: str) -> str:
    """name: of the file."""
    return f"{name} has the key '{key}' twice in one object: only its first value is read"


class _Repeated(Exception):
    def __init__(self, key: str) -> None:
        self.key = key


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Repeated(next(name for name in names if names.count(name) > 1))
    return fields


_strict = json.JSONDecoder(object_pairs_hook=_each_once)


class _TooDeep(Exception):
    pass


def _keys_in(text: bytes) -> int:
    """The number of keys of all objects in a text, or more. A parsed value with fewer keys may have
    lost a duplicate key, and is decoded again by the careful decoder."""
    count = text.count(b'":')
    for space in (b'" ', b'"\t', b'"\n', b'"\r'):
        if space in text:
            count += len(_SPACED_KEY.findall(text))
            break
    return count


def _keys(value: Any, depth: int = 1) -> int:
    """The number of keys of all objects in a value."""
    if depth > DEPTH_MAX:
        raise _TooDeep
    count = 0
    if type(value) is dict:
        count, value = len(value), value.values()
    elif type(value) is not list:
        return 0
    for each in value:
        if type(each) is dict or type(each) is list:
            count += _keys(each, depth + 1)
    return count


def _problem(text: bytes, error: ValueError) -> str:
    try:
        text.decode()
    except UnicodeDecodeError:
        return "not valid UTF-8"
    if _SURROGATE.search(text) and "surrogate" in (message := _decode_error(text)):
        return f"not valid JSON: {message} ({_HALF})"
    if "range" in str(error):
        return "not read: a number in it has thousands of digits"
    return f"not valid JSON: {_decode_error(text) or error}"


def _decode_error(text: bytes) -> str:
    """The error and its position, in orjson's words."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return f"{error.msg} at character {error.pos + 1}"
    return ""


def keeps_digits(value: int | Number) -> bool:
    """Whether a float64 can hold this number: up to 2^53 the nearest float64 is accepted, beyond
    that only an equal one."""
    if type(value) is int:
        if -FLOAT_WHOLE_MAX <= value <= FLOAT_WHOLE_MAX:
            return True
        try:
            return int(float(value)) == value
        except OverflowError:
            return False
    nearest = float(value)
    if -FLOAT_WHOLE_MAX < nearest < FLOAT_WHOLE_MAX:
        return True
    return is_shortest(value)


def keeps_all_digits(value: int | Number) -> bool:
    """Whether a float64, written with as many digits, is this number: the rule for a column whose type
    was inferred, as in CSV."""
    return keeps_digits(value) and not (isinstance(value, Number) and differs(value))


def is_beyond_float(value: int | Number) -> bool:
    """Whether a number after the sample has more digits than a float64 keeps: more than 17, and not all
    of them zero, or less than its rounding error, from the seventh after the point on.

    `json_loss` finds each such number in the columns of a chunk; so it is this rule and not a finer one."""
    if not isinstance(value, Number) or _BEYOND_FLOAT.search(value) is None:
        return False
    millionths = float(value) * 1e6
    if abs(millionths - _whole(millionths)) <= abs(millionths) * FLOAT_ERROR:
        return False
    return differs(str(value))


def _whole(value: float) -> float:
    return float(round(value)) if math.isfinite(value) else value


def is_shortest(value: int | Number) -> bool:
    """Whether the nearest float64, written as text, has all digits of the number."""
    nearest = float(value)
    if nearest in (float("inf"), float("-inf")):
        return False
    return Decimal(repr(nearest)) == Decimal(value)


def fits_float32(value: int | Number) -> bool:
    return keeps_digits(value) and abs(float(value)) < _FLOAT32_MAX


def text_of(value: Any) -> str:
    """A value as a column of text has it: numbers as they were written, lists and objects as JSON."""
    return value if isinstance(value, str) else encoded(value).decode()


def encoded(value: Any) -> bytes:
    """JSON of a value that `decode` gave, spaced as Polars spaces it."""
    match value:
        case Number():
            return value.encode()
        case dict():
            pairs = (orjson.dumps(name) + b": " + encoded(each) for name, each in value.items())
            return b"{" + b", ".join(pairs) + b"}"
        case list():
            return b"[" + b", ".join(map(encoded, value)) + b"]"
        case bool() | None | str():
            return orjson.dumps(value)
    return str(value).encode()


def list_items(text: bytes) -> list[bytes]:
    """The items of a JSON list, each as it was written, on one line. Raises BadJson."""
    return [_on_one_line(item) for item in _parts(_items, text)]


def fields_of(text: bytes) -> dict[str, bytes]:
    """The fields of a JSON object, each value as it was written, on one line. Raises BadJson."""
    fields = _parts(_fields, text)
    keys = len(fields) + sum(_keys_in(bytes(value)) for value in fields.values())
    if keys != _keys_in(text):
        fields = _first_fields(text)
    return {name: _on_one_line(value) for name, value in fields.items()}


_items = msgspec.json.Decoder(list[msgspec.Raw])
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_MARKS = re.compile(rb"[\s,:]*")


def _parts(decoder: msgspec.json.Decoder[Any], text: bytes) -> Any:
    try:
        return decoder.decode(text)
    except RecursionError:
        raise BadJson(_DEEP) from None
    except ValueError as error:
        message = _problem(text, error)
        if _HALF not in message:
            raise BadJson(message) from None
    # Half a surrogate pair makes one row bad, not the whole text.
    return list(_values_in(text)) if decoder is _items else _first_fields(text)


def _first_fields(text: bytes) -> dict[str, bytes]:
    """The fields of an object that may have duplicate keys."""
    parts = list(_values_in(text))
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return _first_of_each([(json.loads(name), value) for name, value in pairs])


def _values_in(text: bytes) -> Iterator[bytes]:
    """The texts of the values in a list; for an object, of its keys and values alternately."""
    characters, text = text.decode("latin-1"), text.rstrip()
    place = _end_of_marks(text, _end_of_marks(text, 0) + 1)
    while place < len(text) - 1:
        _, end = _careful.raw_decode(characters, place)
        yield text[place:end]
        place = _end_of_marks(text, end)


def _end_of_marks(text: bytes, place: int) -> int:
    match = _MARKS.match(text, place)
    return match.end() if match is not None else place


def _on_one_line(text: bytes | msgspec.Raw) -> bytes:
    # Line breaks are between tokens only: inside a string they are escaped.
    return bytes(text).replace(b"\n", b" ").replace(b"\r", b" ")


def line_of(row: Mapping[str, Any]) -> bytes:
    """A row as a line of NDJSON."""
    try:
        return orjson.dumps(row, _raw_number, orjson.OPT_PASSTHROUGH_SUBCLASS)
    except TypeError:  # whole numbers beyond 64 bits
        return encoded(row)


def _raw_number(value: Any) -> orjson.Fragment:
    return orjson.Fragment(value.encode())


def sorted_text(value: Any) -> str:
    """A text that is the same for equal values: it does not depend on the order of keys, or on the
    spelling of numbers that a float64 holds."""
    option = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_SORT_KEYS
    try:
        return orjson.dumps(value, _plain_number, option).decode()
    except TypeError:  # whole numbers beyond 64 bits
        return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _plain_number(value: Any) -> Any:
    return float(value) if is_shortest(value) else _raw_number(value)

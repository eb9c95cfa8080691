"""Pydantic's errors in words for the user."""

from __future__ import annotations

from typing import Any

_TYPES = {
    "string_type": "text",
    "string_sub_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number that fits 64 bits",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dataclass_type": "a mapping",
    "none_required": "null",
    "bytes_type": "text",
    "decimal_parsing": "a decimal number",
    "decimal_type": "a decimal number",
}


def statement(complaint: Any) -> str | None:
    """The message of a validator that says what is wrong. None if the error says what was expected."""
    if complaint["type"] not in ("value_error", "assertion_error"):
        return None
    message = _message(complaint)
    return None if message.startswith("expected ") else message


def _message(complaint: Any) -> str:
    return str(complaint.get("ctx", {}).get("error", complaint["msg"]))


def expected_words(complaint: Any) -> str:
    """The expected value, in words. complaint: one of `ValidationError.errors()`."""
    kind: str = complaint["type"]
    context: dict[str, Any] = complaint.get("ctx", {})
    if kind in _TYPES:
        return _TYPES[kind]
    match kind:
        case "value_error" | "assertion_error":
            return _message(complaint).removeprefix("expected ")
        case "literal_error" | "enum":
            return f"one of {context['expected'].replace(' or ', ', ')}"
        case "greater_than":
            return f"more than {_plain(context['gt'])}"
        case "greater_than_equal":
            return f"at least {_plain(context['ge'])}"
        case "less_than":
            return f"less than {_plain(context['lt'])}"
        case "less_than_equal":
            return f"at most {_plain(context['le'])}"
        case "string_too_short":
            return f"text of at least {_count(context['min_length'], 'character')}"
        case "string_too_long":
            return f"text of at most {_count(context['max_length'], 'character')}"
        case "string_pattern_mismatch":
            return f"text that matches {context['pattern']}"
        case "too_short":
            return f"at least {_count(context['min_length'], 'item')}"
        case "too_long":
            return f"at most {_count(context['max_length'], 'item')}"
    message: str = complaint["msg"]
    return message[:1].lower() + message[1:]


def _plain(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"

"""Shared parts of the conformance suites: the error for a broken law, laws by name, comparison of rows."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import polars as pl
from polars.testing import assert_frame_equal

from dataflare.errors import DataFlareError

_Subject = TypeVar("_Subject")
Laws = Mapping[str, Callable[[_Subject], Awaitable[None]]]


class ContractBroken(AssertionError):
    """A connector or step breaks a law of its contract. law: its name in the suite."""

    def __init__(self, law: str, message: str) -> None:
        super().__init__(f"{law}: {message}")
        self.law = law


def hold(law: str, condition: bool, message: str) -> None:
    """Raise ContractBroken if the condition of a law is not true."""
    if not condition:
        raise ContractBroken(law, message)


async def check_laws(
    laws: Laws[_Subject],
    subject: _Subject,
    only: Sequence[str],
    skip: Iterable[str],
    gaps: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Check a subject against all laws, or against some. Raises ContractBroken for the first broken one, and for a law
    of `gaps` that holds: a gap is closed then, and its mark has to go. gaps: by law, why it does not hold."""
    unknown = {*only, *skip, *gaps} - laws.keys()
    if unknown:
        raise ValueError(f"unknown laws {sorted(unknown)}; known: {', '.join(laws)}")
    for name in only or laws:
        if name in skip:
            continue
        if name not in gaps:
            await laws[name](subject)
            continue
        try:
            await laws[name](subject)
        except (ContractBroken, DataFlareError):
            continue
        raise ContractBroken(name, f"it holds now, so this is not a gap any more: {gaps[name]}")


def through_json(law: str, value: Any) -> Any:
    """The value after it was written to a checkpoint as JSON and read from it."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ContractBroken(law, f"{value!r} is not JSON: {error}") from error


def equal(
    law: str, actual: pl.DataFrame, expected: pl.DataFrame, message: str, *, ordered: bool = True
) -> None:
    """Check that two frames have the same rows. ordered: False if their order may differ."""
    try:
        if not ordered:
            actual, expected = sorted_rows(actual), sorted_rows(expected)
        assert_frame_equal(actual, expected, check_column_order=True)
    except AssertionError as error:
        counts = f"{actual.height} rows instead of {expected.height}"
        raise ContractBroken(law, f"{message}: {counts}; {error}") from error


def sorted_rows(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows in a fixed order that depends on their values only, for any types."""
    if not frame.width or frame.height < 2:
        return frame
    keys = [repr(row) for row in frame.iter_rows()]
    return frame[sorted(range(frame.height), key=keys.__getitem__)]

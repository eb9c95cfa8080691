"""What the conformance suites share: a broken law as an error, laws found by name, equal rows."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import polars as pl
from polars.testing import assert_frame_equal

_Subject = TypeVar("_Subject")
Laws = Mapping[str, Callable[[_Subject], Awaitable[None]]]


class ContractBroken(AssertionError):
    """A connector or step does not keep what the contract says. law: the name of the suite's part."""

    def __init__(self, law: str, said: str) -> None:
        super().__init__(f"{law}: {said}")
        self.law = law


def hold(law: str, condition: bool, said: str) -> None:
    """Raise ContractBroken where a condition of a law is not met."""
    if not condition:
        raise ContractBroken(law, said)


async def check_laws(
    laws: Laws[_Subject], subject: _Subject, only: Sequence[str], skip: Iterable[str]
) -> None:
    """Hold a subject to all laws, or to some of them. Raises ContractBroken for the first broken."""
    unknown = {*only, *skip} - laws.keys()
    if unknown:
        raise ValueError(f"unknown laws {sorted(unknown)}; known: {', '.join(laws)}")
    for name in only or laws:
        if name not in skip:
            await laws[name](subject)


def through_json(law: str, value: Any) -> Any:
    """The value after a checkpoint: as JSON and back."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ContractBroken(law, f"{value!r} is not JSON: {error}") from error


def equal(
    law: str, found: pl.DataFrame, wanted: pl.DataFrame, said: str, *, ordered: bool = True
) -> None:
    """Hold two frames to the same rows; in any order where `ordered` is False."""
    try:
        if not ordered:
            found, wanted = sorted_rows(found), sorted_rows(wanted)
        assert_frame_equal(found, wanted, check_column_order=True)
    except AssertionError as error:
        counts = f"{found.height} rows instead of {wanted.height}"
        raise ContractBroken(law, f"{said}: {counts}; {error}") from error


def sorted_rows(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows in an order of their own, whatever their types."""
    if not frame.width or frame.height < 2:
        return frame
    keys = [repr(row) for row in frame.iter_rows()]
    return frame[sorted(range(frame.height), key=keys.__getitem__)]

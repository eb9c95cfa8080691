"""What happens to rows that fail: the run fails, they are skipped, or they become dead letters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from dataflare.errors import DataError, DataFlareError
from dataflare.expr import error_text
from dataflare.model.types import RESERVED
from dataflare.operators.base import ERROR_COLUMN, Lowering
from dataflare.operators.lookup import MANY, MISSED
from dataflare.operators.parse import UNPARSED
from dataflare.operators.schema_change import UNFORESEEN
from dataflare.operators.validate import RULE_BROKEN

if TYPE_CHECKING:
    from dataflare.engine.segments import Given, Outcome
    from dataflare.operators.python import PythonCall
    from dataflare.sdk.processor import Refused
    from dataflare.sdk.source import BadRow

_KINDS = {
    RULE_BROKEN: ("E0540", "the row breaks the rule"),
    UNPARSED: ("E0541", "the text does not parse"),
    MISSED: ("E0542", "the table has no row for the key"),
    MANY: ("E0543", "the table has several rows for the key"),
    UNFORESEEN: ("E0545", "the destination has no such column, and the row has a value for it"),
}

_SKIP = "set error_handling: {on_error: skip}"
_HELP: dict[int | None, str] = {
    None: f"mend the data, or {_SKIP}",
    RULE_BROKEN: "mend the data, or set the rule's on_fail to drop, dead_letter, tag or warn",
    UNPARSED: f"mend the data, or {_SKIP}",
    MISSED: "add the key to the table, or set on_miss to null, drop or dead_letter",
    MANY: "make the keys of the table unique, or set on_many to first or all",
}
_GUARD = f"mend the data, guard the expression (TRY_CAST, CASE, NULLIF), or {_SKIP}"


@dataclass(frozen=True)
class FailedRow:
    """One row that failed. row: its columns as they reached the step's chain."""

    step: str
    code: str
    message: str
    row: Mapping[str, Any]
    place: str | None


class RowErrors:
    """The policy of a run, by step. policies: fail, skip or dead_letter; rules that say `fail` or
    `dead_letter` themselves are sites of their step and follow `on_fail`."""

    def __init__(self, policies: Mapping[str, str]) -> None:
        self.policies = policies

    def take(
        self, bad: pl.DataFrame, lowering: Lowering, given: Given, outcome: Outcome
    ) -> dict[str, int]:
        """Deal with the rows that have a fault. Returns how many were taken out, by step.
        Raises DataError for the first whose step says `fail`."""
        codes = bad[ERROR_COLUMN]
        sites = Counter((codes // 256).to_list())
        policies = {site: self._policy_of(site, lowering) for site in sites}
        failing = [site for site, policy in policies.items() if policy == "fail"]
        if failing:
            first = bad.filter((codes // 256).is_in(failing)).head(1)
            (failed,) = self._failed(first, lowering, given)
            raise self._error(failed, int(first[ERROR_COLUMN][0]) % 256)
        taken: dict[str, int] = {}
        for site, rows in sites.items():
            step = lowering.sites[site][0]
            taken[step] = taken.get(step, 0) + rows
            outcome.count_errors(step, rows)
        kept = [site for site, policy in policies.items() if policy == "dead_letter"]
        outcome.failed += self._failed(bad.filter((codes // 256).is_in(kept)), lowering, given)
        return taken

    def unread(self, step: str, bad: Sequence[BadRow], outcome: Outcome) -> None:
        """Deal with rows that a source could not read. Raises DataError where it says `fail`."""
        if bad and self.policy(step) == "fail":
            first = bad[0]
            raise DataError(
                f"step '{step}': {first.place}: {first.message}",
                code=first.code,
                step=step,
                notes=[f"the row: {first.raw[:200]}"] if first.raw else [],
                help="mend the data, or set error_handling: {on_error: skip}",
            )
        if self.policy(step) == "dead_letter":
            outcome.failed.extend(
                FailedRow(step, row.code, row.message, {"raw": row.raw}, row.place) for row in bad
            )
        outcome.count_errors(step, len(bad))

    def refused(self, step: str, refused: Refused, outcome: Outcome) -> None:
        """Deal with rows that an operator could not take. Raises DataError where its step says `fail`."""
        policy, rows = self.policy(step), refused.rows
        if policy == "fail":
            row = rows.row(0, named=True)
            raise self._error(FailedRow(step, refused.code, refused.message, row, None), None)
        outcome.count_errors(step, rows.height)
        if policy == "dead_letter":
            outcome.failed += [
                FailedRow(step, refused.code, refused.message, row, None)
                for row in rows.iter_rows(named=True)
            ]

    def guarded(self, call: PythonCall, frame: pl.DataFrame, outcome: Outcome) -> pl.DataFrame:
        """The result of a user's function; where rows may be left out, those that make it raise are
        found by halving the batch."""
        try:
            return call.run(frame)
        except DataError as error:
            if self.policy(call.step) == "fail" or error.code != "E0520":
                raise
            if frame.height == 1:
                outcome.count_errors(call.step, 1)
                if self.policy(call.step) == "dead_letter":
                    row = frame.row(0, named=True)
                    failed = FailedRow(call.step, error.code, error.message, row, None)
                    outcome.failed.append(failed)
                return pl.DataFrame(schema=call.output.to_polars())
        half = frame.height // 2
        parts = (frame.head(half), frame.slice(half))
        return pl.concat([self.guarded(call, part, outcome) for part in parts])

    def policy(self, step: str) -> str:
        return self.policies.get(step, "fail")

    def _policy_of(self, site: int, lowering: Lowering) -> str:
        """What the site's own config says, else the step's `on_error`."""
        return lowering.policies.get(site) or self.policy(lowering.sites[site][0])

    def _failed(self, bad: pl.DataFrame, lowering: Lowering, given: Given) -> list[FailedRow]:
        """What is known of these rows: they are found again in the rows that entered."""
        if not bad.height:
            return []
        numbers = bad["__dataflare_row"]
        original = given.original()[numbers]
        original = original.select(n for n in original.columns if not n.startswith(RESERVED))
        if given.row_numbers is not None:
            numbers = given.row_numbers.gather(numbers)
        made: list[FailedRow] = []
        for code, number, row in zip(
            bad[ERROR_COLUMN], numbers, original.iter_rows(named=True), strict=True
        ):
            step, shown = lowering.sites[code // 256]
            error_code, text = _KINDS.get(code % 256) or error_text(code % 256)
            place = given.place(number) if given.place is not None else None
            made.append(FailedRow(step, error_code, f"{shown}: {text}", row, place))
        return made

    def _error(self, failed: FailedRow, kind: int | None) -> DataFlareError:
        where = f" ({failed.place})" if failed.place else ""
        shown = ", ".join(f"{name}={_shown(value)}" for name, value in failed.row.items())
        return DataError(
            f"step '{failed.step}': {failed.message}{where}",
            code=failed.code,
            step=failed.step,
            notes=[f"the row: {shown[:400]}"],
            help=_HELP.get(kind, _GUARD),
        )


def _shown(value: Any) -> str:
    """A value of a row as one would write it in an expression."""
    if value is None or isinstance(value, bool):
        return {None: "NULL", True: "true", False: "false"}[value]
    return repr(value) if isinstance(value, str | bytes | list | dict) else str(value)

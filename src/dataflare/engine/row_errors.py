"""What happens to rows that fail: the run fails, they are skipped, or they become dead letters."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from dataflare.errors import DataError, DataFlareError
from dataflare.expr import error_text
from dataflare.formats.misread import raw_text
from dataflare.formats.neighbours import neighbours
from dataflare.formats.row_text import row_text
from dataflare.formats.text_write import python_row, python_rows
from dataflare.model.bad_rows import BadRow, BadRows
from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.model.types import RESERVED
from dataflare.operators.base import ERROR_COLUMN, Lowering
from dataflare.operators.lookup import MANY, MISSED
from dataflare.operators.parse import UNPARSED
from dataflare.operators.schema_change import UNFORESEEN
from dataflare.operators.stamp import AHEAD_OF_CLOCK, OUT_OF_YEARS, WITHOUT_TIME
from dataflare.operators.validate import RULE_BROKEN
from dataflare.sdk.runtime import current
from dataflare.sdk.user_code import is_of_rows

if TYPE_CHECKING:
    from dataflare.engine.segments import Given, Outcome
    from dataflare.operators.python import PythonCall
    from dataflare.sdk.processor import Refused

_KINDS = {
    RULE_BROKEN: ("E0540", "the row breaks the rule"),
    UNPARSED: ("E0541", "the text does not parse"),
    MISSED: ("E0542", "the table has no row for the key"),
    MANY: ("E0543", "the table has several rows for the key"),
    UNFORESEEN: ("E0545", "the destination has no such column, and the row has a value for it"),
    WITHOUT_TIME: ("E0550", "the row has no event time"),
    OUT_OF_YEARS: ("E0552", "the event time is not in the years 1 to 9999"),
    AHEAD_OF_CLOCK: (
        "E0551",
        "the event time is further ahead of the clock than max_future allows",
    ),
}

_OF_TABLES = (MISSED, MANY, UNFORESEEN, AHEAD_OF_CLOCK)
"""Faults that depend on more than the row."""
_TAKEN_BACK = (int(RowKind.UPDATE_BEFORE), int(RowKind.DELETE))
_SKIP = "set error_handling: {on_error: skip}"
_HELP: dict[int | None, str] = {
    None: f"fix the data, or {_SKIP}",
    RULE_BROKEN: "fix the data, or set the rule's on_fail to drop, dead_letter, tag or warn",
    UNPARSED: f"fix the data, or {_SKIP}",
    MISSED: "add the key to the table, or set on_miss to null, drop or dead_letter",
    MANY: "make the keys of the table unique, or set on_many to first or all",
    WITHOUT_TIME: f"fix the data, filter such rows out where they come from, or {_SKIP}",
    OUT_OF_YEARS: f"fix the data, say in which unit numbers are (to_timestamp, epoch_ms), or {_SKIP}",
    AHEAD_OF_CLOCK: f"fix the data, raise max_future in the source's event_time, or {_SKIP}",
}
_UNREAD_OPTIONS = {
    "E0502": (("delimiter", "quote", "escape", "comment", "skip_rows"), "the file has its own"),
    "E0504": (("encoding",), "the text has another one"),
    "E0506": (("quote", "escape"), "the file has others"),
}
"""The options of a source of files that may make a row readable, and when, by the row's code."""


def _unread_help(code: str, options: Collection[str], step: str = "") -> str:
    """What may cure a row that a source could not read. options: those of the source. step: with the name of the table,
    where it is one of many."""
    cure = ""
    if code == "E0501":
        table = step.partition(".")[2]
        place = f"per_table: {{{table}: {{schema: ...}}}}" if table else "'schema'"
        cure = f"say the column's type in {place} (string keeps any text), "
        if "decimal" in options:
            cure = cure[:-2] + "; for numbers such as 1.234,50 set decimal: ','; "
    elif code == "E0560":
        cure = "give more in settings: {resources: {memory: ...}}, "
    # Without `quote`, it is not a source of files: its `encoding` may be base64.
    elif code in _UNREAD_OPTIONS and "quote" in options:
        names, when = _UNREAD_OPTIONS[code]
        *most, last = (f"'{name}'" for name in names if name in options)
        cure = f"set {', '.join(most)}{' or ' if most else ''}{last} if {when}, "
    return f"{cure}fix the data, or {_SKIP}"


HIDDEN = "***"
_GUARD = f"fix the data, guard the expression (TRY_CAST, CASE, NULLIF), or {_SKIP}"


FAILED = {
    "step": pl.String,
    "code": pl.String,
    "message": pl.String,
    "position": pl.String,
    "row": pl.String,
    "neighbours": pl.String,
}
"""The columns of rows that failed: the row as JSON, as it reached the step's chain; position: where it
stands, to show to the user, or NULL; neighbours: of a row that a source could not read."""


def failed_rows(
    steps: str | Sequence[str],
    codes: str | Sequence[str],
    messages: str | Sequence[str],
    rows: Iterable[Mapping[str, Any]],
    places: Sequence[str | None] | None = None,
) -> pl.DataFrame:
    """Failed rows as FAILED says; what is the same for all of them may be given once."""
    texts = [row_text(row) for row in rows]
    given = {
        "step": steps,
        "code": codes,
        "message": messages,
        "position": places,
        "neighbours": None,
    }
    told = {
        name: [value] * len(texts) if value is None or isinstance(value, str) else value
        for name, value in given.items()
    }
    return pl.DataFrame({**told, "row": texts}, schema_overrides=FAILED).select(*FAILED)


class RowErrors:
    """The policy of a run, by step. policies: fail, skip or dead_letter; rules that say `fail` or
    `dead_letter` themselves are sites of their step and follow `on_fail`. hidden: the columns whose values no error
    shows, because a `mask` step hides them."""

    hidden: frozenset[str] = frozenset()

    def __init__(
        self, policies: Mapping[str, str], options: Mapping[str, Collection[str]] | None = None
    ) -> None:
        self.policies, self.options = policies, options or {}

    def take(
        self, bad: pl.DataFrame, lowering: Lowering, given: Given, outcome: Outcome
    ) -> dict[str, int]:
        """Deal with the rows that have a fault. Returns how many were taken out, by step. A row that is taken back
        was counted when it came, and is not counted again.
        Raises DataError for the first whose step says `fail`."""
        codes = bad[ERROR_COLUMN]
        sites = Counter((codes // 256).to_list())
        policies = {site: self._policy_of(site, lowering) for site in sites}
        failing = [site for site, policy in policies.items() if policy == "fail"]
        if failing:
            raise self._first_error(bad.filter((codes // 256).is_in(failing)), lowering, given)
        taken: dict[str, int] = {}
        for site, rows in sites.items():
            step = lowering.sites[site][0]
            taken[step] = taken.get(step, 0) + rows
        bad = bad.filter(~_told_before(bad, given))
        codes = bad[ERROR_COLUMN]
        for site, rows in Counter((codes // 256).to_list()).items():
            outcome.count_errors(lowering.sites[site][0], rows)
        kept = [site for site, policy in policies.items() if policy == "dead_letter"]
        failed = bad.filter((codes // 256).is_in(kept))
        if failed.height:
            outcome.failed.append(self._failed(failed, lowering, given))
        return taken

    def unread(
        self,
        step: str,
        bad: Sequence[BadRow],
        outcome: Outcome,
        policy: str | None = None,
        originals: Callable[[Sequence[int]], Sequence[str]] | None = None,
    ) -> None:
        """Deal with rows that a source could not read, as its policy says, or as `policy`. originals: of
        their chunk. Raises DataError where the policy is `fail`."""
        policy = policy or self.policy(step)
        hidden = current().hidden
        if bad and policy == "fail":
            first = bad[0]
            why = first.message if hidden is None else hidden.of_row(first.message, first.raw)
            unread = DataError(
                f"step '{step}': {first.place}: {why}",
                code=first.code,
                step=step,
                notes=[f"the row: {HIDDEN if self.hidden else first.raw[:200]}"]
                if first.raw
                else [],
                help=_unread_help(first.code, self.options.get(step, ()), step),
            )
            unread.is_of_row = True
            raise unread
        if policy == "dead_letter" and len(bad):
            rows = BadRows.of(bad).frame
            known = "neighbours" in rows.columns
            whole = pl.struct("raw").struct.json_encode()
            if originals is not None:
                whole = pl.lit(pl.Series(originals(rows["row"].to_list()), dtype=pl.String))
            told = rows.select(
                pl.lit(step).alias("step"),
                "code",
                "message",
                pl.col("place").alias("position"),
                whole.alias("row"),
                pl.col("neighbours") if known else pl.lit(None, pl.String).alias("neighbours"),
            )
            if self.hidden and hidden is not None:
                why = map(hidden.of_row, rows["message"], rows["raw"])
                told = told.with_columns(pl.Series("message", [*why], dtype=pl.String))
            outcome.failed.append(told)
        outcome.count_errors(step, len(bad))

    def refused(self, step: str, refused: Refused, outcome: Outcome) -> None:
        """Deal with rows that an operator could not take. Raises DataError where its step says `fail`."""
        policy, rows = self.policy(step), refused.rows
        if policy == "fail":
            raise _error(
                step,
                refused.code,
                self._without_hidden(refused.message, rows),
                self._shown(python_row(rows)),
                None,
                None,
            )
        outcome.count_errors(step, rows.height)
        if policy == "dead_letter":
            message = self._without_hidden(refused.message, rows)
            told = failed_rows(step, refused.code, message, python_rows(rows))
            outcome.failed.append(told)

    def guarded(self, call: PythonCall, frame: pl.DataFrame, outcome: Outcome) -> pl.DataFrame:
        """The result of a user's function; where rows may be left out, those for which it raises
        or gives a wrong value are found by halving the batch."""
        try:
            return call.run(frame)
        except DataError as error:
            if self.policy(call.step) == "fail" or not is_of_rows(error):
                error.is_of_row = is_of_rows(error)
                error.message = self._without_hidden(error.message, frame)
                raise
            if frame.height == 1:
                outcome.count_errors(call.step, 1)
                if self.policy(call.step) == "dead_letter":
                    row = python_row(frame)
                    message = self._without_hidden(error.message, frame)
                    outcome.failed.append(failed_rows(call.step, error.code, message, [row]))
                return call.nothing(frame)
        half = frame.height // 2
        parts = (frame.head(half), frame.slice(half))
        return pl.concat([self.guarded(call, part, outcome) for part in parts])

    def policy(self, step: str) -> str:
        return self.policies.get(step, "fail")

    def _policy_of(self, site: int, lowering: Lowering) -> str:
        """What the site's own config says, else the step's `on_error`."""
        return lowering.policies.get(site) or self.policy(lowering.sites[site][0])

    def _failed(self, bad: pl.DataFrame, lowering: Lowering, given: Given) -> pl.DataFrame:
        """What is known of these rows: they are found again in the rows that entered."""
        original, places = _found_again(bad, given)
        told = [fault_text(code, lowering) for code in bad[ERROR_COLUMN]]
        failed = failed_rows(
            [step for step, _, _ in told],
            [code for _, code, _ in told],
            [message for _, _, message in told],
            python_rows(original),
            places,
        )
        held = given.texts is not None or given.originals is not None
        return _as_held(failed, bad, given) if held else failed

    def _shown(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        return {name: HIDDEN if name in self.hidden else value for name, value in row.items()}

    def _without_hidden(self, text: str, rows: pl.DataFrame) -> str:
        """The text, such as of an exception of a user's code, without the hidden values of the rows that it is of."""
        values: set[str] = set()
        for name in self.hidden.intersection(rows.columns):
            for value in rows[name].unique().to_list():
                shown = {str(value), repr(value)}
                values |= {each for each in shown if value is not None and each and each in text}
        for each in sorted(values, key=len, reverse=True):
            text = re.sub(rf"(?<!\w){re.escape(each)}(?!\w)", HIDDEN, text)
        return text

    def _first_error(self, bad: pl.DataFrame, lowering: Lowering, given: Given) -> DataFlareError:
        first = bad.head(1)
        original, (place,) = _found_again(first, given)
        code = int(first[ERROR_COLUMN][0])
        row = self._shown(python_row(original))
        return _error(*fault_text(code, lowering), row, place, code % 256)


def _told_before(bad: pl.DataFrame, given: Given) -> pl.Series:
    """Which of these rows take one back that had the same fault when it came. Those of a lookup may not have had it:
    its table changes."""
    original = given.original()
    if KIND_COLUMN not in original.columns:
        return pl.repeat(False, bad.height, dtype=pl.Boolean, eager=True)
    kinds = original[KIND_COLUMN][bad["__dataflare_row"]]
    return kinds.is_in(_TAKEN_BACK) & ~(bad[ERROR_COLUMN] % 256).is_in(_OF_TABLES)


def _found_again(bad: pl.DataFrame, given: Given) -> tuple[pl.DataFrame, list[str | None]]:
    """These rows as they entered, and where they stand."""
    numbers = bad["__dataflare_row"]
    original = given.original()[numbers]
    original = original.select(n for n in original.columns if not n.startswith(RESERVED))
    if given.row_numbers is not None:
        numbers = given.row_numbers.gather(numbers)
    place = given.place
    return original, [None if place is None else place(number) for number in numbers]


def _as_held(failed: pl.DataFrame, bad: pl.DataFrame, given: Given) -> pl.DataFrame:
    """These letters; those of the source itself, whose rows have no usable event time, with the row's text
    and its neighbours, or its whole message. A source reads a row again by these, as one that it could not read."""
    own = failed["step"] == given.source
    if not own.any():
        return failed
    every = given.row_numbers
    if every is None:
        every = pl.int_range(given.original().height, eager=True)
    untimed = every.gather(bad.filter(own)["__dataflare_row"])
    if given.originals is not None:
        whole = pl.Series(given.originals(untimed.to_list()), dtype=pl.String)
        return failed.with_columns(failed["row"].scatter(own.arg_true(), whole))
    assert given.texts is not None
    good = every.filter(~every.is_in(untimed.implode()))
    texts = [row_text({"raw": raw_text(text)}) for text in given.texts(untimed.to_list())]
    at = own.arg_true()
    return failed.with_columns(
        failed["row"].scatter(at, pl.Series(texts, dtype=pl.String)),
        failed["neighbours"].scatter(at, neighbours(untimed, good, given.texts)),
    )


def fault_text(code: int, lowering: Lowering) -> tuple[str, str, str]:
    """Step, code and message of a row's fault, as its ERROR_COLUMN has it."""
    step, shown = lowering.sites[code // 256]
    error_code, text = _KINDS.get(code % 256) or error_text(code % 256)
    return step, error_code, f"{shown}: {text}"


def _error(
    step: str,
    code: str,
    message: str,
    row: Mapping[str, Any],
    place: str | None,
    kind: int | None,
) -> DataFlareError:
    where = f" ({place})" if place else ""
    shown = ", ".join(f"{name}={_shown(value)}" for name, value in row.items())
    error = DataError(
        f"step '{step}': {message}{where}",
        code=code,
        step=step,
        notes=[f"the row: {shown[:400]}"],
        help=_HELP.get(kind, _GUARD),
    )
    error.is_of_row = True
    return error


def _shown(value: Any) -> str:
    """A value of a row as one would write it in an expression."""
    if value is None or isinstance(value, bool):
        return {None: "NULL", True: "true", False: "false"}[value]
    return repr(value) if isinstance(value, str | bytes | list | dict) else str(value)

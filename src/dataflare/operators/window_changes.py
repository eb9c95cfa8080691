"""Windows over a changelog: a delete takes its row back from the windows of its event time.

The partials are sums of what came and went (`expr.retraction`), so what a window gives does not depend on the order
of inserts and deletes, and not on batches.

Always true: a window without rows has no result; one that was given is deleted then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from dataflare.errors import PlanError
from dataflare.expr import Aggregation
from dataflare.expr.retraction import depends_on_order, is_summed, restored, signed
from dataflare.operators.window_rows import WindowRows
from dataflare.operators.window_values import ValueRows
from dataflare.state.weighted import WEIGHT

if TYPE_CHECKING:
    from dataflare.operators.window import Window, WindowConfig


class SignedRows(WindowRows):
    """Rows have WEIGHT. Partials are sums, and the number of their rows."""

    def __init__(
        self,
        step: str,
        keys: Sequence[str],
        names: Sequence[str],
        aggregation: Aggregation,
        *,
        notes: Sequence[tuple[pl.Expr, pl.Expr]] = (),
    ) -> None:
        super().__init__(step, keys, names, aggregation, notes=notes)
        rows = [pl.col(WEIGHT).sum(), *_sums(aggregation)]
        self.of_rows = [*rows, *(of_rows for of_rows, _ in notes)]
        sums = [pl.col(each.meta.output_name()).sum() for each in rows]
        self.of_partials = [*sums, *(of_partials for _, of_partials in notes)]

    def results(
        self, windows: pl.DataFrame, start: pl.Expr | None, end: pl.Expr, *, watermarks: bool
    ) -> pl.DataFrame:
        whole = [each for call in self.aggregation.calls for each in restored(call)]
        there = windows.filter(has_rows()).with_columns(whole)
        return super().results(there, start, end, watermarks=watermarks)


def rows_of(operator: Window, notes: Sequence[tuple[pl.Expr, pl.Expr]]) -> WindowRows:
    """What rows become in a window step."""
    about = operator.step, operator.group, operator.names, operator.aggregation
    if operator.changes and needs_values(operator.aggregation):
        return ValueRows(*about, notes=notes)
    if operator.changes:
        return SignedRows(*about, notes=notes)
    return WindowRows(*about, notes=notes, zeros=operator.fill == "0")


def needs_values(aggregation: Aggregation) -> bool:
    """Whether some measure over a changelog needs the values that are there."""
    return not all(is_summed(call) for call in aggregation.calls)


def has_rows() -> pl.Expr:
    """Whether a window has rows, from its merged partials."""
    return pl.col(WEIGHT) > 0


def meanings(aggregation: Aggregation) -> dict[str, str]:
    """What each column of the partials holds."""
    named = aggregation.meanings()
    columns = {
        each.meta.output_name(): f"what is left of {named[call.state[0]]}, {place}"
        for call in aggregation.calls
        for place, each in enumerate(signed(call, pl.col(WEIGHT)))
    }
    return {**columns, WEIGHT: "(how many rows)"}


def check_changes(
    step: str, config: WindowConfig, aggregation: Aggregation, *, streaming: bool
) -> None:
    """Raise PlanError (E0315) for windows that could not take a row back."""
    trigger, help = config.trigger, "read the source without changes"
    if config.kind == "session":
        why = "a row that is deleted may have joined two sessions, which are not kept apart"
        help = "take tumbling windows, or read the source without changes"
    elif config.fill != "none":
        why = "`fill` goes on from windows that had rows, and these rows may be deleted"
        help = "leave out `fill`"
    elif trigger is not None and trigger.count:
        why = "a trigger by count counts rows that may be deleted"
        help = "set trigger: {every: 10s}"
    elif config.emit == "final" and (trigger or (config.allowed_lateness and streaming)):
        why = "a result that it has given may lose its last row, which a plain row cannot say"
        help = "set emit: updates"
    else:
        ordered = [call.name for call in aggregation.calls if depends_on_order(call)]
        kept = [call.name for call in aggregation.calls if not is_summed(call)]
        if ordered:
            name = ordered[0].removesuffix("_in_time")
            why = f"{name}() depends on the order in which rows came, which a row that is updated does not keep"
            help = (
                f"say the order, as {name}(value ORDER BY other)"
                if name in ("list", "string_agg")
                else "take arg_min(value, time) or arg_max(value, time)"
            )
        elif kept and config.kind == "global":
            name = kept[0].removesuffix("_in_time")
            why = f"{name}() would need all values of a window that is open until the end"
            help = "take an aggregate with emit: updates, or tumbling or sliding windows"
        else:
            return
    raise PlanError(
        f"step '{step}' receives a changelog, and {why}", code="E0315", step=step, help=help
    )


def _sums(aggregation: Aggregation) -> list[pl.Expr]:
    return [each for call in aggregation.calls for each in signed(call, pl.col(WEIGHT))]

"""A run's outcome as HTML for a notebook.

Always true: every text is escaped and has no secret; text has the page's colours, so that it is readable
on a light and on a dark page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from dataflare.errors import render
from dataflare.security.redact import redact

if TYPE_CHECKING:
    import polars as pl

    from dataflare import RunResult

_COUNTED = {"rows_in": "rows in", "rows_out": "rows out", "errors": "errors",
            "dead_letters": "dead letters", "late": "late"}  # fmt: skip
_ENDINGS = {"finished": "#0b8457", "failed": "#c0392b"}
_RIGHT = "text-align:right;font-variant-numeric:tabular-nums"


def outcome_html(result: RunResult, kept: Mapping[str, pl.DataFrame]) -> str:
    """Status, counts of each step, places of destinations, warnings and the error."""
    return f'<div class="dataflare-outcome">{"".join(_parts(result, kept))}</div>'


def _parts(result: RunResult, kept: Mapping[str, pl.DataFrame]) -> Iterator[str]:
    colour = _ENDINGS.get(result.status, "#b7791f")
    ending = f'<span style="color:{colour};font-weight:600">{_text(result.status)}</span>'
    duration = f"{result.duration_s:,.2f} s"
    yield f"<p><b>{_text(result.workflow)}</b> {ending} in {duration}, run {_text(result.run_id)}</p>"
    counters = {
        counter: title
        for counter, title in _COUNTED.items()
        if counter.startswith("rows") or any(each.get(counter) for each in result.steps.values())
    }
    head = ["step", *counters.values(), "written to"]
    rows = [
        [
            name,
            *(_count(each.get(counter)) for counter in counters),
            _where(name, result.published, kept),
        ]
        for name, each in result.steps.items()
    ]
    yield _table(head, rows, len(counters))
    if any(each.get("dead_letters") for each in result.steps.values()):
        command = f"dataflare dlq show {result.workflow}"
        yield f"<p>the rows that became dead letters: <code>{_text(command)}</code></p>"
    for warning in result.warnings:
        yield f"<p>warning: {_text(warning)}</p>"
    if result.error is not None:
        yield f"<pre>{_text(render(result.error))}</pre>"


def _table(head: Iterable[str], rows: Iterable[list[str]], counts: int) -> str:
    def line(cells: Iterable[str], tag: str) -> str:
        html_cells = (
            f"<{tag}{f' style={chr(34)}{_RIGHT}{chr(34)}' if 0 < i <= counts else ''}>"
            f"{_text(cell)}</{tag}>"
            for i, cell in enumerate(cells)
        )
        return f"<tr>{''.join(html_cells)}</tr>"

    body = "".join(line(cells, "td") for cells in rows)
    return f"<table><thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>"


def _where(
    name: str, published: Mapping[str, Mapping[str, Any]], kept: Mapping[str, pl.DataFrame]
) -> str:
    """Where a destination's rows are."""
    if name in kept:
        return f"memory: outcome.frame({name!r})"
    facts = published.get(name, {})
    table, path = facts.get("table"), facts.get("path")
    if table:
        return f"table {table} in {path}" if path else f"table {table}"
    return str(path or "")


def _count(rows: Any) -> str:
    """A count. A dash if it is unknown because of fusion or pushdown."""
    return f"{rows:,}" if isinstance(rows, int) else "\N{EN DASH}"


def _text(value: str) -> str:
    return escape(redact(value))

"""The page of a report: HTML that needs nothing else, neither a network nor scripts. Pure."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from dataflare.jobs.report import charts
from dataflare.jobs.report.facts import VALUES_HIDDEN, Failed, Point, Report
from dataflare.jobs.report.style import style_sheet
from dataflare.model import human
from dataflare.model.run_status import RecordedStatus, Status
from dataflare.observability.times import Histogram
from dataflare.planner.render import svg

_STATUS: dict[Status | RecordedStatus, str] = {
    "finished": "good",
    "running": "note",
    "restarting": "warn",
    "starting": "note",
    "stopped": "warn",
    "failed": "bad",
    "killed": "bad",
}
_CHECKPOINTS_SHOWN = 10
_STEPS_MAX = 300
_CSP = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]")


def page(report: Report, now_s: float | None = None) -> str:
    """The report as one HTML document. now_s: when it is made, since 1970."""
    record = report.record
    parts = [
        *_head(report),
        *_failure(report),
        *_pace(report),
        *_graph(report),
        *_over_time(report),
        *_checkpoints(report),
        *_rows(report),
        *_errors(report),
        *_notices(report),
    ]
    made = datetime.fromtimestamp(now_s or time.time(), UTC)
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_CSP}">'
        f"<title>{escape(record.workflow)}: run {escape(record.run_id)}</title>\n"
        f"<style>\n{style_sheet()}</style></head>\n<body><main>\n"
        + "\n".join(parts)
        + f"\n<footer>Made by DataFlare, {made:%Y-%m-%d %H:%M:%S} UTC. Times of day are UTC; times in charts are since "
        "the run began.</footer>\n</main></body></html>\n"
    )
    return _FORBIDDEN.sub("�", text)


# -- the top -----------------------------------------------------------------------------------------


def _head(report: Report) -> Iterator[str]:
    record = report.record
    style = _STATUS.get(record.status, "note")
    yield (
        f'<header><div class="top"><h1>{escape(record.workflow)}</h1>'
        f'<span class="pill {style}">{escape(record.status)}</span></div>'
    )
    facts = [("Run", record.run_id), ("Started", _moment(record.started_at))]
    if record.ended_at:
        facts.append(("Ended", _moment(record.ended_at)))
    if record.resumed_from is not None:
        facts.append(("Resumed from", f"checkpoint {record.resumed_from}"))
    if record.file:
        facts.append(("File", record.file))
    told = "".join(f"<span>{name} <b>{escape(value)}</b></span>" for name, value in facts)
    yield f'<div class="facts">{told}</div></header>'
    yield f'<div class="figures">{"".join(_figures(report))}</div>'


def _figures(report: Report) -> Iterator[str]:
    counts = report.counts()
    read = _total(report, "source", "rows_out")
    written = _total(report, "destination", "rows_out")
    duration_s = report.duration_s
    if duration_s is None and report.record.ended_at:
        duration_s = _between(report.record.started_at, report.record.ended_at)
    yield _figure("Took", human.span(duration_s))
    rate = human.rate(read / duration_s) if read is not None and duration_s else ""
    yield _figure("Rows read", human.count(read), rate)
    yield _figure("Rows written", human.count(written))
    for name, label in (("errors", "Rows failed"), ("dead_letters", "Dead letters"), ("late", "Late rows")):  # fmt: skip
        number = sum(int(step.get(name) or 0) for step in counts.values())
        yield _figure(label, human.count(number), alert=bool(number))
    found = report.recorded
    if found is not None:
        checkpoints = found.view.checkpoints
        failed = f"{checkpoints.failed:,} failed" if checkpoints.failed else ""
        yield _figure(
            "Checkpoints",
            human.count(checkpoints.completed),
            failed,
            alert=bool(checkpoints.failed),
        )
        if found.view.restarts:
            yield _figure("Restarts", human.count(found.view.restarts), alert=True)


def _figure(name: str, value: str, more: str = "", *, alert: bool = False) -> str:
    small = f"<small>{escape(more)}</small>" if more else ""
    return f"<div{' class=alert' if alert else ''}><dl><dt>{name}</dt><dd>{escape(value)}{small}</dd></dl></div>"


def _failure(report: Report) -> Iterator[str]:
    error = report.record.error
    if error is not None:
        where = f" in step <b>{escape(error.step)}</b>" if error.step else ""
        yield (
            f'<h2>Why it failed</h2><div class="panel failure"><p><code>{escape(error.code)}</code>{where}</p>'
            f"<p>{escape(error.message)}</p></div>"
        )
    if report.record.status == "killed":
        yield (
            '<h2>Why it ended</h2><div class="panel failure"><p>The process ended without recording how: it was killed, or the '
            "machine stopped. The next run goes on from the last checkpoint.</p></div>"
        )
    if report.recorded is None:
        yield (
            '<h2>What is not here</h2><div class="panel caution"><p>The course of this run is not kept, so there is no '
            "graph and nothing over time. The courses of the last 100 runs are.</p></div>"
        )


def _pace(report: Report) -> Iterator[str]:
    found = report.recorded
    if found is None or not found.view.stages:
        return
    yield "<h2>What set the pace</h2>"
    rows = []
    for stage in found.view.stages:
        spent = stage.spent
        total = spent.total_s
        if total <= 0:
            continue
        parts = [
            ("busy", spent.busy_s / total),
            ("blocked", spent.blocked_s / total),
            ("waiting", spent.waiting_s / total),
        ]
        told = ", ".join(f"{name} {share:.0%}" for name, share in parts)
        own = {other.name for other in found.view.stages}
        if others := [step for step in stage.steps[1:] if step not in own]:
            told += f"; runs as one with {', '.join(others)}"
        rows.append((stage.name, told, parts))
    said = (
        f"The slowest step is {found.slowest.replace(': ', ', ', 1)}."
        if found.slowest
        else "No step set the pace: the run waited for its input, or was too short to tell."
    )
    keys = (
        '<div class="keys"><span><i class="busy"></i>busy: it worked, or its system answered</span>'
        '<span><i class="blocked"></i>blocked: what is behind it was not ready</span>'
        '<span><i class="waiting"></i>waiting for rows</span></div>'
    )
    yield f'<div class="panel"><p><b>{escape(said)}</b></p>{keys}{"".join(charts.stacked(rows))}</div>'


def _graph(report: Report) -> Iterator[str]:
    if report.recorded is not None and report.recorded.plan is not None:
        drawing = svg.render(report.recorded.plan)
        label = "The graph of the workflow; it can be scrolled"
        yield (
            f'<h2>The graph</h2><div class="panel wide drawing" tabindex="0" role="region" aria-label="{label}">'
            f"{drawing}</div>"
        )


# -- over time ---------------------------------------------------------------------------------------


def _over_time(report: Report) -> Iterator[str]:
    found = report.recorded
    if found is None or not found.course.samples:
        return
    end_s = max(found.course.samples[-1].at_s, 0.001)
    made = [
        charts.lines("Rows read a second", report.rates("source"), _short, end_s),
        charts.lines("Rows written a second", report.rates("destination"), _short, end_s),
        charts.lines(
            "Latency, 99% of the rows", report.latencies(0.99), _seconds, end_s,
            hint="From the reading of a row until its destination has it.",
        ),
        charts.lines(
            "Lag", report.lags(), _seconds, end_s,
            hint="How far the event time of a step was behind the clock.",
        ),
        charts.lines("Busy", report.shares(lambda s: s.busy_s), _percent, end_s, top=1.0),
        charts.lines("Blocked", _some(report.shares(lambda s: s.blocked_s)), _percent, end_s, top=1.0),
        charts.lines("Memory of the process", {"": report.memory()}, human.size, end_s),
        charts.bars(
            "Checkpoints, how long they took",
            [(c.at_s, c.seconds) for c in found.course.checkpoints], _seconds, end_s,
        ),
    ]  # fmt: skip
    yield f'<h2>Over its time</h2><div class="charts">{"".join(made)}</div>'
    latencies = [
        (name, step.latency) for name, step in found.view.steps.items() if step.latency is not None
    ]
    if any(latency.count for _, latency in latencies):
        yield '<div class="panel wide">' + _table(
            ("Latency of destinations", "half of the rows", "90%", "99%", "99.9%"),
            [_latency_row(name, latency) for name, latency in latencies if latency.count],
        ) + "</div>"  # fmt: skip


def _some(series: Mapping[str, Sequence[Point]]) -> Mapping[str, Sequence[Point]]:
    """Without those that were never blocked."""
    return {name: points for name, points in series.items() if any(y > 0.005 for _, y in points)}


def _latency_row(name: str, latency: Histogram) -> list[str]:
    return [name, *(_seconds_or_dash(latency.quantile(share)) for share in (0.5, 0.9, 0.99, 0.999))]


def _checkpoints(report: Report) -> Iterator[str]:
    found = report.recorded
    if found is None or not found.course.checkpoints:
        return
    shown = found.course.checkpoints[-_CHECKPOINTS_SHOWN:][::-1]
    rows = [
        (f"{c.epoch:,}", charts.clock(c.at_s), _seconds_or_dash(c.seconds), human.size(c.num_bytes))
        for c in shown
    ]
    stats = found.view.checkpoints
    took = stats.seconds
    told = f"{stats.completed:,} completed"
    if took.count:
        told += f"; half of them within {_seconds_or_dash(took.quantile(0.5))}, 99% within {_seconds_or_dash(took.quantile(0.99))}"
    yield (
        f'<h2>Checkpoints</h2><div class="panel wide"><p>{told}. The last ones of which a sample is kept:</p>'
        + _table(("epoch", "complete at", "took", "bytes"), rows)
        + "</div>"
    )


# -- rows and errors ---------------------------------------------------------------------------------


def _rows(report: Report) -> Iterator[str]:
    counts = report.counts()
    if not counts:
        return
    steps = report.recorded.view.steps if report.recorded is not None else {}
    rows: list[Sequence[str]] = []
    for name, step in [*counts.items()][:_STEPS_MAX]:
        kind = report.kind_of(name)
        seen = steps.get(name)
        rows.append(
            (
                name,
                kind,
                human.count(step.get("rows_in")) if kind != "source" else "",
                human.count(step.get("rows_out")),
                human.size(step.get("bytes_out")) if kind != "transformation" else "",
                *(
                    human.count(int(step.get(each) or 0))
                    for each in ("errors", "dead_letters", "late")
                ),
                human.count(seen.retries) if seen is not None else "",
            )
        )
    columns = ("step", "kind", "rows in", "rows out", "bytes", "failed", "dead letters", "late", "calls tried again")  # fmt: skip
    left = len(counts) - len(rows)
    more = f'<p class="quiet">and {left:,} more steps</p>' if left > 0 else ""
    yield f'<h2>Steps</h2><div class="panel wide">{_table(columns, rows, texts=2, hot=(5, 6, 7))}{more}</div>'


def _errors(report: Report) -> Iterator[str]:
    failed = sum(int(step.get("errors") or 0) for step in report.counts().values())
    if not failed and not report.failed:
        return
    yield "<h2>Rows that failed</h2>"
    if not report.failed:
        yield (
            '<div class="panel"><p class="quiet">There are no examples: the rows were left out, their dead letters are in '
            "another system, or they were deleted.</p></div>"
        )
        return
    if not report.shows_values:
        yield f'<p class="quiet">{VALUES_HIDDEN}</p>'
    yield f'<div class="panel">{"".join(_group(group, number == 0) for number, group in enumerate(report.failed))}</div>'


def _group(group: Failed, is_open: bool) -> str:
    examples = "".join(
        f'<div class="example"><p>{escape(str(example["message"]))}'
        + (f' <span class="quiet">{escape(str(example["position"]))}</span>' if example["position"] else "")
        + '</p><table class="mono">'
        + "".join(
            f"<tr><td>{escape(str(name))}</td><td>{'<i>NULL</i>' if value is None else escape(str(value))}</td></tr>"
            for name, value in example["row"].items()
        )
        + "</table></div>"
        for example in group.examples
    )  # fmt: skip
    letters = "dead letter" if group.rows == 1 else "dead letters"
    return (
        f"<details{' open' if is_open else ''}><summary><b>{escape(group.step)}</b> <code>{escape(group.code)}</code> "
        f'<span class="quiet">{group.rows:,} {letters}</span></summary>{examples}</details>'
    )


def _notices(report: Report) -> Iterator[str]:
    found = report.recorded
    if found is None:
        return
    if found.view.alerts:
        rows = [(a.name, a.severity, a.state, a.message) for a in found.view.alerts]
        yield (
            '<h2>Alerts</h2><div class="panel wide">'
            + _table(("alert", "severity", "state", "what"), rows, texts=4)
            + "</div>"
        )
    told = [*dict.fromkeys([*found.warnings, *found.notes])]
    if told:
        items = "".join(f"<li>{escape(each)}</li>" for each in told)
        yield f'<h2>What the run said</h2><div class="panel"><ul>{items}</ul></div>'


# -- parts -------------------------------------------------------------------------------------------


def _table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    texts: int = 1,
    hot: Sequence[int] = (),
) -> str:
    """texts: how many of the first columns are not numbers. hot: those that should be 0."""

    def cell(place: int, value: str) -> str:
        styles = ["break" if place < texts else "r"]
        if place >= texts and value in ("0", "–"):
            styles.append("zero")
        elif place in hot and value:
            styles.append("hot")
        return f'<td class="{" ".join(styles)}">{escape(value)}</td>'

    head = "".join(
        f"<th{'' if place < texts else ' class=r'}>{escape(name)}</th>"
        for place, name in enumerate(columns)
    )
    body = "".join(
        f"<tr>{''.join(cell(place, value) for place, value in enumerate(row))}</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _total(report: Report, kind: str, counter: str) -> int | None:
    """Of all steps of a kind; rows of streams are counted for their source too."""
    counts = report.counts()
    numbers = [
        step.get(counter)
        for name, step in counts.items()
        if report.kind_of(name) == kind
        and ("." not in name or name.partition(".")[0] not in counts)
    ]
    known: list[Any] = [number for number in numbers if number is not None]
    return sum(known) if known else None


def _moment(rfc3339: str) -> str:
    return rfc3339[:19].replace("T", " ")


def _between(start: str, end: str) -> float | None:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def _percent(share: float) -> str:
    return f"{share:.0%}"


def _short(number: float) -> str:
    """A number of an axis: `12,300`, `1.2 M`."""
    if number >= 999_500:
        return f"{number / 1e6:.1f} M"
    return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:.1f}"


def _seconds_or_dash(seconds: float | None) -> str:
    return "–" if seconds is None else _seconds(seconds)


def _seconds(seconds: float) -> str:
    """A time to three digits: `12.5 ms`, `0`, `1.5 s`, `3 min 20 s`."""
    if seconds == 0:
        return "0"
    if seconds < 0.9995:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 99.95 else human.span(seconds)

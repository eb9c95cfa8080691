"""The Grafana dashboard and the alert rules of Prometheus in deploy/, from the table of metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from dataflare.observability.table import METRICS, Metric

_MARK = "# Written by docs/generate.py from the table of metrics; change docs/dashboards.py, then run `make generate`.\n"
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_CHOSEN = 'workflow=~"$workflow"'
_UNITS = {"s": "s", "By": "bytes", "1": "short"}
_WIDE, _HIGH = 8, 7

_PARTS: Mapping[str, tuple[str, ...]] = {
    "Rows": ("rows", "bytes", "latency_seconds", "watermark_lag_seconds", "queued_rows", "log_kept_bytes"),
    "Time of steps": ("task_seconds", "tasks", "tasks_at_once_share", "hot_key_share"),
    "What went wrong": (
        "errors", "dead_letters", "late_rows", "rule_rows", "retries", "breaker_opened", "breaker_open", "degraded_rows", "degraded", "diverted_rows", "requests_limit", "requests_under_way", "restarts",
        "alert_firing", "alert_learning",
    ),
    "State and checkpoints": (
        "checkpoints", "checkpoint_duration_seconds", "checkpoint_age_seconds", "checkpoint_bytes",
        "state_bytes",
    ),
}  # fmt: skip
"""Metrics by what they are about; all others are in a last part."""

_TILES = (
    ("Runs that move rows", "sum(dataflare_up{{{0}}})", "short"),
    ("Rows read a second", 'sum(rate(dataflare_rows_total{{{0}, direction="out"}}[$__rate_interval]) and on(workflow, step) dataflare_bytes_total{{{0}}})', "short"),
    ("Farthest behind", "max(dataflare_watermark_lag_seconds{{{0}}})", "s"),
    ("Oldest checkpoint", "max(dataflare_checkpoint_age_seconds{{{0}}})", "s"),
    ("Rows that failed in an hour", "sum(increase(dataflare_errors_total{{{0}}}[1h]))", "short"),
    ("Alerts", "sum(dataflare_alert_firing{{{0}}}) or vector(0)", "short"),
)  # fmt: skip

RULES: tuple[tuple[str, str, str, str, str], ...] = (
    ("DataflareUnreachable", 'up{job="dataflare"} == 0', "5m", "page",
     "No run answers at {{ $labels.instance }}: it was killed, or has ended."),
    ("DataflareNotRunning", "dataflare_up == 0", "5m", "page",
     "{{ $labels.workflow }} moves no rows: it starts, or waits for a restart."),
    ("DataflareNoRows",
     "sum by (workflow, instance) (rate(dataflare_rows_total[5m])) == 0"
     " and on (workflow, instance) dataflare_up == 1", "10m", "info",
     "{{ $labels.workflow }} has moved no rows for 10 minutes."),
    ("DataflareBehind", "dataflare_watermark_lag_seconds > 300", "5m", "warning",
     "{{ $labels.step }} of {{ $labels.workflow }} is {{ $value | humanizeDuration }} behind event time."),
    ("DataflareRowsFail", "increase(dataflare_errors_total[10m]) > 0", "0s", "warning",
     "{{ $value | humanize }} rows failed in {{ $labels.step }} of {{ $labels.workflow }} in 10 minutes."),
    ("DataflareDeadLetters", "increase(dataflare_dead_letters_total[10m]) > 0", "0s", "warning",
     "{{ $labels.step }} of {{ $labels.workflow }} has set {{ $value | humanize }} rows aside in 10 minutes."),
    ("DataflareBreakerOpen", "dataflare_breaker_open == 1", "1m", "page",
     "{{ $labels.step }} of {{ $labels.workflow }} makes no calls: too many of them failed."),
    ("DataflareRestarts", "increase(dataflare_restarts_total[15m]) > 2", "0s", "page",
     "{{ $labels.workflow }} was restarted {{ $value | humanize }} times in 15 minutes."),
    ("DataflareCheckpointsFail", 'increase(dataflare_checkpoints_total{result="failed"}[15m]) > 0', "0s", "warning",
     "{{ $value | humanize }} checkpoints of {{ $labels.workflow }} failed in 15 minutes."),
    ("DataflareCheckpointOld", "dataflare_checkpoint_age_seconds > 900", "5m", "page",
     "The last checkpoint of {{ $labels.workflow }} ended {{ $value | humanizeDuration }} ago."),
    ("DataflareLogKept", "dataflare_log_kept_bytes > 20 * 1024 ^ 3", "10m", "page",
     "A server keeps {{ $value | humanize1024 }}B of its log for {{ $labels.step }} of {{ $labels.workflow }}."),
    ("DataflareSlowStep",
     'sum by (workflow, step) (rate(dataflare_task_seconds_total{state="busy"}[5m]))'
     " / sum by (workflow, step) (rate(dataflare_task_seconds_total[5m])) > 0.95", "15m", "info",
     "{{ $labels.step }} of {{ $labels.workflow }} is busy {{ $value | humanizePercentage }} of its time."),
    ("DataflareWorkflowAlert", "dataflare_alert_firing == 1", "0s", "warning",
     "The alert {{ $labels.alert }} of {{ $labels.workflow }} fires."),
)  # fmt: skip
"""Name, expression, for how long, severity, text."""


def rules() -> str:
    found = [
        {
            "alert": name,
            "expr": expression,
            "for": for_,
            "labels": {"severity": severity},
            "annotations": {"summary": text},
        }
        for name, expression, for_, severity, text in RULES
    ]
    groups = {"groups": [{"name": "dataflare", "rules": found}]}
    return _MARK + yaml.safe_dump(groups, sort_keys=False, width=1000)


def dashboard() -> str:
    panels = [*_laid_out()]
    for number, panel in enumerate(panels, 1):
        panel["id"] = number
    variables = [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
        {
            "name": "workflow", "type": "query", "label": "Workflow", "datasource": _SOURCE,
            "query": {"query": "label_values(dataflare_up, workflow)", "refId": "workflow"},
            "definition": "label_values(dataflare_up, workflow)", "refresh": 2, "sort": 1,
            "includeAll": True, "multi": True, "current": {"text": "All", "value": "$__all"},
        },
    ]  # fmt: skip
    made = {
        "title": "DataFlare",
        "uid": "dataflare",
        "description": "Written by docs/generate.py from the table of metrics.",
        "tags": ["dataflare"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": variables},
        "panels": panels,
    }
    return json.dumps(made, indent=2) + "\n"


def _laid_out() -> Iterator[dict[str, Any]]:
    for place, (title, expression, unit) in enumerate(_TILES):
        at = {"x": place * 4, "y": 0, "w": 4, "h": 4}
        yield _panel("stat", title, "", [(expression.format(_CHOSEN), "")], unit, at)
    y = 4
    for title, metrics in _parts():
        yield {"type": "row", "title": title, "collapsed": False, "panels": [],
               "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}}  # fmt: skip
        y += 1
        for place, metric in enumerate(metrics):
            column, line = place % 3, place // 3
            at = {"x": column * _WIDE, "y": y + line * _HIGH, "w": _WIDE, "h": _HIGH}
            queries, unit = _queries(metric)
            yield _panel("timeseries", _title(metric), metric.help, queries, unit, at)
        y += (len(metrics) + 2) // 3 * _HIGH


def _parts() -> Iterator[tuple[str, list[Metric]]]:
    by_name = {
        metric.name.removeprefix("dataflare_").removesuffix("_total"): metric for metric in METRICS
    }
    for title, names in _PARTS.items():
        yield title, [by_name.pop(name) for name in names]
    yield "The process", [*by_name.values()]


def _title(metric: Metric) -> str:
    words = metric.name.removeprefix("dataflare_").removesuffix("_total").removesuffix("_seconds")
    words = words.removesuffix("_bytes").replace("_", " ")
    return words.capitalize() + (
        " a second" if metric.kind == "counter" and metric.unit != "s" else ""
    )


def _queries(metric: Metric) -> tuple[list[tuple[str, str]], str]:
    legend = " ".join(f"{{{{{label}}}}}" for label in ("workflow", *metric.labels))
    unit = _UNITS.get(metric.unit, "short")
    if metric.kind == "histogram":
        labels = ", ".join(("le", "workflow", *metric.labels))
        rate = f"sum by ({labels}) (rate({metric.name}_bucket{{{_CHOSEN}}}[$__rate_interval]))"
        return [
            (f"histogram_quantile({share}, {rate})", f"{share:.0%} {legend}")
            for share in (0.5, 0.95, 0.99)
        ], unit
    series = f"{metric.name}{{{_CHOSEN}}}"
    if metric.kind == "counter":
        # Seconds a second are a share of the time.
        unit = {"s": "percentunit", "bytes": "Bps"}.get(unit, unit)
        return [(f"rate({series}[$__rate_interval])", legend)], unit
    return [(series, legend)], unit


def _panel(
    kind: str,
    title: str,
    help: str,
    queries: list[tuple[str, str]],
    unit: str,
    at: Mapping[str, int],
) -> dict[str, Any]:
    targets = [
        {
            "refId": chr(ord("A") + place),
            "datasource": _SOURCE,
            "expr": text,
            "legendFormat": legend,
        }
        for place, (text, legend) in enumerate(queries)
    ]
    return {
        "type": kind,
        "title": title,
        "description": help,
        "datasource": _SOURCE,
        "gridPos": dict(at),
        "targets": targets,
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "options": {},
    }

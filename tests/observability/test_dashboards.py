"""What is in deploy/ for Prometheus and Grafana, against a real Prometheus that scrapes a run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
import yaml
from servers import prometheus
from servers.process import free_port
from servers.prometheus import PrometheusServer

from dataflare.observability.table import METRICS

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES, DASHBOARD = DEPLOY / "prometheus-rules.yml", DEPLOY / "grafana-dashboard.json"
SERIES = {
    metric.name + suffix
    for metric in METRICS
    for suffix in (("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",))
}
LABELS = {metric.name: {"workflow", *metric.labels} for metric in METRICS}
WORKFLOW = """\
name: scraped
settings: {checkpoint: {interval: 100ms}}
sources:
  numbers:
    type: generate
    config: {rate: 2000/s, columns: {n: {sequence: 0}, at: {time: {start: now, step: 500us}}}}
    event_time: {column: at}
transformations:
  sums: {type: window, inputs: [numbers], config: {kind: tumbling, size: 1s, measures: {n: "count(*)"}}}
destinations:
  out: {type: sqlite, inputs: [sums], config: {path: out.db, table: t}}
alerts: [{name: moves, when: "rows > 10", severity: info}]
"""


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def queries() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def expressions() -> list[str]:
    return [
        rule["expr"]
        for group in yaml.safe_load(RULES.read_text())["groups"]
        for rule in group["rules"]
    ]


def test_each_metric_that_is_named_exists_and_has_the_labels() -> None:
    texts = [RULES.read_text(), *queries()]
    named = {name for text in texts for name in re.findall(r"\bdataflare_\w+", text)}
    assert named <= SERIES
    for text in [*queries(), *expressions()]:
        for name, inside in re.findall(r"(dataflare_\w+)\{([^}]*)\}", text):
            metric = name if name in LABELS else name.removesuffix("_bucket")
            assert set(re.findall(r"(\w+)\s*=~?", inside)) <= LABELS[metric], text


def test_each_metric_has_a_panel_with_its_meaning() -> None:
    shown = {panel["description"] for panel in panels()}
    assert {metric.help for metric in METRICS} <= shown


def test_panels_do_not_lie_on_one_another() -> None:
    seen: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & seen, panel["title"]
        assert at["x"] + at["w"] <= 24
        seen |= cells


def test_the_rules_are_those_that_promtool_takes() -> None:
    assert f"SUCCESS: {len(expressions())} rules found" in prometheus.check_rules(RULES)


KILLED = """\
rule_files: [RULES]
evaluation_interval: 30s
tests:
  - interval: 30s
    input_series:
      - {series: 'up{job="dataflare",instance="a:1"}', values: '1x10 0x60'}
      - {series: 'up{job="dataflare",instance="b:1"}', values: '1x70'}
      - {series: 'dataflare_up{workflow="killed",job="dataflare",instance="a:1"}', values: '1x10 stale'}
      - {series: 'dataflare_up{workflow="still",job="dataflare",instance="b:1"}', values: '1x70'}
      - {series: 'dataflare_rows_total{workflow="killed",step="s",direction="out",job="dataflare",instance="a:1"}', values: '0+5x10 stale'}
      - {series: 'dataflare_rows_total{workflow="still",step="s",direction="out",job="dataflare",instance="b:1"}', values: '0+5x10 50x60'}
    alert_rule_test:
      - eval_time: 5m
        alertname: DataflareUnreachable
      - eval_time: 5m
        alertname: DataflareNoRows
      - eval_time: 12m
        alertname: DataflareUnreachable
        exp_alerts:
          - exp_labels: {severity: page, job: dataflare, instance: "a:1"}
            exp_annotations: {summary: "No run answers at a:1: it was killed, or has ended."}
      - eval_time: 25m
        alertname: DataflareNoRows
        exp_alerts:
          - exp_labels: {severity: info, workflow: still, instance: "b:1"}
            exp_annotations: {summary: "still has moved no rows for 10 minutes."}
"""


def test_a_killed_run_and_one_that_moves_no_rows_are_noticed(tmp_path: Path) -> None:
    cases = tmp_path / "cases.yml"
    cases.write_text(KILLED.replace("RULES", str(RULES)))
    assert "SUCCESS" in prometheus.judge_rules(cases)


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    """A Prometheus that has scraped a run more than once, and goes on."""
    folder = tmp_path_factory.mktemp("scraped")
    (folder / "w.yaml").write_text(WORKFLOW)
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "dataflare",
        "run",
        "w.yaml",
        "--quiet",
        "--metrics",
        f"127.0.0.1:{port}",
    ]
    with prometheus.server(RULES) as server, subprocess.Popen(command, cwd=folder) as process:
        try:
            server.scrape(port)
            query = 'rate(dataflare_rows_total{step="numbers",direction="out"}[5s]) > 0'
            until(server, query)
            yield server
        finally:
            process.terminate()
            process.wait(60)


def until(server: PrometheusServer, query: str) -> dict[tuple[tuple[str, str], ...], float]:
    end = time.monotonic() + 60
    while not (found := server.query(query)):
        assert time.monotonic() < end, server.api("targets")
    return found


def test_a_run_is_scraped_and_queried(scraped: PrometheusServer) -> None:
    (target,) = scraped.api("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    found = {each for each in scraped.api("label/__name__/values") if each.startswith("dataflare_")}
    assert found <= SERIES
    assert {
        "dataflare_up",
        "dataflare_rows_total",
        "dataflare_checkpoint_duration_seconds_bucket",
    } <= found
    # What Prometheus knows of each of them is what the table says.
    told = scraped.api("metadata")
    for metric in METRICS:
        family = metric.name if metric.kind != "counter" or metric.name in told else metric.name.removesuffix("_total")  # fmt: skip
        (known,) = told[family]
        assert (known["type"], known["help"]) == (metric.kind, metric.help)
    assert scraped.query("dataflare_up") == {(("workflow", "scraped"),): 1.0}
    # The states of a task add up to the time that it lives.
    share = "sum by (step) (rate(dataflare_task_seconds_total[5s])) / on(step) dataflare_tasks"
    found_shares = until(scraped, f"({share}) > 0.6")
    assert all(each < 1.3 for each in found_shares.values()), found_shares
    quantile = "histogram_quantile(0.99, sum by (le) (rate(dataflare_checkpoint_duration_seconds_bucket[5s]))) > 0"
    assert 0 < next(iter(until(scraped, quantile).values())) < 60


def test_each_panel_can_be_drawn(scraped: PrometheusServer) -> None:
    empty = []
    for query in queries():
        text = query.replace("$workflow", ".*").replace("$__rate_interval", "5s")
        try:
            if not scraped.query(text):
                empty.append(query)
        except HTTPError as error:
            with error:
                pytest.fail(f"{text}: {error.read().decode()}")
    # What this run does not have: a kept log, requests, a fallback, workers of a cluster.
    names = {name for query in empty for name in re.findall(r"dataflare_\w+", query)}
    assert names <= {
        "dataflare_diverted_rows_total",
        "dataflare_log_kept_bytes",
        "dataflare_requests_limit",
        "dataflare_requests_under_way",
        "dataflare_latency_seconds_bucket",
        "dataflare_alert_firing",
        "dataflare_alert_learning",
        "dataflare_rule_rows_total",
        "dataflare_hot_key_share",
        "dataflare_worker_threads",
        "dataflare_worker_resident_memory_bytes",
        "dataflare_worker_cpu_seconds_total",
    }


def test_the_rules_are_judged_and_an_alert_of_the_workflow_arrives(
    scraped: PrometheusServer,
) -> None:
    end = time.monotonic() + 60
    while True:
        groups = scraped.api("rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert len(rules) == len(expressions())
        assert not [rule["lastError"] for rule in rules if rule.get("lastError")]
        firing = {alert["labels"]["alertname"]: alert for alert in scraped.api("alerts")["alerts"]}
        if "DataflareWorkflowAlert" in firing and all(rule["health"] == "ok" for rule in rules):
            break
        assert time.monotonic() < end, rules
    alert = firing["DataflareWorkflowAlert"]
    assert alert["state"] == "firing"
    assert alert["annotations"]["summary"] == "The alert moves of scraped fires."

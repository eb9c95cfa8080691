"""Events of OpenLineage, read by the classes that its project makes of its published schemas."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from openlineage.client import event_v2
from openlineage.client.facet_v2 import (
    column_lineage_dataset,
    datasource_dataset,
    documentation_job,
    error_message_run,
    input_statistics_input_dataset,
    job_type_job,
    output_statistics_output_dataset,
    processing_engine_run,
    schema_dataset,
)
from openlineage.client.naming import dataset as naming
from servers.process import free_port
from servers.web import Answer, Asked, http_server

from dataflare.jobs.openlineage import uuid_of
from dataflare.observability import logs
from dataflare.observability.lineage_target import LineageTarget, lineage_target
from dataflare.planner.datasets import Dataset, dataset_of
from dataflare.testing import destination_of, source_of

WORKFLOW = """\
name: totals
description: Totals of orders
settings: {run_column: _run}
sources:
  orders: {type: file, config: {path: orders.csv}}
  people: {type: inline, config: {rows: [{id: 1, town: Ulm}]}}
transformations:
  paid: {type: filter, inputs: [orders], config: {condition: "status = 'paid'"}}
  named: {type: lookup, inputs: [paid], config: {source: people, mapping: {key: user, remote_key: id, fields: [town]}}}
  sums: {type: aggregate, inputs: [named], config: {group_by: [town], measures: {total: "sum(amount)"}}}
destinations:
  out: {type: sqlite, inputs: [sums], config: {path: out.db, table: totals}}
"""
ROWS = "user,amount,status\n1,10,paid\n1,5,paid\n1,7,open\n"

FACETS: Mapping[str, type[Any]] = {
    "schema": schema_dataset.SchemaDatasetFacet,
    "dataSource": datasource_dataset.DatasourceDatasetFacet,
    "columnLineage": column_lineage_dataset.ColumnLineageDatasetFacet,
    "outputStatistics": output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet,
    "inputStatistics": input_statistics_input_dataset.InputStatisticsInputDatasetFacet,
    "errorMessage": error_message_run.ErrorMessageRunFacet,
    "processing_engine": processing_engine_run.ProcessingEngineRunFacet,
    "jobType": job_type_job.JobTypeJobFacet,
    "documentation": documentation_job.DocumentationJobFacet,
}


def facets(values: Mapping[str, Any]) -> dict[str, Any]:
    """Facets as their classes take them: an unknown name, a missing field or another version of the schema fails."""
    made = {}
    for name, value in values.items():
        class_ = FACETS[name]
        assert value["_schemaURL"] == class_._get_schema()
        assert value["_producer"].startswith("urn:")
        made[name] = class_(**{k: v for k, v in value.items() if not k.startswith("_")})
    return made


def checked(event: Mapping[str, Any]) -> Any:
    """An event as the classes take it."""
    for each in (*event["inputs"], *event["outputs"]):
        for field in each["facets"]["schema"]["fields"]:
            schema_dataset.SchemaDatasetFacetFields(**field)
        lineage = each["facets"].get("columnLineage", {"fields": {}, "dataset": []})
        for found in lineage["fields"].values():
            column_lineage_dataset.Fields(**found)
        for source in [
            *lineage["dataset"],
            *(source for found in lineage["fields"].values() for source in found["inputFields"]),
        ]:
            told = column_lineage_dataset.InputField(**source)
            assert told.transformations
            for how in told.transformations:
                column_lineage_dataset.Transformation(**how)  # type: ignore[arg-type]
    assert event["schemaURL"] == event_v2.RunEvent._get_schema()
    return event_v2.RunEvent(
        eventType=event_v2.RunState[event["eventType"]],
        eventTime=event["eventTime"],
        producer=event["producer"],
        run=event_v2.Run(event["run"]["runId"], facets(event["run"]["facets"])),
        job=event_v2.Job(
            event["job"]["namespace"], event["job"]["name"], facets(event["job"]["facets"])
        ),
        inputs=[
            event_v2.InputDataset(
                each["namespace"],
                each["name"],
                facets=facets(each["facets"]),
                inputFacets=facets(each.get("inputFacets", {})),
            )
            for each in event["inputs"]
        ],
        outputs=[
            event_v2.OutputDataset(
                each["namespace"],
                each["name"],
                facets=facets(each["facets"]),
                outputFacets=facets(each.get("outputFacets", {})),
            )
            for each in event["outputs"]
        ],
    )


def run(
    folder: Path, *args: str, text: str = WORKFLOW, rows: str = ROWS, **environment: str
) -> subprocess.CompletedProcess[str]:
    (folder / "w.yaml").write_text(text)
    (folder / "orders.csv").write_text(rows)
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("OPENLINEAGE", "OTEL_"))}
    return subprocess.run(
        [sys.executable, "-m", "dataflare", "run", "w.yaml", *args],
        cwd=folder, env={**environ, **environment}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def events_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_tells_what_it_reads_and_writes_and_which_columns_come_from_which(tmp_path: Path):
    done = run(tmp_path, "--openlineage", "events.ndjson", "--json")
    result = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    first, last = events_in(tmp_path / "events.ndjson")
    start, complete = checked(first), checked(last)
    assert (start.eventType.value, complete.eventType.value) == ("START", "COMPLETE")
    assert start.run.runId == complete.run.runId == str(uuid_of(result["run_id"]))
    assert (start.job.namespace, start.job.name) == ("dataflare", "totals")
    assert complete.job.facets["documentation"].description == "Totals of orders"
    assert complete.job.facets["jobType"].processingType == "BATCH"
    orders = ("file", str(tmp_path / "orders.csv"))
    people = ("dataflare", "totals.people")
    assert {(each.namespace, each.name) for each in complete.inputs} == {orders, people}
    (out,) = complete.outputs
    assert (out.namespace, out.name) == (f"sqlite://{tmp_path / 'out.db'}", "totals")
    fields = [(field["name"], field["type"]) for field in out.facets["schema"].fields]
    assert fields == [("town", "string"), ("total", "int64"), ("_run", "string")]
    assert out.outputFacets["outputStatistics"].rowCount == 1
    read = {each.name: each for each in complete.inputs}[orders[1]]
    assert read.inputFacets["inputStatistics"].rowCount == 3
    assert not start.outputs[0].outputFacets
    lineage = last["outputs"][0]["facets"]["columnLineage"]

    def told(fields: list[Any]) -> set[tuple[str, str, str]]:
        return {(f["name"], f["field"], f["transformations"][0]["type"]) for f in fields}

    assert (orders[1], "amount", "DIRECT") in told(lineage["fields"]["total"]["inputFields"])
    assert (people[1], "town", "DIRECT") in told(lineage["fields"]["town"]["inputFields"])
    assert (orders[1], "status", "INDIRECT") in told(lineage["dataset"])
    assert "_run" not in lineage["fields"]


def test_a_run_that_fails_says_so_by_its_code_and_without_data(tmp_path: Path):
    rows = ROWS + "1,sesame-street,paid\n"
    text = WORKFLOW.replace("{path: orders.csv}}", "{path: orders.csv}, schema: {user: int64, amount: int64, status: string}}")  # fmt: skip
    done = run(tmp_path, "--openlineage", "events.ndjson", text=text, rows=rows)
    assert done.returncode == 1
    first, last = events_in(tmp_path / "events.ndjson")
    assert checked(first).eventType.value == "START"
    fail = checked(last)
    assert fail.eventType.value == "FAIL"
    assert fail.run.facets["errorMessage"].message == "E0501 in step 'orders'"
    assert "sesame" not in json.dumps(last)
    assert not fail.outputs[0].outputFacets


def test_a_run_that_is_stopped_is_aborted_with_its_counts(tmp_path: Path):
    text = (
        "name: numbers\nsources: {n: {type: generate, config: {columns: {id: {sequence: 0}}, rate: 1000/s}}}\n"
        "destinations: {out: {type: file, inputs: [n], config: {path: parts}}}\n"
    )
    done = run(tmp_path, "--openlineage", "console", "--for", "500ms", "--json", text=text)
    counted = json.loads(done.stdout)["steps"]["out"]["rows_out"]
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert [checked(each).eventType.value for each in events] == ["START", "ABORT"]
    assert checked(events[1]).job.facets["jobType"].processingType == "STREAMING"
    assert events[1]["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == counted


def test_a_receiver_over_http_gets_them_with_its_key(tmp_path: Path):
    with http_server(lambda asked: Answer(status=201)) as server:
        done = run(
            tmp_path,
            OPENLINEAGE_URL=server.url,
            OPENLINEAGE_API_KEY="very-secret-key",
            OPENLINEAGE_NAMESPACE="shop",
        )
    assert done.returncode == 0, done.stderr
    assert {asked.path for asked in server.asked} == {"/api/v1/lineage"}
    events = [checked(asked.json()) for asked in server.asked]
    assert [each.eventType.value for each in events] == ["START", "COMPLETE"]
    assert {each.job.namespace for each in events} == {"shop"}
    for asked in server.asked:
        headers = {name.lower(): value for name, value in asked.headers.items()}
        assert headers["authorization"] == "Bearer very-secret-key"
        assert headers["content-type"] == "application/json"
    assert "very-secret" not in done.stderr


def test_a_receiver_that_is_away_is_told_once_and_harms_nothing(tmp_path: Path):
    url = f"http://127.0.0.1:{free_port()}"
    done = run(tmp_path, "--openlineage", url, "--json")
    result = json.loads(done.stdout)
    assert (done.returncode, result["status"]) == (0, "finished")
    told = [each for each in result["warnings"] if "OpenLineage" in each]
    assert len(told) == 2  # what is wrong, and how much was not sent
    assert told[1] == f"2 events of OpenLineage not sent to {url}/api/v1/lineage"
    home = tmp_path / ".dataflare" / "totals"
    run_id = logs.newest(home)
    assert run_id is not None
    lines = [line for line in logs.lines(home, run_id) if line["component"] == "openlineage"]
    assert len([line for line in lines if line["level"] == "warning"]) == 2


def test_an_event_that_is_answered_with_503_comes_again_in_its_order(tmp_path: Path):
    answers = iter([503])

    def answer(asked: Asked) -> Answer:
        return Answer(status=next(answers, 200))

    text = WORKFLOW.replace("settings: {", "settings: {checkpoint: {interval: 50ms}, ")
    with http_server(answer) as server:
        done = run(tmp_path, "--openlineage", server.url, text=text)
    assert done.returncode == 0, done.stderr
    kinds = [asked.json()["eventType"] for asked in server.asked]
    assert kinds == ["START", "START", "COMPLETE"]


def test_an_event_that_is_refused_is_not_sent_again(tmp_path: Path):
    with http_server(lambda asked: Answer(status=400)) as server:
        done = run(tmp_path, "--openlineage", server.url)
    assert done.returncode == 0
    assert [asked.json()["eventType"] for asked in server.asked] == ["START", "COMPLETE"]
    assert "it answers 400" in done.stderr


def test_a_wrong_address_is_refused(tmp_path: Path):
    done = run(tmp_path, "--openlineage", "ftp://host/x")
    assert done.returncode == 2
    assert "error[E0120]" in done.stderr


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        (None, {}, None),
        (None, {"OPENLINEAGE_URL": "http://h:1", "OPENLINEAGE_DISABLED": "true"}, None),
        ("http://h:1", {"OPENLINEAGE_DISABLED": "true"}, LineageTarget("http://h:1/api/v1/lineage")),
        ("http://h:1/own/place", {}, LineageTarget("http://h:1/own/place")),
        (None, {"OPENLINEAGE_URL": "https://h", "OPENLINEAGE_ENDPOINT": "events"}, LineageTarget("https://h/events")),
        ("file:///var/a%20b.ndjson", {}, LineageTarget(path="/var/a b.ndjson")),
        ("events.ndjson", {}, LineageTarget(path="events.ndjson")),
        ("console", {"OPENLINEAGE_NAMESPACE": "n"}, LineageTarget(namespace="n")),
    ],
)  # fmt: skip
def test_where_events_go(text: str | None, environ: dict[str, str], expected: LineageTarget | None):
    assert lineage_target(text, environ) == expected


def test_a_run_id_keeps_its_bits():
    assert uuid_of("0" * 25 + "1") == uuid.UUID(int=1)
    assert uuid_of("7" + "Z" * 25) == uuid.UUID(int=2**128 - 1)


def name(made: Any) -> Dataset:
    return Dataset(made.get_namespace(), made.get_name())


SECRET = "postgresql://ann:pass%20word@db.example.com/shop"


@pytest.mark.parametrize(
    ("type_", "config", "expected"),
    [
        ("postgres", {"connection_string": SECRET, "table": "orders", "mode": "append"},
         name(naming.Postgres("db.example.com", "5432", "shop", "public", "orders"))),
        ("postgres", {"connection_string": "host=db port=5433 dbname=shop user=u password=p", "table": "sales.orders"},
         name(naming.Postgres("db", "5433", "shop", "sales", "orders"))),
        ("mysql", {"connection_string": "mysql://u:p@db:3307/shop", "table": "orders"},
         name(naming.MySQL("db", "3307", "shop", "orders"))),
        ("kafka", {"bootstrap_servers": "b1:9093,b2:9093", "topic": "orders"},
         name(naming.Kafka("b1", "9093", "orders"))),
        ("file", {"path": "/data/out.csv"}, name(naming.LocalFileSystem("/data/out.csv"))),
        ("file", {"path": "s3://bucket/a/b.parquet"}, name(naming.S3("bucket", "a/b.parquet"))),
        ("delta", {"path": "s3://bucket/lake/t"}, name(naming.S3("bucket", "lake/t"))),
        ("file", {"path": "gs://bucket/a/b.parquet"}, name(naming.GCS("bucket", "a/b.parquet"))),
        ("duckdb", {"path": "/data/x.duckdb", "table": "t"}, Dataset("duckdb:///data/x.duckdb", "t")),
        ("nats", {"connection": "nats://u:p@n1", "subject": "orders.new"}, Dataset("nats://n1:4222", "orders.new")),
        ("http", {"url": "https://api.example.com/v1/orders?key=1"}, Dataset("https://api.example.com", "v1/orders")),
        ("elasticsearch", {"connection": "http://e:9200", "index": "orders", "id_field": "id"}, Dataset("elasticsearch://e:9200", "orders")),
        ("blackhole", {}, Dataset("ns", "own")),
    ],
)  # fmt: skip
def test_destinations_have_the_names_of_the_specification(
    type_: str, config: dict[str, Any], expected: Dataset
):
    made = dataset_of(destination_of(type_, config), "ns", "own")
    assert made == expected
    assert "p@" not in str(made)
    assert "word" not in str(made)


def test_sources_too(tmp_path: Path):
    made = source_of("sqlite", {"path": "in.db", "table": "orders"}, base=tmp_path)
    assert dataset_of(made, "ns", "own") == Dataset(f"sqlite://{tmp_path / 'in.db'}", "orders")
    assert dataset_of(source_of("inline", {"rows": []}), "ns", "own") == Dataset("ns", "own")

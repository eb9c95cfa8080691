"""The destination, on a real OpenSearch."""

from __future__ import annotations

import asyncio
import json
import zlib
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conformance import keeps_destination_laws
from search_kit import Place
from servers.opensearch import OpenSearch
from servers.web import Answer, Asked, http_server

from dataflare.connectors.elasticsearch.destination import ElasticsearchDestination
from dataflare.errors import DataFlareError, SystemError_
from dataflare.model.batch import KIND_COLUMN, SharedDataBatch
from dataflare.model.types import Schema
from dataflare.sdk.context import DestinationContext
from dataflare.testing import Checkpoint, ScriptedSource, check_destination, destination_of

ROWS = pl.DataFrame({"n": range(40), "text": [f"row {n}" for n in range(40)]})
CHANGES = """\
name: changes
settings: {parallelism: 1}
sources:
  rows: {type: inline, config: {rows: ROWS}}
transformations:
  totals:
    type: aggregate
    inputs: [rows]
    config: {group_by: [k], measures: {n: "count(*)"}, emit: updates}
destinations:
  out: {type: elasticsearch, inputs: [totals], config: {connection: "URL", index: INDEX, MORE}}
"""


@pytest.mark.parametrize(
    ("more", "only"), [({"id_field": "n"}, []), ({}, ["each_row_arrives_once"])]
)
def test_it_keeps_the_contract_of_destinations(
    opensearch: OpenSearch, tmp_path: Path, more: dict[str, Any], only: list[str]
) -> None:
    def index_of(folder: Path) -> str:
        return f"c{zlib.crc32(str(folder).encode())}"

    def make(folder: Path) -> Any:
        config = {"connection": opensearch.url, "index": index_of(folder), **more}
        return destination_of("opensearch", config, base=folder)

    def read(folder: Path) -> pl.DataFrame:
        rows = [*opensearch.documents(index_of(folder)).values()]
        return pl.DataFrame(rows, schema=ROWS.schema)

    if more:
        keeps_destination_laws("elasticsearch", make, read, tmp_path, frame=ROWS)
    else:
        asyncio.run(check_destination(make, read, tmp_path, frame=ROWS, only=only))
    opensearch.ask("DELETE", "/c*")


def test_rows_go_to_the_index_of_their_date_and_of_their_text(place: Place) -> None:
    rows = [
        {"id": 1, "ts": "2026-03-01T23:30:00-02:00", "to": "eu"},
        {"id": 2, "ts": "2026-03-01T10:00:00Z", "to": "us"},
    ]
    place.index += "-{to}-{ts:%Y.%m.%d}"
    place_name = place.index.partition("-")[0]
    assert place.write(rows, schema='id: int64, ts: "timestamp[us, UTC]", to: string').error is None
    place.index = place_name
    assert {*place.documents("-eu-2026.03.02")} == {"1"}
    assert {*place.documents("-us-2026.03.01")} == {"2"}


def test_a_document_has_the_id_of_its_row(place: Place) -> None:
    rows = [{"id": n % 7, "n": n} for n in range(100)]
    assert place.write(rows, "id_field: id, batch_size: 30").error is None
    assert {id_: doc["n"] for id_, doc in place.documents().items()} == {
        str(n % 7): n for n in range(93, 100)
    }


def test_several_columns_make_an_id_as_a_list(place: Place) -> None:
    rows = [{"a": 'x,"y', "b": 1}, {"a": "x", "b": 2}]
    assert place.write(rows, "id_field: [a, b]").error is None
    assert {*map(tuple, map(json.loads, place.documents()))} == {('x,"y', "1"), ("x", "2")}


def test_without_an_id_the_server_gives_one(place: Place) -> None:
    result = place.write([{"n": n} for n in range(250)], "batch_size: 100")
    assert result.error is None
    assert sorted(doc["n"] for doc in place.documents().values()) == [*range(250)]


def test_only_guilty_rows_are_dead_letters(place: Place) -> None:
    place.ask(
        "PUT", "", {"mappings": {"properties": {"n": {"type": "long"}, "at": {"type": "date"}}}}
    )
    rows: list[dict[str, Any]] = [
        {"id": str(n), "n": str(n), "at": "2026-01-01"} for n in range(100)
    ]
    rows[17]["n"] = "seventeen"
    rows[30]["at"] = "yesterday"
    rows[40]["id"] = "x" * 513
    rows[50]["id"] = None
    rows[60]["id"] = ""
    result = place.write(
        rows, handling="on_error: dead_letter", schema="id: string, n: string, at: string"
    )
    assert result.error is None
    steps = result.to_json()["steps"]
    assert steps["out"]["dead_letters"] == 5
    assert len(place.documents()) == 95
    letters = "".join(
        path.read_text()
        for path in (place.folder / "home").rglob("*")
        if path.suffix in (".ndjson", ".jsonl", ".json")
    )
    for text in (
        "mapper_parsing_exception",
        "seventeen",
        "yesterday",
        "513 bytes",
        "no _id",
        "empty text",
    ):
        assert text in letters, text


def test_a_refused_row_fails_the_run_with_the_reason_of_the_server(place: Place) -> None:
    place.ask("PUT", "", {"mappings": {"properties": {"n": {"type": "long"}}}})
    result = place.write([{"id": 1, "n": "x"}])
    assert result.error is not None
    assert result.error.code == "E0510"
    assert "mapper_parsing_exception" in result.error.message
    assert "n='x'" in result.error.notes[0]


def test_create_leaves_a_document_as_it_is(place: Place) -> None:
    assert place.write([{"id": 1, "n": 1}]).error is None
    more = "id_field: id, op: create"
    assert (
        place.write([{"id": 1, "n": 2}, {"id": 2, "n": 3}, {"id": 2, "n": 4}], more).error is None
    )
    assert {id_: doc["n"] for id_, doc in place.documents().items()} == {"1": 1, "2": 3}


def test_update_leaves_other_fields_as_they_are(place: Place) -> None:
    assert place.write([{"id": 1, "a": 1, "b": 1}]).error is None
    assert (
        place.write([{"id": 1, "a": 2}, {"id": 2, "a": 3}], "id_field: id, op: update").error
        is None
    )
    assert place.documents() == {"1": {"id": 1, "a": 2, "b": 1}, "2": {"id": 2, "a": 3}}


def test_delete_deletes_and_what_is_gone_already_is_no_error(place: Place) -> None:
    assert place.write([{"id": n} for n in range(4)]).error is None
    result = place.write([{"id": 1}, {"id": 3}, {"id": 9}], "id_field: id, op: delete")
    assert result.error is None
    assert {*place.documents()} == {"0", "2"}


def test_a_row_is_written_only_if_its_version_is_newer(place: Place) -> None:
    more = "id_field: id, sequence: v"
    assert (
        place.write([{"id": 1, "v": 5, "n": "new"}, {"id": 1, "v": 3, "n": "old"}], more).error
        is None
    )
    assert (
        place.write([{"id": 1, "v": 4, "n": "older"}, {"id": 2, "v": 1, "n": "other"}], more).error
        is None
    )
    assert {id_: doc["n"] for id_, doc in place.documents().items()} == {"1": "new", "2": "other"}
    result = place.write(
        [{"id": 3, "v": -1}, {"id": 4, "v": None}], more, handling="on_error: skip"
    )
    assert result.error is None
    assert len(place.documents()) == 2


def test_documents_go_through_a_pipeline(place: Place) -> None:
    place.server.ask(
        "PUT", "/_ingest/pipeline/louder",
        {"processors": [{"uppercase": {"field": "text"}}, {"set": {"field": "seen", "value": True}}]},
    )  # fmt: skip
    assert place.write([{"id": 1, "text": "a"}], "id_field: id, pipeline: louder").error is None
    assert place.documents() == {"1": {"id": 1, "text": "A", "seen": True}}
    with pytest.raises(SystemError_, match="no ingest pipeline 'absent'") as caught:
        place.write([{"id": 1, "text": "a"}], "id_field: id, pipeline: absent")
    assert caught.value.code == "E0604"


def test_a_routed_document_is_on_its_shard(place: Place) -> None:
    more = "id_field: id, routing: team, create_index: {shards: 3, replicas: 0}"
    assert place.write([{"id": n, "team": f"t{n % 3}"} for n in range(30)], more).error is None
    found = place.ask("POST", "/_search?routing=t1&size=100", {"query": {"term": {"team": "t1"}}})
    assert {hit["_routing"] for hit in found["hits"]["hits"]} == {"t1"}
    assert len(found["hits"]["hits"]) == 10
    assert (
        place.ask("GET", "/_settings")[place.index]["settings"]["index"]["number_of_shards"] == "3"
    )


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("mirror", {"a": 2, "b": 1}), ("upsert", {"a": 2, "b": 1})],
)
def test_a_changelog_is_applied_by_key(place: Place, mode: str, expected: dict[str, int]) -> None:
    text = CHANGES.replace("ROWS", json.dumps([{"k": "a"}, {"k": "b"}, {"k": "a"}]))
    result = place.run(text.replace("MORE", f"mode: {mode}, id_field: k"))
    assert result.error is None
    assert {id_: doc["n"] for id_, doc in place.documents().items()} == expected


def test_what_is_deleted_is_deleted_and_moved_documents_move(place: Place) -> None:
    def change(op: str, id_: int, to: str, n: int) -> dict[str, Any]:
        return {"_op": op, "id": id_, "to": to, "n": n}

    first = [change("insert", n, "a", n) for n in range(4)]
    then = [
        change("update_before", 0, "a", 0), change("update_after", 0, "b", 10),
        change("delete", 1, "a", 1),
        change("delete", 2, "a", 2), change("insert", 2, "a", 20),
    ]  # fmt: skip
    ScriptedSource([*first, Checkpoint(), *then], name="moves", changelog=True, key=["id"])
    text = """\
name: moves
settings: {parallelism: 1, checkpoint: {interval: 20ms}}
sources: {rows: {type: scripted, config: {script: moves}}}
destinations:
  out: {type: opensearch, inputs: [rows], config: {connection: "URL", index: "INDEX-{to}", MORE}}
"""
    result = place.run(text.replace("MORE", "mode: mirror, id_field: id"))
    assert result.error is None, result.error
    counted = result.steps["out"]
    assert (counted["rows_in"], counted["rows_out"]) == (9, 9)
    found = {to: {i: d["n"] for i, d in place.documents(f"-{to}").items()} for to in "ab"}
    assert found == {"a": {"2": 20, "3": 3}, "b": {"0": 10}}
    log = place.run(
        text.replace("INDEX-{to}", "INDEX-log").replace("MORE", "changelog: columns"), home="log"
    )
    assert log.error is None, log.error
    kinds = [document["_op"] for document in place.documents("-log").values()]
    assert sorted(kinds) == ["delete"] * 2 + ["insert"] * 5 + ["update_after", "update_before"]


def test_changes_and_batches_without_any_are_written_together(place: Place) -> None:
    context = DestinationContext(
        "out", "l", 1, Schema.of({"id": "int64", "n": "int64"}), place.folder, changelog=True
    )
    config = {
        "connection": place.server.url,
        "index": place.index,
        "mode": "mirror",
        "id_field": "id",
    }
    plain = pl.DataFrame({"id": [1, 2, 3], "n": [1, 2, 3]})
    kinds = pl.Series([3, 0], dtype=pl.UInt8)
    changes = pl.DataFrame({"id": [1, 4], "n": [1, 4]}).with_columns(kinds.alias(KIND_COLUMN))

    async def write() -> None:
        writer = await destination_of("opensearch", config, base=place.folder).open(context, None)
        for frame in (plain, changes):
            await writer.write_batch(SharedDataBatch(frame))
        await writer.prepare(1, final=True)
        await writer.aclose()

    asyncio.run(write())
    assert {*place.documents()} == {"2", "3", "4"}


def test_an_index_gets_the_fields_that_it_lacks(place: Place) -> None:
    assert place.write([{"id": 1, "a": 1}]).error is None
    assert (
        place.write(
            [{"id": 2, "a": 2, "price": "1.50"}],
            schema='id: int64, a: int64, price: "decimal(10, 2)"',
        ).error
        is None
    )
    mapping = place.ask("GET", "/_mapping")[place.index]["mappings"]
    assert mapping["properties"]["price"] == {"type": "double"}
    assert mapping["_meta"] == {
        "dataflare": {"id": "int64", "a": "int64", "price": "decimal(10, 2)"}
    }
    assert place.documents()["2"] == {"id": 2, "a": 2, "price": "1.50"}


class Scripted:
    """A server of the bulk interface that says what it is told to."""

    def __init__(self) -> None:
        self.bulks: list[list[str]] = []
        self.answers: list[Any] = []

    def __call__(self, asked: Asked) -> Answer:
        if asked.path == "/":
            return Answer({"version": {"distribution": "opensearch", "number": "2.19.1"}})
        if asked.path != "/_bulk":
            return Answer({})
        lines = asked.body.decode().splitlines()
        ids = [json.loads(line)["index"]["_id"] for line in lines[::2]]
        self.bulks.append(ids)
        said = self.answers.pop(0) if self.answers else 201
        if callable(said):
            said = said(ids)
        if isinstance(said, Answer):
            return said
        statuses = said if isinstance(said, list) else [said] * len(ids)
        items = [
            {
                "index": {"status": s}
                | (
                    {"error": {"type": "es_rejected_execution_exception", "reason": "full"}}
                    if s == 429
                    else {}
                )
            }
            for s in statuses
        ]
        return Answer({"errors": any(s > 299 for s in statuses), "items": items})


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were waited, without waiting them."""
    seconds: list[float] = []

    async def sleep(each: float) -> None:
        seconds.append(each)

    monkeypatch.setattr(ElasticsearchDestination, "sleep", staticmethod(sleep))
    return seconds


def scripted(
    tmp_path: Path, server: Scripted, rows: int, more: str = "", handling: str = ""
) -> Any:
    with http_server(server) as at:
        place = Place(None, tmp_path, "t")  # type: ignore[arg-type]
        found = [{"id": n} for n in range(rows)]
        more = f"id_field: id{more}, retry_policy: {{max_attempts: 1}}"
        return place.write(found, more, url=at.url, handling=handling)


def test_too_large_a_request_is_halved_until_it_fits(tmp_path: Path, waited: list[float]) -> None:
    server = Scripted()
    server.answers = [lambda ids: Answer({}, 413) if len(ids) > 8 or "13" in ids else 201] * 60
    result = scripted(tmp_path, server, 20, handling="on_error: dead_letter")
    assert result.error is None
    assert result.to_json()["steps"]["out"]["dead_letters"] == 1
    taken = [id_ for ids in server.bulks if len(ids) <= 8 and "13" not in ids for id_ in ids]
    assert sorted(map(int, taken)) == [n for n in range(20) if n != 13]
    assert not waited


def test_a_busy_server_gets_smaller_requests_later(tmp_path: Path, waited: list[float]) -> None:
    server = Scripted()
    server.answers = [Answer({}, 429, {"Retry-After": "3"}), Answer({}, 503), 201]
    assert scripted(tmp_path, server, 16).error is None
    assert [len(ids) for ids in server.bulks[:3]] == [16, 8, 4]
    assert waited[0] == 3.0
    assert len(waited) == 2
    assert [id_ for ids in server.bulks[2:] for id_ in ids] == [str(n) for n in range(16)]


def test_only_documents_that_were_put_off_are_sent_again_and_before_others(
    tmp_path: Path, waited: list[float]
) -> None:
    server = Scripted()
    server.answers = [[201, 429, 201, 429], 201]
    assert scripted(tmp_path, server, 8, ", batch_size: 4, concurrency: 1").error is None
    assert server.bulks[:2] == [["0", "1", "2", "3"], ["1", "3"]]
    assert [id_ for ids in server.bulks[2:] for id_ in ids] == ["4", "5", "6", "7"]


def test_a_server_that_stays_busy_is_an_error_that_may_pass(
    tmp_path: Path, waited: list[float]
) -> None:
    server = Scripted()
    server.answers = [Answer({"error": {"type": "x", "reason": "queue is full"}}, 429)] * 100
    result = scripted(tmp_path, server, 4)
    assert isinstance(result.error, DataFlareError)
    assert result.error.code == "E0611"
    assert "queue is full" in result.error.notes[0]
    assert len(waited) == 6


def test_an_index_that_is_blocked_is_an_error_of_the_system(tmp_path: Path) -> None:
    server = Scripted()
    error = {
        "type": "cluster_block_exception",
        "reason": "index [t] blocked by: [FORBIDDEN/12/disk]",
    }
    server.answers = [
        Answer({"errors": True, "items": [{"index": {"status": 403, "error": error}}]})
    ] * 9
    result = scripted(tmp_path, server, 1, handling="on_error: skip")
    assert result.error is not None
    assert result.error.code == "E0603"


def test_an_answer_that_is_not_of_such_a_server_is_an_error(tmp_path: Path) -> None:
    with http_server(lambda asked: Answer(b"<html>hello</html>")) as at:
        place = Place(None, tmp_path, "t")  # type: ignore[arg-type]
        with pytest.raises(SystemError_, match="cannot be used to tell its version") as caught:
            place.write([{"id": 1}], url=at.url)
    assert caught.value.code == "E0612"

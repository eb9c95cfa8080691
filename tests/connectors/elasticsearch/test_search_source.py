"""The source, on a real OpenSearch."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conformance import keeps_source_laws
from search_kit import Place
from servers.opensearch import OpenSearch
from servers.web import Answer, Asked, http_server

from dataflare.connectors import memory
from dataflare.errors import CheckpointError, ConfigError, SystemError_
from dataflare.model.progress import Position
from dataflare.model.types import Schema
from dataflare.testing import check_source, source_of

READ = """\
name: read
settings: {{parallelism: 1, restart: {{attempts: 0}}, mode: batch}}
sources:
  docs: {{type: opensearch, config: {{connection: "URL", index: "INDEX", {more}}}{schema}{handling}}}
destinations:
  out: {{type: memory, inputs: [docs], config: {{name: read}}}}
"""


def read(
    place: Place, more: str = "", *, schema: str = "", handling: str = "", **options: Any
) -> Any:
    """The result of a run, and the rows that it read."""
    memory.clear()
    text = READ.format(
        more=more,
        schema=f", schema: {{{schema}}}" if schema else "",
        handling=f", error_handling: {{{handling}}}" if handling else "",
    )
    result = place.run(text, **{"home": "read", **options})
    return result, memory.committed("read") if result.error is None else None


def rows_of(place: Place, more: str = "", **options: Any) -> list[dict[str, Any]]:
    result, frame = read(place, more, **options)
    assert result.error is None, result.error
    assert frame is not None
    rows: list[dict[str, Any]] = frame.to_dicts()
    return rows


def test_it_keeps_the_contract_of_sources(place: Place) -> None:
    more = "id_field: id, create_index: {shards: 2, replicas: 0}"
    assert (
        place.write(
            [{"id": n, "name": None if n % 5 == 0 else f"n {n}"} for n in range(60)], more
        ).error
        is None
    )
    config = {
        "connection": place.server.url,
        "index": place.index,
        "batch_size": 9,
        "metadata": ["id"],
    }
    keeps_source_laws("elasticsearch", lambda: source_of("opensearch", config))
    asyncio.run(
        check_source(
            lambda: source_of("opensearch", {**config, "slices": 4}), only=["positions_resume"]
        )
    )


def test_all_slices_of_several_indexes_are_read(place: Place) -> None:
    rows = [{"id": n, "to": "ab"[n % 2]} for n in range(2_500)]
    place.index += "-{to}"
    more = "id_field: id, create_index: {shards: 2, replicas: 0}"
    assert place.write(rows, more).error is None
    place.index = place.index.replace("{to}", "*")
    found = rows_of(place, "metadata: [id, index, version, seq_no], slices: 3, batch_size: 400")
    assert sorted(row["id"] for row in found) == [*range(2_500)]
    assert all(row["_id"] == str(row["id"]) for row in found)
    assert all(row["_index"].endswith(f"-{row['to']}") for row in found)
    assert {row["_version"] for row in found} == {1}


def test_a_query_columns_and_a_filtered_alias_choose_documents(place: Place) -> None:
    assert place.write([{"id": n, "n": n, "s": f"x{n}"} for n in range(20)]).error is None
    found = rows_of(place, "query: {range: {n: {lt: 3}}}, columns: [n]")
    assert sorted(row["n"] for row in found) == [0, 1, 2]
    assert {*found[0]} == {"n"}
    alias = f"{place.index}-few"
    actions = [
        {"add": {"index": place.index, "alias": alias, "filter": {"range": {"n": {"gte": 18}}}}}
    ]
    place.server.ask("POST", "/_aliases", {"actions": actions})
    place.index = alias
    assert sorted(row["n"] for row in rows_of(place)) == [18, 19]
    place.index = place.index.removesuffix("-few")


TYPES = pl.DataFrame(
    {
        "id": [1, 2, 3],
        "truth": [True, None, False],
        "small": pl.Series([-128, None, 127], dtype=pl.Int8),
        "big": [-(2**63), None, 2**63 - 1],
        "huge": pl.Series([0, None, 2**64 - 1], dtype=pl.UInt64),
        "ratio": [0.1, None, -1.7976931348623157e308],
        "single": pl.Series([0.5, None, 3.4028234663852886e38], dtype=pl.Float32),
        "price": pl.Series(["1.50", None, "-99999999999999999999999999999999999.999"]).cast(pl.Decimal(38, 3)),
        "text": ["ünïcode \n\r\"\\ \u2028", None, ""],
        "bytes": [b"\x00\xff", None, b""],
        "day": pl.Series(["2026-02-28", None, "0001-01-01"]).str.to_date(),
        "at": pl.Series(["2026-02-28T23:59:59.123456", None, "1969-12-31T23:59:59.999999"]).str.to_datetime(
            time_unit="us", time_zone="UTC"
        ),
        "exact": pl.Series([1, None, -1]).cast(pl.Datetime("ns")),
        "clock": pl.Series([1, None, 86_399_999_999_999], dtype=pl.Int64).cast(pl.Time),
        "span": pl.Series([1, None, -(10**15)], dtype=pl.Int64).cast(pl.Duration("us")),
        "tags": [["a", None], None, []],
        "inner": [{"a": 1, "b": [{"c": "x"}]}, None, {"a": None, "b": None}],
    }
)  # fmt: skip


def test_each_type_comes_back_as_it_was(place: Place) -> None:
    memory.clear()
    memory.put("types", TYPES)
    workflow = """\
name: types
sources:
  rows: {type: memory, config: {name: types}}
destinations:
  out: {type: opensearch, inputs: [rows], config: {connection: "URL", index: INDEX, id_field: id}}
"""
    assert place.run(workflow).error is None
    result, frame = read(place)
    assert result.error is None, result.error
    assert frame.select(TYPES.columns).sort("id").equals(TYPES)
    assert {name: frame.schema[name] for name in TYPES.columns} == dict(TYPES.schema)


def test_json_comes_back_as_json(place: Place) -> None:
    documents = ['{"a": [1, 2.5, null], "b": "x"}', "[]", "12345678901234567890123"]
    lines = [f'{{"id": {n}, "doc": {text}}}' for n, text in enumerate(documents)]
    (place.folder / "in.ndjson").write_text("\n".join(lines))
    workflow = """\
name: json
sources: {rows: {type: file, config: {path: in.ndjson}, schema: {id: int64, doc: json}}}
destinations:
  out: {type: opensearch, inputs: [rows], config: {connection: "URL", index: INDEX, id_field: id}}
"""
    assert place.run(workflow).error is None
    _, frame = read(place)
    assert frame is not None
    assert frame.sort("id")["doc"].to_list() == documents
    source = source_of("opensearch", {"connection": place.server.url, "index": place.index})
    assert asyncio.run(source.schema()).to_json()["doc"] == "json"


def test_documents_of_others_are_read_by_mapping_and_sample(place: Place) -> None:
    properties = {
        "n": {"type": "long"}, "f": {"type": "double"}, "b": {"type": "boolean"}, "k": {"type": "keyword"},
        "at": {"type": "date"}, "never": {"type": "integer"}, "o": {"properties": {"x": {"type": "double"}, "y": {"type": "keyword"}}},
    }  # fmt: skip
    place.ask("PUT", "", {"mappings": {"properties": properties}})
    place.ask(
        "PUT",
        "/_doc/1?refresh=true",
        {
            "n": 1,
            "f": 2,
            "b": True,
            "k": ["a", "b"],
            "at": "2026-01-01T00:00:00Z",
            "o": {"x": 1},
            "new": "z",
        },
    )
    place.ask("PUT", "/_doc/2?refresh=true", b'{"n": null,\n "f": 0.5,\r\n "k": ["c\\n"]}')
    _, frame = read(place)
    assert frame is not None
    assert {**Schema.from_polars(frame.schema).to_json()} == {
        "n": "int64", "f": "float64", "b": "bool", "k": "list<string>", "at": "timestamp[us, UTC]",
        "never": "int64", "o": "struct<x: float64, y: string>", "new": "string",
    }  # fmt: skip
    rows = sorted(frame.to_dicts(), key=lambda row: row["f"])
    assert rows[0]["k"] == ["c\n"]
    assert rows[1]["o"] == {"x": 1.0, "y": None}


def test_a_value_that_its_column_cannot_hold_is_a_bad_row_with_its_id(place: Place) -> None:
    place.ask("PUT", "", {"mappings": {"properties": {"n": {"type": "long"}}}})
    rows = [{"n": n} for n in range(1_100)] + [{"n": 7.4}]
    lines = [line for n, row in enumerate(rows) for line in ({"index": {"_id": str(n)}}, row)]
    place.ask(
        "POST", "/_bulk?refresh=true", "".join(f"{json.dumps(each)}\n" for each in lines).encode()
    )
    result, _ = read(place)
    assert result.error is not None
    assert result.error.code == "E0501"
    assert "_id 1100" in str(result.error.to_json())
    assert len(rows_of(place, handling="on_error: skip")) == 1_100


def test_only_new_documents_are_read(place: Place) -> None:
    schema = 'id: int64, at: "timestamp[us, UTC]"'
    more = "id_field: id, create_index: {shards: 2, replicas: 0}"
    first = [{"id": n, "at": f"2026-01-01T00:00:{n:02}.123456Z"} for n in range(10)] + [
        {"id": 99, "at": None}
    ]
    assert place.write(first, more, schema=schema).error is None
    incremental = 'incremental: {column: at, initial_value: "2026-01-01T00:00:05Z"}'
    assert sorted(row["id"] for row in rows_of(place, incremental)) == [5, 6, 7, 8, 9, 99]
    assert rows_of(place, incremental) == []
    later = [{"id": n, "at": f"2026-01-01T00:00:{n:02}.123457Z"} for n in (8, 9, 10, 11)]
    assert place.write(later, more, schema=schema).error is None
    assert sorted(row["id"] for row in rows_of(place, incremental)) == [9, 10, 11]


def test_an_analysed_text_is_no_cursor(place: Place) -> None:
    assert place.write([{"id": 1, "t": "a"}]).error is None
    with pytest.raises(ConfigError, match="is text, whose order"):
        read(place, "incremental: {column: t}")


def test_an_index_that_is_not_there_is_an_error(place: Place) -> None:
    for index in (f"{place.index}-absent", f"{place.index}-absent-*"):
        place.index = index
        with pytest.raises(SystemError_) as caught:
            read(place)
        assert caught.value.code == "E0604"
    place.index = place.index.partition("-")[0]


def test_a_point_in_time_outlives_a_reader_and_changes_and_its_end_is_an_error(
    place: Place,
) -> None:
    assert place.write([{"id": n, "n": 0} for n in range(50)]).error is None
    config = {"connection": place.server.url, "index": place.index, "batch_size": 20}

    async def check() -> None:
        source = source_of("opensearch", config)
        (split,) = await source.splits()
        reader = await source.open(split, None)
        first = await reader.read_chunk()  # type: ignore[attr-defined]
        await reader.aclose()
        changed = [{"id": n, "n": 1} for n in range(60)]
        assert (await asyncio.to_thread(place.write, changed)).error is None
        position = Position(json.loads(json.dumps(first.position.to_json())))
        reader = await source_of("opensearch", config).open(split, position)
        found = [await reader.read_chunk() for _ in range(2)]  # type: ignore[attr-defined]
        frames = [chunk.scan().collect() for chunk in (first, *found)]
        assert sorted(pl.concat(frames)["id"].to_list()) == [*range(50)]
        assert {*pl.concat(frames)["n"]} == {0}
        end = reader.position()
        await reader.aclose()
        await source.committed({split.id: end})  # type: ignore[attr-defined]
        reader = await source.open(split, position)
        with pytest.raises(CheckpointError, match="no longer has the point in time") as caught:
            await reader.read_chunk()  # type: ignore[attr-defined]
        assert caught.value.code == "E0703"
        await reader.aclose()

    asyncio.run(check())


def test_a_run_forgets_its_point_in_time_when_it_is_done(
    place: Place, opensearch: OpenSearch
) -> None:
    assert place.write([{"id": n} for n in range(5)]).error is None
    before = opensearch.ask("GET", "/_nodes/stats/indices/search")
    rows_of(place)
    after = opensearch.ask("GET", "/_nodes/stats/indices/search")

    def open_points(stats: Any) -> int:
        (node,) = stats["nodes"].values()
        return int(node["indices"]["search"]["point_in_time_current"])

    assert open_points(after) <= open_points(before)


def test_a_part_of_the_documents_is_never_taken_for_all(tmp_path: Path) -> None:
    hits = {"hits": [{"_index": "t", "_id": "1", "_source": {"id": 1}, "sort": [1]}]}

    def answer(asked: Asked) -> Answer:
        if asked.path == "/":
            return Answer({"version": {"number": "8.15.0"}})
        if asked.path == "/t/_mapping":
            return Answer({"t": {"mappings": {"properties": {"id": {"type": "long"}}}}})
        if asked.path == "/t/_settings":
            return Answer({"t": {"settings": {"index": {"number_of_shards": "1"}}}})
        if asked.path == "/t/_pit":
            return Answer({"id": "p"})
        failed = 0 if asked.path == "/t/_search" else 1
        return Answer({"timed_out": False, "_shards": {"failed": failed}, "hits": hits})

    with http_server(answer) as at:
        place = Place(None, tmp_path, "t")  # type: ignore[arg-type]
        result, _ = read(place, url=at.url)
    assert result.error is not None
    assert result.error.code == "E0611"
    assert "only a part" in result.error.message


def test_a_catalogue_has_the_indexes_and_their_fields(place: Place) -> None:
    place.write([{"id": 1, "v": "a"}])
    config = {"connection": place.server.url}
    source = source_of("opensearch", {**config, "index": "-"}, base=place.folder)
    found = {entry.name: entry for entry in asyncio.run(source.catalog())}
    assert (found[place.index].kind, found[place.index].rows) == ("index", 1)
    assert not [name for name in found if name.startswith(".")]
    one = source_of("opensearch", {**config, **found[place.index].config}, base=place.folder)
    assert {*asyncio.run(one.schema()).names} == {"id", "v"}

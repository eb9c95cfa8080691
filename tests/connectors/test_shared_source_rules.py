"""The rules of docs/sources.md, each over every source that has it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers.web import Answer, http_server
from test_json_sources_agree import Read, read

from dataflare.connectors.file.source import FileSource
from dataflare.connectors.http.source import HttpSource
from dataflare.errors import DataFlareError
from dataflare.model.types import Schema
from dataflare.sdk.context import ConnectorContext

BOM = "\ufeff"
JSON_SOURCES = ("ndjson", "json", "http")
ALL = ("csv", *JSON_SOURCES)

Reader = Callable[..., Read]


def csv_of(rows: list[str]) -> str:
    """Rows of JSON as CSV: numbers as they were written, texts without their quotes."""
    pairs = [json.loads(row, object_pairs_hook=list, parse_float=str) for row in rows]
    names = [name for name, _ in pairs[0]]
    return "\n".join(
        ",".join(map(str, line)) for line in [names, *(dict(p).values() for p in pairs)]
    )


def text_of(kind: str, rows: list[str]) -> str:
    match kind:
        case "csv":
            return csv_of(rows)
        case "ndjson":
            return "\n".join(rows) + "\n"
    return "[" + ",\n".join(rows) + "]"


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """Reads rows of JSON through a source of a kind."""
    content = [b""]
    with http_server(lambda asked: Answer(content[0])) as server:

        def read_rows(kind: str, rows: list[str], *, start: str = "", **contract: str) -> Read:
            text = start + text_of(kind, rows)
            context = ConnectorContext("src", tmp_path)
            source: Any
            if kind == "http":
                content[0] = text.encode()
                source = HttpSource(HttpSource.Config(url=server.url), context)
            else:
                (tmp_path / f"a.{kind}").write_text(text)
                source = FileSource(FileSource.Config(path=f"a.{kind}"), context)
            source.contract = Schema.of(contract) if contract else None
            return asyncio.run(read(source))

        yield read_rows


@pytest.mark.parametrize("kind", ALL)
def test_a_mark_of_byte_order_is_not_data(kind: str, reader: Reader) -> None:
    assert reader(kind, ['{"id": 1}'], start=BOM)[0] == [{"id": 1}]


@pytest.mark.parametrize("kind", JSON_SOURCES)
def test_the_first_of_two_equal_keys_counts(kind: str, reader: Reader) -> None:
    rows, bad, types = reader(kind, ['{"a": 1, "a": "x", "b": {"c": 1, "c": 2}}'])
    assert (rows, bad) == ([{"a": 1, "b": {"c": 1}}], [])
    assert types == {"a": "int64", "b": "struct<c: int64>"}


@pytest.mark.parametrize("kind", ALL)
def test_numbers_in_a_column_of_text_stay_as_they_were_written(kind: str, reader: Reader) -> None:
    written = ["1.50", "1e5", "0.10", "9" * 40, "-7"]
    rows, bad, _ = reader(kind, ['{"v": "x"}', *(f'{{"v": {number}}}' for number in written)])
    assert ([row["v"] for row in rows], bad) == (["x", *written], [])


@pytest.mark.parametrize("kind", ALL)
def test_whole_numbers_beyond_64_bits_keep_their_digits(kind: str, reader: Reader) -> None:
    huge = "12345678901234567890123"
    written = [f'{{"v": {huge}}}', '{"v": 1}']
    assert [row["v"] for row in reader(kind, written)[0]] == [huge, "1"]
    declared = reader(kind, written, v="decimal(38, 0)")[0]
    assert [int(row["v"]) for row in declared] == [int(huge), 1]


@pytest.mark.parametrize("kind", JSON_SOURCES)
def test_whole_numbers_above_2_53_beside_fractions(kind: str, reader: Reader) -> None:
    rows, _, types = reader(kind, ['{"v": 9007199254740993}', '{"v": 1.5}'])
    assert ([row["v"] for row in rows], types) == (["9007199254740993", "1.5"], {"v": "string"})


@pytest.mark.parametrize("kind", ALL)
def test_what_a_column_cannot_hold_is_a_bad_row(kind: str, reader: Reader) -> None:
    rows, bad, _ = reader(kind, ['{"v": 1}', '{"v": "x"}', '{"v": 3}'], v="int64")
    assert [row["v"] for row in rows] == [1, 3]
    assert [each.code for each in bad] == ["E0501"]


@pytest.mark.parametrize("kind", JSON_SOURCES)
@pytest.mark.parametrize("value", [r'"\ud83d"', r'"x\uDE00"', "[" * 500 + "]" * 500])
def test_halves_of_characters_and_deep_rows_are_bad_rows(
    kind: str, value: str, reader: Reader
) -> None:
    rows, bad, _ = reader(kind, ['{"v": "a"}', f'{{"v": {value}}}', '{"v": "b"}'])
    assert [row["v"] for row in rows] == ["a", "b"]
    assert [each.code for each in bad] == ["E0503"]


@pytest.mark.parametrize("kind", JSON_SOURCES)
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "tru", "1,", '"a\tb"'])
def test_values_that_are_not_json_make_one_bad_row(kind: str, value: str, reader: Reader) -> None:
    rows, bad, _ = reader(kind, ['{"v": 1.5}', f'{{"v": {value}}}', '{"v": 2.5}'])
    assert [row["v"] for row in rows] == [1.5, 2.5]
    assert [each.code for each in bad] == ["E0503"]


@pytest.mark.parametrize("kind", ALL)
def test_case_of_names_counts(kind: str, reader: Reader) -> None:
    assert reader(kind, ['{"id": 1, "Id": 2}'])[0] == [{"id": 1, "Id": 2}]


@pytest.mark.parametrize("kind", ["csv", "ndjson", "json"])
def test_a_file_without_a_byte_has_no_rows(kind: str, tmp_path: Path) -> None:
    for name, text in (("a", ""), ("b", text_of(kind, ['{"id": 1}'])), ("c", "")):
        (tmp_path / f"{name}.{kind}").write_text(text)
    context = ConnectorContext("src", tmp_path)
    rows, bad, _ = asyncio.run(read(FileSource(FileSource.Config(path=f"*.{kind}"), context)))
    assert (rows, bad) == ([{"id": 1}], [])
    with pytest.raises(DataFlareError) as caught:
        asyncio.run(read(FileSource(FileSource.Config(path=f"a.{kind}"), context)))
    assert caught.value.code == "E0507"

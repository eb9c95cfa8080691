"""Cutting text into records: at any size, with any content."""

from __future__ import annotations

import csv
import io
import random

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.formats.compression import open_stream
from dataflare.formats.csv_read import CsvDialect, CsvPlan
from dataflare.formats.layout import layout_of
from dataflare.formats.line_chunks import LineChunks, LineNumbers
from dataflare.formats.records import (
    AFTER_QUOTE,
    UNCLOSED,
    cut,
    regular_rows,
    requote,
    scan_records,
)
from dataflare.formats.text_types import TextColumn
from dataflare.model.types import STRING

CELLS = st.text(st.sampled_from('ab,"\n\r é;\t€😀'), max_size=8)
ROWS = st.lists(st.lists(CELLS, min_size=3, max_size=3), min_size=1, max_size=30)


def as_csv(rows: list[list[str]], line_end: str = "\n", *, everywhere: bool = False) -> bytes:
    def cell(text: str) -> str:
        if everywhere or any(mark in text for mark in '",\r\n'):
            return '"' + text.replace('"', '""') + '"'
        return text

    return "".join(",".join(map(cell, row)) + line_end for row in rows).encode()


def chunks_of(data: bytes, path, size: int) -> list[bytes]:
    path.write_bytes(data)
    stream = open_stream(path, "none")
    chunks = LineChunks(stream, 0, quote='"', chunk_bytes=size, first_bytes=size)
    found = []
    while (chunk := chunks.next()) is not None:
        found.append(chunk.data)
    chunks.close()
    return found


@given(ROWS, st.integers(1, 60), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_chunks_of_any_size_are_whole_records(tmp_path_factory, rows, size, line_end, everywhere):
    data = as_csv(rows, line_end, everywhere=everywhere)
    chunks = chunks_of(data, tmp_path_factory.mktemp("cut") / "a.csv", size)
    assert b"".join(chunks) == data
    read = [row for chunk in chunks for row in csv.reader(io.StringIO(chunk.decode(), newline=""))]
    assert read == rows


@given(ROWS, st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_records_are_those_of_the_csv_module(rows, line_end, everywhere):
    data = as_csv(rows, line_end, everywhere=everywhere)
    records = list(scan_records(data, ",", '"'))
    assert [data[r.start : r.end].decode() for r in records] == [
        as_csv([row], line_end, everywhere=everywhere).decode() for row in rows
    ]
    assert all(r.fields == 3 and r.problem is None for r in records)
    assert regular_rows(data, ",", '"', 3) == len(rows)


@given(st.lists(st.lists(CELLS, min_size=1, max_size=5), min_size=1, max_size=12))
def test_regular_never_passes_a_row_of_another_width(rows):
    data = as_csv(rows)
    widths = {len(row) for row in rows}
    if regular_rows(data, ",", '"', 3) is not None:
        assert widths == {3}


@given(st.binary(max_size=60))
def test_regular_agrees_with_the_exact_scan_on_any_bytes(data):
    data = data.replace(b"\r", b"")
    records = list(scan_records(data, ",", '"'))
    sound = all(r.fields == 2 and r.problem is None and not r.stray for r in records)
    if sound:
        assert regular_rows(data, ",", '"', 2) == len(records)


@given(ROWS, st.integers(1, 60))
def test_a_plan_over_chunks_reads_what_the_csv_module_reads(tmp_path_factory, rows, size):
    data = as_csv(rows)
    plan = CsvPlan(CsvDialect(), tuple(TextColumn(n, STRING) for n in "abc"), ("a", "b", "c"))
    chunks = chunks_of(data, tmp_path_factory.mktemp("plan") / "a.csv", size)
    frame = pl.concat([plan.scan(chunk).collect() for chunk in chunks])
    # The csv module cannot tell an empty cell from an empty string.
    assert frame.fill_null("").rows() == [tuple(row) for row in rows]


@given(st.lists(st.lists(CELLS, min_size=1, max_size=4), max_size=12), st.booleans())
def test_a_layout_is_what_the_exact_scan_finds(rows, everywhere):
    data = as_csv(rows, everywhere=everywhere)
    layout = layout_of(data, ",", '"', blank_rows=True)
    expected = list(scan_records(data, ",", '"'))
    assert layout.records.select("start", "end", "fields").rows() == [
        (r.start, r.end, r.fields) for r in expected
    ]
    assert layout.joined(layout.sound(3)) == b"".join(
        data[r.start : r.end] for r in expected if r.fields == 3
    )


@given(st.text(st.sampled_from('a,"\n\r'), max_size=40))
def test_a_layout_of_any_text_is_what_the_exact_scan_finds(text):
    data = text.encode()
    for width in (1, 2):
        layout = layout_of(data, ",", '"', blank_rows=width == 1)
        expected = [
            r
            for r in scan_records(data, ",", '"')
            if width == 1 or r.fields > 1 or data[r.start : r.end] not in (b"\n", b"\r", b"\r\n")
        ]
        assert layout.records.rows() == [
            (r.start, r.end, r.fields, r.problem, r.stray) for r in expected
        ]


def test_a_cut_waits_for_the_end_of_a_quoted_field():
    assert cut(b'1,"a\nb', '"', ",", ended=False).end == 0
    assert cut(b'1,2\n3,"a\nb', '"', ",", ended=False).end == 4
    assert cut(b'1,2\n3,"a\nb"\n', '"', ",", ended=False, width=2) == (12, (2, False))
    assert cut(b'1,"a\nb', None, ",", ended=False).end == 5
    assert cut(b"1,2", '"', ",", ended=True).end == 3


@pytest.mark.parametrize("last", [b"4,a", b'4,"a', b'4,"a\nb'])
def test_a_cut_is_right_where_a_quote_is_an_ordinary_character(last):
    whole = b'1,5" pipe\n2,x\n3,"a\nb"\n'
    assert cut(whole + last, '"', ",", ended=False, width=2).end == len(whole)


def test_an_unclosed_quote_costs_one_line():
    data = b'1,a\n2,"b\n3,c\n4,d\n'
    records = list(scan_records(data, ",", '"'))
    assert [(data[r.start : r.end], r.problem) for r in records] == [
        (b"1,a\n", None),
        (b'2,"b\n', UNCLOSED),
        (b"3,c\n", None),
        (b"4,d\n", None),
    ]


def test_text_after_a_closing_quote_costs_one_line():
    data = b'1,"a"b\n2,c\n3,"d\n4,"e",f\n'
    records = list(scan_records(data, ",", '"'))
    assert [(r.start, r.problem) for r in records] == [
        (0, AFTER_QUOTE),
        (7, None),
        (11, AFTER_QUOTE),
        (16, None),
    ]


@pytest.mark.parametrize(
    ("raw", "quoted"),
    [
        (b'1,5" pipe\n', b'1,"5"" pipe"\n'),
        (b'a"b,"c,d",e"f\r\n', b'"a""b","c,d","e""f"\n'),
        (b'x",\n', b'"x""",\n'),
    ],
)
def test_stray_quotes_are_quoted(raw, quoted):
    assert requote(raw, ",", '"') == quoted


def test_a_huge_quoted_field_makes_a_huge_chunk(tmp_path):
    rows = [["1", "x" * 50_000 + "\n" * 1_000, "z"], ["2", "y", "z"]]
    rows += [["3", "y", "z"]] * 100_000
    data = as_csv(rows)
    chunks = chunks_of(data, tmp_path / "a.csv", 1_000)
    assert len(chunks[0]) >= 51_007
    assert len(chunks[1]) <= 1_000
    assert b"".join(chunks) == data


@given(st.lists(st.integers(0, 400), min_size=1, max_size=20))
def test_line_numbers_are_right_asked_in_any_order(tmp_path_factory, offsets):
    rng = random.Random(7)
    data = bytes(rng.choice(b"abc\n") for _ in range(400))
    path = tmp_path_factory.mktemp("lines") / "a.txt"
    path.write_bytes(data)
    lines = LineNumbers(lambda offset: open_stream(path, "none", offset=offset))
    for offset in offsets:
        assert lines.at(offset) == data.count(b"\n", 0, offset) + 1

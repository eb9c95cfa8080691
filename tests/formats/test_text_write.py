"""The text of CSV and NDJSON files."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import polars as pl

from dataflare.formats.text_write import CsvText, NdjsonText
from dataflare.model.types import Schema

FRAME = pl.DataFrame(
    {
        "i": [1, None],
        "s": ['a "b"', ""],
        "f": [1.5, float("nan")],
        "b": [True, None],
        "at": [datetime(2024, 1, 1, 12, tzinfo=UTC), None],
        "us": [datetime(2024, 1, 1, 12, 0, 0, 250), datetime(2024, 1, 1)],
        "d": [date(2024, 2, 29), None],
        "t": [time(1, 2, 3), None],
        "p": [timedelta(seconds=90), None],
        "price": pl.Series(["1.50", None]).cast(pl.Decimal(10, 2)),
        "raw": [b"hi", None],
        "tags": [[1.5, float("nan")], None],
        "who": [{"at": datetime(2024, 1, 1), "n": 'x"y'}, None],
    },
    schema_overrides={"at": pl.Datetime("us", "UTC")},
)


def test_csv():
    schema = Schema.from_polars(FRAME.schema)
    text = CsvText()
    assert text.header(schema) == b"i,s,f,b,at,us,d,t,p,price,raw,tags,who\n"
    assert text.encode(FRAME).decode() == (
        '1,"a ""b""",1.5,true,2024-01-01T12:00:00Z,2024-01-01T12:00:00.000250,2024-02-29,01:02:03,'
        'PT1M30S,1.50,aGk=,"[1.5,null]","{""at"":""2024-01-01T00:00:00"",""n"":""x\\""y""}"\n'
        ',"",,,,2024-01-01T00:00:00,,,,,,,\n'
    )


def test_csv_with_another_delimiter_and_word_for_null():
    text = CsvText(delimiter=";", null="NA")
    frame = FRAME.select("i", "s", "f")
    assert text.encode(frame) == b'1;"a ""b""";1.5\nNA;"";NA\n'
    assert text.header(Schema.from_polars(frame.schema)) == b"i;s;f\n"


def test_ndjson():
    text = NdjsonText()
    assert text.header(Schema.from_polars(FRAME.schema)) == b""
    assert text.encode(FRAME).decode() == (
        '{"i":1,"s":"a \\"b\\"","f":1.5,"b":true,"at":"2024-01-01T12:00:00Z",'
        '"us":"2024-01-01T12:00:00.000250","d":"2024-02-29","t":"01:02:03","p":"PT1M30S",'
        '"price":"1.50","raw":"aGk=","tags":[1.5,null],'
        '"who":{"at":"2024-01-01T00:00:00","n":"x\\"y"}}\n'
        '{"i":null,"s":"","f":null,"b":null,"at":null,"us":"2024-01-01T00:00:00","d":null,"t":null,'
        '"p":null,"price":null,"raw":null,"tags":null,"who":null}\n'
    )


def test_a_time_with_a_zone_other_than_utc_says_its_offset():
    at = pl.Series("at", [datetime(2024, 7, 1)]).dt.replace_time_zone("Europe/Berlin")
    assert NdjsonText().encode(at.to_frame()) == b'{"at":"2024-07-01T00:00:00+02:00"}\n'

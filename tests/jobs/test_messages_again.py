"""A letter of a source of messages is decoded again: it gives the row that the reader would give."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import polars as pl
import pytest

from dataflare.connectors.kafka.reader import MESSAGE
from dataflare.connectors.mqtt.source import TOLD as MQTT
from dataflare.connectors.nats.feeds import TOLD as NATS
from dataflare.connectors.rabbitmq.sessions import TOLD as RABBITMQ
from dataflare.connectors.webhook.source import WebhookSource
from dataflare.formats.messages.contract import BASE64_MARK, bytes_text, text_bytes
from dataflare.formats.messages.envelope import HEADERS, Envelope
from dataflare.formats.messages.json import JsonDecoder
from dataflare.formats.messages.raw import RawDecoder
from dataflare.formats.misread import RAW_MAX
from dataflare.formats.text_types import TextColumn
from dataflare.jobs.letters import Letter
from dataflare.jobs.messages_again import decoded_again
from dataflare.model.types import INT64, Schema
from dataflare.sdk.messages.letters import SupportsMessages, letter_rows

TOLD = {
    "kafka": MESSAGE,
    "mqtt": MQTT,
    "nats": NATS,
    "rabbitmq": RABBITMQ,
    "webhook": Schema(WebhookSource.fields.fields[1:]),
}
BYTES = (
    None,
    b"",
    b"\xff\x00",
    "é\x00\n".encode(),
    BASE64_MARK.encode(),
    b'{"n": 1}',
    b'{"n": "x"}',
)


class Source(SupportsMessages):
    def __init__(self, envelope: Envelope, told: Schema) -> None:
        self.envelope, self.told = envelope, told

    async def made_envelope(self) -> Envelope:
        return self.envelope

    def told_of_messages(self) -> Schema:
        return self.told


def letters_of(messages: pl.DataFrame, envelope: Envelope, faulty: int = -1) -> list[Letter]:
    marks = [number == faulty for number in range(messages.height)]
    rows = letter_rows(messages, envelope, marks)
    return [
        Letter(str(number), "s", "E0501", "", 1, "", "", f"place {number}", json.loads(row))
        for number, row in enumerate(rows)
    ]


def values_of(type_: Any, count: int) -> list[Any]:
    """Values of a type that metadata has: the last is NULL."""
    if type_ == HEADERS:
        pair = {"key": "h", "value": b"\xff"}
        cases: list[Any] = [[], [pair, {"key": "é", "value": None}], [pair]]
    elif type_.name == "binary":
        cases = [b"\xfe\x00", b"", b"text"]
    elif type_.name == "timestamp":
        cases = [0, -1, 1_700_000_000_123]
    elif type_.name == "bool":
        cases = [True, False]
    elif type_.is_integer:
        cases = [0, 1, 127]
    else:
        cases = ["", "é'\n", "0"]
    return [*(cases[number % len(cases)] for number in range(count - 1)), None]


@pytest.mark.parametrize("name", TOLD)
def test_a_message_gives_the_same_row_from_its_letter(name: str) -> None:
    told = TOLD[name]
    columns = [pl.Series("value", BYTES, dtype=pl.Binary)]
    for field in told:
        values = values_of(field.type, len(BYTES))
        dtype = field.type.to_polars()
        if isinstance(dtype, pl.Datetime):
            columns.append(pl.Series(field.name, values, pl.Int64).cast(dtype))
        else:
            columns.append(pl.Series(field.name, values, dtype))
    messages = pl.DataFrame(columns)
    envelope = Envelope(value=RawDecoder(), metadata=told.fields)
    letters = letters_of(messages, envelope)
    answers = asyncio.run(decoded_again(Source(envelope, told), letters, "evolve"))
    rows = pl.concat([answer.row for answer in answers if answer.row is not None])
    assert rows.height == len(BYTES)
    assert rows.equals(envelope.decode(messages).rows)


def test_what_still_fails_stays_with_the_reason() -> None:
    told = Schema.of([("offset", INT64)])
    values = [b'{"n": 1}', b'{"n": "x"}', b'{"n": 2, "m": 1}', b"x" * (RAW_MAX + 1), b'{"n": 3}']
    messages = pl.DataFrame({"value": values, "offset": range(5)})
    envelope = Envelope(JsonDecoder([TextColumn("n", INT64)]), told.fields)
    letters = letters_of(messages, envelope, faulty=4)
    for change, third in (("dead_letter", None), ("ignore", (2, 2)), ("fail", None)):
        answers = asyncio.run(decoded_again(Source(envelope, told), letters, change))
        rows = [None if each.row is None else each.row.row(0) for each in answers]
        assert rows == [(1, 0), None, third, None, None]
        assert [word in each.why for each, word in zip(answers[3:], ("beginning", "'offset'"), strict=True)] == [True] * 2  # fmt: skip
        assert "place 1: " in answers[1].detail


@pytest.mark.parametrize("data", [*BYTES[1:], b"x" * RAW_MAX, b"\xff" * RAW_MAX])
def test_the_text_of_bytes_gives_them_back(data: bytes) -> None:
    assert text_bytes(bytes_text(data)) == data
    assert text_bytes(bytes_text(data + b"\xff" * (RAW_MAX + 1))) is None

"""Events of the CloudEvents specification (1.0): their attributes and their data, as columns.

An event is structured (one JSON object that has all of it) or binary (the value is the data, the attributes are
headers). A message that has the header `specversion` of an event is binary, any other is structured.

Always true: an event without data gives a row in which the data's columns are NULL; an event that lacks an attribute
that the specification requires is bad; an attribute that has no column is told with the number of events.
"""

from __future__ import annotations

import base64
import binascii
import re
from codecs import BOM_UTF8
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import polars as pl
from msgspec import Struct

from dataflare.errors import ConfigError
from dataflare.formats.json_values import BadJson, fields_of
from dataflare.formats.messages.contract import (
    Decoded,
    Decoder,
    bad_messages,
    merged_warnings,
    sorted_bad,
)
from dataflare.formats.misread import misfit
from dataflare.formats.text_types import TextColumn, loose
from dataflare.model.types import STRING, Schema, timestamp

PREFIX = "ce_"
"""What the name of an attribute's column begins with."""
SPECVERSION = "specversion"
REQUIRED = ("id", "source", "type")
KNOWN = (*REQUIRED, "subject", "time", "datacontenttype", "dataschema")
ATTRIBUTE = re.compile(r"[a-z0-9]+")
TIME = timestamp("ns", "UTC")
CONTENT_TYPE = "content-type"
Mode = Literal["auto", "structured", "binary"]
_HEADER = re.compile(r"(?:ce[_-]|cloudEvents[:_])([A-Za-z0-9]+)")
"""The headers of attributes: of Kafka, of HTTP and NATS, of AMQP."""
_JSON_TYPE = re.compile(r"[^;]*[/+]json\s*(?:;.*)?", re.IGNORECASE)
_BATCH = "application/cloudevents-batch"


class _BadEvent(ValueError):
    pass


class Event(Struct):
    """attributes: by name, as text. data: its bytes, None if it has none."""

    attributes: dict[str, str]
    data: bytes | None


class CloudEventsDecoder(Decoder):
    """data: the decoder of the events' data. extensions: the names of other attributes that become columns."""

    reads = ("headers",)

    def __init__(
        self,
        data: Decoder,
        *,
        mode: Mode = "auto",
        extensions: Sequence[str] = (),
        step: str | None = None,
    ) -> None:
        self._data, self._mode, self.at_once = data, mode, data.at_once
        self._names = (*KNOWN, *extensions)
        columns = self.attributes(extensions)
        for name in columns.names:
            if name in data.schema:
                raise ConfigError(
                    f"the data of the events has a field '{name}', which is also the column of an attribute",
                    code="E0411",
                    step=step,
                    help="rename the field where the events are made",
                )
        self.schema = Schema((*columns, *data.schema))

    @classmethod
    def attributes(cls, extensions: Sequence[str]) -> Schema:
        """The columns of attributes."""
        return Schema.of(
            {PREFIX + name: TIME if name == "time" else STRING for name in (*KNOWN, *extensions)}
        )

    def decode(self, values: pl.Series) -> Decoded:
        none = pl.repeat(None, values.len(), dtype=pl.Null, eager=True)
        return self.decode_messages(pl.DataFrame([values.alias("value"), none.alias("headers")]))

    def decode_messages(self, messages: pl.DataFrame) -> Decoded:
        values = messages["value"]
        has_headers = "headers" in messages.columns
        headers = messages["headers"].to_list() if has_headers else [None] * messages.height
        events, problems = self._events(values.to_list(), headers)
        kept = pl.Series("message", [*events], dtype=pl.UInt32)
        attributes, misfits = self._attributes([event.attributes for event in events.values()])
        data = self._decoded([event.data for event in events.values()])
        bad = [
            bad_messages(values, [*problems], "E0574", [*problems.values()]),
            bad_messages(values, kept.gather([*misfits]), "E0501", [*misfits.values()]),
        ]
        misread = data.bad.filter(~pl.col("message").is_in([*misfits]))
        at = kept.gather(misread["message"])
        bad.append(misread.with_columns(at.alias("message"), values.gather(at).alias("value")))
        fits = ~data.message.is_in(pl.Series([*misfits], dtype=pl.UInt32).implode())
        places = data.message.filter(fits)
        rows = pl.concat(
            [attributes[places], data.rows.filter(fits)], how="horizontal"
        ).select(self.schema.names)  # fmt: skip
        return Decoded(
            rows,
            kept.gather(places).alias("message"),
            sorted_bad(bad),
            warnings=merged_warnings([data.warnings, self._left_out(events.values())]),
        )

    def _events(
        self, values: Sequence[bytes | None], headers: Sequence[Any]
    ) -> tuple[dict[int, Event], dict[int, str]]:
        """By message, the events, and why others are none."""
        events: dict[int, Event] = {}
        problems: dict[int, str] = {}
        for at, (value, given) in enumerate(zip(values, headers, strict=True)):
            try:
                event = event_of(value, given, self._mode)
            except _BadEvent as error:
                problems[at] = str(error)
                continue
            if event is not None:
                events[at] = event
        return events, problems

    def _attributes(
        self, attributes: Sequence[Mapping[str, str]]
    ) -> tuple[pl.DataFrame, dict[int, str]]:
        """The columns of the attributes, and by event why one of them does not fit."""
        texts = {
            PREFIX + name: pl.Series([each.get(name) for each in attributes], dtype=pl.String)
            for name in self._names
        }
        frame = pl.DataFrame(texts, schema=dict.fromkeys(texts, pl.String))
        column = TextColumn(f"{PREFIX}time", TIME, declared=True)
        times = frame.select(loose(column))[column.name]
        wrong = times.is_null() & frame[column.name].is_not_null()
        misfits = {
            int(row): misfit(column.name, TIME, frame[column.name][int(row)])
            for row in wrong.arg_true()
        }
        return frame.with_columns(times), misfits

    def _decoded(self, data: Sequence[bytes | None]) -> Decoded:
        """The data of all events; one without data is a row of NULLs."""
        decoded = self._data.decode(pl.Series(data, dtype=pl.Binary))
        absent = [at for at, each in enumerate(data) if each is None]
        if not absent:
            return decoded
        nulls = pl.DataFrame(
            {n: pl.Series([None] * len(absent), dtype=d) for n, d in decoded.rows.schema.items()}
        )
        places = pl.concat(
            [decoded.message.rename("message"), pl.Series("message", absent, dtype=pl.UInt32)]
        )
        order = places.arg_sort()
        return Decoded(
            pl.concat([decoded.rows, nulls])[order], places[order], decoded.bad,
            warnings=decoded.warnings,
        )  # fmt: skip

    def _left_out(self, events: Any) -> Mapping[str, int]:
        """The attributes without a column, each with the number of events that have it."""
        counts: dict[str, int] = {}
        columns = {*self._names, SPECVERSION}
        for event in events:
            if len(event.attributes) > len(REQUIRED) + 1:
                for name in event.attributes.keys() - columns:
                    counts[name] = counts.get(name, 0) + 1
        return {
            f"the attribute '{name}' of events has no column: name it in 'extensions'": number
            for name, number in sorted(counts.items())
        }


def event_of(value: bytes | None, headers: Any, mode: Mode) -> Event | None:
    """The event of a message; None for a message without a value, which has no event. Raises _BadEvent."""
    if mode != "structured" and headers:
        attributes = _of_headers(headers)
        if SPECVERSION in attributes or (attributes and mode == "binary"):
            return _checked(Event(attributes, value or None))
    if value is None:
        return None
    if mode == "binary":
        raise _BadEvent("the message has no headers of an event, such as ce_specversion")
    for header in headers or ():
        if header["key"].lower() == CONTENT_TYPE and (header["value"] or b"").startswith(
            _BATCH.encode()
        ):
            raise _BadEvent("it is a batch of events, and a message is one event")
    return _checked(_structured(value))


def data_of(value: bytes | None, mode: Mode) -> bytes | None:
    """The data of a message of a sample, whose headers are not known; None for a bad event. In mode auto a value without
    specversion may be the data of a binary event."""
    if mode == "binary" or value is None:
        return value
    try:
        event = event_of(value, None, "structured")
    except _BadEvent:
        return value if mode == "auto" and not _has_version(value) else None
    return event.data if event is not None else None


def _has_version(value: bytes) -> bool:
    try:
        return SPECVERSION in fields_of(value.removeprefix(BOM_UTF8))
    except BadJson:
        return False


def _of_headers(headers: Any) -> dict[str, str]:
    attributes: dict[str, str] = {}
    for header in headers:
        name, content = header["key"], header["value"]
        match = _HEADER.fullmatch(name)
        attribute = match[1].lower() if match is not None else None
        if attribute is None and name.lower() == CONTENT_TYPE:
            attribute = "datacontenttype"
        if attribute is None or content is None:
            continue
        try:
            attributes.setdefault(attribute, content.decode())
        except UnicodeDecodeError:
            raise _BadEvent(f"the header '{name}' is not valid UTF-8") from None
    return attributes if attributes.keys() - {"datacontenttype"} else {}


def _structured(value: bytes) -> Event:
    try:
        fields = fields_of(value.removeprefix(BOM_UTF8))
    except BadJson as error:
        raise _BadEvent(f"not an event: {error}") from None
    attributes = {
        name: _text(name, raw)
        for name, raw in fields.items()
        if name not in ("data", "data_base64") and raw != b"null"
    }
    data, coded = fields.get("data"), fields.get("data_base64", b"null")
    if coded != b"null":
        if data is not None:
            raise _BadEvent("it has both data and data_base64")
        return Event(attributes, _base64(coded))
    if data is None or data == b"null":
        return Event(attributes, None)
    if data.startswith(b'"') and not _JSON_TYPE.fullmatch(
        attributes.get("datacontenttype", "application/json")
    ):
        return Event(attributes, _text("data", data).encode())
    return Event(attributes, data)


def _text(name: str, raw: bytes) -> str:
    """The text of an attribute: a string, a number or a boolean."""
    if not raw.startswith(b'"'):
        if raw[:1] in b"[{":
            raise _BadEvent(f"the attribute '{name}' is not a text, a number or a boolean")
        return raw.decode()
    try:
        return msgspec.json.decode(raw, type=str)
    except msgspec.DecodeError as error:
        raise _BadEvent(f"'{name}': {error}") from None


def _base64(raw: bytes) -> bytes:
    try:
        return base64.b64decode(_text("data_base64", raw), validate=True)
    except (binascii.Error, ValueError):
        raise _BadEvent("data_base64 is not base64") from None


def _checked(event: Event) -> Event:
    """Raises _BadEvent for what is not an event of version 1.0."""
    version = event.attributes.get(SPECVERSION)
    if version is None:
        raise _BadEvent("the event has no specversion")
    if version.split(".")[0] != "1":
        raise _BadEvent(f"the event is of version {version}, and 1.0 is read")
    for name in REQUIRED:
        if not event.attributes.get(name):
            raise _BadEvent(f"the event has no {name}")
    return event

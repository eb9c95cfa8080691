"""Messages of syslog to columns: RFC 5424, RFC 3164 and what programs send in place of them.

Always true: a message that is UTF-8 gives a row, whatever it says; what does not have one of the known forms is
whole in `message`, and has no `protocol`. A time without a year is the last such time before the message came.
"""

from __future__ import annotations

import json
import re

import polars as pl

from dataflare.formats.messages.contract import Decoded
from dataflare.formats.messages.envelope import Envelope
from dataflare.model.types import JSON, STRING, Schema, timestamp

COLUMNS = Schema.of(
    [
        ("timestamp", timestamp("us", "UTC")),
        ("facility", STRING),
        ("severity", STRING),
        ("hostname", STRING),
        ("app_name", STRING),
        ("process_id", STRING),
        ("message_id", STRING),
        ("structured_data", JSON),
        ("message", STRING),
        ("protocol", STRING),
        ("received_at", timestamp("us", "UTC")),
        ("address", STRING),
    ]
)
FACILITIES = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron"),
    *("authpriv", "ftp", "ntp", "security", "console", "solaris-cron"),
    *(f"local{number}" for number in range(8)),
)
SEVERITIES = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
_PRI = r"<(?P<pri>0|[1-9]\d{0,2})>"
_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)"
_ELEMENT = r'\[[^\]"]+(?:"(?:[^"\\]|\\.)*"[^\]"]*)*\]'
_RFC_5424 = (
    rf"(?s)^{_PRI}1 (?P<time>-|{_TIME}) (?P<host>\S+) (?P<app>\S+) (?P<process>\S+) (?P<id>\S+) "
    rf"(?P<data>-|(?:{_ELEMENT})+)(?: (?P<text>.*))?$"
)
_TAG = r"(?:(?P<app>[^\s:\[\]]{1,64})(?:\[(?P<process>[^\]]*)\])?: ?)?"
_RFC_3164 = (
    rf"(?s)^(?:{_PRI})?(?:(?P<short>[A-Z][a-z]{{2}} [ \d]\d \d\d:\d\d:\d\d)|(?P<time>{_TIME})) "
    rf"(?:(?P<host>[^\s]*[^\s:\]]) )?{_TAG}(?P<text>.*)$"
)
_PRI_ALONE = rf"(?s)^{_PRI}(?P<text>.*)$"
_UTC = pl.Datetime("us", "UTC")


class SyslogEnvelope(Envelope, frozen=True):
    """zone: of times that have none. Its messages have `time` and `address` beside the value."""

    zone: str = "UTC"

    @property
    def schema(self) -> Schema:
        return COLUMNS

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"time", "address"})

    def decode(self, messages: pl.DataFrame) -> Decoded:
        decoded = self.value.decode(messages["value"])
        places = decoded.message
        texts = decoded.rows.to_series().str.strip_chars_end("\r\n\0")
        came = messages["time"].gather(places).cast(_UTC)
        rows = parsed(texts, came, self.zone)
        rows = rows.with_columns(
            came.alias("received_at"), messages["address"].gather(places).alias("address")
        )
        return Decoded(
            rows.select(COLUMNS.names), places, decoded.bad, decoded.new_fields, decoded.warnings
        )


def parsed(texts: pl.Series, came: pl.Series, zone: str) -> pl.DataFrame:
    """The columns of messages, except when they came and from where."""
    text = pl.col("raw")
    frame = pl.DataFrame({"raw": texts, "came": came}).with_columns(
        new=text.str.extract_groups(_RFC_5424),
        old=text.str.extract_groups(_RFC_3164),
        alone=text.str.extract_groups(_PRI_ALONE),
    )
    new, old, alone = (pl.col(name).struct for name in ("new", "old", "alone"))
    frame = frame.with_columns(
        new_time=_long_time(new.field("time")),
        old_time=pl.coalesce(
            _long_time(old.field("time")), _short_time(old.field("short"), pl.col("came"), zone)
        ),
    )
    pri = {
        name: _pri(each.field("pri"))
        for name, each in (("new", new), ("old", old), ("alone", alone))
    }
    is_new = pri["new"].is_not_null() & (
        (new.field("time") == "-") | pl.col("new_time").is_not_null()
    ).fill_null(False)
    fits = pri["old"].is_not_null() | old.field("pri").is_null()
    is_old = ~is_new & pl.col("old_time").is_not_null() & fits

    def either(field: str) -> pl.Expr:
        return (
            pl.when(is_new)
            .then(_value(new.field(field)))
            .when(is_old)
            .then(_value(old.field(field)))
        )

    number = pl.when(is_new).then(pri["new"]).when(is_old).then(pri["old"]).otherwise(pri["alone"])
    whole = pl.when(pri["alone"].is_not_null()).then(alone.field("text")).otherwise(text)
    body = pl.when(is_new).then(new.field("text").fill_null("").str.strip_prefix("\ufeff"))
    return frame.select(
        timestamp=pl.when(is_new).then(pl.col("new_time")).when(is_old).then(pl.col("old_time")),
        facility=_name(number // 8, FACILITIES),
        severity=_name(number % 8, SEVERITIES),
        hostname=either("host"),
        app_name=either("app"),
        process_id=either("process"),
        message_id=pl.when(is_new).then(_value(new.field("id"))),
        structured_data=pl.when(is_new)
        .then(_value(new.field("data")))
        .map_batches(_as_json, return_dtype=pl.String()),
        message=body.when(is_old).then(old.field("text")).otherwise(whole),
        protocol=pl.when(is_new).then(pl.lit("rfc5424")).when(is_old).then(pl.lit("rfc3164")),
    )


def _value(field: pl.Expr) -> pl.Expr:
    """NULL for a field that is not there."""
    return pl.when((field != "-") & (field != "")).then(field)


def _pri(field: pl.Expr) -> pl.Expr:
    number = field.cast(pl.Int16, strict=False)
    return pl.when(number < 8 * len(FACILITIES)).then(number)


def _name(number: pl.Expr, names: tuple[str, ...]) -> pl.Expr:
    return number.replace_strict(dict(enumerate(names)), default=None, return_dtype=pl.String())


def _long_time(field: pl.Expr) -> pl.Expr:
    """A time with its zone. Digits beyond microseconds are cut."""
    text = field.str.replace("Z$", "+00:00").str.replace(r"(\.\d{6})\d+", "$1")
    return text.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%:z", time_unit="us", strict=False).cast(_UTC)


def _short_time(field: pl.Expr, came: pl.Expr, zone: str) -> pl.Expr:
    """A time without a year and a zone: the last such time before the message came."""
    year = came.dt.convert_time_zone(zone).dt.year()
    candidates = []
    for shift in (-1, 0, 1):
        text = pl.concat_str(
            (year + shift).cast(pl.String), field.str.replace("  ", " 0"), separator=" "
        )
        local = text.str.to_datetime("%Y %b %d %H:%M:%S", time_unit="us", strict=False)
        candidates.append(
            local.dt.replace_time_zone(
                zone, ambiguous="earliest", non_existent="null"
            ).dt.convert_time_zone("UTC")
        )
    # A clock may be ahead, but a message does not come long before it is written.
    latest = came + pl.duration(days=1)
    return pl.max_horizontal(pl.when(each <= latest).then(each) for each in candidates)


_NAMED = re.compile(r'\[([^\s\]"=]+)((?:[^"\]]*"(?:[^"\\]|\\.)*")*)[^\]"]*\]', re.DOTALL)
_PAIR = re.compile(r'([^\s="\]]+)="((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPED = re.compile(r'\\(["\\\]])')


def _as_json(data: pl.Series) -> pl.Series:
    """The elements of structured data as JSON: `{"id": {"name": "value"}}`. A name that comes twice is a list."""
    return pl.Series([None if each is None else _elements(each) for each in data], dtype=pl.String)


def _elements(text: str) -> str:
    elements: dict[str, dict[str, str | list[str]]] = {}
    for id_, pairs in _NAMED.findall(text):
        values = elements.setdefault(id_, {})
        for name, value in _PAIR.findall(pairs):
            plain = _ESCAPED.sub(r"\1", value)
            before = values.get(name)
            if before is None:
                values[name] = plain
            else:
                values[name] = [*(before if isinstance(before, list) else [before]), plain]
    return json.dumps(elements, ensure_ascii=False, separators=(",", ":"))

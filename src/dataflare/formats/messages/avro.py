"""Avro messages: bytes without a file around them, with a schema that is known beforehand or that each
message names by its id in a registry.

A message with an id begins with a zero byte and the id in four bytes, as Confluent's clients write it. The
messages of a batch are decoded together for each id.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
from msgspec import Struct

from dataflare.errors import ConfigError, DataError
from dataflare.formats.messages.avro_resolve import Resolved, faulty, resolved, unread_fields
from dataflare.formats.messages.avro_schema import AvroType
from dataflare.formats.messages.avro_wire import WireReader
from dataflare.formats.messages.contract import (
    Decoded,
    Decoder,
    bad_messages,
    merged_warnings,
    no_bad,
    sorted_bad,
)
from dataflare.formats.messages.framing import Framed, framed

WriterOf = Callable[[int], AvroType]
"""The schema of an id. Raises DataError where the registry has none, or one that is not Avro; SystemError_
where it is away."""


class AvroDecoder(Decoder):
    """reader: the schema of the rows. writer: that of all messages, where they have no ids. writer_of: finds
    the schema of an id, where they have them."""

    def __init__(
        self,
        reader: AvroType,
        *,
        writer: AvroType | None = None,
        writer_of: WriterOf | None = None,
    ) -> None:
        self.reader = reader
        self.schema = reader.schema()
        self._writer_of, self.at_once = writer_of, writer_of is None
        self._known: dict[int, _Known | str] = {}
        if writer_of is None:
            self._plain = _Known.of(writer or reader, reader, "the writer's schema")

    def decode(self, values: pl.Series) -> Decoded:
        if self._writer_of is None:
            places = values.is_not_null().arg_true().cast(pl.UInt32).alias("message")
            return self._decoded(self._plain, values, values.gather(places), places)
        found = framed(values)
        parts = [self._of_id(values, each) for each in found.groups]
        bad = sorted_bad([found.bad, *(part.bad for part in parts)])
        if len(parts) == 1:
            (part,) = parts
            return Decoded(part.rows, part.message, bad, None, part.warnings)
        empty = self.schema.to_polars().to_frame()
        rows = pl.concat([empty, *(part.rows for part in parts)])
        places = pl.concat([pl.Series("message", dtype=pl.UInt32), *(p.message for p in parts)])
        order = places.arg_sort()
        warnings = merged_warnings([part.warnings for part in parts])
        return Decoded(
            rows.select(pl.all().gather(order)), places.gather(order), bad, None, warnings
        )

    def _of_id(self, values: pl.Series, group: Framed) -> Decoded:
        known = self._known.get(group.id)
        if known is None:
            known = self._known[group.id] = self._look_up(group.id)
        if isinstance(known, str):
            bad = bad_messages(values, group.places, "E0571", known)
            return Decoded(self.schema.to_polars().to_frame(), group.places.clear(), bad)
        return self._decoded(known, values, group.bodies, group.places)

    def _look_up(self, id_: int) -> _Known | str:
        """A schema that cannot be used makes its messages bad; it is a text then."""
        assert self._writer_of is not None
        try:
            return _Known.of(self._writer_of(id_), self.reader, f"the schema with id {id_}")
        except (DataError, ConfigError) as error:
            return error.message

    def _decoded(
        self, known: _Known, values: pl.Series, bodies: pl.Series, places: pl.Series
    ) -> Decoded:
        """values: the batch. bodies: what is to be read of the messages at `places`."""
        rows, at, errors = known.wire.read(bodies.to_list())
        bad = [no_bad()]
        if errors:
            wrong = pl.Series([*errors], dtype=pl.UInt32)
            bad.append(bad_messages(values, places.gather(wrong), "E0570", [*errors.values()]))
        faults = [fault for _, each in known.columns for fault in each.faults]
        # Not `select`: a column that is only a default must have as many rows as there are messages.
        found = (
            rows.lazy()
            .with_columns(
                *(each.value.alias(name) for name, each in known.columns),
                *([faulty(faults).alias(_FAULT)] if faults else []),
            )
            .select(*self.schema.names, *([_FAULT] if faults else []))
            .collect(engine="in-memory")
        )
        places = places.gather(at).alias("message")
        if faults:
            texts = found[_FAULT]
            found = found.drop(_FAULT)
            if texts.null_count() < texts.len():
                is_bad = texts.is_not_null()
                bad.append(
                    bad_messages(
                        values, places.filter(is_bad), "E0570", texts.drop_nulls().to_list()
                    )
                )
                found, places = found.filter(~is_bad), places.filter(~is_bad)
        warnings = {text: places.len() for text in known.warnings} if places.len() else {}
        return Decoded(found, places, sorted_bad(bad), None, warnings)


_FAULT = "__dataflare_fault"


class _Known(Struct, frozen=True):
    """What reads the messages of one writer's schema."""

    wire: WireReader
    columns: list[tuple[str, Resolved]]
    warnings: list[str]

    @classmethod
    def of(cls, writer: AvroType, reader: AvroType, where: str) -> _Known:
        left = unread_fields(writer, reader)
        warnings = [
            f"field '{path}' of {where} is not among the columns, and was left out" for path in left
        ]
        return cls(WireReader(writer), resolved(writer, reader, where=where), warnings)

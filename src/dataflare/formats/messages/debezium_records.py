"""Changes of tables as Debezium writes them in Avro: records with the row before and after, as changelog rows. The rules
are those of `debezium`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from dataflare.errors import ConfigError
from dataflare.formats.messages.contract import Decoded, Decoder, bad_messages, sorted_bad
from dataflare.formats.messages.debezium import CODE, UNAVAILABLE, why_refused
from dataflare.formats.messages.debezium_facts import TYPES as FACT_TYPES
from dataflare.formats.messages.debezium_facts import facts_of, with_transaction
from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.model.types import Field, Schema

_PARTS = ("before", "after", "op")


class DebeziumRecords(Decoder):
    """records: the decoder of whole records. facts, outbox: as of `DebeziumDecoder`."""

    def __init__(
        self, records: Decoder, facts: Sequence[str] = (), *, outbox: bool = False, step: str | None = None
    ) -> None:  # fmt: skip
        there = {field.name: field.type for field in records.schema}
        if any(name not in there for name in _PARTS) or there["after"].name != "struct":
            raise ConfigError(
                f"the messages' schema has {', '.join(there)}, and a change of Debezium has before, after and op",
                code="E0405",
                step=step,
                help="set the format that the messages have: `format: avro`",
            )
        self._records, self._facts, self._outbox = records, list(facts), outbox
        self.at_once = records.at_once
        self._row = Schema(there["after"].fields)
        taken = [name for name in self._facts if name in self._row]
        if taken:
            raise ConfigError(
                f"'debezium: {{metadata: ...}}' writes the column '{taken[0]}', and the rows have one of that name",
                code="E0411",
                step=step,
                help=f"leave '{taken[0][1:]}' out of it",
            )
        self.changelog = not outbox
        told = [Field(name, FACT_TYPES[name]) for name in self._facts]
        self.schema = Schema((*self._row, *told))

    def decode(self, values: pl.Series) -> Decoded:
        decoded = self._records.decode(values)
        records, places = decoded.rows, decoded.message
        op, is_gone = records["op"], records["op"] == "d"
        row = pl.when(pl.lit(is_gone)).then(pl.col("before")).otherwise(pl.col("after"))
        frame = records.select(row.alias("row"))
        problems: dict[int, str] = {}
        for at in (~op.is_in(["c", "r", "u", "d"]) | frame["row"].is_null()).arg_true():
            problems[at] = why_refused(op[at])
        rows = frame.unnest("row")
        for name, dtype in rows.schema.items():
            if dtype == pl.String:
                for at in (rows[name] == UNAVAILABLE).arg_true():
                    problems.setdefault(
                        at,
                        f"the database did not send the value of column '{name}', which did not change",
                    )
        left_out = is_gone if self._outbox else pl.repeat(False, rows.height, eager=True)
        if self._outbox:
            for at in (op == "u").arg_true():
                problems.setdefault(
                    at, "a row of an outbox was updated, and what is in it is told once"
                )
        if self._facts:
            sources: list[Mapping[str, object] | None] = records["source"].to_list()
            if records.schema.get("transaction") == pl.Struct:
                blocks = records["transaction"].to_list()
                sources = list(map(with_transaction, sources, blocks))
            rows = rows.with_columns(facts_of(sources, self._facts))
        if not self._outbox:
            kind = (
                pl.when(pl.lit(is_gone)).then(RowKind.DELETE.value).otherwise(RowKind.INSERT.value)
            )
            rows = rows.with_columns(kind.cast(pl.UInt8).alias(KIND_COLUMN))
        wrong = sorted(problems)
        kept = ~pl.int_range(rows.height, eager=True).is_in(wrong) & ~left_out
        at_message = places.gather(wrong)
        bad = bad_messages(values, at_message, CODE, [problems[at] for at in wrong])
        return Decoded(
            rows.filter(kept),
            places.filter(kept),
            sorted_bad([decoded.bad, bad]),
            None,
            decoded.warnings,
        )

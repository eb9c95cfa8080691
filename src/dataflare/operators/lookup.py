"""`lookup`: add columns from a table, found by key.

The table is read whole at each start; it is never restored from a checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from dataflare.errors import ConfigError, ExpressionError
from dataflare.model.types import Field as Column
from dataflare.model.types import Schema
from dataflare.operators.base import (
    BindContext,
    Bound,
    LookupTable,
    Lowering,
    RowOperator,
    Step,
    StepConfig,
    reserved,
)
from dataflare.operators.primitives import known_columns

if TYPE_CHECKING:
    import polars as pl

    from dataflare.state.index import KeyIndex

MISSED, MANY = 253, 252
"""Error kinds: no row for the key; several rows for the key."""


class Mapping_(StepConfig):
    key: str | list[str] = Field(description="Column or columns of the incoming rows.")
    remote_key: str | list[str] | None = Field(
        default=None, description="The table's columns to match, in order; the same names as `key` if not given."
    )
    fields: list[str] | dict[str, str] | None = Field(
        default=None,
        description="Columns of the table to add, or {new name: table's column}; all but its key if not given.",
    )


class LookupConfig(StepConfig):
    source: Any = Field(
        description="The name of a bounded source of this file, or {type: ..., and that connector's config}."
    )
    mapping: Mapping_
    cache: dict[str, Any] | None = Field(
        default=None, description="{size, ttl}: for tables that are asked key by key."
    )
    on_miss: Literal["null", "drop", "fail", "dead_letter"] = Field(
        default="null", description="What happens to a row whose key is not in the table."
    )
    on_many: Literal["fail", "first", "all"] = Field(
        default="fail", description="What happens when the table has several rows for a key."
    )


@dataclass(frozen=True)
class Lookup(RowOperator):
    """added: the new column, the table's column."""

    step: str
    table: LookupTable
    keys: tuple[str, ...]
    remote_keys: tuple[str, ...]
    added: tuple[tuple[str, str], ...]
    on_miss: str
    on_many: str

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(self.keys)

    @property
    def can_fail(self) -> bool:
        return self.on_miss in ("fail", "dead_letter") or self.on_many == "fail"

    @property
    def changelog(self) -> bool:
        return self.on_many != "all" and self.on_miss != "drop"

    @property
    def table_columns(self) -> tuple[str, ...]:
        """The columns of the table that are needed."""
        return tuple(dict.fromkeys((*self.remote_keys, *(old for _, old in self.added))))

    def output_schema(self, schema: Schema) -> Schema:
        new = {name for name, _ in self.added}
        kept = [f for f in schema if f.name not in new]
        return Schema((*kept, *(Column(n, self.table.schema[old]) for n, old in self.added)))

    def required(self, needed: frozenset[str], incoming: Schema) -> frozenset[str]:
        return (needed - {name for name, _ in self.added}) | self.reads

    def only(self, needed: frozenset[str]) -> Lookup | None:
        left = tuple(pair for pair in self.added if pair[0] in needed)
        changes_rows = self.can_fail or self.on_miss == "drop" or self.on_many == "all"
        return replace(self, added=left) if left or changes_rows else None

    def lower(self, frame: pl.LazyFrame, lowering: Lowering) -> pl.LazyFrame:
        import polars as pl

        table, index = lowering.tables[self.step]
        if self.on_many == "all":
            return self._joined(frame, table, lowering)
        keys = [pl.col(key) for key in self.keys]
        found = pl.map_batches(keys, index.rows, return_dtype=pl.UInt32).alias("__found")
        frame = frame.with_columns(found)
        errors = self._errors(index)
        values = [
            pl.lit(table[old]).gather(pl.col("__found")).alias(name) for name, old in self.added
        ]
        if errors:
            values.append(lowering.column(self.step, errors))
        frame = frame.with_columns(values)
        if self.on_miss == "drop":
            frame = frame.filter(lowering.keep(pl.col("__found").is_not_null()))
        kept = [n for n in frame.collect_schema().names() if n != "__found"]
        new = {name for name, _ in self.added}
        hidden = [n for n in kept if n.startswith("__")]
        shown = [n for n in kept if n not in new and not n.startswith("__")]
        return frame.select([*shown, *(name for name, _ in self.added), *hidden])

    def _errors(self, index: KeyIndex) -> list[tuple[str, pl.Expr]]:
        import polars as pl

        shown = f"{', '.join(self.keys)} in {self.table.shown}"
        errors = []
        if self.on_miss in ("fail", "dead_letter"):
            missed = pl.when(pl.col("__found").is_null()).then(pl.lit(MISSED, pl.UInt8))
            errors.append((shown, missed))
        if self.on_many == "fail" and index.many_keys:
            many = pl.map_batches(
                [pl.col("__found")], lambda found: index.has_many(found[0]), return_dtype=pl.Boolean
            )
            errors.append((shown, pl.when(many).then(pl.lit(MANY, pl.UInt8))))
        return errors

    def _joined(
        self, frame: pl.LazyFrame, table: pl.DataFrame, lowering: Lowering
    ) -> pl.LazyFrame:
        import polars as pl

        new = [name for name, _ in self.added]
        right = table.lazy().select(
            [pl.col(k).alias(f"__k{i}") for i, k in enumerate(self.remote_keys)]
            + [pl.col(old).alias(name) for name, old in self.added]
            + [pl.lit(True).alias("__hit")]
        )
        names = frame.collect_schema().names()
        frame = frame.select([n for n in names if n not in new])
        joined = frame.join(
            right,
            left_on=list(self.keys),
            right_on=[f"__k{i}" for i in range(len(self.remote_keys))],
            how="left",
            maintain_order="left_right",
        )
        if self.on_miss in ("fail", "dead_letter"):
            missed = pl.when(pl.col("__hit").is_null()).then(pl.lit(MISSED, pl.UInt8))
            joined = lowering.mark(joined, self.step, [(", ".join(self.keys), missed)])
        if self.on_miss == "drop":
            joined = joined.filter(lowering.keep(pl.col("__hit").is_not_null()))
        return joined.drop("__hit")

    def describe(self) -> str:
        return f"look up {', '.join(n for n, _ in self.added)} in {self.table.shown} by {', '.join(self.keys)}"


class LookupStep(Step):
    type = "lookup"
    Config = LookupConfig
    summary = "Add columns from a table (a source of the file or any bounded source), found by key."
    example = """\
type: lookup
inputs: [orders]
config:
  source: customers
  mapping: {key: customer_id, remote_key: id, fields: [category, priority]}
  on_miss: "null"
"""

    @classmethod
    def bind(cls, config: LookupConfig, inputs: Sequence[Schema], context: BindContext) -> Bound:
        schema, step = inputs[0], context.step
        if config.cache is not None:
            raise ConfigError(
                f"step '{step}': `cache` is for tables that are asked key by key; this one is read whole",
                code="E0406",
                step=step,
                help="leave `cache` out",
            )
        table = context.table(config.source)
        keys, remote = _keys(config.mapping, step)
        known_columns(step, keys, schema)
        _known_remote(step, remote, table)
        added = _added(config.mapping.fields, remote, table)
        _known_remote(step, [old for _, old in added], table)
        reserved([name for name, _ in added], step)
        for key, other in zip(keys, remote, strict=True):
            left, right = schema[key], table.schema[other]
            if left != right and not (left.is_integer and right.is_integer):
                raise ExpressionError(
                    f"step '{step}' compares '{key}' of type {left} with '{other}' of type {right}",
                    code="E0204",
                    step=step,
                    spot=getattr(key, "spot", None),
                    help=f"cast one side in a map before, for example cast: {{{key}: {right}}}",
                )
        operator = Lookup(
            step,
            table,
            tuple(map(str, keys)),
            tuple(map(str, remote)),
            added,
            config.on_miss,
            config.on_many,
        )
        return Bound(outputs={None: operator.output_schema(schema)}, operators=(operator,))


def _keys(mapping: Mapping_, step: str) -> tuple[list[str], list[str]]:
    keys = [mapping.key] if isinstance(mapping.key, str) else list(mapping.key)
    given = mapping.remote_key if mapping.remote_key is not None else keys
    remote = [given] if isinstance(given, str) else list(given)
    if len(keys) != len(remote) or not keys:
        raise ConfigError(
            f"step '{step}' maps {len(keys)} key columns to {len(remote)}", code="E0407", step=step
        )
    return keys, remote


def _added(
    fields: list[str] | dict[str, str] | None, remote: list[str], table: LookupTable
) -> tuple[tuple[str, str], ...]:
    if fields is None:
        return tuple((n, n) for n in table.schema.names if n not in remote)
    if isinstance(fields, dict):
        return tuple((str(new), str(old)) for new, old in fields.items())
    return tuple((str(name), str(name)) for name in fields)


def _known_remote(step: str, names: Sequence[str], table: LookupTable) -> None:
    for name in names:
        if name not in table.schema:
            try:
                known_columns(step, [name], table.schema)
            except ExpressionError as error:
                error.message = f"unknown column '{name}' of {table.shown} in step '{step}'"
                error.args = (error.message,)
                error.notes = [f"it has: {', '.join(table.schema.names)}"]
                raise

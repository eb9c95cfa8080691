"""`lookup`: add columns from a table, found by key.

A table is read whole at each start, or asked key by key; it is never restored from a checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from msgspec.structs import replace
from pydantic import Field

from dataflare.errors import ConfigError, ExpressionError, PlanError, did_you_mean
from dataflare.model.batch import KIND_COLUMN, Kinds, RowKind
from dataflare.model.record import StructABC
from dataflare.model.types import RESERVED, Schema
from dataflare.model.types import Field as Column
from dataflare.model.units import Duration
from dataflare.operators.base import (
    BindContext,
    Bound,
    Fault,
    LookupTable,
    Lowering,
    RowOperator,
    Step,
    StepConfig,
)
from dataflare.operators.names import (
    ByName,
    Name,
    known_columns,
    listed,
    no_doubles,
    not_reserved,
    spot_of,
)
from dataflare.operators.primitives import (
    after_parting,
    kept,
    kinds_without_updates,
    travelling,
    without_updates,
)
from dataflare.sdk.lookup import LookupConnector

if TYPE_CHECKING:
    import polars as pl

    from dataflare.state.index import KeyIndex

MISSED, MANY = 253, 252
"""Error kinds: no row for the key; several rows for the key."""


class Mapping_(StepConfig):
    key: Name | list[Name] = Field(description="Column or columns of the incoming rows.")
    remote_key: Name | list[Name] | None = Field(
        default=None,
        description="The table's columns to match, in order; the same names as `key` if not given.",
    )
    fields: list[Name] | ByName[Name] | None = Field(
        default=None,
        description="Columns of the table to add, or {new name: table's column}; all but its key if not given.",
    )


class Cache(StepConfig):
    """What is remembered of a system that is asked key by key, in each process."""

    size: int = Field(
        default=10_000, ge=1, description="Keys remembered; the least recently used go first."
    )
    ttl: Duration | None = Field(
        default=None, gt=0, description="How long a key is remembered; by default to the end."
    )


class LookupConfig(StepConfig):
    source: Any = Field(
        description="The name of a bounded source of this file, or {type: ..., and that connector's config}, also of a type that is asked key by key (redis, http)."
    )
    mapping: Mapping_ = Field(description="By which key, and which columns to add.")
    cache: Cache | None = Field(
        default=None,
        description="For systems that are asked key by key: what is remembered. By default each batch asks anew.",
    )
    on_miss: Literal["null", "drop", "fail", "dead_letter"] | None = Field(
        default="null",
        description="What happens to a row whose key is not in the table; null: its new columns are NULL.",
    )
    on_many: Literal["fail", "first", "all"] = Field(
        default="fail", description="What happens when the table has several rows for a key."
    )
    optional: bool = Field(
        default=False,
        description="Rows go on with NULL in the new columns while the system is away; for systems that are asked key by key.",
    )


class Lookup(RowOperator, StructABC, frozen=True):
    """added: the new column, the table's column."""

    step: str
    table: LookupTable
    keys: tuple[str, ...]
    remote_keys: tuple[str, ...]
    added: tuple[tuple[str, str], ...]
    on_miss: str
    on_many: str
    cache: Cache | None = None
    optional: bool = False

    @property
    def runs_alone(self) -> bool:
        return self.asked

    @property
    def asked(self) -> bool:
        """Whether the system is asked key by key, so that a batch waits for it."""
        return isinstance(self.table.source, LookupConnector)

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(self.keys)

    @property
    def can_fail(self) -> bool:
        return self.on_miss in ("fail", "dead_letter") or self.on_many == "fail"

    def makes(self, arriving: Kinds) -> Kinds:
        if self.on_many == "all":
            return kinds_without_updates(arriving)
        return after_parting(arriving) if self.on_miss == "drop" else arriving

    @property
    def keeps_rows(self) -> bool:
        return self.on_miss != "drop" and self.on_many != "all"

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
        found = pl.map_batches(keys, index.rows, return_dtype=pl.UInt32).alias("__dataflare_found")
        frame = frame.with_columns(found)
        errors = self._errors(index, lowering)
        values = [
            pl.lit(table[old]).gather(pl.col("__dataflare_found")).alias(name)
            for name, old in self.added
        ]
        if errors:
            values.append(lowering.column(self.step, errors))
        frame = frame.with_columns(values)
        if self.on_miss == "drop":
            is_there = pl.col("__dataflare_found").is_not_null()
            frame = kept(frame, is_there | self._passes(lowering), lowering)
        return self._arranged(frame)

    def _errors(self, index: KeyIndex, lowering: Lowering) -> list[Fault]:
        import polars as pl

        errors = self._missed(pl.col("__dataflare_found").is_null() & ~self._passes(lowering))
        if self.on_many == "fail" and index.many_keys:
            many = pl.map_batches(
                [pl.col("__dataflare_found")],
                lambda found: index.has_many(found[0]),
                return_dtype=pl.Boolean,
            )
            errors.append((self._shown, pl.when(many).then(pl.lit(MANY, pl.UInt8))))
        return errors

    def _passes(self, lowering: Lowering) -> pl.Expr:
        """Which rows need no row of the table: those that take one back. What is asked may have answered otherwise before."""
        import polars as pl

        if not self.asked or not lowering.changelog:
            return pl.lit(False)
        return pl.col(KIND_COLUMN).is_in([RowKind.DELETE.value, RowKind.UPDATE_BEFORE.value])

    def _missed(self, missing: pl.Expr) -> list[Fault]:
        import polars as pl

        if self.on_miss not in ("fail", "dead_letter"):
            return []
        return [(self._shown, pl.when(missing).then(pl.lit(MISSED, pl.UInt8)), self.on_miss)]

    @property
    def _shown(self) -> str:
        return f"{', '.join(self.keys)} in {self.table.shown}"

    def _joined(self, frame: pl.LazyFrame, table: pl.DataFrame, lowering: Lowering) -> pl.LazyFrame:
        """A row for each row of the table with its key. A row with a fault stays one row."""
        import polars as pl

        frame = without_updates(frame, lowering)
        dtypes = frame.collect_schema()
        right = table.lazy().select(
            [
                pl.col(remote).cast(dtypes[key], strict=False).alias(f"__dataflare_k{i}")
                for i, (key, remote) in enumerate(zip(self.keys, self.remote_keys, strict=True))
            ]
            + [pl.col(old).alias(f"__dataflare_v{i}") for i, (_, old) in enumerate(self.added)]
            + [pl.lit(True).alias("__dataflare_hit")]
        )
        joined = frame.with_columns(
            lowering.sound(pl.col(key)).alias(f"__dataflare_k{i}")
            for i, key in enumerate(self.keys)
        ).join(
            right,
            on=[f"__dataflare_k{i}" for i in range(len(self.keys))],
            how="left",
            maintain_order="left_right",
        )
        is_hit = pl.col("__dataflare_hit").is_not_null() | self._passes(lowering)
        errors = self._missed(~is_hit)
        joined = lowering.mark(joined, self.step, errors)
        if self.on_miss == "drop":
            joined = joined.filter(lowering.keep(is_hit))
        return self._arranged(
            joined.with_columns(
                pl.col(f"__dataflare_v{i}").alias(name) for i, (name, _) in enumerate(self.added)
            )
        )

    def _arranged(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """The columns as `output_schema` has them."""
        new = [name for name, _ in self.added]
        names = frame.collect_schema().names()
        old = [name for name in names if name not in new and not name.startswith(RESERVED)]
        return frame.select([*old, *new, *travelling(frame)])

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
        table = context.table(config.source)
        if config.cache is not None and not isinstance(table.source, LookupConnector):
            raise ConfigError(
                f"step '{step}': `cache` is for tables that are asked key by key; this one is read whole",
                code="E0406",
                step=step,
                help="leave `cache` out",
            )
        if config.optional:
            _check_optional(config, table, step)
        keys, remote = _keys(config.mapping, step)
        known_columns(step, keys, schema)
        if isinstance(table.source, LookupConnector):
            table = replace(table, schema=_asked_schema(table.source, config, keys, remote, schema))
        _known_remote(step, remote, table)
        for key, other in zip(keys, remote, strict=True):
            _comparable(step, key, other, schema, table)
        added = _added(config.mapping.fields, remote, schema, table, step)
        operator = Lookup(
            step,
            table,
            tuple(map(str, keys)),
            tuple(map(str, remote)),
            added,
            config.on_miss or "null",
            config.on_many,
            config.cache,
            config.optional,
        )
        return Bound(outputs={None: operator.output_schema(schema)}, operators=(operator,))


def _check_optional(config: LookupConfig, table: LookupTable, step: str) -> None:
    """Raise ConfigError (E0406) where rows cannot go on without the table's values."""
    reason = None
    if not isinstance(table.source, LookupConnector):
        reason = "its table is read whole, before the first row"
    elif config.on_miss not in ("null", None):
        reason = f"'on_miss: {config.on_miss}' needs to know which keys are not there"
    if reason is not None:
        raise ConfigError(
            f"step '{step}' cannot be optional: {reason}",
            code="E0406",
            step=step,
            help="leave 'optional' out, or use a system that is asked key by key, with 'on_miss: null'",
        )


def _asked_schema(
    connector: LookupConnector,
    config: LookupConfig,
    keys: list[str],
    remote: list[str],
    schema: Schema,
) -> Schema:
    """The columns that the system will give: the keys, and the fields that are asked for."""
    step = connector.context.step
    for key in keys:
        type_ = schema[key]
        if not (type_.is_integer or type_.is_text or type_.is_temporal or type_.name == "bool"):
            raise ExpressionError(
                f"step '{step}' cannot ask by '{key}', whose type is {type_}",
                code="E0204",
                step=step,
                spot=spot_of(key),
                help=f"cast it in a map before, for example cast: {{{key}: string}}",
            )
    of_keys = Schema.of([(str(r), schema[k]) for k, r in zip(keys, remote, strict=True)])
    fields = config.mapping.fields
    wanted = (
        None if fields is None else [*(fields.values() if isinstance(fields, dict) else fields)]
    )
    try:
        return connector.schema(of_keys, wanted)
    except ConfigError as error:
        raise error.at(
            step=step, spot=spot_of(next(iter([*(wanted or []), *keys]), None))
        ) from None


def _keys(mapping: Mapping_, step: str) -> tuple[list[str], list[str]]:
    keys = listed(mapping.key)
    remote = keys if mapping.remote_key is None else listed(mapping.remote_key)
    if len(keys) != len(remote) or not keys:
        raise ConfigError(
            f"step '{step}' maps {len(keys)} key columns to {len(remote)}",
            code="E0407",
            step=step,
            spot=spot_of(next(iter([*remote, *keys]), None)),
            help="list as many columns in 'remote_key' as in 'key'",
        )
    return keys, remote


def _comparable(step: str, key: str, other: str, schema: Schema, table: LookupTable) -> None:
    left, right = schema[key], table.schema[other]
    alike = (left.is_integer and right.is_integer) or (left.is_text and right.is_text)
    if left != right and not alike:
        raise ExpressionError(
            f"step '{step}' compares '{key}' of type {left} with '{other}' of type {right}",
            code="E0204",
            step=step,
            spot=spot_of(key),
            help=f"cast one side in a map before, for example cast: {{{key}: {right}}}",
        )


def _added(
    fields: list[str] | dict[str, str] | None,
    remote: list[str],
    schema: Schema,
    table: LookupTable,
    step: str,
) -> tuple[tuple[str, str], ...]:
    """New columns and the table's. Those that are named may replace columns, the others may not."""
    if fields is None:
        names = [name for name in table.schema.names if name not in remote]
        both = next((name for name in names if name in schema), None)
        if both is not None:
            raise PlanError(
                f"step '{step}' would replace the column '{both}' by that of {table.shown}",
                code="E0311",
                step=step,
                help="name the columns to add, as mapping: {fields: {new_name: theirs}}",
            )
        return tuple((name, name) for name in names)
    pairs = list(fields.items()) if isinstance(fields, dict) else [(n, n) for n in fields]
    _known_remote(step, [old for _, old in pairs], table)
    not_reserved(step, [new for new, _ in pairs])
    no_doubles(step, [new for new, _ in pairs])
    return tuple((str(new), str(old)) for new, old in pairs)


def _known_remote(step: str, names: Sequence[str], table: LookupTable) -> None:
    for name in names:
        if name not in table.schema:
            raise ExpressionError(
                f"unknown column '{name}' of {table.shown} in step '{step}'",
                code="E0203",
                step=step,
                spot=spot_of(name),
                notes=[f"it has: {', '.join(table.schema.names)}"],
                help=did_you_mean(name, table.schema.names),
            )

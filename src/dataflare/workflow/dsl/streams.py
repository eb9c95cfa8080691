"""The rows that leave a step, with one method for each step type.

A method's options are the keys of the step's `config`, with the same names and defaults; the reference
of steps documents them. Every step accepts `description=` and `on_error=`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from dataflare.workflow.dsl.functions import name_of
from dataflare.workflow.dsl.values import set_options

if TYPE_CHECKING:
    from dataflare.sdk.destination import DestinationConnector
    from dataflare.sdk.processor import Processor
    from dataflare.workflow.dsl.workflow import Workflow

Expr = str | int | float | bool
"""An expression of the workflow language, or a constant."""
Schema = Mapping[str, Any]
"""Column to type, as in {"id": "int64"}; or a `dataflare.model.types.Schema`."""
OnError = Literal["fail", "skip", "dead_letter"]
Method = Literal["email", "keep_last", "redact", "null", "hash", "hmac"]


class StepOptions(TypedDict, total=False):
    """Options of every step. config: more options of the step, as in the file. was: its former name."""

    config: Mapping[str, Any]
    description: str
    was: str
    on_error: OnError
    error_handling: Mapping[str, Any]


class Stream:
    """The rows that leave a step, or one of its outputs."""

    def __init__(self, workflow: Workflow, step: str, output: str | None = None) -> None:
        self.workflow, self.step, self.output_name = workflow, step, output

    @property
    def ref(self) -> str:
        """The name for `inputs`: `step` or `step.output`."""
        return self.step if self.output_name is None else f"{self.step}.{self.output_name}"

    def __repr__(self) -> str:
        return f"<{self.ref} of the workflow {self.workflow.name}>"

    def output(self, name: str) -> Stream:
        """Another output of the step: a route's, `rejected` of a filter, `failed` of a validate."""
        return Stream(self.workflow, self.step, name)

    __getitem__ = output

    def to(
        self,
        name: str,
        type: str | type[DestinationConnector],
        /,
        *,
        also: Sequence[Stream] = (),
        config: Mapping[str, Any] | None = None,
        description: str | None = None,
        was: str | None = None,
        rate: str | Mapping[str, Any] | None = None,
        on_error: OnError | None = None,
        error_handling: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Workflow:
        """Write the rows to a destination; options are its config. Returns the workflow.

        type: a name that `dataflare connectors` lists, or your own connector class, which is then
        registered. also: other streams to write there. rate: the highest rate. config: options with the same names as
        parameters of this method.
        """
        step = set_options(
            description=description, was=was, on_error=on_error, error_handling=error_handling
        )
        options = {**(config or {}), **options}
        self.workflow._connect("destinations", name, type, options, step, rate, [self, *also])
        return self.workflow

    # -- row by row

    def map(
        self,
        name: str,
        *,
        derive: Mapping[str, Expr] | None = None,
        rename: Mapping[str, str] | None = None,
        cast: Schema | None = None,
        drop: Sequence[str] | None = None,
        select: Sequence[str] | None = None,
        **step: Unpack[StepOptions],
    ) -> Stream:
        """Derive, rename, cast, drop and select columns, in that order."""
        config = set_options(derive=derive, rename=rename, cast=cast, drop=drop, select=select)
        return self._add_step("map", name, config, step)

    def filter(self, name: str, condition: Expr, **step: Unpack[StepOptions]) -> Stream:
        """Keep the rows where a condition is true; `["rejected"]` has the others."""
        return self._add_step("filter", name, {"condition": condition}, step)

    def route(
        self,
        name: str,
        routes: Mapping[str, Expr],
        *,
        default: str | None = None,
        match: Literal["first", "all"] | None = None,
        **step: Unpack[StepOptions],
    ) -> Stream:
        """Send rows to outputs by condition: `["eu"]`, `["us"]`, ..."""
        return self._add_step(
            "route", name, set_options(routes=routes, default=default, match=match), step
        )

    def validate(
        self, name: str, rules: Sequence[Mapping[str, Expr]], **step: Unpack[StepOptions]
    ) -> Stream:
        """Check rows against rules; `["failed"]` has the rows that were dropped.

        rules: {"name": ..., "expect": EXPR, "on_fail": drop, dead_letter, fail, tag or warn}.
        """
        return self._add_step("validate", name, {"rules": rules}, step)

    def flatten(
        self,
        name: str,
        *,
        columns: Sequence[str] | None = None,
        separator: str | None = None,
        depth: int | None = None,
        **step: Unpack[StepOptions],
    ) -> Stream:
        """Turn the fields of struct columns into columns."""
        config = set_options(columns=columns, separator=separator, depth=depth)
        return self._add_step("flatten", name, config, step)

    def explode(
        self,
        name: str,
        column: str,
        *,
        keep_empty: bool | None = None,
        index: str | None = None,
        **step: Unpack[StepOptions],
    ) -> Stream:
        """One row for each item of a list column."""
        config = set_options(column=column, keep_empty=keep_empty, index=index)
        return self._add_step("explode", name, config, step)

    def parse(
        self,
        name: str,
        column: str,
        *,
        format: Literal["json", "csv", "regex", "avro"] | None = None,
        schema: Schema | None = None,
        pattern: str | None = None,
        delimiter: str | None = None,
        keep: bool | None = None,
        avro_schema: str | None = None,
        **step: Unpack[StepOptions],
    ) -> Stream:
        """Parse a text column of JSON, CSV or a pattern, or a binary column of Avro, into columns."""
        config = set_options(
            column=column,
            format=format,
            schema=schema,
            pattern=pattern,
            delimiter=delimiter,
            keep=keep,
            avro_schema=avro_schema,
        )
        return self._add_step("parse", name, config, step)

    def mask(
        self,
        name: str,
        columns: Mapping[str, Method | Mapping[str, Any]],
        **step: Unpack[StepOptions],
    ) -> Stream:
        """Hide personal data. columns: column to method, as {"email": "email"}, or
        {"card": {"method": "keep_last", "keep": 4}}."""
        return self._add_step("mask", name, {"columns": columns}, step)

    def sample(
        self,
        name: str,
        fraction: float,
        *,
        key: str | Sequence[str] | None = None,
        seed: int | None = None,
        **step: Unpack[StepOptions],
    ) -> Stream:
        """Keep a share of the rows. Rows with the same key are all kept or all dropped."""
        return self._add_step(
            "sample", name, set_options(fraction=fraction, key=key, seed=seed), step
        )

    def python(
        self,
        name: str,
        function: str | Callable[..., Any],
        *,
        mode: Literal["batch", "record"] | None = None,
        schema: Schema | None = None,
        execution: Literal["thread", "process"] | None = None,
        limits: Mapping[str, Any] | None = None,
        pure: bool | None = None,
        **step: Unpack[StepOptions],
    ) -> Stream:
        """Run a function over batches (a Polars DataFrame in and out) or rows (dicts).

        function: a function, or "package.module:name". A function of a script or a notebook is known to
        this process only, and a workflow with it cannot be written as YAML. pure: the same rows in always
        give the same rows out, so a stream of changes may go through it. limits: `timeout` and `memory` of a call, for
        execution="process".
        """
        target = function if isinstance(function, str) else name_of(function)
        config = set_options(
            function=target,
            mode=mode,
            schema=schema,
            execution=execution,
            limits=limits,
            pure=pure,
        )
        return self._add_step("python", name, config, step)

    def process(
        self,
        name: str,
        type: str | type[Processor],
        /,
        *others: Stream,
        config: Mapping[str, Any] | None = None,
        description: str | None = None,
        was: str | None = None,
        on_error: OnError | None = None,
        error_handling: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Stream:
        """Run your own processor; options are its config.

        type: its class, which is then registered, or the name of a registered one. others: its other
        inputs, as ports 1, 2, ... config: options with the same names as parameters of this method.
        """
        if not isinstance(type, str):
            from dataflare.sdk.registry import register

            type = register(type).type
        step = set_options(
            description=description, was=was, on_error=on_error, error_handling=error_handling
        )
        inputs = [self, *others]
        return self.workflow._transform(type, name, {**(config or {}), **options}, step, inputs)

    # -- over several rows

    def limit(self, name: str, rows: int, **step: Unpack[StepOptions]) -> Stream:
        """Keep only the first rows of the whole run."""
        return self._add_step("limit", name, {"rows": rows}, step)

    def deduplicate(
        self,
        name: str,
        key: str | Sequence[str],
        *,
        within: Any = None,
        keep: str | None = None,
        order_by: Any = None,
        **step: Unpack[StepOptions],
    ) -> Stream:
        """One row of each key. keep: `first` or `last`, of the order in which rows come or of order_by.
        within: a duration as text or a timedelta."""
        config = set_options(key=key, within=within, keep=keep, order_by=order_by)
        return self._add_step("deduplicate", name, config, step)

    def history(
        self,
        name: str,
        key: str | Sequence[str] | None = None,
        *,
        time: str | None = None,
        snapshot: bool | None = None,
        **step: Unpack[StepOptions],
    ) -> Stream:
        """The versions of each row. key: by default that of the table that the rows are of. time: the column with the
        time from which a row is so. snapshot: each run reads the rows as they are now, each key once."""
        config = set_options(key=key, time=time, snapshot=snapshot)
        return self._add_step("history", name, config, step)

    def sort(
        self, name: str, by: Any, *, memory: str | None = None, **step: Unpack[StepOptions]
    ) -> Stream:
        """All rows in one order, at the end of a bounded input. by: columns, each a name or
        `{"column": ..., "descending": True, "nulls": "first"}`."""
        return self._add_step("sort", name, set_options(by=by, memory=memory), step)

    def union(
        self,
        name: str,
        *others: Stream,
        strict: bool | None = None,
        **step: Unpack[StepOptions],
    ) -> Stream:
        """All rows of this and the other streams; missing columns are NULL, types widen."""
        return self._add_step("union", name, set_options(strict=strict), step, others)

    def join(
        self,
        name: str,
        *others: Stream,
        on: str | Sequence[str] | Mapping[str, str],
        kind: Literal["inner", "left", "right", "full", "semi", "anti"] | None = None,
        within: Any = None,
        temporal: Mapping[str, Any] | bool | None = None,
        ttl: Any = None,
        suffix: str | None = None,
        **step: Unpack[StepOptions],
    ) -> Stream:
        """Rows of this stream and another one with equal keys. on: columns, or {this one's: the other's}.
        within: a duration as text or a timedelta, or one for `before` and one for `after`. temporal: {},
        if the other stream is a table of versions. ttl: how long a row that nothing touches is kept."""
        config = set_options(
            kind=kind, on=on, within=within, temporal=temporal, ttl=ttl, suffix=suffix
        )
        return self._add_step("join", name, config, step, others)

    def sql(
        self,
        name: str,
        *others: Stream,
        query: str,
        memory: str | None = None,
        **step: Unpack[StepOptions],
    ) -> Stream:
        """One SELECT of DuckDB over this and the other streams, which end. query: it knows them by the names
        of their steps."""
        return self._add_step("sql", name, set_options(query=query, memory=memory), step, others)

    def lookup(
        self,
        name: str,
        source: Stream | str | Mapping[str, Any],
        *,
        key: str | Sequence[str],
        remote_key: str | Sequence[str] | None = None,
        fields: Sequence[str] | Mapping[str, str] | None = None,
        cache: Mapping[str, Any] | None = None,
        on_miss: Literal["null", "drop", "fail", "dead_letter"] | None = None,
        on_many: Literal["fail", "first", "all"] | None = None,
        optional: bool | None = None,
        **step: Unpack[StepOptions],
    ) -> Stream:
        """Add columns of a table, found by key.

        source: a source of this workflow, or {"type": ..., and that connector's config}.
        fields: columns of the table to add, or {new name: the table's}; all when not given.
        """
        mapping = set_options(key=key, remote_key=remote_key, fields=fields)
        config = set_options(source=source, mapping=mapping, cache=cache, on_miss=on_miss)
        config |= set_options(on_many=on_many, optional=optional)
        return self._add_step("lookup", name, config, step)

    def aggregate(
        self,
        name: str,
        measures: Mapping[str, Expr],
        *,
        group_by: Sequence[str] | Mapping[str, Expr] | None = None,
        emit: Literal["final", "updates"] | None = None,
        **step: Unpack[StepOptions],
    ) -> Stream:
        """Totals by group. measures: {"total": "sum(amount)"}; group_by: columns or expressions."""
        config = set_options(group_by=group_by, measures=measures, emit=emit)
        return self._add_step("aggregate", name, config, step)

    def window(
        self,
        name: str,
        kind: Literal["tumbling", "sliding", "session", "global"],
        measures: Mapping[str, Expr],
        *,
        size: Any = None,
        slide: Any = None,
        gap: Any = None,
        offset: Any = None,
        timezone: str | None = None,
        group_by: Sequence[str] | Mapping[str, Expr] | None = None,
        trigger: Mapping[str, Any] | None = None,
        allowed_lateness: Any = None,
        emit: Literal["final", "updates"] | None = None,
        fill: Literal["none", "null", "previous", "0"] | None = None,
        **step: Unpack[StepOptions],
    ) -> Stream:
        """Totals by group in windows of event time. size, slide, gap, offset and allowed_lateness are durations, as
        text or timedelta. The late rows are `stream["late"]`."""
        config = set_options(
            kind=kind,
            size=size,
            slide=slide,
            gap=gap,
            offset=offset,
            timezone=timezone,
            group_by=group_by,
            measures=measures,
            trigger=trigger,
            allowed_lateness=allowed_lateness,
            emit=emit,
            fill=fill,
        )
        return self._add_step("window", name, config, step)

    def _add_step(
        self,
        type_: str,
        name: str,
        config: Mapping[str, Any],
        step: StepOptions,
        others: Sequence[Stream] = (),
    ) -> Stream:
        inputs = [self, *others]
        step_options = dict(step)
        config_options: Any = step_options.pop("config", {})
        return self.workflow._transform(
            type_, name, {**config, **config_options}, step_options, inputs
        )

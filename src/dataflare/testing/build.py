"""Build a single connector or step from its config, as a workflow would, to test it alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
from msgspec import Struct

from dataflare.model.batch import INSERTS, KIND_COLUMN, Kinds
from dataflare.model.types import Schema
from dataflare.operators import registry as operators
from dataflare.operators.base import (
    BindContext,
    LookupTable,
    Lowering,
    RowOperator,
    StatefulOperator,
)
from dataflare.operators.processor import step_of
from dataflare.sdk import registry
from dataflare.sdk.context import ConnectorContext, Policy
from dataflare.sdk.destination import DestinationConnector
from dataflare.sdk.lookup import LookupConnector
from dataflare.sdk.processor import Processor
from dataflare.sdk.source import SourceConnector
from dataflare.workflow.load import bind

_Connector = TypeVar("_Connector", SourceConnector, DestinationConnector, LookupConnector)


def description(
    connector: type[_Connector],
    config: Mapping[str, Any],
    *,
    base: Path | None = None,
    step: str = "tested",
) -> _Connector:
    """A connector with checked config. base: the folder that relative paths are relative to."""
    checked = bind(connector.Config, config, step=step)
    return connector(checked, ConnectorContext(step, base or Path()))


def source_of(type_: str, config: Mapping[str, Any], **options: Any) -> SourceConnector:
    """`description` of a source, by the name of its type."""
    return description(registry.source(type_), config, **options)


def destination_of(type_: str, config: Mapping[str, Any], **options: Any) -> DestinationConnector:
    """`description` of a destination, by the name of its type."""
    return description(registry.destination(type_), config, **options)


class ProcessorUnderTest(Struct, frozen=True):
    """A stateful step: its operator, how many inputs it has, and the operators that prepare the rows of
    each."""

    operator: StatefulOperator
    inputs: int = 1
    before: Sequence[RowOperator] = ()

    def prepared(self, *frames: pl.DataFrame) -> list[pl.DataFrame]:
        """The rows of each input as the operator receives them."""
        if len(frames) != self.inputs:
            raise ValueError(f"the step has {self.inputs} inputs, not {len(frames)}")
        prepared = []
        for frame in frames:
            lowering = Lowering(changelog=KIND_COLUMN in frame.columns)
            lazy = frame.lazy()
            for operator in self.before:
                lazy = operator.lower(lazy, lowering)
            prepared.append(lazy.collect())
        return prepared


def processor_of(
    type_: str | type[Processor],
    config: Mapping[str, Any],
    *inputs: Schema,
    kinds: Sequence[Kinds] = (),
) -> ProcessorUnderTest:
    """A step with state, for inputs of these schemas. type_: a processor class, or a step's type. kinds: the row
    kinds of each input; inserts only, if not given."""
    step = operators.step(type_) if isinstance(type_, str) else step_of(type_)
    kinds = tuple(kinds) or (INSERTS,) * len(inputs)
    context = BindContext("tested", Path(), Policy(), True, 1, _no_table, kinds=kinds)
    bound = step.bind(bind(step.Config, config, step="tested"), inputs, context)
    if bound.stateful is None:
        raise ValueError(f"a {type_} step has no state")
    return ProcessorUnderTest(bound.stateful, len(inputs), bound.operators)


def _no_table(config: Any) -> LookupTable:
    raise ValueError("a step that is tested alone has no table to look up in")

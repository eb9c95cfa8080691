"""`join`: rows of two inputs that have the same keys, and are near in time where time counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from dataflare.errors import ConfigError, PlanError
from dataflare.model.batch import CHANGES, INSERTS
from dataflare.model.types import Schema
from dataflare.model.units import Duration
from dataflare.operators.base import LATE, LATE_RIGHT, BindContext, Bound, Step, StepConfig
from dataflare.operators.changes import with_op
from dataflare.operators.join_bounded import BoundedJoin
from dataflare.operators.join_interval import IntervalJoin
from dataflare.operators.join_pairs import Pairing, Reach
from dataflare.operators.join_shape import LEFT, RIGHT, JoinShape, Kind, join_shape
from dataflare.operators.join_temporal import TemporalJoin
from dataflare.operators.join_updating import UpdatingJoin
from dataflare.operators.names import ByName, Name, listed, no_doubles

_MICROS = 1_000_000


class Within(StepConfig):
    before: Duration = Field(
        default=0, description="How much earlier than the row of the first input, at most."
    )
    after: Duration = Field(
        default=0, description="How much later than the row of the first input, at most."
    )


class Temporal(StepConfig):
    max_age: Duration | None = Field(
        default=None,
        description="How long a version is valid at most; until the next version of its key, if not given.",
    )


class JoinConfig(StepConfig):
    kind: Kind = Field(
        default="inner",
        description="inner: pairs. left, right, full: also rows of that side (of both) without a match. "
        "semi, anti: rows of the first input with, or without, a match.",
    )
    on: Name | list[Name] | ByName[Name] = Field(
        description="Columns that are equal in both inputs: `[a, b]`, or `{a: column_of_the_second}`. NULL is "
        "equal to nothing."
    )
    within: Duration | Within | None = Field(
        default=None,
        description="How far apart the event times of two rows are at most, both ends included: `10m`, or "
        "`{before: 1m, after: 10m}` for rows of the second input before and after those of the first. Without "
        "it both inputs must end.",
    )
    temporal: Temporal | Literal[True] | None = Field(
        default=None,
        description="The second input is a table whose rows are versions, each valid from its event time to "
        "the next version of its key. A row of the first input gets the version at its own event time. `{}`, "
        "or `{max_age: 1h}`; inner and left only. Of a changelog, a delete ends the version of its key.",
    )
    ttl: Duration | None = Field(
        default=None,
        gt=0,
        description="How long a row is kept to be joined, in processing time after it came. For inputs without end: "
        "older rows have no matches, and are not taken back. Not with `within` or `temporal`.",
    )
    suffix: str | None = Field(
        default=None,
        min_length=1,
        description="What is added to a column of the second input whose name the first has too.",
    )


class JoinStep(Step):
    type = "join"
    Config = JoinConfig
    summary = "Rows of two inputs with the same keys, side by side."
    example = """\
type: join
inputs: [orders, customers]
config: {kind: left, on: {customer_id: id}}
"""
    inputs_max = None

    @classmethod
    def bind(cls, config: JoinConfig, inputs: Sequence[Schema], context: BindContext) -> Bound:
        step = context.step
        if len(inputs) != 2:
            raise PlanError(
                f"step '{step}' (join) takes two inputs, and has {len(inputs)}",
                code="E0318",
                step=step,
                help="name the left and the right input; more than two are joined by several steps",
            )
        left, right = inputs
        shape = join_shape(step, config.kind, _pairs(step, config), left, right, config.suffix)
        if config.ttl is not None and (config.within is not None or config.temporal is not None):
            raise ConfigError(
                f"step '{step}' has a `ttl`, and `within` and `temporal` say themselves how long a row is kept",
                code="E0405",
                step=step,
                help="leave `ttl` out",
            )
        if config.temporal is not None:
            return _temporal_join(config, shape, left, right, context)
        if config.within is not None:
            return _interval_join(config.within, shape, left, right, context)
        if context.changes or config.ttl is not None or not context.bounded:
            return _updating_join(config, shape, context)
        operator = BoundedJoin(step, shape, shape.left_keys, context.inputs)
        return Bound(outputs={None: shape.output}, stateful=operator)

    @classmethod
    def extra_outputs(cls, config: JoinConfig) -> tuple[str, ...]:
        timed = config.within is not None or config.temporal is not None
        return (LATE, LATE_RIGHT) if timed else ()


def _updating_join(config: JoinConfig, shape: JoinShape, context: BindContext) -> Bound:
    """Each change changes the result at once. A side that has no end and only grows would be kept for ever."""
    step, kinds = context.step, context.kinds or (INSERTS, INSERTS)
    ends = context.ends or (context.bounded, context.bounded)
    growing = [
        f"'{name}'"
        for name, of_input, has_end in zip(
            context.inputs or ("left", "right"), kinds, ends, strict=True
        )
        if of_input == INSERTS and not has_end
    ]
    if growing and config.ttl is None:
        raise PlanError(
            f"step '{step}' would keep all rows of {' and '.join(growing)} for ever: "
            f"{'it has' if len(growing) == 1 else 'they have'} no end, and no row is deleted",
            code="E0316",
            step=step,
            help="say how near in time two rows must be (within: 10m), or how long a row is kept (ttl: 1d), or "
            "bound the sources",
        )
    ttl_us = None if config.ttl is None else round(config.ttl * _MICROS)
    arriving = (kinds[0], kinds[1])
    operator = UpdatingJoin(step, shape, shape.left_keys, arriving, ttl_us, context.inputs)
    return Bound(outputs={None: shape.output}, stateful=operator)


def _interval_join(
    within: float | Within, shape: JoinShape, left: Schema, right: Schema, context: BindContext
) -> Bound:
    parts = (within.before, within.after) if isinstance(within, Within) else (within, within)
    reach = Reach(*(round(seconds * _MICROS) for seconds in parts))
    pairing = Pairing(shape, reach, context.streaming)
    operator = IntervalJoin(context.step, pairing, shape.left_keys, context.inputs)
    outputs = {None: shape.output, LATE: left, LATE_RIGHT: right}
    return Bound(outputs=outputs, stateful=operator)


def _temporal_join(
    config: JoinConfig, shape: JoinShape, left: Schema, right: Schema, context: BindContext
) -> Bound:
    step = context.step
    if config.within is not None:
        raise ConfigError(
            f"step '{step}' has `within` and `temporal`: the first joins two streams, the second a stream and "
            "a table",
            code="E0405",
            step=step,
            help="leave one of them out",
        )
    if shape.kind not in ("inner", "left"):
        raise ConfigError(
            f"step '{step}' has `temporal` and kind {shape.kind}, which a table of versions cannot answer",
            code="E0405",
            step=step,
            help="choose inner, or left to keep the rows without a version",
        )
    age = config.temporal.max_age if isinstance(config.temporal, Temporal) else None
    max_age_us = None if age is None else round(age * _MICROS)
    kinds = context.kinds or (INSERTS, INSERTS)
    changes = kinds[RIGHT] != INSERTS
    operator = TemporalJoin(
        step,
        shape,
        shape.left_keys,
        max_age_us,
        context.streaming,
        context.inputs,
        changes,
        CHANGES if changes and kinds[LEFT] == INSERTS else INSERTS,
    )
    late_right = with_op(step, right) if changes else right
    return Bound(
        outputs={None: shape.output, LATE: left, LATE_RIGHT: late_right}, stateful=operator
    )


def _pairs(step: str, config: JoinConfig) -> dict[str, str]:
    """The key columns of the first input with those of the second."""
    if isinstance(config.on, dict):
        return dict(config.on)
    names = listed(config.on)
    no_doubles(step, names)
    return {name: name for name in names}

"""`union`: the rows of several inputs, brought to one schema."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field as ConfigField

from dataflare.errors import PlanError
from dataflare.model.types import FLOAT32, FLOAT64, INT64, DataType, Field, Schema, decimal
from dataflare.operators.base import BindContext, Bound, Step, StepConfig
from dataflare.operators.primitives import conformed


class UnionConfig(StepConfig):
    strict: bool = ConfigField(
        default=False,
        description="Refuse inputs whose columns or types differ instead of widening them.",
    )


class UnionStep(Step):
    type = "union"
    Config = UnionConfig
    summary = "All rows of all inputs; missing columns are NULL, types widen."
    example = """\
type: union
inputs: [shop_a, shop_b]
"""
    inputs_max = None

    @classmethod
    def bind(cls, config: UnionConfig, inputs: Sequence[Schema], context: BindContext) -> Bound:
        target = inputs[0]
        for other in inputs[1:]:
            if config.strict and other != target:
                raise PlanError(
                    f"the inputs of step '{context.step}' have different columns",
                    code="E0312",
                    step=context.step,
                    notes=[str(target.to_json()), str(other.to_json())],
                    help="give the inputs the same columns and types: select and cast them in a map before",
                )
            target = merged(target, other, context.step)
        branches = tuple(conformed(context.step, target, schema) for schema in inputs)
        return Bound(outputs={None: target}, union=branches)


def merged(left: Schema, right: Schema, step: str) -> Schema:
    """Columns of both, in order of first appearance, each with a type that holds both."""
    fields = []
    for field in left:
        type_ = field.type
        if field.name in right:
            type_ = wider(field.type, right[field.name], field.name, step)
        fields.append(Field(field.name, type_))
    fields.extend(field for field in right if field.name not in left)
    return Schema(tuple(fields))


def wider(left: DataType, right: DataType, column: str, step: str) -> DataType:
    """The type that holds every value of both, or PlanError (E0312)."""
    if left == right or right.name == "null":
        return left
    if left.name == "null":
        return right
    if left.is_numeric and right.is_numeric:
        found = _wider_number(left, right)
        if found is not None:
            return found
    if left.name == right.name == "timestamp" and bool(left.timezone) == bool(right.timezone):
        order = ("s", "ms", "us", "ns")
        return max(left, right, key=lambda t: order.index(t.unit or "us"))
    if {left.name, right.name} == {"string", "json"}:
        return left if left.name == "string" else right
    raise PlanError(
        f"step '{step}' cannot join the column '{column}' of types {left} and {right}",
        code="E0312",
        step=step,
        help=f"cast it in a map before the union: cast: {{{column}: string}}",
    )


_DIGITS = {"int8": 3, "int16": 5, "int32": 10, "int64": 19}
_DIGITS |= {"uint8": 3, "uint16": 5, "uint32": 10, "uint64": 20}


def _wider_number(left: DataType, right: DataType) -> DataType | None:
    """A number type for both: the wider integer, else a decimal with room for all digits; a float
    where one is a float. None where no decimal is wide enough."""
    if left.is_float or right.is_float:
        return FLOAT32 if left == right == FLOAT32 else FLOAT64
    if left.is_integer and right.is_integer:
        same_sign = left.name[0] == right.name[0]
        if same_sign:
            return max(left, right, key=lambda t: int(t.name.lstrip("uint")))
        if "uint64" not in (left.name, right.name):
            return INT64
    sizes = [
        (_DIGITS[t.name], 0)
        if t.is_integer
        else ((t.precision or 38) - (t.scale or 0), t.scale or 0)
        for t in (left, right)
    ]
    before, after = max(size[0] for size in sizes), max(size[1] for size in sizes)
    return decimal(before + after, after) if before + after <= 38 else None

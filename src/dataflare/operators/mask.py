"""`mask`: hide personal data in columns, by named methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from dataflare.errors import ConfigError, ExpressionError
from dataflare.expr import ExprText, Typed, check
from dataflare.model.text import SourceText
from dataflare.model.types import Schema
from dataflare.operators.base import BindContext, Bound, Step, StepConfig
from dataflare.operators.names import ByName, by_column, known_columns, spot_of
from dataflare.operators.primitives import Derive, quote

METHODS = {
    "email": "mask_email({c})",
    "keep_last": "mask_keep_last(CAST({c} AS string), {n})",
    "hash": "sha256(CAST({c} AS string))",
    "null": "NULLIF({c}, {c})",
    "redact": "CASE WHEN {c} IS NULL THEN NULL ELSE '***' END",
}
Method = Literal["email", "keep_last", "hash", "hmac", "redact", "null"]


class Mask(StepConfig):
    method: Method = Field(description="How the value is hidden.")
    keep: int = Field(default=4, ge=0, description="keep_last: characters left readable.")
    secret: ExprText | None = Field(
        default=None, description="hmac: the key, an expression such as ${secret:PEPPER}."
    )


class MaskConfig(StepConfig):
    columns: ByName[Method | Mask | None] = Field(
        description="Column, or pattern such as *email*, to method (or method with options)."
    )


class MaskStep(Step):
    type = "mask"
    Config = MaskConfig
    each_table = True
    summary = "Hide personal data: emails, card numbers, names."
    example = """\
type: mask
inputs: [customers]
config:
  columns:
    email: email
    card: {method: keep_last, keep: 4}
    name: redact
"""

    @classmethod
    def bind(cls, config: MaskConfig, inputs: Sequence[Schema], context: BindContext) -> Bound:
        schema, step = inputs[0], context.step
        columns = by_column(config.columns, schema, context.matched)
        known_columns(step, columns, schema)
        made = []
        for name, chosen in columns.items():
            mask = chosen if isinstance(chosen, Mask) else Mask(method=chosen or "null")
            made.append((str(name), _masked(step, name, mask, schema)))
        operator = Derive(step, tuple(made))
        return Bound(outputs={None: operator.output_schema(schema)}, operators=(operator,))


def _masked(step: str, name: str, mask: Mask, schema: Schema) -> Typed:
    try:
        return check(_expression(mask, name, step), schema, step=step)
    except ExpressionError as error:
        if error.spot is None:
            error.message = f"step '{step}' cannot mask '{name}' by {mask.method}: {error.message}"
        raise error.at(step=step, spot=spot_of(name)) from None


def _expression(mask: Mask, column: str, step: str) -> str | ExprText:
    if mask.method != "hmac":
        return METHODS[mask.method].format(c=quote(column), n=mask.keep)
    if mask.secret is None:
        raise ConfigError(
            f"step '{step}': hmac needs a `secret`",
            code="E0404",
            step=step,
            spot=spot_of(column),
            help="give one: {method: hmac, secret: '${secret:NAME}'}",
        )
    before, given = f"hmac(CAST({quote(column)} AS string), ", mask.secret.source
    return ExprText(
        SourceText(
            f"{before}{given})",
            template=f"{before}{given.template})",
            variables=given.variables,
        )
    )

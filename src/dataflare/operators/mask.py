"""`mask`: hide personal data in columns, by named methods."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from dataflare.errors import ConfigError
from dataflare.expr import ExprText, check
from dataflare.model.text import SourceText
from dataflare.model.types import Schema
from dataflare.operators.base import BindContext, Bound, Step, StepConfig
from dataflare.operators.primitives import Derive, known_columns, quote

METHODS = {
    "email": "mask_email({c})",
    "keep_last": "mask_keep_last(CAST({c} AS string), {n})",
    "hash": "sha256(CAST({c} AS string))",
    "null": "NULLIF({c}, {c})",
    "redact": "CASE WHEN {c} IS NULL THEN NULL ELSE '***' END",
}


class Mask(StepConfig):
    method: str = Field(description="email, keep_last, hash, hmac, redact or null.")
    keep: int = Field(default=4, ge=0, description="keep_last: characters left readable.")
    secret: ExprText | None = Field(
        default=None, description="hmac: the key, an expression such as ${secret:PEPPER}."
    )


class MaskConfig(StepConfig):
    columns: dict[str, str | Mask] = Field(description="Column to method (or method with options).")


class MaskStep(Step):
    type = "mask"
    Config = MaskConfig
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
        known_columns(step, config.columns, schema)
        made = []
        for name, chosen in config.columns.items():
            mask = chosen if isinstance(chosen, Mask) else Mask(method=chosen)
            made.append((str(name), check(_expression(mask, str(name), step), schema, step=step)))
        operator = Derive(step, tuple(made))
        return Bound(outputs={None: operator.output_schema(schema)}, operators=(operator,))


def _expression(mask: Mask, column: str, step: str) -> str | ExprText:
    if mask.method == "hmac":
        if mask.secret is None:
            raise ConfigError(f"step '{step}': hmac needs a secret", code="E0403", step=step)
        before, given = f"hmac(CAST({quote(column)} AS string), ", mask.secret.source
        return ExprText(
            SourceText(
                f"{before}{given})",
                template=f"{before}{given.template})",
                variables=given.variables,
            )
        )
    template = METHODS.get(mask.method)
    if template is None:
        raise ConfigError(
            f"step '{step}': unknown mask method '{mask.method}'",
            code="E0405",
            step=step,
            spot=getattr(mask.method, "spot", None),
            notes=[f"known methods: {', '.join([*METHODS, 'hmac'])}"],
        )
    return template.format(c=quote(column), n=mask.keep)

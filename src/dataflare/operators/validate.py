"""`validate`: check rows against rules, and say what happens to those that break one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

from msgspec import Struct
from pydantic import Field, field_validator, model_validator

from dataflare.errors import ConfigError
from dataflare.expr import ExprText, Typed, check_condition
from dataflare.model.types import STRING, Schema, list_of
from dataflare.model.types import Field as Column
from dataflare.observability.conditions import Condition, parse_condition
from dataflare.operators.base import (
    BindContext,
    Bound,
    Branch,
    Fault,
    Lowering,
    Step,
    StepConfig,
)
from dataflare.operators.names import Name, not_empty, spot_of

if TYPE_CHECKING:
    import polars as pl

FAILED_RULES = "failed_rules"
"""Column of `step.failed` and of tagged rows: the names of the rules a row breaks."""

RULE_BROKEN = 255
"""The error kind of a broken rule in ERROR_COLUMN."""


class Rule(StepConfig):
    name: Name = Field(description="Shown in errors, metrics and `failed_rules`.")
    expect: ExprText | None = Field(
        default=None, description="Of each row: a boolean expression; NULL counts as broken."
    )
    broken_when: str | None = Field(
        default=None,
        description="Of all rows of the step, in place of `expect`: a condition as of an alert, such as `rows < 1000`, "
        "`rows < usual` or `freshness > 5m`. `on_fail` is warn or fail.",
    )
    on_fail: Literal["drop", "dead_letter", "fail", "tag", "warn"] = Field(
        default="drop",
        description="drop: the row leaves by `step.failed`; dead_letter: it goes to the dead letters; "
        "fail: the run fails; tag: the row stays, named in `failed_rules`; warn: only counted.",
    )
    allowed: str | None = Field(
        default=None,
        description="With `on_fail: warn` or `fail`: rows stay, and the run warns or fails if a greater share of them than "
        "this breaks the rule: `5%`, `5% in 1h`, or `usual`, which is learnt from earlier runs.",
    )

    @field_validator("allowed", mode="before")
    @classmethod
    def _parsed(cls, allowed: object) -> object:
        if allowed is None or isinstance(allowed, bool):
            return allowed
        allowed_condition(str(allowed))
        return str(allowed)

    @field_validator("broken_when")
    @classmethod
    def _known(cls, broken_when: str | None) -> str | None:
        if broken_when is not None:
            condition = parse_condition(broken_when)
            if condition.is_of_whole_run and condition.for_s:
                raise ValueError(
                    "it is judged once, when a run has finished: add 'in 10m', or leave 'for' out"
                )
        return broken_when

    @model_validator(mode="after")
    def _told(self) -> Rule:
        if (self.expect is None) == (self.broken_when is None):
            raise ValueError("give 'expect', of each row, or 'broken_when', of all rows")
        if self.broken_when is not None and self.on_fail not in ("warn", "fail"):
            raise ValueError(f"'broken_when' needs on_fail: warn or fail, not {self.on_fail}")
        if self.broken_when is not None and self.allowed is not None:
            raise ValueError("'allowed' is a share of the rows that break 'expect'")
        if self.allowed is not None and self.on_fail not in ("warn", "fail"):
            raise ValueError(f"'allowed' needs on_fail: warn or fail, not {self.on_fail}")
        return self


def allowed_condition(allowed: str) -> Condition:
    """When more than this share of the rows breaks a rule. Raises ValueError."""
    return parse_condition(f"broken_share > {allowed}")


class ValidateConfig(StepConfig):
    rules: list[Rule] = Field(description="Checked in order; a row may break several.")


class Checked(Struct, frozen=True):
    name: str
    on_fail: str
    typed: Typed
    is_share: bool = False

    @property
    def is_of_row(self) -> bool:
        """Whether something becomes of a row that breaks it."""
        return self.on_fail != "warn" and not self.is_share


class ValidateStep(Step):
    type = "validate"
    Config = ValidateConfig
    each_table = True
    summary = "Check rows against rules; `step.failed` has the rows that were dropped."
    example = """\
type: validate
inputs: [orders]
config:
  rules:
    - {name: positive amount, expect: "amount > 0", on_fail: drop}
    - {name: known country, expect: "country IS NOT NULL", on_fail: tag}
"""

    @classmethod
    def extra_outputs(cls, config: ValidateConfig) -> tuple[str, ...]:
        return ("failed",)

    @classmethod
    def bind(cls, config: ValidateConfig, inputs: Sequence[Schema], context: BindContext) -> Bound:
        schema, step = inputs[0], context.step
        not_empty(step, "rules", config.rules)
        _told_apart(step, config.rules)
        rules = tuple(
            Checked(
                str(r.name),
                r.on_fail,
                check_condition(r.expect, schema, step=step),
                r.allowed is not None,
            )
            for r in config.rules
            if r.expect is not None
        )
        tagged = any(rule.on_fail == "tag" for rule in rules)
        with_names = Schema(
            (*(f for f in schema if f.name != FAILED_RULES), Column(FAILED_RULES, list_of(STRING)))
        )
        branch = Branch(
            step=step,
            reads=frozenset().union(*(r.typed.columns | r.typed.needs for r in rules)),
            can_fail=any(
                r.typed.can_fail or (r.is_of_row and r.on_fail in ("dead_letter", "fail"))
                for r in rules
            ),
            tag=partial(_tag, step, rules),
            outputs={None: _good, "failed": _failed},
            described="validate " + ", ".join(str(rule.name) for rule in config.rules),
            counters={
                f"rule '{rule.name}' is broken": f"__dataflare_warn{index}"
                for index, rule in enumerate(rules)
                if rule.on_fail == "warn" and not rule.is_share
            },
            shares={
                rule.name: f"__dataflare_warn{index}"
                for index, rule in enumerate(rules)
                if rule.is_share
            },
        )
        return Bound(
            outputs={None: with_names if tagged else schema, "failed": with_names}, branch=branch
        )


def _told_apart(step: str, rules: Sequence[Rule]) -> None:
    seen: set[str] = set()
    for rule in rules:
        if rule.name in seen:
            raise ConfigError(
                f"step '{step}' has two rules named '{rule.name}'",
                code="E0405",
                step=step,
                spot=spot_of(rule.name),
                help="choose another name for one of them",
            )
        seen.add(rule.name)


def _tag(
    step: str, rules: tuple[Checked, ...], frame: pl.LazyFrame, lowering: Lowering
) -> pl.LazyFrame:
    import polars as pl

    errors: list[Fault] = []
    broken: dict[str, pl.Expr] = {}
    for rule in rules:
        lowered = rule.typed.lower()
        if lowered.error is not None:
            errors.append((f"rule '{rule.name}': {rule.typed.shown}", lowered.error))
        is_broken = ~lowered.value.fill_null(False)
        broken[rule.name] = is_broken
        if rule.is_of_row and rule.on_fail in ("dead_letter", "fail"):
            kind = pl.when(is_broken).then(pl.lit(RULE_BROKEN, pl.UInt8))
            errors.append((f"rule '{rule.name}': {rule.typed.shown}", kind, rule.on_fail))
    frame = lowering.mark(frame, step, errors)
    drops = [broken[rule.name] for rule in rules if rule.on_fail == "drop"]
    named = pl.concat_list(
        [pl.when(broken[rule.name]).then(pl.lit(rule.name)) for rule in rules if rule.is_of_row]
        or [pl.lit(None, pl.String)]
    ).list.drop_nulls()
    warned = [
        broken[rule.name].alias(f"__dataflare_warn{index}")
        for index, rule in enumerate(rules)
        if not rule.is_of_row
    ]
    return frame.with_columns(
        *warned,
        (pl.any_horizontal(drops) if drops else pl.lit(False)).alias("__dataflare_drop"),
        named.alias(FAILED_RULES),
    )


def _good() -> pl.Expr:
    import polars as pl

    return ~pl.col("__dataflare_drop")


def _failed() -> pl.Expr:
    import polars as pl

    return pl.col("__dataflare_drop")

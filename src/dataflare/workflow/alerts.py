"""The sections `alerts` and `notifiers` of a workflow. Collects all errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dataflare.errors import DataFlareError, Spot, WorkflowError, did_you_mean
from dataflare.model.units import Duration
from dataflare.observability.alerts import Rule
from dataflare.observability.conditions import Condition, parse_condition
from dataflare.observability.notifiers import Notifier
from dataflare.observability.own_notifiers import notifier_kind, notifier_types
from dataflare.workflow.bind import WORKFLOW, validated
from dataflare.workflow.form import Form, short
from dataflare.workflow.nodes import SpotList, SpotMap, Unresolved, key_spot_of, spot_of

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow

LOG_KEPT = "log_kept"
"""The alert that a workflow has without asking."""
_LOG_KEPT_WHEN = "kept_bytes > 20GiB"


def unheard(workflow: Workflow) -> str | None:
    """A warning about alerts whose notifiers the workflow does not have. None: it has all."""
    names = {n for rule in workflow.alerts for n in rule.notify if n not in workflow.notifiers}
    if not names:
        return None
    shown = ", ".join(f"'{name}'" for name in sorted(names))
    return f"alerts notify {shown}, and the workflow has no 'notifiers': they are only shown"


class AlertRule(BaseModel):
    """When an alert fires, and who is told."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, populate_by_name=True)

    name: str | None = Field(
        default=None, min_length=1, max_length=100, description="its name; without one: `when`"
    )
    when: str = Field(
        description="a measure, an operator and a value: `lag > 5m`, `errors > 100 in 5m`, `rows < usual`, `failed`"
    )
    for_: Duration | None = Field(
        default=None, alias="for", description="how long that must hold before it fires"
    )
    keep_firing_for: Duration = Field(
        default=0.0, description="how long it must not hold before the alert is resolved"
    )
    severity: str = Field(
        default="warning",
        pattern=r"^[a-z][a-z0-9_-]*$",
        description="a word such as page, critical, error, warning or info",
    )
    step: str | None = Field(
        default=None, description="only of this step; without it: of all steps"
    )
    notify: str | list[str] = Field(
        default_factory=list, description="names of `notifiers`; without any: only shown"
    )

    @field_validator("when")
    @classmethod
    def _parsed(cls, when: str) -> str:
        parse_condition(when)
        return when

    @model_validator(mode="after")
    def _one_for(self) -> AlertRule:
        if self.for_ is not None and self.condition.for_s is not None:
            raise ValueError("'for' is also in 'when': give it once")
        has_for = self.for_ is not None or self.condition.for_s is not None
        if self.condition.is_of_whole_run and has_for:
            raise ValueError(
                "it is judged once, when a run has finished: add 'in 10m', or leave 'for' out"
            )
        return self

    @property
    def condition(self) -> Condition:
        return parse_condition(self.when)

    @property
    def notified(self) -> tuple[str, ...]:
        return (self.notify,) if isinstance(self.notify, str) else tuple(self.notify)

    def rule(self) -> Rule:
        condition = self.condition
        for_s = self.for_ if self.for_ is not None else condition.for_s or 0.0
        name = self.name or " ".join(condition.text.split())
        return Rule(
            name, condition, for_s, self.keep_firing_for, self.severity, self.step, self.notified
        )


def default_rule(notifiers: Iterable[str]) -> Rule:
    """A log that a server keeps for a reader that does not come fills its disk."""
    condition = parse_condition(_LOG_KEPT_WHEN)
    return Rule(LOG_KEPT, condition, severity="page", notify=tuple(notifiers))


def share_rules(steps: Iterable[tuple[str, str, Mapping[str, Any]]]) -> Iterator[Rule]:
    """Rules of `validate` steps that are about all rows: a share of them may be broken, or a measure of the step. steps: name, type and config, not checked yet."""
    for name, type_, config in steps:
        rules = config.get("rules") if type_ == "validate" else None
        for each in rules if isinstance(rules, Sequence) else ():
            if not isinstance(each, Mapping):
                continue
            rule, fails = str(each.get("name")), each.get("on_fail") == "fail"
            when, of = each.get("broken_when"), name
            if each.get("allowed") is not None:
                when, of = f"broken_share > {each['allowed']}", f"{name}.{rule}"
            if when is None:
                continue
            try:
                condition = parse_condition(str(when))
            except ValueError:
                continue  # the check of the step says what is wrong
            severity, for_s = "error" if fails else "warning", condition.for_s or 0.0
            yield Rule(f"{name}.{rule}", condition, for_s, severity=severity, step=of, fails=fails)


class AlertReader(Form):
    def notifiers(self, root: SpotMap) -> dict[str, Notifier]:
        node = self.mapping(root, "notifiers")
        found: dict[str, Notifier] = {}
        for name, options in node.items():
            if isinstance(options, Unresolved):
                continue
            owner = f"the notifier '{short(str(name))}'"
            if not isinstance(options, SpotMap):
                self.wrong(f"{owner} must be a mapping with a 'type'", spot_of(node, name), options)
                continue
            kind = self._kind(options, owner, key_spot_of(node, name))
            if kind is not None:
                notifier = validated(kind, options, owner, WORKFLOW, self.errors)
                if notifier is not None:
                    found[str(name)] = notifier
        return found

    def _kind(self, options: SpotMap, owner: str, spot: Spot | None) -> type[Notifier] | None:
        types = notifier_types()
        known = ", ".join(types)
        if "type" not in options:
            self.missing("type", owner, spot, f"one of: {known}")
            return None
        value = options["type"]
        try:
            kind = notifier_kind(value) if isinstance(value, str) else None
        except DataFlareError as error:
            self.errors.append(error.at(spot=spot_of(options, "type")))
            return None
        if kind is None and not isinstance(value, Unresolved):
            self.errors.append(
                WorkflowError(
                    f"{owner} has the unknown type '{short(str(value))}'",
                    code="E0105",
                    spot=spot_of(options, "type"),
                    notes=[f"expected: one of {known}"],
                    help=did_you_mean(str(value), types),
                )
            )
        return kind

    def alerts(
        self,
        root: SpotMap,
        steps: Iterable[str],
        notifiers: Mapping[str, Notifier],
        shares: Iterable[Rule] = (),
    ) -> tuple[Rule, ...]:
        """steps: the names of all. shares: those of `validate` steps. The rules of the file, these, and the one that each
        workflow has."""
        value = root.get("alerts")
        if value is not None and not isinstance(value, SpotList | Unresolved):
            self.wrong("'alerts' must be a list", spot_of(root, "alerts"), value)
        items = value if isinstance(value, SpotList) else ()
        declared = root.get("notifiers")
        names = [str(name) for name in declared] if isinstance(declared, Mapping) else None
        rules: dict[str, Rule] = {}
        for index, item in enumerate(items):
            rule = self._rule(item, spot_of(value, index), list(steps), names)
            if rule is None:
                continue
            if rule.name in rules:
                message = f"two alerts have the name '{short(rule.name)}'"
                spot = spot_of(item, "name") or spot_of(value, index)
                help = "give one of them another 'name'"
                self.errors.append(WorkflowError(message, code="E0109", spot=spot, help=help))
            rules[rule.name] = rule
        rules |= {rule.name: rule for rule in shares}
        measures = {rule.condition.measure.name for rule in rules.values()}
        if "kept_bytes" not in measures and LOG_KEPT not in rules:
            rules[LOG_KEPT] = default_rule(notifiers)
        return tuple(rules.values())

    def _rule(
        self, item: Any, spot: Spot | None, steps: list[str], notifiers: list[str] | None
    ) -> Rule | None:
        if isinstance(item, Unresolved):
            return None
        if not isinstance(item, SpotMap):
            self.wrong("an alert must be a mapping: when, for, severity, notify", spot, item)
            return None
        name = item.get("name")
        owner = f"the alert '{short(name)}'" if isinstance(name, str) and name else "an alert"
        declared = validated(AlertRule, item, owner, WORKFLOW, self.errors)
        if declared is None:
            return None
        if declared.step is not None and declared.step.partition(".")[0] not in steps:
            self._unknown(f"{owner} is about the step '{short(declared.step)}', which does not exist",
                          spot_of(item, "step"), declared.step, steps)  # fmt: skip
        if notifiers is not None:
            for each in declared.notified:
                if each not in notifiers:
                    self._unknown(f"{owner} notifies '{short(each)}', which is not in 'notifiers'",
                                  spot_of(item, "notify"), each, notifiers)  # fmt: skip
        return declared.rule()

    def _unknown(self, message: str, spot: Spot | None, name: str, known: list[str]) -> None:
        notes = [f"there are: {', '.join(known)}"] if known else []
        help = did_you_mean(name, known)
        self.errors.append(WorkflowError(message, code="E0108", spot=spot, notes=notes, help=help))

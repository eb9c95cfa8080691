"""The `retry` option of a workflow file, as data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from dataflare.model.units import Duration
from dataflare.resilience.backoff import backoff_s

AFTER_MAX_S = 300.0
"""The longest wait that a system may ask for. If it asks for more, the error is final."""
ALIASES = {
    "base_delay": "initial_backoff",
    "max_delay": "max_backoff",
    "backoff_multiplier": "multiplier",
}
"""Other names that a file may use."""


def _also(name: str) -> AliasChoices:
    return AliasChoices(name, *(alias for alias, means in ALIASES.items() if means == name))


def _with_aliases(schema: dict[str, Any]) -> None:
    properties = schema.get("properties", {})
    properties.update({alias: properties[name] for alias, name in ALIASES.items()})


class RetryPolicy(BaseModel):
    """How a failed call is tried again. `max_attempts` counts the first one."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, defer_build=True, json_schema_extra=_with_aliases
    )

    max_attempts: int = Field(default=4, ge=1, description="tries, the first one included")
    initial_backoff: Duration = Field(
        default=1.0, validation_alias=_also("initial_backoff"), description="the first wait"
    )
    max_backoff: Duration = Field(
        default=60.0, validation_alias=_also("max_backoff"), description="the longest wait"
    )
    multiplier: float = Field(
        default=2.0,
        ge=1,
        validation_alias=_also("multiplier"),
        description="each wait is so much longer than the one before",
    )
    jitter: float = Field(default=0.1, ge=0, le=1, description="share of a wait that is random")
    max_elapsed: Duration | None = Field(
        default=None, description="the longest time from the first try on; no try begins later"
    )
    backoff: Literal["fixed", "linear", "exponential"] = Field(
        default="exponential", description="how waits grow"
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_alias_and_name(cls, config: Any) -> Any:
        for alias, name in ALIASES.items():
            if isinstance(config, Mapping) and alias in config and name in config:
                raise ValueError(f"'{name}' and '{alias}' mean the same: give one of them")
        return config

    def wait_s(self, attempt: int, chance: float = 0.0) -> float:
        """Seconds to wait after attempt number `attempt` (from 1) has failed.

        chance: in [0, 1); the wait is shorter by this part of `jitter`.
        """
        first_s, most_s = self.initial_backoff, self.max_backoff
        if self.backoff == "exponential":
            wait_s = backoff_s(first_s, most_s, attempt, self.multiplier)
        else:
            wait_s = min(most_s, first_s * (attempt if self.backoff == "linear" else 1))
        return wait_s * (1 - self.jitter * chance)

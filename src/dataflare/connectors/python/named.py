"""The Python object that a config names: a function, or a connector class with its own options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dataflare.errors import ConfigError
from dataflare.sdk import user_code
from dataflare.sdk.context import ConnectorContext

_Connector = TypeVar("_Connector")


class NamedConfig(BaseModel):
    """Options of both source and destination."""

    model_config = ConfigDict(extra="forbid")

    function: str = Field(
        description='"package.module:name"; modules beside the workflow file are found.'
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="Named arguments of the function; of a class, its config.",
    )


def load(config: NamedConfig, context: ConnectorContext) -> Callable[..., Any]:
    """The function or class. Raises ConfigError (E0408, E0410)."""
    if not context.policy.python:
        raise ConfigError(
            f"step '{context.step}': python functions are not allowed here",
            code="E0410",
            step=context.step,
            help="use a built-in connector, or run the workflow where functions are allowed",
        )
    return user_code.load(str(config.function), context.base)


def connector_of(
    base: type[_Connector], config: NamedConfig | None, context: ConnectorContext | None
) -> _Connector | None:
    """The connector of the class that the config names; None for a function. The class's `Config`
    checks its options."""
    if config is None or context is None:
        return None
    named = load(config, context)
    if not isinstance(named, type):
        return None
    abstract: frozenset[str] = named.__dict__.get("__abstractmethods__", frozenset())
    if not issubclass(named, base) or abstract:
        raise ConfigError(
            f"'{config.function}' lacks {', '.join(sorted(abstract))}"
            if abstract
            else f"'{config.function}' is a class, but not a {base.__name__}",
            code="E0418",
            step=context.step,
            help=f"derive it from dataflare.sdk's {base.__name__}, or name a function",
        )
    connector_class: Any = named
    return connector_class(_options(connector_class.Config, config, context.step), context)  # type: ignore[no-any-return]


def _options(model: type[BaseModel], config: NamedConfig, step: str) -> BaseModel:
    """The class's own config. Raises ConfigError (E0405)."""
    try:
        return model.model_validate(config.options)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, each['loc'])) or 'options'}: {each['msg']}"
            for each in error.errors(include_url=False)
        ]
        raise ConfigError(
            f"'options' in step '{step}' do not fit {config.function}: {problems[0]}",
            code="E0405",
            step=step,
            notes=problems[1:],
            help=f"known options: {', '.join(model.model_fields) or 'none'}",
        ) from None

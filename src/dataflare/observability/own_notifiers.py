"""Notifiers of plugins, as `notifiers` of a workflow has them.

Always true: a plugin that does not return in time delays no other alert for longer than its timeout. Its call goes on
alone, on a thread that ends with the process, and what comes of it is not waited for.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from pydantic import create_model

from dataflare.errors import ConfigError
from dataflare.observability.notifiers import KINDS, Notice, Notifier
from dataflare.observability.tries import Try
from dataflare.sdk.notifier import Alert, NotifierConnector


def notifier_types() -> list[str]:
    """All that there are."""
    from dataflare.sdk import registry  # with polars; a workflow is read without it

    return [*KINDS, *(type_ for type_ in registry.notifier_types() if type_ not in KINDS)]


def notifier_kind(type_: str) -> type[Notifier] | None:
    """The options of a type; None for one that there is not. Raises ConfigError (E0402, E0418) for a plugin that cannot be
    loaded."""
    if type_ in KINDS:
        return KINDS[type_]
    from dataflare.sdk import registry

    plugin = registry.notifier(type_)
    return None if plugin is None else _kind_of(type_, plugin)


def secret_options_of(type_: str) -> tuple[str, ...]:
    """The options of a type whose whole text is a secret. A plugin that cannot be loaded has none: what is wrong with it is
    said where its options are checked."""
    try:
        kind = notifier_kind(type_)
    except ConfigError:
        return ()
    return () if kind is None else kind.secret_options


def secrets_of(notifiers: object) -> list[str]:
    """The texts of a workflow's `notifiers` that are secret though their names do not say so."""
    found = []
    if isinstance(notifiers, Mapping):
        for options in notifiers.values():
            if not isinstance(options, Mapping):
                continue
            for name in secret_options_of(str(options.get("type"))):
                if isinstance(text := options.get(name), str) and text:
                    found.append(text)
    return found


class _Own(Notifier):
    """Options of a plugin, and `timeout`."""

    plugin: ClassVar[type[NotifierConnector]]

    def _send(self, notice: Notice, base: Path, limit: Try) -> None:
        facts = notice.to_json()
        alert = Alert(name=facts.pop("alert"), **facts)
        config = self.plugin.Config.model_validate(
            self.model_dump(by_alias=True, exclude={"type", "timeout"}, exclude_unset=True)
        )
        told, errors = threading.Event(), list[Exception]()

        def tell() -> None:
            try:
                self.plugin(config).send(alert, self.timeout)
            except Exception as error:
                errors.append(error)
            told.set()

        threading.Thread(target=tell, name="dataflare-notifier", daemon=True).start()
        with limit.limited(told.set):
            told.wait()
        if errors:
            raise errors[0]


@cache
def _kind_of(type_: str, plugin: type[NotifierConnector]) -> type[Notifier]:
    bases, literal = cast("Any", (_Own, plugin.Config)), cast("Any", Literal[type_])
    made: Any = create_model(f"{plugin.__name__}Options", __base__=bases, type=(literal, ...))
    made.plugin = plugin
    made.secret_options = plugin.secret_options
    made.__doc__ = plugin.summary or plugin.__doc__
    return cast("type[Notifier]", made)

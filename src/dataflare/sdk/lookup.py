"""The keyed lookup contract: a system that is asked for the rows of some keys.

Order of calls: `__init__` -> `schema` (no I/O) -> `validate` -> `open` -> `get`, many times -> `aclose`.
What is asked, cached and tried again is the engine's affair: an implementation only asks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel

from dataflare.model.types import Schema
from dataflare.sdk.context import ConnectorContext

if TYPE_CHECKING:
    import polars as pl

    from dataflare.errors import DataError

ConfigClass = type[BaseModel]


class LookupConnector(ABC):
    """What to ask. Built from validated config, sent between processes; no I/O before `validate`."""

    type: ClassVar[str]
    Config: ClassVar[ConfigClass]
    summary: ClassVar[str] = ""
    example: ClassVar[str] = ""
    """A `lookup` step's YAML, shown by `dataflare connectors TYPE`."""

    def __init__(self, config: Any, context: ConnectorContext) -> None:
        self.config = config
        self.context = context

    @classmethod
    def asks_by_key(cls, config: Mapping[str, Any]) -> bool:
        """Whether this config (as written) is for a lookup by key; else a source of the same type
        is read whole."""
        return True

    @abstractmethod
    def schema(self, keys: Schema, fields: Sequence[str] | None) -> Schema:
        """The columns that `get` may give: those of `keys`, then the fields.

        keys: the remote key columns, with the types of the columns they are matched with. fields:
        those that the step wants; None for all there are. Raises ConfigError for what cannot be
        given. No I/O.
        """

    async def validate(self) -> None:
        """Say what is wrong before anything runs: no connection, wrong rights."""

    async def inspect(self) -> Mapping[str, str]:
        """Facts about the system, for `dataflare check`: {"server": "Redis 7"}. Called after
        `validate`. Nothing by default."""
        return {}

    @abstractmethod
    async def open(self, keys: Sequence[str], schema: Schema) -> KeyedLookup:
        """A live connection. schema: the columns that each `get` gives, a part of what `schema`
        said; keys: which of them are the key."""


class KeyedLookup(ABC):
    """A live connection, used by all tasks of a step in one process."""

    @abstractmethod
    async def get(self, keys: pl.DataFrame) -> pl.DataFrame:
        """The rows of some keys, in any order, with exactly the columns of `open`'s schema.

        keys: one row per key, each once, no NULLs, at least one; the key columns as `open` named
        them. A key that the system does not know has no row; one may have several. Called from
        several tasks at once, on one event loop. Errors worth retrying (`Retry.LATER`) are tried
        again with the same keys.
        """

    async def ask(self, keys: pl.DataFrame) -> tuple[pl.DataFrame, Mapping[int, DataError]]:
        """Like `get`, and the errors of keys whose values cannot be read, by their row in `keys`. Such a
        key has no rows; what happens to rows with it is the step's `on_error`. By default an error of `get`
        is an error of all keys. The engine calls this."""
        return await self.get(keys), {}

    def answered(self, keys: pl.DataFrame) -> pl.Series:
        """For which of these keys it has an answer, kept from an attempt to ask for them that failed: a Boolean each. Where
        they become more from attempt to attempt, these are not counted against the step's retries; an optional lookup uses
        them, and asks for them once more, when its tries are used up. Nothing is kept by default."""
        import polars as pl

        return pl.repeat(False, keys.height, dtype=pl.Boolean, eager=True)

    async def aclose(self) -> None:
        """Release the connection. Not called after a crash."""

"""The `redis` lookup: the fields of a key's hash, or of the JSON document that is its value.

Always true: the keys of a batch are requested in pipelines, never one by one; a missing key has no
row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Literal

import polars as pl
from pydantic import Field
from redis.exceptions import NoPermissionError

from dataflare.connectors.fields import FieldTypes, of_objects, of_texts, placed, schema_of
from dataflare.connectors.redis.connection import RedisConnection, connected
from dataflare.connectors.redis.errors import redis_errors
from dataflare.errors import DataError
from dataflare.formats.json_values import BadJson, decode
from dataflare.model.types import Schema
from dataflare.sdk.in_flight import AdaptiveLimit, limit_of
from dataflare.sdk.lookup import KeyedLookup, LookupConnector

_PIPELINE_KEYS = 1_000


class RedisLookupConfig(RedisConnection):
    """Options of a `redis` lookup."""

    key_prefix: str = Field(
        "", description="put before each key; several key columns join with ':'"
    )
    structure: Literal["hash", "json"] = Field(
        "hash", description="hash: the key's fields; json: its value is text, a JSON object"
    )
    schema_: FieldTypes = Field(default_factory=dict, alias="schema")
    concurrency: int = Field(
        4,
        ge=1,
        le=64,
        description="concurrent requests of 1,000 keys at best: while the server has too much to do, fewer",
    )


class RedisLookup(LookupConnector):
    """Keys of one Redis server."""

    type = "redis"
    Config = RedisLookupConfig
    summary = "Looks up the fields of a hash, or of a JSON document, by key."
    example = """\
enriched:
  type: lookup
  inputs: [orders]
  config:
    source:
      type: redis
      connection: "${secret:REDIS}"
      key_prefix: "customer:"
      schema: {priority: int64}
    mapping: {key: customer_id, fields: [category, priority]}
    cache: {size: 10000, ttl: 5m}
"""

    def schema(self, keys: Schema, fields: Sequence[str] | None) -> Schema:
        return schema_of(keys, fields, self.config.schema_, self.context.step)

    async def validate(self) -> None:
        await self._info()

    async def inspect(self) -> Mapping[str, str]:
        """For `check`: the server, and the number of its keys."""
        info = await self._info()
        return {"server": self._server, "version": info["version"], "keys": info["keys"]}

    async def _info(self) -> dict[str, str]:
        connection = self._connected()
        try:
            with redis_errors(self._server):
                await _if_allowed(connection.ping())
                keys = await _if_allowed(connection.dbsize())
                server = await _if_allowed(connection.info("server"))
        finally:
            await connection.aclose()
        return {
            "version": "not told" if server is None else str(server["redis_version"]),
            "keys": "not told" if keys is None else f"{keys:,}",
        }

    async def open(self, keys: Sequence[str], schema: Schema) -> KeyedLookup:
        limit = limit_of(self.context.step, self._server, self.config.concurrency)
        return _Live(self._connected(), self._server, self.config, tuple(keys), schema, limit)

    def _connected(self) -> Any:
        return connected(self.config)

    @property
    def _server(self) -> str:
        return str(self.config.server)


class _Live(KeyedLookup):
    def __init__(
        self,
        connection: Any,
        server: str,
        config: RedisLookupConfig,
        keys: tuple[str, ...],
        schema: Schema,
        limit: AdaptiveLimit,
    ) -> None:
        self._connection, self._server, self._config = connection, server, config
        self._keys, self._schema = keys, schema
        self._fields = [name for name in schema.names if name not in keys]
        self._limit = limit

    async def get(self, keys: pl.DataFrame) -> pl.DataFrame:
        rows, errors = await self.ask(keys)
        for error in errors.values():
            raise error
        return rows

    async def ask(self, keys: pl.DataFrame) -> tuple[pl.DataFrame, Mapping[int, DataError]]:
        columns = [pl.col(key).cast(pl.String) for key in dict.fromkeys(self._keys)]
        joined = pl.concat_str(columns, separator=":")
        names = keys.select(pl.lit(self._config.key_prefix) + joined).to_series().to_list()
        parts = [names[i : i + _PIPELINE_KEYS] for i in range(0, len(names), _PIPELINE_KEYS)]
        asked = [asyncio.ensure_future(self._turn(part)) for part in parts]
        try:
            values = [value for each in await asyncio.gather(*asked) for value in each]
        finally:
            for each in asked:
                each.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        places = [place for place, value in enumerate(values) if value is not None]
        if not self._fields:
            return placed(keys, places).select(self._schema.names), {}
        errors: dict[int, DataError] = {}
        answers: dict[int, Any] = {}
        for place in places:
            try:
                answers[place] = self._read(values[place], names[place])
            except DataError as error:
                errors[place] = error
        places = [*answers]
        present_keys = placed(keys, places)
        if self._config.structure == "json":
            objects = [*answers.values()]
            rows, misfits = of_objects(present_keys, objects, self._schema, self._server)
        else:
            texts = {f: [each[i] for each in answers.values()] for i, f in enumerate(self._fields)}
            rows, misfits = of_texts(present_keys, texts, self._schema, self._server)
        return rows, errors | {places[i]: error for i, error in misfits.items()}

    def _read(self, value: Any, name: str) -> Any:
        """The object, or the texts of the fields, of a key. Raises DataError."""
        if self._config.structure == "json":
            return self._object(value, name)
        return [self._text(each, f, name) for each, f in zip(value, self._fields, strict=True)]

    async def _turn(self, names: Sequence[str]) -> list[Any]:
        """As `_ask`, when a request may begin."""
        with redis_errors(self._server):
            async with self._limit.turn(len(names)):
                return await self._ask(names)

    async def _ask(self, names: Sequence[str]) -> list[Any]:
        """The value of each key, None for a missing key."""
        if not self._fields:
            async with self._connection.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.exists(name)
                return [each or None for each in await pipe.execute()]
        if self._config.structure == "json":
            values: list[Any] = await self._connection.mget(names)
            return values
        async with self._connection.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hmget(name, self._fields)
            rows = await pipe.execute()
            empty = [i for i, row in enumerate(rows) if not any(v is not None for v in row)]
            for i in empty:
                pipe.exists(names[i])
            is_present = await pipe.execute() if empty else []
        for i, exists in zip(empty, is_present, strict=True):
            rows[i] = rows[i] if exists else None
        return list(rows)

    def _text(self, value: bytes | None, field: str, name: str) -> str | None:
        try:
            return None if value is None else value.decode()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self._server}: the field '{field}' of the key {name} is not valid UTF-8",
                code="E0503",
                help="leave the field out, or fix its value",
            ) from error

    def _object(self, text: bytes, name: str) -> Mapping[str, Any]:
        try:
            value = decode(text)
        except BadJson as error:
            raise self._no_object(name, f"it is {error}") from error
        if not isinstance(value, dict):
            raise self._no_object(name, f"it is JSON, but {type(value).__name__}")
        return value

    def _no_object(self, name: str, why: str) -> DataError:
        return DataError(
            f"{self._server}: the value of the key {name} is not a JSON object",
            code="E0503",
            notes=[why],
            help="look at 'structure' and 'key_prefix'",
        )

    async def aclose(self) -> None:
        await self._connection.aclose()


async def _if_allowed(call: Awaitable[Any]) -> Any:
    """The server's answer, None if the user has no right to the command: a user who only reads keys
    need not have it. A refusal still shows that the server runs and accepts the login."""
    try:
        return await call
    except NoPermissionError:
        return None

"""The `http` lookup: one request for each key that a batch has.

Always true: a key is percent-encoded in the address, so it cannot change other parts of the
request; 404 and an empty answer mean that the key does not exist. A request that fails does not cost the answers of others: they
are kept for the next attempt.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, Self
from urllib.parse import quote, urlsplit

import polars as pl
from pydantic import ConfigDict, Field, model_validator

from dataflare.connectors.fields import FieldTypes, of_objects, placed, schema_of
from dataflare.connectors.http.client import HttpClient, excerpt, public_url
from dataflare.connectors.http.config import HttpConfig
from dataflare.connectors.http.json_path import JsonPath, text_at
from dataflare.errors import ConfigError, DataError, SystemError_, did_you_mean
from dataflare.formats.json_values import BadJson, decode
from dataflare.formats.text_write import python_rows
from dataflare.model.types import Schema
from dataflare.sdk.lookup import KeyedLookup, LookupConnector

_WAITS_MAX = 8
_KEPT_S = 300.0
"""An answer that waits for a next attempt longer than this is asked for again."""
_FAILURES_MAX, _FAILING_MAX = 3, 10_000
"""After so many failures no other request of a call begins; so many keys that fail are known."""
_SLOT = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


class HttpLookupConfig(HttpConfig):
    """Options of an `http` lookup. `{key}` in url, params and body is the row's key."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, populate_by_name=True)

    method: Literal["GET", "POST"] = Field("GET", description="POST sends `body`")
    params: dict[str, str | int | float | bool] = Field(
        default_factory=dict, repr=False, description="of the query string; may contain {key}"
    )
    body: dict[str, Any] | None = Field(
        None, repr=False, description="the JSON that POST sends; may contain {key}"
    )
    records: JsonPath | None = Field(
        None,
        description="where the answer has the object, or a list of objects; by default the answer itself",
    )
    schema_: FieldTypes = Field(default_factory=dict, alias="schema")
    concurrency: int = Field(
        8,
        ge=1,
        le=256,
        description="concurrent requests at best: while the server has too much to do, fewer",
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.body is not None and self.method != "POST":
            raise ValueError("'body' needs method: POST")
        return self

    @property
    def slots(self) -> set[str]:
        """The names in braces."""
        return slots_of(self.url) | slots_of(self.params) | slots_of(self.body)


def slots_of(value: Any) -> set[str]:
    """The names in braces in all texts of a value."""
    if isinstance(value, str):
        return set(_SLOT.findall(value))
    if isinstance(value, Mapping):
        return set().union(*(slots_of(each) for each in value.values()))
    return set().union(*map(slots_of, value)) if isinstance(value, list) else set()


class HttpLookup(LookupConnector):
    """A JSON API that gets one request per key."""

    type = "http"
    Config = HttpLookupConfig
    summary = "Looks up the fields of a JSON API's answer, one request per key."
    example = """\
enriched:
  type: lookup
  inputs: [orders]
  config:
    source:
      type: http
      url: "https://api.example.com/v1/customers/{customer_id}"
      rate_limit: 50/s
      auth: {type: bearer, token: "${secret:API_TOKEN}"}
      schema: {priority: int64}
    mapping: {key: customer_id, fields: [category, priority]}
    cache: {size: 10000, ttl: 1h}
"""
    sleep: Callable[[float], Awaitable[None]] = staticmethod(asyncio.sleep)

    @classmethod
    def asks_by_key(cls, config: Mapping[str, Any]) -> bool:
        return bool(slots_of([config.get(part) for part in ("url", "params", "body")]))

    def schema(self, keys: Schema, fields: Sequence[str] | None) -> Schema:
        step = self.context.step
        for slot in sorted(self.config.slots - {*keys.names}):
            raise ConfigError(
                f"step '{step}' uses {{{slot}}}, which is not a key of its mapping",
                code="E0407",
                step=step,
                notes=[f"its keys: {', '.join(keys.names)}"],
                help=did_you_mean(slot, keys.names),
            )
        for key in keys.names:
            if key not in self.config.slots:
                raise ConfigError(
                    f"step '{step}' does not use its key '{key}'",
                    code="E0407",
                    step=step,
                    help=f"put {{{key}}} into url, params or body",
                )
        return schema_of(keys, fields, self.config.schema_, step)

    async def inspect(self) -> Mapping[str, str]:
        """For `check`: the server, and its answer to one request."""
        client = self._client()
        parts = urlsplit(self.config.url)
        try:
            answer = await client.ask("GET", f"{parts.scheme}://{parts.netloc}/")
        finally:
            await client.aclose()
        return {"server": parts.netloc, "answered": f"{answer.status_code} for /"}

    async def open(self, keys: Sequence[str], schema: Schema) -> KeyedLookup:
        return _Live(self._client(), self.config, tuple(keys), schema)

    def _client(self) -> HttpClient:
        return HttpClient(
            self.config,
            self.context.step,
            sleep=self.sleep,
            waits_max=_WAITS_MAX,
            body_max=self.context.answer_bytes_max,
            at_once=self.config.concurrency,
        )


_Key = tuple[Any, ...]
_Answer = list[Mapping[str, Any]] | DataError
"""The objects for a key, or why they cannot be read."""


class _Live(KeyedLookup):
    def __init__(
        self, client: HttpClient, config: HttpLookupConfig, keys: tuple[str, ...], schema: Schema
    ) -> None:
        self._client, self._config, self._keys, self._schema = client, config, keys, schema
        self._turns = asyncio.Semaphore(config.concurrency)
        self._kept: dict[_Key, tuple[float, _Answer]] = {}
        """Of attempts that failed, with the time."""
        self._failing: set[_Key] = set()
        """The keys whose last request failed: they are asked for behind the others, whose answers they would cost."""

    async def get(self, keys: pl.DataFrame) -> pl.DataFrame:
        rows, errors = await self.ask(keys)
        for error in errors.values():
            raise error
        return rows

    async def ask(self, keys: pl.DataFrame) -> tuple[pl.DataFrame, Mapping[int, DataError]]:
        answers = await self._answers([*python_rows(keys)])
        errors = {i: each for i, each in enumerate(answers) if isinstance(each, DataError)}
        where = public_url(self._config.url)
        while True:
            pairs = [
                (place, each)
                for place, objects in enumerate(answers)
                if place not in errors and not isinstance(objects, DataError)
                for each in objects
            ]
            places, objects_ = [place for place, _ in pairs], [each for _, each in pairs]
            rows, misfits = of_objects(placed(keys, places), objects_, self._schema, where)
            if not misfits:
                return rows, errors
            # One object of a key cannot be read: then the key's other objects are left out too.
            errors |= {places[i]: error for i, error in misfits.items()}

    def answered(self, keys: pl.DataFrame) -> pl.Series:
        return pl.Series([_key(row) in self._kept for row in python_rows(keys)], dtype=pl.Boolean)

    async def _answers(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[_Answer]:
        """The answer for each key. If one cannot be had, the others that are there are kept."""
        answers = [self._taken(_key(row)) for row in rows]
        asked = [i for i, answer in enumerate(answers) if answer is None]
        asked.sort(key=lambda i: _key(rows[i]) in self._failing)
        failures: list[SystemError_] = []
        tasks = [asyncio.ensure_future(self._answer(rows[i], failures)) for i in asked]
        try:
            await asyncio.gather(*tasks)
        finally:
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for i, each in zip(asked, tasks, strict=True):
                if not each.cancelled() and each.exception() is None:
                    answers[i] = each.result()
            whole = [answer for answer in answers if answer is not None]
            if len(whole) < len(rows):
                self._keep(rows, answers)
        if failures:
            raise failures[0]
        return whole

    def _taken(self, key: _Key) -> _Answer | None:
        at, answer = self._kept.pop(key, (0.0, None))
        return answer if time.monotonic() - at < _KEPT_S else None

    def _keep(self, rows: Sequence[Mapping[str, Any]], answers: Sequence[_Answer | None]) -> None:
        now = time.monotonic()
        self._kept = {key: kept for key, kept in self._kept.items() if now - kept[0] < _KEPT_S}
        for row, answer in zip(rows, answers, strict=True):
            if answer is not None:
                self._kept[_key(row)] = now, answer

    async def _answer(self, key: Mapping[str, Any], failures: list[SystemError_]) -> _Answer | None:
        """The objects for a key, or why they cannot be read. None, and one failure more, where the server refuses; after
        some of them no other request begins."""
        async with self._turns:
            if len(failures) >= _FAILURES_MAX:
                return None
            try:
                objects = await self._objects_of(key)
            except DataError as error:
                return error
            except SystemError_ as error:
                if len(self._failing) >= _FAILING_MAX:
                    self._failing.clear()
                self._failing.add(_key(key))
                if error.code != "E0611":
                    raise
                failures.append(error)
                return None
            self._failing.discard(_key(key))
            return objects

    async def _objects_of(self, key: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The objects of the API for a key."""
        config = self._config
        url = _SLOT.sub(lambda slot: quote(_text(key[slot[1]]), safe=""), config.url)
        params = {name: _filled(value, key) for name, value in config.params.items()}
        body = _filled(config.body, key) if config.method == "POST" else None
        answer = await self._client.ask(config.method, url, params=params, json=body)
        if answer.status_code in (204, 404):
            return []
        where = public_url(url)
        if answer.status_code >= 400:
            text_of_answer = excerpt(answer)
            raise SystemError_(
                f"{where} answered {answer.status_code} {answer.reason_phrase}".rstrip(),
                code="E0611",
                notes=[f"it says: {text_of_answer}"] if text_of_answer else [],
                help="look at 'url', 'method' and 'params'",
            )
        try:
            text = text_at(answer.content, config.records or "$")
            decoded = None if text is None else decode(text)
        except BadJson as error:
            raise DataError(
                f"{where} is {error}",
                code="E0503",
                notes=[f"it begins: {excerpt(answer)[:80]}"],
                help="check the answer of the address; the lookup needs JSON",
            ) from error
        objects = decoded if isinstance(decoded, list) else [] if decoded is None else [decoded]
        for each in objects:
            if not isinstance(each, dict):
                raise DataError(
                    f"{where} has no object at '{config.records or '$'}'",
                    code="E0503",
                    help="set 'records' to where the object is, such as $.data",
                )
        return objects

    async def aclose(self) -> None:
        await self._client.aclose()


def _key(row: Mapping[str, Any]) -> _Key:
    return tuple(row.values())


def _filled(value: Any, key: Mapping[str, Any]) -> Any:
    """The value with keys in place of their names; a text that is only one name gets the key's
    type."""
    if isinstance(value, str):
        whole = _SLOT.fullmatch(value)
        if whole and isinstance(key[whole[1]], int | bool):
            return key[whole[1]]
        return _SLOT.sub(lambda slot: _text(key[slot[1]]), value)
    if isinstance(value, Mapping):
        return {name: _filled(each, key) for name, each in value.items()}
    return [_filled(each, key) for each in value] if isinstance(value, list) else value


def _text(value: Any) -> str:
    """A key as text for an address."""
    if isinstance(value, bool):
        return json.dumps(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)

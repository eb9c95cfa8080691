"""The indexes that a step writes: made where they are missing, and given the fields that they lack.

Always true: nothing that an index has is changed; two writers that make one index at the same time both go on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from dataflare.connectors.elasticsearch.client import Answer, Client
from dataflare.connectors.elasticsearch.config import ElasticsearchDestinationConfig, NewIndex
from dataflare.connectors.elasticsearch.types import META, mapping_of
from dataflare.errors import DataFlareError, SystemError_
from dataflare.model.types import Schema

_NAMES_OF_ONE_REQUEST = 50


class Indexes:
    """schema: of the documents."""

    def __init__(
        self, client: Client, config: ElasticsearchDestinationConfig, schema: Schema
    ) -> None:
        self._client, self._config, self._done = client, config, set[str]()
        new = config.create_index
        self._new = new if isinstance(new, NewIndex) else NewIndex.model_validate({})
        exact = [*config.ids, *([config.routing] if config.routing else [])]
        self._mapping = mapping_of(schema, exact, self._new.properties)

    async def ensure(self, names: Iterable[str]) -> None:
        """Make those that are missing. Raises SystemError_."""
        for name in names:
            if name not in self._done:
                if self._config.create_index is not False:
                    await self._ensure(name)
                self._done.add(name)

    async def _ensure(self, name: str) -> None:
        there = await mappings(self._client, name)
        if there is None:
            there = await self._create(name)
        for index, mapping in there.items():
            await self._add_fields(index, mapping)

    async def _create(self, name: str) -> dict[str, Any]:
        """Make an index. Returns nothing, or the mappings of one that another writer made."""
        settings = dict(self._new.settings)
        if self._new.shards is not None:
            settings["number_of_shards"] = self._new.shards
        if self._new.replicas is not None:
            settings["number_of_replicas"] = self._new.replicas
        body: dict[str, Any] = {"mappings": self._mapping}
        if settings:
            body["settings"] = settings
        answer = await self._client.ask("PUT", f"/{path_of(name)}", json=body, fine=(400, 403))
        if answer.status < 300:
            return {}
        if answer.error[0] == "resource_already_exists_exception":
            return await mappings(self._client, name) or {}
        raise self._not_made(name, answer)

    def _not_made(self, name: str, answer: Answer) -> DataFlareError:
        error = self._client.refusal(answer, f"make the index '{name}'")
        if isinstance(error, SystemError_):
            error.help = (
                "fix the cause, or set create_index: false and let the server's templates decide"
            )
        return error

    async def _add_fields(self, index: str, mapping: Mapping[str, Any]) -> None:
        """Give an index the fields that the columns need and it has not."""
        there = mapping.get("properties", {})
        wanted = self._mapping["properties"]
        missing = {name: field for name, field in wanted.items() if name not in there}
        if not missing or mapping.get("dynamic") in ("false", False, "strict"):
            return
        meta = dict(mapping.get("_meta", {}))
        noted = self._mapping["_meta"][META]
        if META in meta or not there:
            added = {name: noted[name] for name in missing if name in noted}
            meta[META] = {**meta.get(META, {}), **added}
        body: dict[str, Any] = {"properties": missing}
        if meta:
            body["_meta"] = meta
        answer = await self._client.ask(
            "PUT", f"/{path_of(index)}/_mapping", json=body, fine=(400, 403)
        )
        if answer.status >= 300:
            raise self._not_made(index, answer)

    async def refresh(self) -> None:
        """Make all that was written visible to searches, if the user may do that."""
        names = sorted(self._done)
        for start in range(0, len(names), _NAMES_OF_ONE_REQUEST):
            listed = ",".join(path_of(n) for n in names[start : start + _NAMES_OF_ONE_REQUEST])
            await self._client.ask(
                "POST", f"/{listed}/_refresh", params={"ignore_unavailable": "true"},
                fine=(403, 404), doing="refresh indexes",
            )  # fmt: skip


async def mappings(client: Client, name: str) -> dict[str, Any] | None:
    """By index, the mappings of all that a name stands for; None if there is nothing of that name."""
    answer = await client.ask(
        "GET", f"/{path_of(name)}/_mapping", fine=(404,), doing=f"tell the fields of '{name}'"
    )
    if answer.status == 404:
        return None
    try:
        return {index: each["mappings"] for index, each in answer.data.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise client.strange(f"tell the fields of '{name}'") from error


async def listed(client: Client) -> list[tuple[str, str, int | None]]:
    """The name and kind of each index and data stream, without those of the server itself, and about how many
    documents an index has."""
    doing = "list its indexes"
    answer = await client.ask("GET", "/_resolve/index/*", doing=doing)
    params = {"format": "json", "h": "index,docs.count"}
    counted = await client.ask("GET", "/_cat/indices", params=params, fine=(403,), doing=doing)
    try:
        rows = {}
        if counted.status != 403:
            rows = {each["index"]: int(each["docs.count"] or 0) for each in counted.data}
        parts = (("index", "indices"), ("data stream", "data_streams"))
        names = [(each["name"], kind) for kind, part in parts for each in answer.data.get(part, ())]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise client.strange(doing) from error
    return sorted((name, kind, rows.get(name)) for name, kind in names if not name.startswith("."))


def path_of(name: str) -> str:
    return quote(name, safe="*,-_.")

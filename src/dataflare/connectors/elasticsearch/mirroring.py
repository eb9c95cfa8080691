"""`mode: mirror` of a full read: documents whose rows are not in the source any more are deleted at the end of the run.

The server numbers the writes of a shard (`_seq_no`). The greatest number of each shard is noted when the run begins; a
document that has no greater number at the end was not written by the run.

Always true:
- the numbers are noted before the run writes anything, and are part of its checkpoints;
- only a run that gets every row of its source deletes, and only if no row of it failed;
- more documents than `delete_max` are an error, and then none is deleted;
- a document that another program has changed since it was found stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import orjson
from msgspec import Struct

from dataflare.connectors.elasticsearch.client import Client, reason_of
from dataflare.connectors.elasticsearch.config import ElasticsearchDestinationConfig
from dataflare.connectors.elasticsearch.documents import marking
from dataflare.connectors.elasticsearch.indexes import mappings, path_of
from dataflare.connectors.elasticsearch.point_in_time import Hit, Points, Slice
from dataflare.errors import ConfigError, RunError
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.delete_max import refuse_too_many
from dataflare.sdk.destination import Committable, Committer, Epoch, Marker

_FILE = "mirror.json"
_FINE = (404, 409)
_PAGE = 1_000
_KEEP_ALIVE_S = 300.0


class Shards(Struct, frozen=True):
    """An index when the run began. uuid: that it had. last: by shard, the greatest number of its writes; -1 for
    none."""

    uuid: str
    last: Sequence[int]


Baseline = dict[str, Shards]


def refuse_incomplete(config: ElasticsearchDestinationConfig, context: DestinationContext) -> None:
    """Raises ConfigError (E0404) for a mirror of a full read that could not tell which documents are gone."""
    if config.mode != "mirror" or not context.complete:
        return
    for option, is_set in (
        ("a name of 'index' that is made of columns", bool(config.index_columns)),
        (
            "'sequence', because documents that are newer are not written",
            config.sequence is not None,
        ),
    ):
        if is_set:
            raise ConfigError(
                f"mode mirror of a full read cannot tell which documents are gone with {option}",
                code="E0404",
                step=context.step,
                help="leave it out, or write with mode: upsert",
            )


def handed_over(context: DestinationContext) -> dict[str, Any] | None:
    """What `MirrorCommitter` noted, for the writers' committables; None where nothing is mirrored."""
    file = context.redo / _FILE
    return orjson.loads(file.read_bytes()) if file.is_file() else None


class MirrorCommitter(Committer):
    """Notes the numbers when a run begins, and deletes when it ends."""

    def __init__(
        self,
        client: Client,
        config: ElasticsearchDestinationConfig,
        context: DestinationContext,
    ) -> None:
        self._client, self._config, self._context = client, config, context
        self._left_out_before = 0
        self._published: dict[str, Any] = {}

    async def marker(self) -> Marker | None:
        return None

    async def recover(self, epoch: int, committables: Sequence[Committable]) -> None:
        noted = _noted(committables)
        if noted is not None:
            self._hand_over(noted)
        self._left_out_before = _refused(committables)

    async def begin(self, epoch: int) -> None:
        baseline = await self._taken()
        self._hand_over(msgspec.to_builtins(baseline))
        self._left_out_before = 0

    def _hand_over(self, noted: Mapping[str, Any]) -> None:
        (self._context.redo / _FILE).write_bytes(orjson.dumps(noted))

    async def commit(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        if not epoch.final:
            return
        noted = _noted(committables)
        if noted is None:
            raise RunError(
                f"step '{self._context.step}' does not know what the index had when the run began",
                code="E0801",
                step=self._context.step,
                help="run again with --fresh",
            )
        left_out = self._left_out_before + _refused(committables)
        left_out += sum(each.data["left_out"] for each in committables)
        await self._sweep(msgspec.convert(noted, Baseline), delete=not left_out)

    async def published(self) -> Mapping[str, Any]:
        return self._published

    async def _taken(self) -> Baseline:
        """The numbers of all indexes that the name stands for."""
        found = await mappings(self._client, self._config.index)
        if not found:
            return {}
        uuids = await self._settings(found)
        await self._refresh(found)
        return {
            index: Shards(uuid, [await self._last(index, shard) for shard in range(shards)])
            for index, (uuid, shards) in uuids.items()
        }

    async def _settings(self, names: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
        """By index, its uuid and the number of its shards."""
        listed = ",".join(map(path_of, names))
        kept = "*.settings.index.number_of_shards,*.settings.index.uuid"
        answer = await self._client.ask(
            "GET", f"/{listed}/_settings", params={"filter_path": kept}, doing="tell the shards"
        )
        try:
            return {
                index: (str(each["uuid"]), int(each["number_of_shards"]))
                for index, each in (
                    (index, settings["settings"]["index"])
                    for index, settings in answer.data.items()
                )
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._client.strange("tell the shards") from error

    async def _refresh(self, names: Mapping[str, Any]) -> None:
        listed = ",".join(map(path_of, names))
        await self._client.ask("POST", f"/{listed}/_refresh", doing="refresh indexes")

    async def _last(self, index: str, shard: int) -> int:
        body = {
            "size": 1, "sort": [{"_seq_no": "desc"}], "_source": False,
            "seq_no_primary_term": True, "track_total_hits": False,
        }  # fmt: skip
        data = await self._of_shard(index, shard, "_search", body)
        hits = data["hits"]["hits"]
        return int(hits[0]["_seq_no"]) if hits else -1

    async def _of_shard(self, index: str, shard: int, what: str, body: dict[str, Any]) -> Any:
        """The answer of one shard."""
        params = {"preference": f"_shards:{shard}"}
        if what == "_search":
            params["allow_partial_search_results"] = "false"
        answer = await self._client.ask(
            "POST", f"/{path_of(index)}/{what}", params=params, json=body, doing="find documents"
        )
        data = answer.data
        if data["_shards"].get("failed"):
            raise self._client.failed(
                503, "", f"{self._client.shown} gave only a part of the documents", ()
            )
        return data

    async def _sweep(self, baseline: Baseline, *, delete: bool) -> None:
        """Delete what the run did not write, or only count it. Raises DataError (E0512)."""
        if not baseline:
            self._published = {"deleted": 0}
            return
        await self._refresh(baseline)
        now = await self._settings(baseline)
        for index, noted in baseline.items():
            if now.get(index, ("", 0)) != (noted.uuid, len(noted.last)):
                raise RunError(
                    f"the index '{index}' was made anew while the run wrote it",
                    code="E0801",
                    step=self._context.step,
                    help="run again with --fresh",
                )
        total = missing = 0
        for index, noted in baseline.items():
            for shard, last in enumerate(noted.last):
                gone = await self._of_shard(index, shard, "_count", {"query": self._older(last)})
                every = await self._of_shard(index, shard, "_count", {"query": self._there()})
                missing, total = missing + int(gone["count"]), total + int(every["count"])
        if not delete:
            self._published = {"deleted": 0, "not_deleted": missing}
            return
        refuse_too_many(
            self._config.delete_max,
            missing=missing,
            total=total,
            place=f"index '{self._config.index}'",
            step=self._context.step,
            note="no document was deleted",
        )
        deleted = 0
        if missing:
            for index, noted in baseline.items():
                deleted += await self._delete(index, noted)
            await self._refresh(baseline)
        self._published = {"deleted": deleted}

    async def _delete(self, index: str, noted: Shards) -> int:
        """Delete the documents of an index that have no greater number. Returns how many."""
        kind, _ = await self._client.server()
        points = Points(self._client, kind, _KEEP_ALIVE_S)
        point, deleted = await points.open([index]), 0
        for shard, last in enumerate(noted.last):
            part, after = Slice(index, shard, len(noted.last)), None
            request = {
                "size": _PAGE, "_source": False, "seq_no_primary_term": True, "query": self._older(last),
            }  # fmt: skip
            while True:
                hits, point = await points.page(point, part, after, request)
                if hits:
                    deleted += await self._delete_all(hits)
                    after = hits[-1].sort
                if len(hits) < _PAGE:
                    break
        await points.close(point)
        return deleted

    def _older(self, last: int) -> dict[str, Any]:
        """The documents that are there, and were not written since."""
        return self._there({"range": {"_seq_no": {"lte": last}}})

    def _there(self, *conditions: dict[str, Any]) -> dict[str, Any]:
        """The documents that are not marked as deleted."""
        marks = self._config.deleted_at
        marked = [] if marks is None else [{"exists": {"field": marks}}]
        return {"bool": {"filter": [*conditions], "must_not": marked}}

    async def _delete_all(self, hits: Sequence[Hit]) -> int:
        actions = [
            {
                "_index": hit.index, "_id": hit.id, "routing": hit.routing,
                "if_seq_no": hit.seq_no, "if_primary_term": hit.primary_term,
            }
            for hit in hits
        ]  # fmt: skip
        marks = self._config.deleted_at
        op, source = ("delete", b"") if marks is None else ("update", marking(marks))
        lines = b"".join(orjson.dumps({op: action}) + b"\n" + source for action in actions)
        answer = await self._client.ask("POST", "/_bulk", lines=lines, doing="delete documents")
        try:
            items = [item[op] for item in answer.data["items"]]
        except (ValueError, KeyError, TypeError) as error:
            raise self._client.strange("tell what became of documents") from error
        for item in items:
            if item["status"] >= 300 and item["status"] not in _FINE:
                kind, reason = reason_of(item.get("error"))
                said = f"{self._client.shown} does not delete a document"
                raise self._client.failed(item["status"], kind, said, [f"it says: {reason[:300]}"])
        return sum(item["status"] < 300 for item in items)

    async def aclose(self) -> None:
        await self._client.aclose()


def _noted(committables: Sequence[Committable]) -> dict[str, Any] | None:
    for each in committables:
        if each.data.get("baseline") is not None:
            noted: dict[str, Any] = each.data["baseline"]
            return noted
    return None


def _refused(committables: Sequence[Committable]) -> int:
    return sum(int(each.data.get("refused", 0)) for each in committables)

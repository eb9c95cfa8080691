"""The `dynamodb` source: a table by parallel scans, and its changes by the shards of its stream.

Always true: the stream is read when all segments of the table are in every destination, from before the scan began. So
no change is missing, and the changes that the scan has seen already are given again: rows are known by their key, and the
last one is the newest. A shard is read when the one that it came from was read to its end and is in every destination, so
the changes of a key keep their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import polars as pl

from dataflare.connectors.dynamodb import items
from dataflare.connectors.dynamodb.client import CALLS, Shard, Table, TableState
from dataflare.connectors.dynamodb.config import DynamodbSourceConfig
from dataflare.connectors.dynamodb.decoder import ChangeDecoder
from dataflare.connectors.dynamodb.feed import TOLD, ScanFeed, ShardFeed, lost
from dataflare.errors import SystemError_
from dataflare.formats.messages.contract import Decoder
from dataflare.formats.messages.json import JsonDecoder, sampled
from dataflare.model.progress import Position, Split
from dataflare.model.types import Schema
from dataflare.sdk.brokers.reader import Feed, Message
from dataflare.sdk.brokers.source import BrokerSource
from dataflare.sdk.catalog import Entry, SupportsCatalog
from dataflare.sdk.source import KnownSplits, Replay, SourceCapabilities, SupportsDiscovery
from dataflare.sdk.threads import in_thread

_SAMPLE = 1_000
_SCAN = "scan-"
_OVERLAP_S = 60.0
"""So long before a scan began changes are read again: times of changes are not exact."""
_KEPT_S = 24 * 3_600.0
"""How long a stream keeps changes."""
_NOT_READ = {"sequence": None, "read_to": 0.0, "ended": False}


class DynamodbSource(BrokerSource, SupportsDiscovery, SupportsCatalog):
    """A table."""

    type = "dynamodb"
    Config = DynamodbSourceConfig
    summary = "Reads a table of Amazon DynamoDB, and follows its changes by DynamoDB Streams."
    example = """\
orders:
  type: dynamodb
  config: {table: orders, region: eu-central-1, cdc: true}
"""
    told = TOLD
    places_differ = True
    unchosen: ClassVar[Mapping[str, Any]] = {"table": "---"}

    def __init__(self, config: DynamodbSourceConfig, context: Any) -> None:
        super().__init__(config, context)
        self._table_: Table | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._sampled: list[items.Item] = []
        self._keys: Mapping[str, str] = {}
        self._there: Set[str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_table_": None, "_threads": None}

    @property
    def _table(self) -> Table:
        if self._table_ is None:
            self._table_ = Table(self.config, self.context.step)
        return self._table_

    def capabilities(self) -> SourceCapabilities:
        changes = self.config.changes
        return SourceCapabilities(
            replay=Replay.BY_KEY,
            replay_reason="a segment is scanned again behind the last key, and a shard has its changes by number",
            bounded=changes is None or changes.stop is not None,
            changelog=changes is not None,
            key=() if changes is None else tuple(self._keys),
            deletes_by_key=changes is not None,
            chunks=True,
            at_once=changes is not None,
        )

    def reads_all(self) -> bool:
        return self.config.changes is None

    def effects(self) -> Sequence[str]:
        if self.config.changes is None or self.config.changes.stop is None:
            return ()
        return ["reads the changes that are there when the run starts; the next run goes on there"]

    @property
    def label(self) -> str:
        return str(self.config.table)

    def _state(self) -> TableState:
        return self._table.state(follows=self.config.changes is not None)

    # -- what is there -----------------------------------------------------------------------------

    async def validate(self) -> None:
        await in_thread(self._state)

    async def inspect(self) -> Mapping[str, str]:
        return await in_thread(self._inspect)

    def _inspect(self) -> Mapping[str, str]:
        state = self._state()
        shown = f"about {state.items:,} items, by {', '.join(state.keys)}"
        told = {
            "server": f"DynamoDB at {self.config.server}", f"table {self.config.table}": shown,
        }  # fmt: skip
        if state.stream is not None and self.config.changes is not None:
            shards = self._table.shards(state.stream)
            open_ = sum(shard.is_open for shard in shards)
            told["stream"] = f"{open_} open shards, {len(shards) - open_} closed"
        return told

    async def catalog(self) -> Sequence[Entry]:
        names = await in_thread(self._table.names)
        return [Entry(name, "table", {"table": name}) for name in names]

    # -- columns -----------------------------------------------------------------------------------

    def needs_sample(self) -> bool:
        return True

    def _check_unknown(self) -> None:
        """A table without items has the columns of its key."""

    async def sample(self) -> Sequence[Message]:
        self._keys, self._sampled = await in_thread(self._sample)
        return [Message(items.as_json(item), {}, "", 0) for item in self._sampled]

    def _sample(self) -> tuple[Mapping[str, str], list[items.Item]]:
        answer = self._table.scan(after=None, most=_SAMPLE)
        return self._state().keys, list(answer["Items"])

    def value_decoder(self, sample: pl.Series) -> Decoder:
        given = {field.name: field.type for field in self.contract or ()}
        types = {**items.types_of(self._sampled, self._keys), **given}
        rows = JsonDecoder(sampled(sample, Schema.of(types), self.learned))
        return rows if self.config.changes is None else ChangeDecoder(rows, [*self._keys])

    # -- splits ------------------------------------------------------------------------------------

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        return await in_thread(self._splits, carried)

    def _splits(self, carried: Mapping[str, Any] | None) -> Sequence[Split]:
        state, changes = self._state(), self.config.changes
        common = {"table": state.id, "stream": state.stream, "since": state.now - _OVERLAP_S}
        if changes is None:
            return self._segments(common, None)
        stop = state.now if changes.stop is not None else None
        if carried is not None:
            common = carried["common"]
            self._check_same(common, state)
            return self._ready(common, carried["shards"], set(), stop)
        if changes.snapshot == "initial":
            return self._segments(common, stop)
        return self._ready({**common, "since": state.now}, {}, set(), stop)

    def _segments(self, common: Mapping[str, Any], stop: float | None) -> list[Split]:
        count = self.config.segments
        return [
            Split(f"{_SCAN}{n}", {"common": common, "stop": stop, "segment": [n, count]})
            for n in range(count)
        ]

    def _ready(
        self, common: Mapping[str, Any], at: Mapping[str, Any], read: Set[str], stop: float | None
    ) -> list[Split]:
        """The shards that may be read now. at: positions of earlier runs. read: shards that this run has read to the end."""
        shards = self._table.shards(common["stream"])
        self._there = {shard.id for shard in shards}
        ended = {*read, *(id_ for id_, position in at.items() if position["ended"])}
        gone = sorted(set(at) - ended - self._there)
        if gone:
            raise lost(self.config.place, gone[0]).at(step=self.context.step)
        return [
            Split(shard.id, {"common": common, "stop": stop, "at": at.get(shard.id, _NOT_READ)})
            for shard in shards
            if shard.id not in ended and _may_begin(shard, at, ended)
        ]

    def _check_same(self, common: Mapping[str, Any], state: TableState) -> None:
        if (common["table"], common["stream"]) != (state.id, state.stream):
            what = "was deleted and made again"
            if common["table"] == state.id:
                what = (
                    "has another stream: the old one was switched off, and changes may be missing"
                )
            raise SystemError_(
                f"{self.config.place} {what}",
                code="E0605",
                step=self.context.step,
                help="run with --fresh to read the table anew; empty the destination before, because deletes are missing",
            )

    def discovery_interval_s(self) -> float | None:
        return None if self.config.changes is None else float(self.config.discovery)

    async def discover(self, known: KnownSplits) -> Sequence[Split] | None:
        return await in_thread(self._discover, known)

    def _discover(self, known: KnownSplits) -> Sequence[Split] | None:
        scans = {id_ for id_ in known.ids if id_.startswith(_SCAN)}
        if not scans <= known.done:
            return ()
        before: Mapping[str, Any] = self.started_from or {}
        listed = (
            known.listed[0].data if known.listed else {"common": before["common"], "stop": None}
        )
        common, stop = listed["common"], listed["stop"]
        self._check_same(common, self._state())
        at = before.get("shards", {})
        ready = self._ready(common, at, known.done - scans, stop)
        ready = [split for split in ready if split.id not in known.ids]
        if not ready and stop is not None and known.all_done:
            return None
        return ready

    async def feed(self, split: Split, position: Position | None) -> Feed:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(CALLS, thread_name_prefix="dynamodb")
        return await in_thread(self._feed, split, position, self._threads)

    def _feed(self, split: Split, position: Position | None, threads: ThreadPoolExecutor) -> Feed:
        data = split.data
        common, state = data["common"], self._state()
        self._check_same(common, state)
        at = None if position is None else position.value
        if "segment" in data:
            n, count = data["segment"]
            is_changelog = self.config.changes is not None
            encode = items.read_as_json if is_changelog else items.as_json
            begin = at or {"key": None, "ended": False}
            return ScanFeed(self._table, threads, common, (n, count), begin, encode, [*state.keys])
        at = at or data["at"]
        if at["read_to"] and not at["ended"] and state.now - at["read_to"] > _KEPT_S:
            raise lost(self.config.place, split.id).at(step=self.context.step)
        return ShardFeed(self._table, threads, common, split.id, at, data["stop"])

    # -- positions ---------------------------------------------------------------------------------

    def carries(self) -> bool:
        return self.config.changes is not None

    def carry(self, positions: Mapping[str, Position]) -> Mapping[str, Any] | None:
        if self.config.changes is None:
            return None
        before: Mapping[str, Any] = self.started_from or {}
        if not positions:
            return self.started_from
        value = next(iter(positions.values())).value
        kept = {
            id_: at
            for id_, at in before.get("shards", {}).items()
            if at["ended"] and (self._there is None or id_ in self._there)
        }
        read = {
            id_: {name: position.value[name] for name in _NOT_READ}
            for id_, position in positions.items()
            if not id_.startswith(_SCAN)
        }
        return {
            "common": {name: value[name] for name in ("table", "stream", "since")},
            "shards": {**kept, **read},
        }

    async def aclose(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False)
            self._threads = None
        if self._table_ is not None:
            self._table_.close()
            self._table_ = None


def _may_begin(shard: Shard, at: Mapping[str, Any], ended: Set[str]) -> bool:
    """Whether all that was before it in the order of keys was read: it was begun before, or its parent is at its end."""
    position = at.get(shard.id)
    is_begun = position is not None and position["sequence"] is not None
    return is_begun or shard.parent is None or shard.parent in ended

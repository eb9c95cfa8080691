"""The `kinesis` source: a stream, whose shards are splits.

Always true: a shard is read when those that it came from were read to their end, with all their records in every
destination, so the records of a partition key keep their order over resharding; what the next run starts from has the
shards that were read to their end as long as they are there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from dataflare.connectors.kinesis.client import CALLS, Shard, Stream, StreamState
from dataflare.connectors.kinesis.config import FromTime, KinesisSourceConfig
from dataflare.connectors.kinesis.feed import FIELDS, TOLD, ShardFeed, message_of
from dataflare.errors import SystemError_
from dataflare.model.progress import Position, Split
from dataflare.sdk.aws.client import aws_errors
from dataflare.sdk.brokers.reader import Feed, Message
from dataflare.sdk.brokers.source import BrokerSource
from dataflare.sdk.source import KnownSplits, Replay, SourceCapabilities, SupportsDiscovery
from dataflare.sdk.threads import in_thread

_SAMPLE, _SAMPLE_REQUESTS = 200, 20


class KinesisSource(BrokerSource, SupportsDiscovery):
    """A stream."""

    type = "kinesis"
    Config = KinesisSourceConfig
    summary = "Reads a stream of Amazon Kinesis, by the sequence numbers of its shards."
    example = """\
orders:
  type: kinesis
  config:
    stream: orders
    region: eu-central-1
    metadata: [partition_key, timestamp]
  schema: {id: int64, amount: "decimal(12, 2)"}
"""
    told = TOLD
    places_differ = True

    def __init__(self, config: KinesisSourceConfig, context: Any) -> None:
        super().__init__(config, context)
        self._stream_: Stream | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._there: Set[str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stream_": None, "_threads": None}

    @property
    def _stream(self) -> Stream:
        if self._stream_ is None:
            self._stream_ = Stream(self.config, self.context.step)
        return self._stream_

    def capabilities(self) -> SourceCapabilities:
        return SourceCapabilities(
            replay=Replay.EXACT,
            replay_reason="a shard has its records by sequence number",
            bounded=self.config.stop is not None,
            chunks=True,
            at_once=True,
        )

    def effects(self) -> Sequence[str]:
        if self.config.stop is None:
            return ()
        return ["reads what has arrived when the run starts; the next run goes on there"]

    @property
    def label(self) -> str:
        return str(self.config.name)

    # -- what is there -----------------------------------------------------------------------------

    async def validate(self) -> None:
        await in_thread(lambda: self._stream.state())

    async def inspect(self) -> Mapping[str, str]:
        return await in_thread(self._inspect)

    def _inspect(self) -> Mapping[str, str]:
        state, shards = self._stream.state(), self._stream.shards()
        open_ = sum(shard.is_open for shard in shards)
        shown = f"{open_} open shards, {len(shards) - open_} closed; records are kept for {state.kept_s / 3600:g} hours"
        return {"server": f"Kinesis at {self.config.server}", f"stream {self.config.name}": shown}

    async def sample(self) -> Sequence[Message]:
        return await in_thread(self._sample)

    def _sample(self) -> Sequence[Message]:
        found: list[Message] = []
        for shard in self._stream.shards():
            iterator: str | None = self._stream.iterator(
                shard.id, {"ShardIteratorType": "TRIM_HORIZON"}
            )
            for _ in range(_SAMPLE_REQUESTS):
                room = _SAMPLE - len(found)
                if iterator is None or room <= 0:
                    break
                with aws_errors(self.config.place, "'stream'"):
                    answer = self._stream.records(iterator, room)
                found += [message_of(record, shard.id) for record in answer["Records"]]
                iterator = answer.get("NextShardIterator")
                if not answer.get("MillisBehindLatest"):
                    break
        return found

    # -- splits ------------------------------------------------------------------------------------

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        return await in_thread(self._splits, carried)

    def _splits(self, carried: Mapping[str, Any] | None) -> Sequence[Split]:
        state, shards = self._stream.state(), self._stream.shards()
        at: Mapping[str, Any] = {} if carried is None else carried["shards"]
        for position in at.values():
            self._check_created(position["created"], state)
        begin = _beginning(at) or self._start(state)
        stop = state.now if self.config.stop is not None else None
        ended = _ended(at)
        self._there = {shard.id for shard in shards}
        self._check_there(at)
        return [
            _split(shard, at.get(shard.id, begin), stop)
            for shard in shards
            if shard.id not in ended
            and (_is_begun(at.get(shard.id)) or ended.issuperset(shard.parents))
        ]

    def _start(self, state: StreamState) -> dict[str, Any]:
        """The position from which the first run reads every shard."""
        start, time_s = self.config.start, None
        if start != "earliest":
            time_s = start.time.timestamp() if isinstance(start, FromTime) else state.now
        return _position(time_s, state.created)

    def _check_created(self, created: str, state: StreamState) -> None:
        if created != state.created:
            raise SystemError_(
                f"{self.config.place} was deleted and made again: the place up to which it was read belongs to the old one",
                code="E0605",
                step=self.context.step,
                help="run with --fresh to read the new stream from its start",
            )

    def _check_there(self, at: Mapping[str, Any]) -> None:
        """Whether shards that were not read to their end are gone with their records."""
        gone = sorted(set(at).difference(_ended(at), self._there or ()))
        if gone and self.config.lost_records == "fail":
            raise SystemError_(
                f"{self.config.place} has no shard {', '.join(gone)} any more, which was not read to its end",
                code="E0605",
                step=self.context.step,
                help="keep records longer, and set lost_records: skip to go on with the shards that are there",
            )

    def discovery_interval_s(self) -> float | None:
        return float(self.config.discovery)

    async def discover(self, known: KnownSplits) -> Sequence[Split] | None:
        return await in_thread(self._discover, known)

    def _discover(self, known: KnownSplits) -> Sequence[Split] | None:
        before: Mapping[str, Any] = (self.started_from or {}).get("shards", {})
        positions = {split.id: split.data["at"] for split in known.listed}
        begin = _beginning(positions or before)
        stop = known.listed[0].data["stop"] if known.listed else None
        if begin is None or (stop is None and self.config.stop is not None):
            return None
        state, shards = self._stream.state(), self._stream.shards()
        self._check_created(begin["created"], state)
        self._there = {shard.id for shard in shards}
        read = {*known.done, *_ended(before)}
        ready = [
            shard
            for shard in shards
            if shard.id not in known.ids and shard.id not in read and read.issuperset(shard.parents)
        ]
        if not ready and stop is not None and known.all_done:
            return None
        return [_split(shard, begin, stop) for shard in ready]

    async def feed(self, split: Split, position: Position | None) -> Feed:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(CALLS, thread_name_prefix="kinesis")
        return await in_thread(self._feed, split.id, split.data, position, self._threads)

    def _feed(
        self,
        shard: str,
        data: Mapping[str, Any],
        position: Position | None,
        threads: ThreadPoolExecutor,
    ) -> Feed:
        at = data["at"] if position is None else position.value
        state = self._stream.state()
        self._check_created(at["created"], state)
        return ShardFeed(
            self._stream,
            threads,
            shard,
            at,
            stop=data["stop"],
            warnings=self._lost(shard, at, state),
        )

    def _lost(self, shard: str, at: Mapping[str, Any], state: StreamState) -> Mapping[str, int]:
        """What to tell of records that may have been removed before they were read."""
        away_s = state.now - at["read_to"]
        if not at["read_to"] or at["ended"] or away_s <= state.kept_s:
            return {}
        if self.config.lost_records == "fail":
            raise SystemError_(
                f"{shard} of {self.config.place} was read up to {_shown(at['read_to'])}, and the stream keeps records for "
                f"{state.kept_s / 3600:g} hours: some may be lost",
                code="E0605",
                step=self.context.step,
                help="keep records longer, and set lost_records: skip to go on with the oldest that is there",
            )
        return {
            f"{shard}: records that arrived after {_shown(at['read_to'])} may have been removed before they were read": 0
        }

    # -- positions ---------------------------------------------------------------------------------

    def carry(self, positions: Mapping[str, Position]) -> Mapping[str, Any] | None:
        before = self.started_from or {}
        earlier: Mapping[str, Any] = before.get("shards", {})
        kept = {
            id_: earlier[id_]
            for id_ in _ended(earlier)
            if self._there is None or id_ in self._there
        }
        read = {id_: {n: p.value[n] for n in FIELDS} for id_, p in positions.items()}
        shards = {**kept, **read}
        return {"shards": shards} if shards else self.started_from

    async def aclose(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False)
            self._threads = None
        if self._stream_ is not None:
            self._stream_.close()
            self._stream_ = None


def _position(start: float | None, created: str) -> dict[str, Any]:
    """Of a shard that was not read."""
    return {"sequence": None, "read_to": 0.0, "ended": False, "created": created, "start": start}


def _beginning(positions: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """The position from which the first run read every shard, by any position."""
    for each in positions.values():
        return _position(each["start"], each["created"])
    return None


def _split(shard: Shard, at: Mapping[str, Any], stop: float | None) -> Split:
    return Split(shard.id, {"stop": stop, "at": {name: at[name] for name in FIELDS}})


def _ended(at: Mapping[str, Any]) -> set[str]:
    """The shards that were read to their end."""
    return {id_ for id_, position in at.items() if position["ended"]}


def _is_begun(position: Mapping[str, Any] | None) -> bool:
    return position is not None and position["sequence"] is not None


def _shown(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="seconds")

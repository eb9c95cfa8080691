"""moto's server, where its queues and streams are not as Amazon's: `python moto_process.py PORT`.

moto's own queues give a message to two consumers that ask at the same moment, and look at all messages of a queue for each
one that they give. Its streams copy the records of a shard to those that come from it, go on to write to a shard that is
closed, give numbers that are the same in all shards, and never say that a shard has ended.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

_LOCK = threading.RLock()
_LOOK_S = 0.02
_FIRST_NUMBER = 49_590_338_271_490_256_608_559_692_538_361_571_095_921_575_989_136_588_898


def _queues() -> None:
    from moto.sqs.models import SQSBackend

    receive = SQSBackend.receive_message

    def receive_message(
        self: Any, queue: str, count: int, wait_s: int, *more: Any, **named: Any
    ) -> Any:
        end = time.monotonic() + int(wait_s)
        while True:
            with _LOCK:
                found = receive(self, queue, count, 0, *more, **named)
            if found or time.monotonic() >= end:
                return found
            time.sleep(_LOOK_S)

    SQSBackend.receive_message = receive_message
    SQSBackend.is_message_valid_based_on_retention_period = lambda *_: True
    _one_at_a_time(
        SQSBackend,
        "send_message",
        "delete_message",
        "change_message_visibility",
        "get_queue_attributes",
    )


def _streams() -> None:
    from moto.kinesis.models import KinesisBackend, Record, Shard, Stream
    from moto.kinesis.utils import decompose_shard_iterator

    numbers = itertools.count(_FIRST_NUMBER)

    def put_record(self: Any, key: str, data: str, explicit: str) -> str:
        number = next(numbers)
        self.records[number] = Record(key, data, number, explicit)
        return str(number)

    of_key = Stream.get_shard_for_key

    def get_shard_for_key(self: Any, key: str, explicit: str) -> Any:
        shards = self.shards
        self.shards = {id_: shard for id_, shard in shards.items() if shard.is_open}
        try:
            return of_key(self, key, explicit)
        finally:
            self.shards = shards

    def without_copies(method: Callable[..., Any], count: int) -> Callable[..., Any]:
        def called(self: Any, *given: Any) -> None:
            closed = [self.shards[id_] for id_ in given[:count]]
            kept = [shard.records for shard in closed]
            for shard in closed:
                shard.records = type(shard.records)()
            method(self, *given)
            for shard, records in zip(closed, kept, strict=True):
                shard.records = records

        return called

    get = KinesisBackend.get_records

    def get_records(self: Any, arn: str | None, iterator: str, limit: int | None) -> Any:
        following, records, _ = get(self, arn, iterator, limit)
        name, id_, last = decompose_shard_iterator(following)
        shard = self.describe_stream(stream_arn=arn, stream_name=name).get_shard(id_)
        left = [each for number, each in shard.records.items() if number > int(last)]
        ended = not left and not shard.is_open
        behind = max(1, int(1000 * (time.time() - left[-1].created_at))) if left else 0
        return None if ended else following, records, behind

    Shard.put_record = put_record
    Stream.get_shard_for_key = get_shard_for_key
    Stream.split_shard = without_copies(Stream.split_shard, 1)
    Stream.merge_shards = without_copies(Stream.merge_shards, 2)
    KinesisBackend.get_records = get_records
    _one_at_a_time(KinesisBackend, "put_records", "get_records", "split_shard", "merge_shards")


def _one_at_a_time(class_: type, *names: str) -> None:
    for name in names:
        setattr(class_, name, _locked(getattr(class_, name)))


def _locked(method: Callable[..., Any]) -> Callable[..., Any]:
    def called(*given: Any, **named: Any) -> Any:
        with _LOCK:
            return method(*given, **named)

    return called


if __name__ == "__main__":
    _queues()
    _streams()
    from moto.server import main

    main(["-H", "127.0.0.1", "-p", sys.argv[1]])

"""From produce to consume: `python -m benchmarks.streams.paced SERVERS TOPIC COPIED RATE SECONDS`.

Waits until a first message comes through, produces messages at a steady rate, and consumes their copies. Prints how many
came, and p50, p99 and the maximum of their latency in milliseconds, as JSON. The producer is a process of its own, because two
threads would wait for each other. A message is late from its due time on, so a producer that is held up does not hide it.

`python -m benchmarks.streams.paced copy SERVERS TOPIC COPIED` copies messages by hand, without end, for comparison.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

FIRST_S, LAST_S = 60.0, 10.0


def main(servers: str, topic: str, copied: str, rate: int, seconds: int) -> None:
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": servers, "linger.ms": 0})
    consumer = opened(servers, copied)
    first(producer, consumer, topic)
    paced = [sys.executable, "-m", "benchmarks.streams.paced", "produce"]
    with subprocess.Popen([*paced, servers, topic, str(rate), str(seconds)]) as process:
        ranked = sorted(read(consumer, rate * seconds))
    if process.returncode:
        raise SystemExit(process.returncode)
    figures = {"rows": len(ranked), "max_ms": ranked[-1]}
    for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99)):
        figures[name] = ranked[min(len(ranked) - 1, int(len(ranked) * share))]
    print(json.dumps(figures))


def opened(servers: str, topic: str) -> Any:
    """A consumer of all partitions, at their ends."""
    from confluent_kafka import OFFSET_END, Consumer, TopicPartition

    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": "paced", "enable.auto.commit": False}
    )
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, OFFSET_END) for number in partitions])
    consumer.poll(0.5)
    return consumer


def message(number: int, due_ns: int) -> bytes:
    return json.dumps({"id": number, "due": due_ns, "amount": 12.5, "status": "active"}).encode()


def first(producer: Any, consumer: Any, topic: str) -> None:
    """Until what copies has started: a message, which is told by its id, and all that came with it."""
    end = time.monotonic() + FIRST_S
    while time.monotonic() < end:
        producer.produce(topic, message(-1, 0))
        producer.poll(0)
        if consumer.poll(0.2) is not None:
            while consumer.poll(1.0) is not None:
                pass
            return
    raise SystemExit("no message came through")


def produce(servers: str, topic: str, rate: int, seconds: int) -> None:
    """Each message at its due time, or at once where that is over."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": servers, "linger.ms": 0})
    producer.list_topics(topic, timeout=10)
    began = time.time_ns()
    for number in range(rate * seconds):
        due_ns = began + number * 1_000_000_000 // rate
        while (left := due_ns - time.time_ns()) > 0:
            time.sleep(left / 1e9)
        producer.produce(topic, message(number, due_ns))
        producer.poll(0)
    producer.flush()


def read(consumer: Any, rows: int) -> list[float]:
    """How late each message is."""
    late_ms: list[float] = []
    end = time.monotonic() + FIRST_S + LAST_S
    while len(late_ms) < rows and time.monotonic() < end:
        each = consumer.poll(0.1)
        if each is not None and each.error() is None:
            now_ns, row = time.time_ns(), json.loads(each.value())
            if row["id"] >= 0:
                late_ms.append((now_ns - row["due"]) / 1e6)
    return late_ms


def copy(servers: str, topic: str, copied: str) -> None:
    """Each message at once."""
    import orjson
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": servers, "linger.ms": 0})
    consumer = opened(servers, topic)
    while True:
        each = consumer.poll(0.1)
        if each is not None and each.error() is None:
            row = orjson.loads(each.value())
            row["gross"] = round(row["amount"] * 1.19, 2)
            producer.produce(copied, orjson.dumps(row))
        producer.poll(0)


if __name__ == "__main__":
    if sys.argv[1] == "copy":
        copy(*sys.argv[2:])
    elif sys.argv[1] == "produce":
        produce(*sys.argv[2:4], int(sys.argv[4]), int(sys.argv[5]))
    else:
        main(*sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5]))

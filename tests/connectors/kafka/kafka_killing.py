"""Kafka to Kafka in a process that is killed, and what must be in the topic in the end."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import broker_moving
from kafka_kit import Place

KEYS = 13
WORKFLOW = """\
name: moving
settings:
  parallelism: 2
  checkpoint: {interval: 10ms}
  restart: {attempts: 1000, delay: 50ms, max_delay: 300ms}
sources:
  given:
    type: kafka
    config: {bootstrap_servers: "SERVERS", topic: TOPIC, stop: latest, timeout: 20s}
    error_handling: {retry_policy: {max_attempts: 100, initial_backoff: 50ms, max_backoff: 300ms}}
transformations:
  odd: {type: filter, inputs: [given], config: {condition: "n % 2 = 1"}}
  more: {type: map, inputs: [odd], config: {derive: {twice: "n * 2"}}}
destinations:
  out:
    type: kafka
    inputs: [more]
    config: {bootstrap_servers: "SERVERS", topic: TOPIC-out, key: k, timeout: 20sMORE}
    error_handling: {retry_policy: {max_attempts: 100, initial_backoff: 50ms, max_backoff: 300ms}}
"""


class Moving(broker_moving.Moving):
    """rows: messages of the topic, those of one key in one partition. more: options of the destination."""

    def __init__(self, place: Place, rows: int, servers: str | None = None, more: str = "") -> None:
        self.place, self.rows = place, rows
        workflow = WORKFLOW.replace("MORE", more).replace("SERVERS", servers or "SERVERS")
        super().__init__(place, workflow)
        self.text = place.filled(workflow)
        place.put(
            {"value": json.dumps({"n": n, "k": n % KEYS, "pad": "x" * 200}).encode(),
             "key": str(n % KEYS)} for n in range(rows)
        )  # fmt: skip

    def check(self) -> None:
        """Each message once, and in order per key."""
        by_key: dict[int, list[int]] = {key: [] for key in range(KEYS)}
        given: dict[int, list[int]] = {key: [] for key in range(KEYS)}
        for _, _, _, value in self.place.messages():
            row = json.loads(value or b"")
            given[row["k"]].append(row["n"])
        for _, _, key, value in self.place.messages(f"{self.place.topic}-out"):
            row = json.loads(value or b"")
            assert row["twice"] == 2 * row["n"]
            assert key == str(row["k"]).encode()
            by_key[row["k"]].append(row["n"])
        for key, numbers in by_key.items():
            assert given[key] == list(range(key, self.rows, KEYS)), "what was put in differs"
            wanted = [n for n in given[key] if n % 2]
            facts = {
                "key": key,
                "lost": sorted({*wanted} - {*numbers})[:20],
                "doubled": sorted(n for n in {*numbers} if numbers.count(n) > 1)[:20],
                "out of order": [b for a, b in itertools.pairwise(numbers) if b < a][:20],
            }
            assert numbers == wanted, facts

    @property
    def folder(self) -> Path:
        return self.place.folder

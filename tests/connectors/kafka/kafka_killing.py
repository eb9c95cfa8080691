"""Kafka to Kafka in a process that is killed, and what must be in the topic in the end."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

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
    config: {bootstrap_servers: "SERVERS", topic: TOPIC-out, key: k, timeout: 20s}
    error_handling: {retry_policy: {max_attempts: 100, initial_backoff: 50ms, max_backoff: 300ms}}
"""


class Moving:
    """rows: messages of the topic, those of one key in one partition."""

    def __init__(self, place: Place, rows: int, servers: str | None = None) -> None:
        self.place, self.rows = place, rows
        self._file = place.folder / "moving.yaml"
        text = WORKFLOW.replace("SERVERS", servers or place.cluster.bootstrap)
        self._file.write_text(text.replace("TOPIC", place.topic))
        place.put(
            {"value": json.dumps({"n": n, "k": n % KEYS, "pad": "x" * 200}).encode(),
             "key": str(n % KEYS)} for n in range(rows)
        )  # fmt: skip

    def start(self, crash_at: str = "") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "dataflare", "run", "--quiet", str(self._file)],
            env={**os.environ, "DATAFLARE_CRASH_AT": crash_at},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def die(self, crash_at: str) -> bool:
        """Run until it dies at this place. False: it came to its end before."""
        process = self.start(crash_at)
        said, _ = process.communicate(timeout=120)
        if process.returncode == 0:
            return False
        assert process.returncode == -signal.SIGKILL, said
        return True

    def kill_after(self, seconds: float) -> bool:
        """Kill it after a while. False: it came to its end before."""
        process = self.start()
        try:
            said, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return True
        assert process.returncode == 0, said
        return False

    def finish(self) -> None:
        process = self.start()
        said, _ = process.communicate(timeout=240)
        assert process.returncode == 0, said

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


def random_kills(moving: Moving, rng: random.Random, kills: int) -> int:
    """Kill runs at random moments. Returns how many were alive then."""
    return sum(moving.kill_after(rng.uniform(0.8, 4.0)) for _ in range(kills))

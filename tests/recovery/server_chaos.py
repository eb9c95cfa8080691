"""Chaos over destinations in servers: a run with the faults of a seed, each connection through a proxy, and the rows that are there
in the end.

`make chaos` runs seeds over all of them; one alone: `python tests/recovery/server_chaos.py postgres --seed 7 --seeds 1`.
Always true: the rows are exactly those that the source makes, each once; each process ends by itself in a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from msgspec import Struct
from servers.s3 import KEYS
from servers.services import SERVICES

from dataflare.checkpoint.files import workflow_folder
from dataflare.checkpoint.runs import RunLog
from dataflare.errors import CheckpointError
from dataflare.jobs.chaos.chaos import problem_of
from dataflare.jobs.chaos.processes import Proxies, run
from dataflare.jobs.chaos.scenario import Scenario, Totals, drawn
from dataflare.sdk.injected_faults import Fault
from dataflare.testing import FaultProxy

ROWS = 3_000
TEXT = """\
name: chaos
settings:
  parallelism: 1
  checkpoint: {interval: INTERVAL}
  batch: BATCH
  restart: {attempts: 3, delay: 20ms}
sources:
  rows: {type: generate, config: {columns: {id: {sequence: 0}, g: {int: [0, 9]}}, rows: ROWS, rate: 4000/s}}
destinations:
  out:
    type: TYPE
    inputs: [rows]
    config: CONFIG
    error_handling: {retry_policy: {max_attempts: 4, initial_backoff: 20ms, max_backoff: 200ms}}
"""
_TOTALS = Totals(places=60, file_calls=30, calls=120, seconds=1.5, proxies=True)
_CLEAN_ATTEMPTS = 3
_TIMEOUT_S = 60.0


class ServedProxies(Proxies):
    """The proxies of a server that has its own, as one that tells its address needs."""

    def __init__(self, proxies: Iterable[FaultProxy]) -> None:
        super().__init__([])
        self._proxies = {("served", number): each for number, each in enumerate(proxies)}

    def __enter__(self) -> ServedProxies:
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on()


class Place(ABC):
    """Where a server's destination writes. server: of the tests' kit."""

    service: str
    type: str

    def __init__(self, server: Any) -> None:
        self.server = server

    def proxies(self, seed: int) -> Proxies:
        return Proxies([("127.0.0.1", self.port)], seed)

    @property
    def port(self) -> int:
        return int(self.server.port)

    def environment(self, proxies: Proxies) -> dict[str, str]:
        """Variables of the run."""
        return {}

    @abstractmethod
    def config(self, name: str, proxies: Proxies) -> Mapping[str, object]:
        """Of the destination. name: of a table of its own."""

    @abstractmethod
    def ids(self, name: str) -> list[int]:
        """Those of all rows that are there."""

    def _through(self, text: str, proxies: Proxies) -> str:
        return text.replace(f":{self.port}", f":{proxies.port(('127.0.0.1', self.port))}")


class Postgres(Place):
    service = type = "postgres"

    def config(self, name: str, proxies: Proxies) -> Mapping[str, object]:
        there = self._through(self.server.dsn(), proxies)
        return {"connection_string": there, "table": name, "connect_timeout": "3s"}

    def ids(self, name: str) -> list[int]:
        import psycopg

        with psycopg.connect(self.server.dsn()) as db:
            return [n for (n,) in db.execute(f"select id from {name}").fetchall()]


class MariaDb(Place):
    service, type = "mariadb", "mysql"

    def config(self, name: str, proxies: Proxies) -> Mapping[str, object]:
        there = self._through(self.server.dsn(), proxies)
        return {"connection_string": there, "table": name, "connect_timeout": "3s"}

    def ids(self, name: str) -> list[int]:
        with self.server.client("test") as db, db.cursor() as cursor:
            cursor.execute(f"select id from {name}")
            return [n for (n,) in cursor.fetchall()]


class Clickhouse(Place):
    service = type = "clickhouse"

    def config(self, name: str, proxies: Proxies) -> Mapping[str, object]:
        return {"connection_string": self._through(self.server.dsn(), proxies), "table": name}

    def ids(self, name: str) -> list[int]:
        return [int(line) for line in self.server.ask(f"select id from {name}").split()]


class Kafka(Place):
    service = type = "kafka"

    def proxies(self, seed: int) -> Proxies:
        return ServedProxies(broker.proxy for broker in self.server.brokers)

    def config(self, name: str, proxies: Proxies) -> Mapping[str, object]:
        self.server.create_topic(name)
        return {
            "bootstrap_servers": self.server.proxied,
            "topic": name,
            "guarantee": "exactly_once",
        }

    def ids(self, name: str) -> list[int]:
        sys.path.append(str(Path(__file__).parents[1] / "connectors" / "kafka"))
        from kafka_kit import contents

        values = [value for *_, value in contents(self.server.bootstrap, name, "read_committed")]
        return [json.loads(value)["id"] for value in values]


class S3(Place):
    service, type = "aws", "file"

    def environment(self, proxies: Proxies) -> dict[str, str]:
        endpoint = self._through(self.server.endpoint, proxies)
        return {**KEYS, "AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": "true"}

    def config(self, name: str, proxies: Proxies) -> Mapping[str, object]:
        self.server.client("s3").create_bucket(Bucket="chaos")
        return {"path": f"s3://chaos/{name}/", "format": "ndjson"}

    def ids(self, name: str) -> list[int]:
        client = self.server.client("s3")
        listed = client.list_objects_v2(Bucket="chaos", Prefix=f"{name}/").get("Contents", ())
        bodies = [client.get_object(Bucket="chaos", Key=e["Key"])["Body"].read() for e in listed]
        return [json.loads(line)["id"] for body in bodies for line in body.splitlines()]


PLACES: dict[str, type[Place]] = {
    "postgres": Postgres,
    "mariadb": MariaDb,
    "clickhouse": Clickhouse,
    "kafka": Kafka,
    "s3": S3,
}


class Outcome(Struct, frozen=True):
    """happened: how many faults happened, in so many processes. problem: what is wrong; empty if nothing is."""

    scenario: Scenario
    happened: int
    processes: int
    seconds: float
    problem: str = ""

    @property
    def faults(self) -> str:
        return "; ".join(", ".join(map(str, each)) for each in self.scenario.attempts)


def disturbed(place: Place, seed: int, folder: Path, name: str) -> Outcome:
    """The run of a seed. name: of a table, a topic or a folder that is not there."""
    scenario, started = drawn(seed, _TOTALS), time.monotonic()
    happened = processes = 0
    with place.proxies(seed) as proxies:
        home, file = folder / "home", folder / "chaos.yaml"
        file.write_text(_text(place, scenario, name, proxies))
        environment = {**place.environment(proxies), "DATAFLARE_HOME": str(home)}
        words = [sys.executable, "-m", "dataflare", "run", str(file), "--quiet"]
        problem = "it does not succeed any more"
        clean: Sequence[Sequence[Fault]] = ((),) * _CLEAN_ATTEMPTS
        for faults in (*scenario.attempts, *clean):
            attempt = run(words, folder, faults, proxies, environment, _TIMEOUT_S)
            happened, processes = happened + attempt.happened, processes + 1
            if (found := problem_of(attempt)) is not None:
                problem = found
                break
            if attempt.status == 0 or _has_finished(home):
                problem = _difference(place.ids(name))
                break
            problem = f"it does not succeed any more: {attempt.errors[-400:]}"
    return Outcome(scenario, happened, processes, time.monotonic() - started, problem)


def _text(place: Place, scenario: Scenario, name: str, proxies: Proxies) -> str:
    values = {
        "INTERVAL": scenario.settings["checkpoint.interval"],
        "BATCH": scenario.settings["batch"],
        "ROWS": str(ROWS),
        "TYPE": place.type,
        "CONFIG": json.dumps(place.config(name, proxies)),
    }
    text = TEXT
    for word, value in values.items():
        text = text.replace(word, value)
    return text


def _has_finished(home: Path) -> bool:
    """Whether the run has finished, although its process was killed."""
    try:
        current = RunLog(workflow_folder(home, "chaos")).current()
    except CheckpointError:
        return False
    return current is not None and current.finished


def _difference(ids: list[int]) -> str:
    if sorted(ids) == list(range(ROWS)):
        return ""
    lost = set(range(ROWS)) - {*ids}
    return f"{len(ids) - len({*ids})} rows are there twice, and {len(lost)} are missing: {sorted(lost)[:5]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("places", nargs="*", help=f"of {', '.join(PLACES)}; by default all")
    parser.add_argument("--seeds", type=int, default=20, help="how many, for each of them")
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    asked = parser.parse_args()
    failed = []
    os.environ.setdefault("TEST_SERVICES", "all")
    for name in asked.places or PLACES:
        made = PLACES[name]
        with ExitStack() as stack:
            place = made(stack.enter_context(SERVICES[made.service].server()))
            for seed in range(asked.seed, asked.seed + asked.seeds):
                with tempfile.TemporaryDirectory(prefix="dataflare-chaos-") as folder:
                    outcome = disturbed(place, seed, Path(folder), f"seed_{seed}")
                verdict = outcome.problem or "equal"
                print(
                    f"{name}, seed {seed}: {outcome.faults}: {outcome.happened} faults in "
                    f"{outcome.processes} processes, {outcome.seconds:.1f} s: {verdict}",
                    flush=True,
                )
                if outcome.problem:
                    failed.append(f"{name} --seed {seed}")
    print(f"not equal: {failed}" if failed else "all are equal")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

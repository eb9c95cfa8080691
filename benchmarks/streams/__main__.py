"""Streams, lakes and databases beside the same work by hand: `python -m benchmarks.streams [CASE ...]`.

Starts the servers of the tests, and installs those that are missing. Servers, DataFlare and references share this
machine's processors, so ratios count. Prints a table in Markdown.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from benchmarks.streams import databases, kafka, lakes, stores
from benchmarks.streams.case import Bench, Outcome
from benchmarks.streams.command import main

CASES: dict[str, Callable[[Bench], Outcome]] = {
    "kafka_json_to_parquet": kafka.json_to_parquet,
    "kafka_avro_to_parquet": kafka.avro_to_parquet,
    "kafka_to_kafka": kafka.to_kafka,
    "kafka_latency": kafka.latency,
    "kafka_to_postgres": databases.kafka_to_postgres,
    **lakes.CASES,
    "s3_to_s3": stores.s3_to_s3,
    "to_clickhouse": databases.to_clickhouse,
    "to_opensearch": databases.to_opensearch,
    "to_redis": databases.to_redis,
    "to_mariadb": databases.to_mariadb,
}


if __name__ == "__main__":
    sys.exit(main("benchmarks.streams", __doc__, CASES, sys.argv[1:]))

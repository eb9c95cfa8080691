"""Which outside system a step's config names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dataflare.sdk.places import system_of

SYSTEMS: list[tuple[str, dict[str, Any], str | None]] = [
    ("postgres", {"connection_string": "postgresql://me:pw@DB.example/shop"}, "db.example:5432"),
    ("postgres", {"connection_string": "postgres://db.example:5432/other"}, "db.example:5432"),
    ("postgres", {"connection_string": "host=db.example user=me dbname=shop"}, "db.example:5432"),
    ("postgres", {"connection_string": "host='db.example' port=6000"}, "db.example:6000"),
    ("postgres", {"connection_string": "postgresql://u:p@a:1,b:2/x"}, "a:1, b:2"),
    ("mysql", {"connection_string": "mysql://root@[::1]/x"}, "[::1]:3306"),
    ("mysql", {"connection_string": "mysql://root@[::1]:33/x"}, "[::1]:33"),
    ("http", {"url": "https://api.example.com/v1/orders?key=secret"}, "api.example.com:443"),
    ("http", {"url": "http://api.example.com/v2"}, "api.example.com:80"),
    ("kafka", {"bootstrap_servers": "b:9092,a:9092"}, "a:9092, b:9092"),
    ("kafka", {"connection": "a,b"}, "a:9092, b:9092"),
    ("nats", {"connection": ["nats://a:4222", "nats://b"]}, "a:4222, b:4222"),
    ("elasticsearch", {"connection": ["https://u:p@es.example"]}, "es.example:443"),
    ("redis", {"connection": "redis://:pw@cache/3"}, "cache:6379"),
    ("sqs", {"queue": "orders", "region": "eu-central-1"}, "sqs in eu-central-1"),
    ("sqs", {"queue": "orders", "endpoint": "http://localhost:4566"}, "localhost:4566"),
    ("file", {"path": "s3://bucket/in/*.csv"}, "s3://bucket"),
    ("file", {"path": "in.csv"}, None),
    ("generate", {"rows": 10}, None),
]


@pytest.mark.parametrize(("type_", "config", "system"), SYSTEMS)
def test_the_address_tells_systems_apart(
    type_: str, config: dict[str, Any], system: str | None
) -> None:
    assert system_of(type_, config, Path("/flows")) == system


def test_a_database_file_is_a_system_and_a_file_of_rows_is_not(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "shop.db")
    table = system_of("sqlite", {"path": "shop.db", "table": "orders"}, tmp_path)
    assert table == str((tmp_path / "shop.db").resolve())
    assert system_of("sqlite", {"path": "link.db", "query": "SELECT 1"}, tmp_path) == table

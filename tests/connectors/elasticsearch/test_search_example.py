"""The example runs as it stands, between real servers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from servers import services
from servers.opensearch import OpenSearch

from dataflare.jobs import RunOptions, run
from dataflare.jobs.workflow_test import run_test
from dataflare.workflow.load import load

EXAMPLE = Path(__file__).parents[3] / "examples" / "search" / "active_customers.yaml"


@pytest.fixture
def connections(opensearch: OpenSearch) -> Iterator[dict[str, str]]:
    """The variables of the example, for servers with something to read."""
    postgres, redis = services.running("postgres"), services.running("redis")
    database, keys = next(postgres), next(redis)
    with psycopg.connect(database.dsn(), autocommit=True) as connection:
        connection.execute(
            "create table customers (customer_id bigint primary key, name text, status text, updated_at timestamptz)"
        )
        connection.execute(
            "insert into customers select n, 'customer ' || n, case n % 3 when 0 then 'gone' else 'active' end, "
            "timestamptz '2026-01-01 00:00Z' + n * interval '1 minute' from generate_series(1, 3000) n"
        )
    client = keys.client()
    for n in range(1, 3001, 2):
        client.hset(f"customer:{n}", mapping={"category": "gold", "priority": n % 5})
    client.close()
    opensearch.ask("DELETE", "/customers")
    yield {
        "PG_CONNECTION": database.dsn(),
        "REDIS_CONNECTION": keys.url,
        "ES_CONNECTION": opensearch.url,
    }
    opensearch.ask("DELETE", "/customers")
    for server in (postgres, redis):
        server.close()


def test_customers_of_postgres_with_fields_of_redis_are_documents(
    opensearch: OpenSearch, connections: dict[str, str], tmp_path: Path
) -> None:
    workflow = load(EXAMPLE, environ={**os.environ, **connections})
    (case,) = workflow.tests
    assert run_test(workflow, case).passed
    options = RunOptions(tmp_path / "home")
    assert run(workflow, options).error is None
    found = opensearch.documents("customers")
    assert len(found) == 2_000
    assert found["2"] == {
        "customer_id": 2, "name": "customer 2", "status": "active",
        "updated_at": "2026-01-01T00:02:00Z", "category": None, "priority": None,
    }  # fmt: skip
    assert (found["7"]["category"], found["7"]["priority"]) == ("gold", 2)
    with psycopg.connect(connections["PG_CONNECTION"], autocommit=True) as connection:
        connection.execute(
            "update customers set name = 'renamed', updated_at = '2026-06-01 00:00Z' where customer_id = 7"
        )
    result = run(workflow, options)
    assert result.error is None
    assert result.to_json()["steps"]["crm"]["rows_out"] == 1
    found = opensearch.documents("customers")
    assert len(found) == 2_000
    assert found["7"]["name"] == "renamed"

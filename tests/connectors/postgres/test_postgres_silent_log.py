"""A server that keeps the connection of its log open and says nothing more."""

from __future__ import annotations

import pytest
from postgres_kit import Database
from proxy import Proxy

from dataflare.connectors.postgres.cdc import wire
from dataflare.connectors.postgres.config import PostgresConfig
from dataflare.connectors.postgres.connection import Server
from dataflare.errors import Retry, SystemError_


def _listen(replication: wire.Replication) -> None:
    while True:
        replication.receive(10, 1000, 0.02)


def test_a_silent_server_is_given_up_for_now_and_a_quiet_one_is_not(
    logical: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_ROUND_S", 0.05)
    monkeypatch.setattr(wire, "_SILENT_S", 1.0)
    logical.execute(
        "create publication p", "select pg_create_logical_replication_slot('s', 'pgoutput')"
    )
    port = logical.dsn.rpartition(":")[2].partition("/")[0]
    proxy = Proxy(int(port))
    dsn = logical.dsn.replace(f":{port}/", f":{proxy.port}/")
    replication = wire.Replication(Server.of(PostgresConfig(connection_string=dsn)), "test")
    try:
        replication.start("s", "p", 0)
        heard: set[float] = set()
        while len(heard) < 60:  # answers, for three times as long as a silent one has
            assert not replication.receive(10, 1000, 0.02).messages
            heard.add(replication._heard_at)
        proxy.going.clear()
        with pytest.raises(SystemError_, match="sent nothing for 1 s") as refused:
            _listen(replication)
        assert refused.value.retry is Retry.LATER
    finally:
        proxy.close()
        replication.close()

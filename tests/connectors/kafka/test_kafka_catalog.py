"""Which topics there are, as `connectors discover` asks for it."""

from __future__ import annotations

import asyncio

from kafka_kit import Place

from dataflare.jobs.catalog import discover
from dataflare.testing import check_catalog


def test_topics_with_the_columns_of_their_messages(place: Place) -> None:
    place.numbers(0, 10)
    empty = f"{place.topic}-empty"
    place.cluster.create_topic(empty, 1, {})
    sets = [("connection", place.cluster.bootstrap)]
    found = {f.entry.name: f for f in discover("kafka", sets, [f"{place.topic}*"]).found}
    assert [*found] == [place.topic, empty]
    full = found[place.topic]
    assert full.schema is not None
    assert (full.entry.kind, full.entry.rows, full.schema.names) == ("topic", 10, ("n", "text"))
    assert full.entry.config == {"topic": place.topic, "stop": "latest"}
    error = found[empty].error
    assert error is not None
    assert error.code == "E0405"


def test_the_catalogue_keeps_its_contract(place: Place) -> None:
    config = {"bootstrap_servers": place.cluster.bootstrap, "format": "raw"}
    found = asyncio.run(check_catalog("kafka", config))
    assert place.topic in found
    assert not [name for name in found if name.startswith("_")]

"""What is known of tables that are read again."""

from __future__ import annotations

from dataflare.connectors.postgres.cdc.place import Place, TablePlace
from dataflare.connectors.postgres.cdc.resyncing import Resyncs, states


def test_a_part_of_a_table_is_seen_only_where_the_table_is_very_large() -> None:
    resyncs = Resyncs(None, {}, {})
    resyncs.whole = {1}
    assert resyncs.may_cut(2, 10)
    assert not resyncs.may_cut(1, 10)
    assert not resyncs.may_cut(1, 1_000_000)
    assert resyncs.may_cut(1, 1_000_001)


def test_a_source_tells_of_its_own_requests() -> None:
    table = {"name": "t", "columns": []}
    tables = {
        1: TablePlace.from_json({**table, "resync": "a"}),
        2: TablePlace.from_json({**table, "resync": "b"}),
        3: TablePlace.from_json(table),
    }
    place = Place("slot", "publication", "system", 1, 0, tables)
    asked = {"shop.orders": "a", "other.orders": "b", "shop.items": "c"}
    assert states(place, asked, "shop") == {"shop.orders": ("a", "done")}

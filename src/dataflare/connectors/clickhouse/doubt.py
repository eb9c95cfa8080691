"""Whether the server still knows an INSERT again that may have been made. It never writes.

A server remembers the tokens of the last blocks that were inserted into a table, by any client, and a replicated
table for some time only. Each block that is inserted takes the next block number of its table, of a replicated one that of its
partition. So the numbers tell how many blocks came since.

Always true: where it is not certain that the token is remembered, it is taken to be forgotten.
"""

from __future__ import annotations

from msgspec import Struct

from dataflare.connectors.clickhouse.connection import Client, literal
from dataflare.connectors.clickhouse.errors import Refused
from dataflare.connectors.clickhouse.ledger import Doing
from dataflare.connectors.clickhouse.tables import Table

WINDOW = "non_replicated_deduplication_window"
_REPLICATED = "replicated_deduplication_window"
_SECONDS = "replicated_deduplication_window_seconds"
_DEFAULTS = {_REPLICATED: 100, _SECONDS: 3_600}
"""Of servers that do not say; the smallest that there were."""
_NO_RIGHT = 497


class Inserted(Struct, frozen=True):
    """blocks: how many block numbers a table has used, None where the user may not see it. at_ms: the server's time."""

    blocks: int | None
    at_ms: int


def inserted(client: Client, table: Table | None) -> Inserted:
    """table: None for one that is not there yet."""
    [[now_ms]] = client.rows("select toUnixTimestamp64Milli(now64(3))")
    if table is None:
        return Inserted(0, int(now_ms))
    try:
        rows = client.rows(
            "select max(max_block_number) from system.parts where "
            f"database = {literal(table.database)} and table = {literal(table.name)} group by partition_id"
        )
    except Refused as error:
        if error.number != _NO_RIGHT:
            raise
        return Inserted(None, int(now_ms))
    numbers = [int(number) for (number,) in rows]
    return Inserted(sum(numbers) if table.replicated else max(numbers, default=0), int(now_ms))


def forgotten(client: Client, table: Table | None, doing: Doing) -> str | None:
    """Why the server may not know the INSERT again; None where it does. A table that is not there has no rows of it."""
    if table is None:
        return None
    if table.replicated and doing.age_s >= _setting(client, table, _SECONDS):
        return f"the server was asked to insert them {doing.age_s:.0f} s ago, and does not know them again"
    now = inserted(client, table)
    if doing.blocks is None or now.blocks is None:
        return "it is not known how much was inserted since (the user needs SELECT on system.parts)"
    since = now.blocks - doing.blocks
    window = _setting(client, table, _REPLICATED if table.replicated else WINDOW)
    # Others may go on while it is sent again.
    if 0 <= since <= window - window // 10:
        return None
    if since < 0:
        return "parts of the table were dropped since the server was asked to insert them"
    return f"{since:,} blocks were inserted since, and the server knows the last {window:,} again"


def _setting(client: Client, table: Table, name: str) -> int:
    own = table.setting(name)
    if own is None:
        rows = client.rows(
            f"select value from system.merge_tree_settings where name = {literal(name)}"
        )
        own = str(rows[0][0]) if rows else str(_DEFAULTS.get(name, 0))
    return int(float(own))

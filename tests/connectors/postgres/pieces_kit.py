"""Transactions that the server sends in pieces, although they are small."""

from __future__ import annotations

from postgres_kit import Database

ROWS = 50
"""So many rows of `noise` are more than the server holds in memory."""
NOISE = f"insert into noise select repeat('x', 1500) from generate_series(1, {ROWS})"


def send_in_pieces(database: Database, *, by_trigger: str | None = None) -> None:
    """From now on, transactions with `NOISE` come in pieces. No publication has its rows. by_trigger: a table; some of
    the statements that change its rows write it."""
    name = database.dsn.rpartition("/")[2].partition("?")[0]
    database.execute(
        f"alter database {name} set logical_decoding_work_mem = '64kB'",
        "create table noise (x text)",
    )
    if by_trigger is not None:
        database.execute(
            f"create function noise() returns trigger language plpgsql as $$ begin "
            f"if random() < 0.3 then {NOISE}; end if; return null; end $$",
            f"create trigger noise after insert or update or delete on {by_trigger} for each statement "
            "execute function noise()",
        )


def streamed(database: Database) -> tuple[int, int]:
    """Of the slots of the database, how many transactions were sent in pieces, and how many pieces."""
    [(transactions, pieces)] = database.rows(
        "select coalesce(sum(stream_txns), 0)::int, coalesce(sum(stream_count), 0)::int from pg_stat_replication_slots "
        "join pg_replication_slots using (slot_name) where database = current_database()"
    )
    return transactions, pieces

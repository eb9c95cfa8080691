"""Where events of the log end."""

from __future__ import annotations

from dataflare.connectors.mysql.cdc.events import Assembler
from dataflare.connectors.mysql.cdc.place import Place
from dataflare.connectors.mysql.cdc.sql_text import Spelling

COMMIT = 16


def event(type_: int, end: int) -> bytes:
    """Events have the lowest 32 bits of the place behind them."""
    place = (end & 0xFFFFFFFF).to_bytes(4, "little")
    return bytes(4) + bytes([type_]) + bytes(8) + place + bytes(2) + bytes(8)


def test_a_file_of_the_log_may_be_longer_than_4_gib() -> None:
    limit = 1 << 32
    assembler = Assembler(Place("log.000001", limit - 100, {}), [], "server", Spelling())
    for end in (limit - 40, limit + 20, limit + 90, 2 * limit - 1, 2 * limit + 5):
        assembler.add(event(COMMIT, end))
        assert assembler.end.offset == end

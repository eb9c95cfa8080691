"""A table of a database as the store that writes it knows it."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from dataflare.model.types import DataType
from dataflare.sdk.sql.growth import Room
from dataflare.sdk.sql.store import Target
from dataflare.sdk.sql.tables import Table


class Ready(Struct):
    """A table that rows may go into. target: with the columns of all rows so far. types: by name.
    table: as it is now. keys: whether the table of keys exists. rooms: of its columns, once asked for."""

    target: Target
    table: Table
    types: dict[str, DataType]
    has_keys: bool = False
    rooms: Mapping[str, Room] | None = None

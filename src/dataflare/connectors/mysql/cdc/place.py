"""A place in the binary log, between two transactions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

_FILE = 1 << 40
"""The greatest size of a file of the log."""


class Place(Struct, frozen=True):
    """file: of the log; empty where only the transactions are known, as of another server. offset: the first byte that was
    not read. gtids: by replication domain, the id of the last transaction before it."""

    file: str
    offset: int
    gtids: Mapping[int, str]

    @property
    def order(self) -> tuple[int, int]:
        """By which places of one log are compared."""
        return int(self.file.rpartition(".")[2] or 0), self.offset

    @property
    def number(self) -> int:
        """The same as one number."""
        file, offset = self.order
        return file * _FILE + offset

    @property
    def gtid(self) -> str:
        """As the server writes it: 0-1-42,7-1-3."""
        return ",".join(self.gtids[domain] for domain in sorted(self.gtids))

    def __str__(self) -> str:
        return f"{self.file}:{self.offset}" if self.file else f"transaction {self.gtid}"

    def to_json(self) -> dict[str, Any]:
        return {"file": self.file, "offset": self.offset, "gtid": self.gtid}

    @property
    def by_gtid(self) -> Place:
        """The same place on any server that has these transactions."""
        return Place("", 0, self.gtids)

    @classmethod
    def of(cls, file: str, offset: int, gtid: str) -> Place:
        ids = [each.strip() for each in gtid.split(",") if each.strip()]
        return cls(file, offset, {int(each.partition("-")[0]): each for each in ids})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Place:
        return cls.of(data["file"], data["offset"], data["gtid"])

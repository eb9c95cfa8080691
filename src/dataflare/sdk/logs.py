"""Another power of a source: its server keeps a log for it, which is to be dropped when no run will read it again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, field


class KeptLog(Struct, frozen=True):
    """What a server keeps for a source. name: of the slot or the like. state: in words, such as 'active'. lost:
    whether changes are missing in it. position: before which it is given up; empty if there is none.
    kept_bytes: how much of the log is kept for it, None if that is not known. facts: what else there is to say. tables:
    those whose changes it gives, with their schemas."""

    name: str
    state: str
    lost: bool = False
    position: str = ""
    kept_bytes: int | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    tables: Sequence[str] = ()


class SupportsLog(ABC):
    """A source with this config may follow a log."""

    @abstractmethod
    async def kept_log(self, position: Mapping[str, Any]) -> KeptLog | None:
        """What the server keeps for it; None where the config follows no log. position: JSON of where the next run goes
        on; empty if none has run."""

    @abstractmethod
    async def drop_log(self) -> list[str]:
        """Let the server forget it, and say what was dropped: 'slot orders_slot'. Nothing where there is none. Raises an
        error while it is in use."""

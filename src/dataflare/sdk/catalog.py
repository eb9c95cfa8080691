"""Sources that say what there is to read in their system: its tables, topics or files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

from msgspec import Struct


class Entry(Struct, frozen=True):
    """One thing that a source could read. name: to show, and for patterns. kind: table, view, topic, file, files
    or folder.
    config: the options that choose it, with those that the user has given. rows: an estimate, None where it is not
    cheap to know."""

    name: str
    kind: str
    config: Mapping[str, Any]
    rows: int | None = None


class SupportsCatalog(ABC):
    """A source whose system can be asked what there is, before anything of it is chosen."""

    unchosen: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Values for options that choose what is read, where the config cannot be without them: {"table": "-"}."""

    @abstractmethod
    async def catalog(self) -> Sequence[Entry]:
        """What there is to read, with names that are different. Called on a description whose config may have the
        values of `unchosen`, which are not used. What belongs to the system itself, or to DataFlare, is left
        out. Raises an error for a system that cannot be asked."""

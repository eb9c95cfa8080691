"""Sources that say what there is to read in their system: its tables, topics or files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

from msgspec import Struct

from dataflare.errors import PlanError
from dataflare.model.patterns import is_pattern, matches
from dataflare.sdk.streams import TableName

_SHOWN = 20


class Entry(Struct, frozen=True):
    """One thing that a source could read. name: to show, and for patterns. kind: table, view, topic, file, files,
    folder, Delta table or Iceberg table.
    config: the options that choose it, with those that the user has given. rows: an estimate, None where it is not
    cheap to know. table, schema: its name in two parts, where the system has schemas."""

    name: str
    kind: str
    config: Mapping[str, Any]
    rows: int | None = None
    table: str = ""
    schema: str = ""

    @property
    def of(self) -> TableName:
        return TableName(self.table or self.name, self.schema)

    def fits(self, pattern: str) -> bool:
        """Whether a pattern is of its name or of its name with the schema; * and ? stand for other characters, and
        such a pattern is also of the table's name alone, in any schema."""
        names = (self.name, self.of.full, *([self.of.table] if is_pattern(pattern) else []))
        return any(matches(name, pattern) for name in names)


def chosen(
    entries: Sequence[Entry], patterns: Sequence[str], *, views: bool = False
) -> tuple[list[Entry], list[str]]:
    """The entries that a list of patterns leaves, in their order, and the patterns that match nothing. Each pattern
    adds what it matches, and one that begins with `!` takes that away; a list that begins with `!` begins with all.
    views: `*` matches views too; else a view is taken only by its name."""
    tables = [each for each in entries if views or each.kind != "view"]
    kept = {each.name for each in tables} if patterns[:1] and patterns[0][:1] == "!" else set()
    unmatched = []
    for pattern in patterns:
        if pattern.startswith("!"):
            kept -= {each.name for each in entries if each.fits(pattern[1:])}
            continue
        found = {e.name for e in (tables if is_pattern(pattern) else entries) if e.fits(pattern)}
        kept |= found
        unmatched += [] if found else [pattern]
    return [each for each in entries if each.name in kept], unmatched


def wanted(entries: Sequence[Entry], patterns: Sequence[str], step: str) -> list[Entry]:
    """The entries that the patterns of a source leave. Raises PlanError (E0341) if one of them matches nothing, or
    takes away by its name what is in another schema only."""
    kept, unmatched = chosen(entries, patterns)
    if kept and not unmatched:
        for pattern in patterns:
            if pattern.startswith("!") and (others := in_other_schemas(kept, entries, pattern[1:])):
                raise _elsewhere(pattern, others, step)
        return kept
    for pattern in unmatched:
        if others := in_other_schemas(entries, entries, pattern):
            raise _elsewhere(pattern, others, step)
    names = [each.of.full if each.schema else each.name for each in entries]
    subject = f"the pattern '{unmatched[0]}'" if unmatched else "what is left of 'tables'"
    raise PlanError(
        f"{subject} of source '{step}' matches no table",
        code="E0341",
        step=step,
        notes=[
            f"there are: {listed(names)}" if names else "its system has no table that can be read"
        ],
        help="* stands for any text, ? for one character; a pattern is of the table's name in any schema, or of schema.table",
    )


def in_other_schemas(these: Sequence[Entry], entries: Sequence[Entry], pattern: str) -> list[str]:
    """Those of some entries that have the name of a table which is not there in the default schema, with their
    schemas."""
    if is_pattern(pattern) or any(each.fits(pattern) for each in entries):
        return []
    return [each.of.full for each in these if each.of.table == pattern]


def _elsewhere(pattern: str, names: Sequence[str], step: str) -> PlanError:
    sign = "!" if pattern.startswith("!") else ""
    return PlanError(
        f"'{pattern}' of source '{step}' is not a table of the default schema",
        code="E0341",
        step=step,
        notes=[f"tables of this name are in other schemas: {listed(names)}"],
        help=f"write the schema: '{sign}{names[0]}', or '{sign}*.{pattern.removeprefix('!')}' for all of them",
    )


def listed(names: Sequence[str]) -> str:
    """Names for a message, which leaves out those that are too many."""
    more = len(names) - _SHOWN
    return ", ".join([*names[:_SHOWN], *([f"and {more} more"] if more > 0 else [])])


def named_below(path: str, tops: Sequence[str]) -> tuple[str, str]:
    """The name of a table that is a file or a folder, and as its schema the folders between it and the top: of
    `lake/crm/people-*.csv` below `lake`, people and crm."""
    path = path.removeprefix("./").rstrip("/")
    folders = [each for each in map(_folder_of, tops) if f"{path}/".startswith(each)]
    top = max(folders, key=len, default="")
    if len(path) < len(top):  # the top itself
        top = path[: path.rfind("/") + 1]
    *above, last = path[len(top) :].split("/")
    plain = last.partition(".")[0].replace("*", "").strip("-_ ")
    return plain or last, ".".join(folder for folder in above if folder)


def _folder_of(top: str) -> str:
    """The folders of a path in front of its first pattern, with a slash at the end."""
    parts = top.removeprefix("./").rstrip("/").split("/")
    fixed = next((at for at, part in enumerate(parts) if is_pattern(part)), len(parts))
    return "".join(f"{part}/" for part in parts[:fixed] if part != ".")


class SupportsCatalog(ABC):
    """A source whose system can be asked what there is, before anything of it is chosen."""

    unchosen: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Values for options that choose what is read, where the config cannot be without them: {"table": "-"}."""

    choosing: ClassVar[tuple[str, ...]] = ()
    """The options that choose one entry, where the config has others in their place: a folder, whose tables are
    entries. By default those of `unchosen`."""

    @classmethod
    def chosen_by(cls) -> tuple[str, ...]:
        return cls.choosing or tuple(cls.unchosen)

    @abstractmethod
    async def catalog(self) -> Sequence[Entry]:
        """What there is to read, with names that are different. Called on a description whose config may have the
        values of `unchosen`, which are not used. What belongs to the system itself, or to DataFlare, is left
        out. Raises an error for a system that cannot be asked."""

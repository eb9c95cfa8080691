"""The splits of a source that watches files: found by looking again, and known by their ids.

Always true: what is found follows from the ids of the splits that are known, so it is the same after a restart.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataflare.connectors.file.events import ObjectEvents
from dataflare.connectors.file.listing import list_files, one_format
from dataflare.connectors.file.names import FoundFile, format_of
from dataflare.connectors.file.segments import (
    Progress,
    Segment,
    progress_of,
    segment_of,
    version_id,
)
from dataflare.connectors.file.source_config import FileSourceConfig
from dataflare.connectors.file.survey import Survey, survey_files
from dataflare.connectors.file.watched_files import (
    Cutting,
    HeldFile,
    hold,
    moved,
    number_of,
    segments,
    settled,
)
from dataflare.errors import Blame, CheckpointError, ConfigError, RunError, SystemError_
from dataflare.formats.compression import NONE
from dataflare.formats.csv_read import CsvDialect
from dataflare.model.progress import Position, Split
from dataflare.model.types import Schema

if TYPE_CHECKING:
    from dataflare.connectors.file.source import FileSource


class Watch:
    """Of one source. survey: of the files that were there when it began."""

    def __init__(self, source: FileSource, survey: Survey) -> None:
        self._source, self._survey = source, survey
        self._facts: dict[tuple[int, int], dict[str, Any]] = {}
        events = source.config.events
        self._events = ObjectEvents(events, source.context.step) if events is not None else None
        self._given: set[str] = set()
        self._list_at = 0.0
        self.changed: list[str] = []
        """Files that were read and rewritten, and are ignored."""

    def find(self, ids: Iterable[str]) -> list[Split]:
        """The splits beside those with these ids. Blocking."""
        known = frozenset(ids)
        progress = progress_of(known)
        listed = self._list(self._told(known))
        texts = [file for file in listed if isinstance(file.path, Path)]
        splits: list[Split] = []
        for file in [*listed, *moved(progress, texts)]:
            if file.size:
                splits += self._of_file(file, progress)
        self._given = {split.id for split in splits}
        return splits

    def _told(self, known: frozenset[str]) -> Mapping[str, Collection[str]] | None:
        """What the bucket's events say of new objects; None for a look at all objects: the first one, one from time to time, and one
        after a run that went on without what the look before had given."""
        if self._events is None:
            return None
        told, now = self._events.take(), time.monotonic()
        if now < self._list_at and self._given <= known:
            return told
        assert self._source.config.events is not None
        self._list_at = now + self._source.config.events.listing
        return None

    def again(self, carried: Mapping[str, Any]) -> list[Split]:
        """The splits that an earlier run had begun and not read to their end."""
        splits = []
        for id_, place in carried["open"].items():
            segment = segment_of(id_)
            if segment is not None:
                path = self._source.context.base.absolute() / segment.path
                file = FoundFile(path, segment.path, segment.end, 0)
                split = self._segment(file, segment)
                splits.append(Split(id_, {**split.data, "start": place}, split.bytes_estimate))
        return splits

    def _list(self, only: Mapping[str, Collection[str]] | None) -> list[FoundFile]:
        config, context = self._source.config, self._source.context
        found: dict[str, FoundFile] = {}
        for pattern in config.paths:
            try:
                for file in list_files([pattern], context, config.format, config.storage, only):
                    found.setdefault(file.id, file)
            except SystemError_ as error:
                if error.code != "E0601":
                    raise
        if found:
            one_format([*found.values()], self._survey.format)
        return [*found.values()]

    def _of_file(self, file: FoundFile, progress: Progress) -> Iterator[Split]:
        settle = self._source.config.settle
        cutting = self._cutting(file, progress)
        if cutting is not None:
            for segment in segments(file, progress, cutting, settle):
                yield self._segment(file, segment)
            return
        if not settled(file, settle):
            return
        version = _version(file)
        known = progress.versions.get(file.id, [])
        if version in known or any(version in each for each in progress.versions.values()):
            return
        if known and self._is_ignored(file):
            return
        split = self._source.split_of(file, self._facts_of(file, 0), version_id(file.id, version))
        yield split

    def _is_ignored(self, file: FoundFile) -> bool:
        """What to do with a file that was read and is another one now. Raises RunError (E0808)."""
        changed = self._source.config.changed
        if changed == "error":
            raise RunError(
                f"{file.path} was read and has been rewritten since",
                code="E0808",
                blame=Blame.SYSTEM,
                step=self._source.context.step,
                notes=["rows of the old file are in the destination already"],
                help="put new rows in a new file; or set changed: read_again to read the whole file once "
                "more, or changed: ignore to pass it over",
            )
        return bool(changed == "ignore")

    def _cutting(self, file: FoundFile, progress: Progress) -> Cutting | None:
        """How to cut a file into segments; None for one that is read as a whole."""
        if self._survey.format not in ("csv", "ndjson") or not isinstance(file.path, Path):
            return None
        number = number_of(file.path)
        before = progress.last.get(number)
        facts = self._facts_of(file, before.generation if before is not None else 0)
        if facts.get("compression", NONE) != NONE or not _is_utf8(facts):
            return None
        if "dialect" not in facts:
            return Cutting()
        dialect = CsvDialect.from_json(facts["dialect"])
        if dialect.rewriting is not None:
            return None
        return Cutting(dialect.quote, dialect.delimiter, len(facts["own"]))

    def _segment(self, file: FoundFile, segment: Segment) -> Split:
        facts = self._facts_of(file, segment.generation)
        bounds = {"size": segment.end, "begins": segment.start}
        split = self._source.split_of(file, {**facts, **bounds}, segment.id)
        return Split(split.id, split.data, segment.end - segment.start)

    def _facts_of(self, file: FoundFile, generation: int) -> dict[str, Any]:
        """The facts that a survey finds of one file, with the source's types."""
        number = number_of(file.path) if isinstance(file.path, Path) else hash(file.path)
        key = number, generation
        facts = self._facts.get(key)
        if facts is None:
            facts = self._facts[key] = self._surveyed(file)
        return facts

    def _surveyed(self, file: FoundFile) -> dict[str, Any]:
        source, format_ = self._source, self._survey.format
        types = self._survey.schema

        def look(contract: Schema | None) -> dict[str, Any]:
            found = survey_files(
                [file],
                format_,
                source.config,
                source.context,
                contract,
                source.learned,
                adds_columns=True,
            )
            return found.facts[file.id]

        if format_ in ("ndjson", "json"):
            return look(types)
        own = look(None)["own"]
        return look(Schema(tuple(field for field in types if field.name in own)))


def nothing_yet(config: FileSourceConfig, contract: Schema) -> Survey:
    """The survey of a source whose first file is still to come."""
    formats = {format_of(path) for path in config.paths} - {None}
    format_ = config.format if config.format != "auto" else next(iter(formats), None)
    if format_ is None:
        raise ConfigError(
            "there is no file yet, and 'path' does not say the format of those to come",
            code="E0403",
            help="set 'format' to one of: csv, ndjson, json, parquet, arrow, excel",
        )
    return Survey([], format_, contract)


def carried_of(
    before: Mapping[str, Any] | None, positions: Mapping[str, Position]
) -> dict[str, Any]:
    """What the next run starts from: the ids that tell what was read, and where unread splits go on."""
    ids = {*(before["ids"] if before else ()), *positions}
    progress = progress_of(ids)
    kept = [segment.id for segment in progress.last.values()]
    kept += [version_id(path, each) for path, all_ in progress.versions.items() for each in all_]
    open_ = {
        id_: dict(position.value)
        for id_, position in positions.items()
        if (segment := segment_of(id_)) is not None and position.value["offset"] < segment.end
    }
    return {"ids": sorted(kept), "open": open_}


def held_file(source: FileSource, split: Split) -> HeldFile | None:
    """The file of a segment, held open; None if it is gone and changes are ignored. Raises CheckpointError
    (E0703)."""
    segment = segment_of(split.id)
    assert segment is not None
    held = hold(source.context.base.absolute() / segment.path, segment)
    if held is None and source.config.changed != "ignore":
        raise CheckpointError(
            f"{segment.path} was removed or truncated before its bytes {segment.start:,} to {segment.end:,} "
            "were read",
            code="E0703",
            step=source.context.step,
            help="put the old file back; or set changed: ignore, which leaves these rows out",
        )
    return held


def _is_utf8(facts: Mapping[str, Any]) -> bool:
    return str(facts.get("encoding", "utf-8")).lower() in ("utf-8", "utf8", "ascii")


def _version(file: FoundFile) -> str:
    """What tells a version of a whole file, whatever its name is."""
    if file.etag is not None or not isinstance(file.path, Path):
        return f"{file.etag or file.mtime_ns} {file.size} {file.id}"
    return f"{number_of(file.path):x} {file.size} {file.mtime_ns}"

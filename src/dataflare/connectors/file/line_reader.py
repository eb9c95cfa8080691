"""Read CSV, NDJSON and JSON files as chunks of whole records.

Always true: a chunk's position is the place after its last row; reading from there gives exactly
the rows that follow, or an error if the file has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import cache
from typing import TYPE_CHECKING

import msgspec
import polars as pl
from msgspec.structs import replace

from dataflare.connectors.file.errors import file_errors
from dataflare.connectors.file.reading import Added, FileFacts, salvaged, with_added
from dataflare.connectors.file.watching import watched_lines, watched_records
from dataflare.formats import line_chunks
from dataflare.formats.any_file import open_bytes
from dataflare.formats.checksum import BLOCK_BYTES, ReadChecksum
from dataflare.formats.compression import ByteStream
from dataflare.formats.csv_read import CsvPlan
from dataflare.formats.line_chunks import (
    FIRST_BYTES,
    LineChunks,
    LineNumbers,
    OverlongRecord,
)
from dataflare.formats.misread import raw_text
from dataflare.formats.records import regular
from dataflare.model.progress import Position
from dataflare.sdk.source import BadRow, BadRows, Chunk, ChunkReader, EndOfSplit, Salvaged
from dataflare.sdk.threads import in_thread

if TYPE_CHECKING:
    from dataflare.formats.ndjson_read import NdjsonPlan

_WORK_SHARE = 6
"""A text, its intermediate forms and its rows take about this many times the bytes of the text."""
_CHUNKS = 32
"""At least this many chunks fit into the budget: several are in progress at once, each with its
rows."""


class LineReader(ChunkReader):
    """CSV, NDJSON and JSON. Chunks are cut in a thread; the chunk's query parses them."""

    def __init__(
        self,
        facts: FileFacts,
        plan: CsvPlan | NdjsonPlan,
        body: int,
        position: Position | None,
        added: Added,
        output: Sequence[str],
        label: str,
        *,
        watch: bool = True,
        extra: Sequence[str] = (),
        memory: int,
        record_max: int,
        grows: bool = False,
    ) -> None:
        """watch: look for new fields. extra: columns of delimited text that are not in the source.
        memory: the run's budget; a small one makes small chunks. record_max: how many bytes a
        record may have. grows: a later run reads what is added to the file, so a last line that is not
        complete waits for it."""
        self._label, self._watch, self._extra = label, watch, tuple(extra) if watch else ()
        self._plan, self._added, self._output = plan, added, tuple(output)
        with file_errors(facts.path):
            self._facts = facts.now()
            if position is None and self._facts is not facts:
                self._facts.check_head(body)
            stream, checksum, offset = self._start(body, position)
        self._grows = grows and self._facts.is_plain
        self._may_wait = self._grows and not self._ends_line()
        self._unit = "row" if facts.is_array else "line"
        self._lines = LineNumbers(self._facts.stream)
        chunk_bytes = min(line_chunks.CHUNK_BYTES, max(memory // _CHUNKS, FIRST_BYTES))
        self._record_max = record_max
        if isinstance(plan, CsvPlan):
            quote, delimiter = plan.dialect.quote, plan.dialect.delimiter
            self._chunks = LineChunks(
                stream,
                offset,
                quote=quote,
                delimiter=delimiter,
                width=len(plan.columns),
                blank_rows=plan.blank_rows,
                numbers=plan.numbers,
                checksum=checksum,
                chunk_bytes=chunk_bytes,
                record_max=record_max,
                is_whole=self._is_record if self._grows else None,
            )
        else:
            self._chunks = LineChunks(
                stream,
                offset,
                checksum=checksum,
                chunk_bytes=chunk_bytes,
                record_max=record_max,
                is_whole=self._is_object if self._grows else None,
            )
        self._position = self._place()

    def _start(self, body: int, position: Position | None) -> tuple[ByteStream, ReadChecksum, int]:
        """The stream at the place to read from, the checksum of all bytes before it, and the place.
        A file with another size or time is read again from its start up to there, to check that it
        is the same."""
        begins = self._facts.begins
        if position is None:
            offset, value, start, touched = max(body, begins), None, begins, False
        else:
            offset, value = int(position.value["offset"]), str(position.value["check"])
            touched = not self._facts.is_untouched(position)
            start = begins if touched else offset - (offset - begins) % BLOCK_BYTES
        checksum = ReadChecksum(value if start > begins else None)
        stream = self._facts.stream(start)
        remaining, data = offset - start, b""
        while remaining:
            data = stream.read(min(remaining, BLOCK_BYTES))
            if not data:
                raise self._facts.changed("it is shorter than what was read of it")
            checksum.update(data)
            remaining -= len(data)
        if value is not None and checksum.value != value:
            same = "" if touched else ", though its size and time are the same"
            raise self._facts.changed(
                f"the rows that were read have other content, in bytes {start} to {offset}{same}"
            )
        if touched and offset > body and not data.endswith(b"\n"):
            return self._after_last_line(stream, checksum, offset)
        return stream, checksum, offset

    def _after_last_line(
        self, stream: ByteStream, seen: ReadChecksum, offset: int
    ) -> tuple[ByteStream, ReadChecksum, int]:
        """The same if the last line that was read had no line break. It is complete only if a line
        break or the end of the file follows."""
        following = stream.read(2)
        end = following if following == b"\r\n" else following[:1]
        if end not in (b"", b"\n", b"\r\n"):
            raise self._facts.changed("the last line that was read was not complete, and has grown")
        seen.update(end)
        stream.close()
        return self._facts.stream(offset + len(end)), seen, offset + len(end)

    def position(self) -> Position:
        return self._position

    def _place(self) -> Position:
        more = {"waits": True} if self._may_wait else {}
        return self._facts.position(offset=self._chunks.offset, check=self._chunks.checksum, **more)

    def _ends_line(self) -> bool:
        """Whether the file, as it was listed, ends with a line break."""
        with file_errors(self._facts.path), closing(open_bytes(self._facts.path)) as file:
            return file.read_at(max(self._facts.size - 1, 0), 1) in (b"\n", b"")

    def _is_record(self, data: bytes) -> bool:
        plan = self._plan
        assert isinstance(plan, CsvPlan)
        delimiter, quote = plan.dialect.delimiter, plan.dialect.quote
        return regular(data, delimiter, quote, len(plan.columns)) is not None

    def _is_object(self, data: bytes) -> bool:
        try:
            msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return not data.strip()
        return True

    async def read_chunk(self) -> Chunk:
        if self.bytes_max is not None:
            self._chunks.keep_below(self.bytes_max)
        chunk = await in_thread(self._next)
        if chunk is None:
            raise EndOfSplit
        return chunk

    def _next(self) -> Chunk | None:
        start = self._chunks.offset
        with file_errors(self._facts.path):
            chunk = self._chunks.next()
        if self._chunks.unfinished:
            self._note(
                f"{self._label}: the last line has no line break and is not complete: it waits for the next "
                "run"
            )
        if chunk is None:
            return None
        self._position = self._place()
        if isinstance(chunk, OverlongRecord):
            return self._overlong(chunk, start)
        plan, data = self._plan, chunk.data
        self._lines.pass_over(start, data)
        first_line = cache(lambda: self._lines.at(start))
        lines = cache(lambda: plan.lines(data, chunk.rows))

        def place_of(line: int) -> str:
            return f"{self._label} {self._unit} {first_line() + line}"

        def salvage() -> Salvaged:
            result = plan.salvage(data, place_of, chunk.rows)
            return salvaged(result, self._added, self._output)

        watches = {}
        if not isinstance(plan, CsvPlan) and self._watch:
            watches = watched_lines(plan, data, self._added, self._output, self._note_repeated)
        elif isinstance(plan, CsvPlan) and self._extra:
            watches = watched_records(plan, self._extra, data, self._added, self._output)

        def scan() -> pl.LazyFrame:
            if isinstance(plan, CsvPlan):
                rows = plan.scan(data, regular=chunk.regular)
            else:
                rows = plan.scan(data)
            return with_added(rows, self._added, self._output)

        return Chunk(
            scan=scan,
            position=self._position,
            key=start,
            num_bytes=len(data),
            work_bytes=len(data) * _WORK_SHARE,
            rows=lambda: chunk.rows,
            salvage=salvage,
            place=lambda row: place_of(lines()[row]),
            texts=lambda rows: plan.texts(data, rows),
            **watches,
        )

    def _note(self, warning: str) -> None:
        self.warnings = {**self.warnings, warning: 0}

    def _note_repeated(self, key: str) -> None:
        from dataflare.formats.json_values import repeated_key_warning

        self._note(repeated_key_warning(self._facts.path.name, key))

    def _overlong(self, record: OverlongRecord, start: int) -> Chunk:
        """A chunk of one bad row: it is longer than a record may be."""
        place = cache(lambda: f"{self._label} {self._unit} {self._lines.at(start)}")

        def scan() -> pl.LazyFrame:
            raise pl.exceptions.ComputeError("a record is too long")

        def salvage() -> Salvaged:
            message = (
                f"the row has {record.num_bytes:,} bytes, and resources.memory allows "
                f"{self._record_max:,} (a sixteenth of it, and at least 4 MiB)"
            )
            text = raw_text(record.data, record.num_bytes)
            bad = BadRows.of([BadRow(0, "E0560", message, text, place())])
            none = replace(self._plan.salvage(b"", str, 0), bad=bad)
            return salvaged(none, self._added, self._output)

        return Chunk(
            scan=scan,
            position=self._position,
            key=start,
            num_bytes=len(record.data),
            rows=1,
            salvage=salvage,
            place=lambda row: place(),
            texts=lambda rows: [record.data for _ in rows],
        )

    async def aclose(self) -> None:
        self._chunks.close()

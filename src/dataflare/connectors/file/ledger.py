"""Remember which files earlier runs have read, and detect changes of these files.

Always true: a file counts as read only while its beginning and its end are unchanged. If a file of
lines has grown, reading continues after the last line that was read, after a check that all bytes
before it are the same.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct, field

from dataflare.connectors.file.errors import file_errors
from dataflare.connectors.file.names import FoundFile
from dataflare.errors import Blame, RunError
from dataflare.formats.any_file import AnyFile, StoredFile, open_bytes
from dataflare.formats.checksum import BLOCK_BYTES, ReadChecksum, checksum
from dataflare.model.progress import Position
from dataflare.sdk.context import has_scheme

_PIECE_BYTES = 16 << 10
"""The checksum of a file covers this many bytes of its beginning and of its end."""
_GONE_MAX = 50_000
"""Files that are not listed any more are remembered too, in case they come back; at most this
many."""

Change = Literal["error", "read_again", "ignore"]


class ReadFile(Struct, frozen=True):
    """A file as it was when it was read. offset and check: how far a file of lines was read, and
    the checksum of all bytes up to there; None for other files, which cannot be continued."""

    size: int
    mtime_ns: int
    pieces: str
    offset: int | None = None
    check: str | None = None

    @classmethod
    def at(cls, position: Position) -> ReadFile | None:
        """From the last position of its reader. None if the position has no checksum."""
        place = position.value
        if "pieces" not in place:
            return None
        grows = place.get("offset") == place["size"] or place.get("waits", False)
        rest = (place["offset"], place["check"]) if grows else (None, None)
        return cls(place["size"], place["mtime_ns"], place["pieces"], *rest)


class Ledger(Struct, frozen=True):
    """The files that were read, by id."""

    files: Mapping[str, ReadFile] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Packed, because it is part of each checkpoint: about 50 bytes a file."""
        rows = [
            [id_, file.size, file.mtime_ns, file.pieces, file.offset, file.check]
            for id_, file in self.files.items()
        ]
        packed = zlib.compress(json.dumps(rows, separators=(",", ":")).encode(), 6)
        return {"files": len(rows), "ledger": base64.b64encode(packed).decode("ascii")}

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> Ledger:
        if not value:
            return cls()
        rows = json.loads(zlib.decompress(base64.b64decode(value["ledger"])))
        return cls({id_: ReadFile(*rest) for id_, *rest in rows})

    def with_positions(self, positions: Mapping[str, Position], base: Path) -> Ledger:
        """The ledger after a run that ended at these positions. base: the folder of the workflow."""
        read = {id_: file for id_, at in positions.items() if (file := ReadFile.at(at)) is not None}
        earlier = {id_: file for id_, file in self.files.items() if id_ not in read}
        surplus = len(earlier) - _GONE_MAX
        if surplus > 0:
            removed_ids = (id_ for id_ in earlier if has_scheme(id_) or not (base / id_).exists())
            oldest = sorted(removed_ids, key=lambda id_: earlier[id_].mtime_ns)[:surplus]
            earlier = {id_: file for id_, file in earlier.items() if id_ not in set(oldest)}
        return Ledger({**earlier, **read})


class UnreadFile(Struct, frozen=True):
    """A file to read. pieces: its checksum, for the ledger; start: the position to continue
    from."""

    file: FoundFile
    pieces: str
    start: Mapping[str, Any] | None = None


class ListingDiff(Struct):
    """The difference between a listing and the ledger. unread: files to read. read: how many files
    earlier runs have read. grown: how many have grown. ignored and reread: ids of rewritten
    files."""

    unread: list[UnreadFile] = field(default_factory=list)
    read: int = 0
    grown: int = 0
    ignored: list[str] = field(default_factory=list)
    reread: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        """Messages for the user."""
        notes = []
        if self.read:
            files_were = "1 file was" if self.read == 1 else f"{self.read:,} files were"
            notes.append(f"{files_were} read by earlier runs")
        if self.grown:
            files_have = "1 file has" if self.grown == 1 else f"{self.grown:,} files have"
            notes.append(f"{files_have} grown, and what was added is read")
        for names, treatment in ((self.ignored, "ignored"), (self.reread, "read again")):
            if names:
                others = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
                notes.append(f"rewritten since it was read, and {treatment}: {names[0]}{others}")
        return notes


def sort_files(
    files: Iterable[FoundFile], ledger: Ledger, changed: Change, step: str
) -> ListingDiff:
    """Compare files with the ledger. Raises RunError (E0808) for a file that was rewritten after it
    was read, unless `changed` is another option than error. Blocking."""
    diff = ListingDiff()
    for file in files:
        before = ledger.files.get(file.id)
        if before is None:
            diff.unread.append(UnreadFile(file, pieces_of(file.path, file.size)))
            continue
        trouble, start = _compare(file, before)
        if trouble is None and start is None:
            diff.read += 1
        elif trouble is None:
            diff.grown += 1
            diff.unread.append(UnreadFile(file, pieces_of(file.path, file.size), start))
        elif changed == "error":
            raise _rewritten(file, trouble, step)
        elif changed == "ignore":
            diff.ignored.append(file.id)
        else:
            diff.reread.append(file.id)
            diff.unread.append(UnreadFile(file, pieces_of(file.path, file.size)))
    return diff


def pieces_of(path: AnyFile, size: int) -> str:
    """The checksum of the beginning and the end of a file's first `size` bytes. Of a whole file in a
    store that gives its versions etags: the etag, which needs no request."""
    if isinstance(path, StoredFile) and path.etag is not None and size == path.size:
        return f"etag {path.etag}"
    with file_errors(path), closing(open_bytes(path)) as file:
        data = file.read_at(0, min(size, _PIECE_BYTES))
        if size > _PIECE_BYTES:
            start = max(_PIECE_BYTES, size - _PIECE_BYTES)
            data += file.read_at(start, size - start)
        return checksum(data)


def _compare(file: FoundFile, before: ReadFile) -> tuple[str | None, Mapping[str, Any] | None]:
    """Why a file is not the one that was read, or None. Then, if it has grown, the position to
    continue from."""
    if file.size < before.size:
        return f"it has {file.size:,} bytes, and had {before.size:,}", None
    has_etag = before.pieces.startswith("etag ")
    is_same = pieces_of(file.path, before.size) == before.pieces
    if has_etag and is_same:
        return None, None
    if not is_same and not (has_etag and before.check is not None and file.size > before.size):
        return "it begins or ends differently", None
    if (file.size, file.mtime_ns) == (before.size, before.mtime_ns):
        return None, None
    if before.check is None or before.offset is None:
        if file.size == before.size:
            return None, None
        return "it has grown, and only plain CSV and NDJSON files can go on where they ended", None
    return _after(file, before.offset, before.check)


def _after(file: FoundFile, offset: int, check: str) -> tuple[str | None, Mapping[str, Any] | None]:
    """The position after the rows that were read, if all bytes before it are the same."""
    checksum, ends_line = ReadChecksum(), True
    with file_errors(file.path), closing(open_bytes(file.path)) as opened:
        remaining = offset
        while remaining:
            data = opened.read_at(offset - remaining, min(remaining, BLOCK_BYTES))
            if not data:
                return "it is shorter than what was read of it", None
            checksum.update(data)
            remaining -= len(data)
            ends_line = data.endswith(b"\n")
        if checksum.value != check:
            return "the rows that were read have other content", None
        if file.size == offset:
            return None, None
        following = opened.read_at(offset, 2)
    if not ends_line:
        # The last row had no line break. It is whole only if the line break is what comes next.
        end = b"\r\n" if following == b"\r\n" else following[:1]
        if end not in (b"\n", b"\r\n"):
            return "the last line that was read was not complete, and has grown", None
        checksum.update(end)
        offset += len(end)
    place = {
        "offset": offset,
        "check": checksum.value,
        "size": file.size,
        "mtime_ns": file.mtime_ns,
    }
    return None, place


def _rewritten(file: FoundFile, why: str, step: str) -> RunError:
    return RunError(
        f"{file.path} was read by an earlier run and has been rewritten since: {why}",
        code="E0808",
        blame=Blame.SYSTEM,
        step=step,
        notes=["rows of the old file are in the destination already"],
        help="put new rows in a new file; or set changed: read_again to read the whole file once more, "
        "changed: ignore to pass it over, or new_only: false to read all files in each run; --fresh "
        "forgets what was read. If you fixed rows that had become dead letters, `dataflare dlq replay` "
        "brings these in; then set changed: ignore. Where it says that a step needs all of its rows at once, "
        "use --fresh",
    )


def reading_notes(new_only: bool | None, modes: Mapping[str, str | None]) -> Sequence[str]:
    """Which files a run reads and why, for `plan`. modes: as `SourceConnector.written_as`."""
    if new_only:
        return ("reads only files that earlier runs have not read: new_only is true",)
    others = {name: mode for name, mode in modes.items() if mode != "append"}
    if new_only is None and modes and not others:
        return ("reads only files that earlier runs have not read: its rows are appended",)
    appended = [name for name, mode in modes.items() if mode == "append"]
    if not appended:
        return ()
    names = ", ".join(f"'{name}'" for name in appended)
    why = "new_only is false"
    if new_only is None:
        name, mode = next(iter(others.items()))
        why = f"'{name}' is not appended to" + (f" (mode {mode})" if mode else "")
    return (f"reads all files in each run, and appends their rows to {names} each time: {why}",)

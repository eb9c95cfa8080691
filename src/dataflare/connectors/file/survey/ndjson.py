"""Files with one JSON object a line: keys and types that fit samples of the files."""

from __future__ import annotations

from collections.abc import Sequence

from dataflare.connectors.file.names import FoundFile
from dataflare.connectors.file.sampling import (
    HEAD_BYTES,
    PIECE_BYTES,
    compression_of,
    first_rows,
    head_of,
    is_utf8,
    later_pieces,
    sample_rows,
    tasters,
    text_encoding,
)
from dataflare.connectors.file.source_config import FileSourceConfig
from dataflare.connectors.file.survey.shared import Facts, Survey, schema_of
from dataflare.errors import DataError
from dataflare.formats import csv_sniff, ndjson_read
from dataflare.formats.any_file import AnyFile
from dataflare.formats.checksum import checksum
from dataflare.formats.compression import NONE
from dataflare.formats.json_values import repeated_key_of, repeated_key_warning
from dataflare.formats.ndjson_watch import with_learned
from dataflare.formats.records import cut
from dataflare.formats.text_types import TextColumn, with_contract
from dataflare.model.new_fields import Columns
from dataflare.model.types import Schema
from dataflare.sdk.stores.stored_file import fetched

_LINES_CHECKED = 2_000


def survey_ndjson(
    files: list[FoundFile], config: FileSourceConfig, contract: Schema | None, learned: Columns
) -> Survey:
    facts: dict[str, Facts] = {}
    samples: list[bytes] = []
    chosen = tasters(len(files))
    for number, file in enumerate(fetched(files, lambda each: each.path)):
        packed = compression_of(file, config)
        size = HEAD_BYTES if number == 0 else PIECE_BYTES if number in chosen else 16
        encoding = text_encoding(file.path, packed, config)
        head, ended = head_of(file.path, packed, encoding, size)
        body = len(csv_sniff.BOM) if head.startswith(csv_sniff.BOM) else 0
        facts[file.id] = {
            "compression": packed,
            "body": body,
            "head": checksum(head[:body]),
            "encoding": encoding,
        }
        if number not in chosen:
            continue
        head = head[body:]
        samples.append(
            first_rows(head[: cut(head, None, ",", ended=ended).end], sample_rows(config, number))
        )
        if number == 0 and packed == NONE and is_utf8(encoding) and not ended:
            samples += [b"\n".join(piece.split(b"\n")[1:-1]) for piece in later_pieces(file)]
    columns = json_columns(samples, files[0].path, contract, learned)
    for file in files:
        facts[file.id]["columns"] = [column.to_json() for column in columns]
    doubts = [doubt] if (doubt := repeated_key_doubt(samples, files[0].path)) else []
    return Survey(files, "ndjson", schema_of(columns), facts, doubts=doubts)


def repeated_key_doubt(samples: Sequence[bytes], path: AnyFile) -> str | None:
    """The warning for an object of the samples that has a key twice: only one value can be read."""
    for sample in samples:
        if (key := repeated_key_of(sample.split(b"\n")[:_LINES_CHECKED])) is not None:
            return repeated_key_warning(path.name, key)
    return None


def json_columns(
    samples: Sequence[bytes], path: AnyFile, contract: Schema | None, learned: Columns
) -> list[TextColumn]:
    """The columns of the samples, then those of the contract (a sample may lack a key), then those
    that earlier reads found."""
    columns = ndjson_read.sniff(samples)
    if not columns:
        check_lines(samples, path)
    if contract is not None:
        names = {column.name for column in columns}
        absent = [
            TextColumn(f.name, f.type, declared=True) for f in contract if f.name not in names
        ]
        columns = with_contract([*columns, *absent], contract)
    columns = with_learned(columns, learned)
    if not columns:
        raise DataError(
            f"{path} has no rows to find columns in",
            code="E0507",
            help="give the columns in 'schema', or leave the file out of 'path'",
        )
    return columns


def check_lines(samples: Sequence[bytes], path: AnyFile) -> None:
    """Raises DataError (E0503) if no line of the text is an object; the error names the probable
    format."""
    line = next(
        (line.strip() for each in samples for line in each.split(b"\n") if line.strip()), b""
    )
    if not line or line == b"{}":
        return
    text = line[:60].decode(errors="replace")
    if line.startswith(b"["):
        problem, help_ = (
            "contains a list, not an object a line",
            "set 'format: json' to read the list",
        )
    elif line.startswith(b"{"):
        problem = f"has no whole object on its first line: {text}"
        help_ = (
            "ndjson has each object on a line of its own; objects written over several lines are "
            "'format: json' where they stand in one list, and `jq -c . FILE` writes them a line each"
        )
    else:
        problem, help_ = (
            f"has lines that are not JSON objects: {text}",
            "set 'format' to the format of the file",
        )
    raise DataError(f"{path} {problem}", code="E0503", help=help_)

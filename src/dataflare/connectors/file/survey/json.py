"""JSON files: keys and types of their rows, or of the first rows of large files."""

from __future__ import annotations

from functools import partial

from dataflare.connectors.file.errors import file_errors
from dataflare.connectors.file.names import FoundFile
from dataflare.connectors.file.sampling import compression_of, text_encoding
from dataflare.connectors.file.source_config import FileSourceConfig
from dataflare.connectors.file.survey.ndjson import json_columns
from dataflare.connectors.file.survey.shared import Facts, Survey, schema_of
from dataflare.formats.any_file import AnyFile
from dataflare.formats.checksum import checksum
from dataflare.formats.compression import open_stream
from dataflare.formats.json_array import ArrayLines, not_an_object
from dataflare.model.new_fields import Columns
from dataflare.model.types import Schema
from dataflare.sdk.stores.stored_file import fetched

_SHARE_MIN = 64 << 10
_SAMPLE_MAX = 2 << 20
"""Decoded, a sample of short rows takes about 30 times as much memory."""


def survey_json(
    files: list[FoundFile],
    config: FileSourceConfig,
    contract: Schema | None,
    learned: Columns,
    bytes_max: int,
) -> Survey:
    """bytes_max: how much of the files is read at most. A field that comes first after that is a new one."""
    share = max(_SHARE_MIN, min(_SAMPLE_MAX, bytes_max) // len(files))
    samples: list[bytes] = []
    facts: dict[str, Facts] = {}
    for file in fetched(files, lambda each: each.path):
        packed = compression_of(file, config)
        encoding = text_encoding(file.path, packed, config)
        samples.append(_first_rows(file.path, packed, encoding, share))
        facts[file.id] = {"compression": packed, "encoding": encoding, "head": checksum(b"")}
    columns = json_columns(samples, files[0].path, contract, learned)
    for each in facts.values():
        each["columns"] = [column.to_json() for column in columns]
    return Survey(files, "json", schema_of(columns), facts)


def _first_rows(path: AnyFile, packed: str, encoding: str, bytes_max: int) -> bytes:
    """The first rows as lines of text. Raises DataError (E0503) for a list without any object."""
    with file_errors(path):
        stream = open_stream(
            path, packed, encoding=encoding, rewrite=partial(ArrayLines, path=path)
        )
        try:
            data = stream.read(bytes_max + 1)
        finally:
            stream.close()
    if len(data) > bytes_max:
        data = data[: data.rfind(b"\n") + 1]
    lines = data.split(b"\n")
    if any(lines) and not any(line.lstrip().startswith(b"{") for line in lines):
        raise not_an_object(f"{path}: item 1", lines[0])
    return data

"""JSON files, which are loaded whole: keys and types of all their rows."""

from __future__ import annotations

from pathlib import Path

from dataflare.connectors.file.errors import file_errors
from dataflare.connectors.file.listing import FoundFile
from dataflare.connectors.file.sampling import compression_of, text_encoding
from dataflare.connectors.file.source_config import FileSourceConfig
from dataflare.connectors.file.survey.ndjson import json_columns
from dataflare.connectors.file.survey.shared import Facts, Survey, schema_of
from dataflare.errors import DataError
from dataflare.formats import csv_sniff
from dataflare.formats.compression import open_stream
from dataflare.formats.table_read import json_rows
from dataflare.model.new_fields import Columns
from dataflare.model.types import Schema


def survey_json(
    files: list[FoundFile],
    config: FileSourceConfig,
    contract: Schema | None,
    learned: Columns,
    bytes_max: int,
) -> Survey:
    samples = [
        b"\n".join(load_json(f.path, compression_of(f, config), config, bytes_max)) for f in files
    ]
    columns = json_columns(samples, files[0].path, contract, learned)
    facts: dict[str, Facts] = {
        file.id: {
            "compression": compression_of(file, config),
            "columns": [column.to_json() for column in columns],
        }
        for file in files
    }
    return Survey(files, "json", schema_of(columns), facts)


def load_json(path: Path, packed: str, config: FileSourceConfig, bytes_max: int) -> list[bytes]:
    """A whole JSON file as a line of text for each row. Raises DataError (E0560) if it has more
    than `bytes_max` bytes, inflated."""
    with file_errors(path):
        stream = open_stream(path, packed, encoding=text_encoding(path, packed, config))
        try:
            data = stream.read(bytes_max + 1)
            if len(data) > bytes_max:
                raise DataError(
                    f"{path} has more than {bytes_max:,} bytes: a JSON file is read whole, and "
                    "resources.memory allows no more",
                    code="E0560",
                    help="write one object a line (ndjson), which is read piece by piece, or give more in "
                    "settings: {resources: {memory: ...}}",
                )
            return json_rows(data.removeprefix(csv_sniff.BOM), path)
        finally:
            stream.close()

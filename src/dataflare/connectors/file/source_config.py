"""The options of the `file` source."""

from __future__ import annotations

import codecs
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class FileSourceConfig(BaseModel):
    """Options of a `file` source."""

    model_config = ConfigDict(extra="forbid")

    path: str | list[str] = Field(
        description="A file, a folder, a glob, or a list of these; relative to the workflow's folder."
    )
    format: Literal["auto", "csv", "ndjson", "json", "parquet", "arrow", "excel"] = Field(
        "auto", description="What is in the files; auto goes by their names."
    )
    compression: Literal["auto", "none", "gzip", "zstd"] = Field(
        "auto",
        description="How text files are compressed; auto goes by their first bytes, whatever their names say.",
    )
    delimiter: str | None = Field(
        None, description="CSV: what stands between fields; a comma, or a tab for .tsv."
    )
    has_header: bool = Field(True, description="CSV: whether the first line names the columns.")
    null_values: list[str] = Field(
        default_factory=list, description="CSV: texts that mean NULL, beside an empty cell."
    )
    quote: str | None = Field('"', description="CSV: what encloses fields; null for nothing.")
    encoding: str = Field("utf-8", description="How text files encode characters.")
    columns: list[str] | None = Field(
        None, description="The columns to read, in this order; all when not given."
    )
    sheet: str | int | None = Field(
        None, description="Excel: the sheet by name or number from 1; the first when not given."
    )
    schema_sample_rows: int = Field(
        20_000, ge=1, description="How many rows of a sample the types of text files are found on."
    )
    file_column: str | None = Field(
        None, description="A column to add that holds the path of each row's file."
    )
    watch: bool = Field(False, description="Wait for new files without end.")

    @field_validator("path")
    @classmethod
    def _some_path(cls, value: str | list[str]) -> str | list[str]:
        if not value or (isinstance(value, list) and not all(value)):
            raise ValueError("is empty")
        return value

    @field_validator("null_values", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("delimiter", "quote")
    @classmethod
    def _one_character(cls, value: str | None) -> str | None:
        if value is not None and (len(value) != 1 or not value.isascii() or value in "\r\n"):
            raise ValueError("must be one ASCII character")
        return value

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            codecs.lookup(value)
        except LookupError as error:
            raise ValueError(f"is not a known encoding: {value}") from error
        return value

    @property
    def paths(self) -> list[str]:
        return [self.path] if isinstance(self.path, str) else self.path

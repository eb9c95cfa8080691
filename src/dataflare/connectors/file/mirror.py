"""`mode: mirror` of one file: the rows of a full read, each key once, and a limit on deleted rows.

The file is written anew as with `overwrite`, so rows that are gone from the source are gone from the file.
Before it is published, its keys are compared with those of the file that it replaces. Everything here
blocks: call it on a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
from msgspec import Struct

from dataflare.errors import DataError, DataFlareError
from dataflare.formats.text_write import python_row
from dataflare.model.types import Schema
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.delete_max import refuse_too_many
from dataflare.sdk.source import Chunk, ChunkReader, EndOfSplit

if TYPE_CHECKING:
    from dataflare.connectors.file.destination_config import FileDestinationConfig, Target


class Mirror(Struct, frozen=True):
    """target: the file to replace. key: the columns that identify a row. schema: of all columns."""

    target: Target
    config: FileDestinationConfig
    key: Sequence[str]
    schema: Schema
    step: str
    memory: int

    def check(self, staged: Path, left_out: int) -> int:
        """Raise DataError when a key comes twice (E0549), more rows than `delete_max` would be deleted
        (E0512), or any row would be and rows of the run failed before they came here (E0512). staged: the
        whole new file; left_out: how many failed. Returns how many rows are deleted."""
        new, path = self._keys(staged), self.target.path
        if new.is_duplicated().any():
            twice = python_row(new.filter(new.is_duplicated()))
            text = ", ".join(f"{name}={value}" for name, value in twice.items())
            raise DataError(
                f"{path} would have several rows with the key {text}: under mode mirror a key has one row",
                code="E0549",
                step=self.step,
                help=f"put a step before it: {{type: deduplicate, config: {{key: [{', '.join(self.key)}], "
                "keep: last}}",
            )
        if not path.exists():
            return 0
        old = self._old_keys(path)
        gone = old.join(new, on=list(self.key), how="anti", nulls_equal=True).height
        if gone and left_out:
            raise DataError(
                f"{path} has {gone:,} rows that did not come from the source, and {left_out:,} rows of "
                "this run failed and were left out: these may be the same",
                code="E0512",
                step=self.step,
                notes=["the file was not changed"],
                help="fix the rows that failed and run again; or set mode: overwrite, to have only the rows "
                "that come",
            )
        refuse_too_many(
            self.config.delete_max,
            missing=gone,
            total=old.height,
            place=str(path),
            step=self.step,
            note="the file was not changed",
        )

        return gone

    def _old_keys(self, path: Path) -> pl.DataFrame:
        try:
            return self._keys(path).unique()
        except DataFlareError as error:
            raise DataError(
                f"{path} cannot be compared with the rows that replace it: {error.message}",
                code="E0512",
                step=self.step,
                notes=["the file was not changed"],
                help="delete the file, or set mode: overwrite, to write it without the comparison",
            ) from error

    def _keys(self, path: Path) -> pl.DataFrame:
        return asyncio.run(self._read(path))

    async def _read(self, path: Path) -> pl.DataFrame:
        from dataflare.connectors.file.source import FileSource

        target, config = self.target, self.config
        options = {"path": str(path), "format": target.format, "new_only": False}
        if target.is_text:
            options["compression"] = target.compression
        if target.format == "csv":
            options |= {"delimiter": config.delimiter, "encoding": "utf-8", "decimal": "."}
            options["null_values"] = [config.null_value] if config.null_value else []
        context = ConnectorContext(self.step, path.parent, memory=self.memory)
        source = FileSource(FileSource.Config.model_validate(options), context)
        source.contract = self.schema.select(self.key)
        await source.schema()
        source = source.with_columns(self.key)
        frames = [pl.DataFrame(schema=self.schema.select(self.key).to_polars())]
        for split in await source.splits():
            reader = await source.open(split, None)
            assert isinstance(reader, ChunkReader)
            try:
                while True:
                    frames.append(_rows(await reader.read_chunk()))
            except EndOfSplit:
                pass
            finally:
                await reader.aclose()
        return pl.concat(frames)


def _rows(chunk: Chunk) -> pl.DataFrame:
    try:
        return chunk.scan().collect(engine="streaming")
    except pl.exceptions.PolarsError:
        if chunk.salvage is None:
            raise
        saved = chunk.salvage()
        for bad in saved.bad:
            raise DataError(
                f"{bad.place}: {bad.message}", code=bad.code, help="fix the row in the file"
            ) from None
        return saved.good

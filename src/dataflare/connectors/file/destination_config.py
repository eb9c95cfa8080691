"""The options of the `file` destination, and the target that they give for a path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Struct
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from dataflare.connectors.file.names import format_of
from dataflare.errors import ConfigError
from dataflare.formats.compression import NONE, split_extension
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.delete_max import DeleteMax
from dataflare.sdk.stores.options import StorageOptions, is_stored
from dataflare.sdk.stores.store import divided

_EXTENSIONS = {
    "csv": ".csv",
    "ndjson": ".ndjson",
    "json": ".json",
    "parquet": ".parquet",
    "arrow": ".arrow",
}
_TEXTS = ("csv", "ndjson", "json")
_INSIDE = {
    "parquet": ("zstd", ("none", "gzip", "zstd", "snappy", "lz4")),
    "arrow": ("none", ("none", "lz4", "zstd")),
}
"""By format: the compression of columns for `auto`, and all that are supported."""
_PACKED = {"gzip": ".gz", "zstd": ".zst"}


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class FileDestinationConfig(BaseModel):
    """Options of a `file` destination."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(
        min_length=1,
        description="A name with an extension is one file; otherwise it is a folder of parts. A path of this "
        "machine, or a URL (s3://bucket/orders/, az://container/orders/, gs://bucket/orders/, sftp://host/orders/, ftp://host/orders/).",
    )
    format: Literal["auto", "csv", "ndjson", "json", "parquet", "arrow"] = Field(
        "auto",
        description="The format to write; auto: by the file's extension, and parquet for a folder.",
    )
    compression: Literal["auto", "none", "gzip", "zstd", "snappy", "lz4"] = Field(
        "auto",
        description="auto: zstd for parquet, none for arrow; text by its name (.gz, .zst), else none. "
        "Parquet has all of these, Arrow zstd and lz4, text gzip and zstd.",
    )
    mode: Literal["append", "overwrite", "upsert", "mirror"] | None = Field(
        None,
        description="append, overwrite or mirror; the default is overwrite for one file and "
        "append for a folder. mirror is for one file: it is overwritten, keys must be unique, "
        "and delete_max limits how many rows may disappear.",
    )
    changelog: Literal["columns", "debezium"] | None = Field(
        None,
        description="columns: write changes as rows, with their kind (insert, update_before, update_after, delete) in "
        "the column _op; debezium: each change as Debezium writes it, with the row before and after (not in CSV). Not with mode "
        "mirror.",
    )
    key: Annotated[list[str], BeforeValidator(_listed, json_schema_input_type=str | list[str])] = (
        Field(
            default_factory=list, description="With mode mirror: the columns that identify a row."
        )
    )
    delete_max: DeleteMax = Field(
        0.2,
        description="With mode mirror: how many rows a run may delete because its source does not have them "
        "any more, as a share of the file (20%) or a count. More are an error, and the file stays.",
    )
    partition_by: list[str] = Field(
        default_factory=list,
        description="For a folder: columns whose values become folders, such as country=DE/.",
    )
    delimiter: str = Field(",", description="CSV: the character between fields.")
    header: bool = Field(True, description="CSV: whether the first line names the columns.")
    null_value: str = Field("", description="CSV: the text of NULL.")
    row_group_rows: int = Field(
        250_000,
        ge=1,
        description="Parquet, Arrow: the most rows in a row group or record batch.",
    )
    rows_per_part: int | None = Field(
        None, ge=1, description="For a folder: begin a new part after about this many rows."
    )
    part_bytes_max: int | None = Field(
        None, ge=1, description="For a folder: begin a new part after about this many bytes."
    )

    storage: StorageOptions | None = Field(
        None,
        description="For URLs: endpoint, region and credentials, where the environment does not have them.",
    )

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, value: str) -> str:
        if len(value) != 1 or not value.isascii() or value in '\r\n"':
            raise ValueError("must be one ASCII character")
        return value


class Target(Struct, frozen=True):
    """What to write and where. extension: of a part's published name. url: of a place in a store; path
    has its path then."""

    path: Path
    is_folder: bool
    format: str
    compression: str
    mode: str
    url: str | None = None

    @property
    def shown(self) -> str:
        return self.url if self.url is not None else str(self.path)

    @property
    def is_text(self) -> bool:
        return self.format in _TEXTS

    @property
    def extension(self) -> str:
        packed = _PACKED.get(self.compression, "") if self.is_text else ""
        return _EXTENSIONS[self.format] + packed


def target_of(config: FileDestinationConfig, context: ConnectorContext) -> Target:
    """The target of a config. Raises ConfigError for options that contradict each other."""

    def refuse(message: str, help_: str | None = None) -> ConfigError:
        return ConfigError(message, code="E0406", step=context.step, help=help_)

    if config.changelog is not None and config.mode == "mirror":
        raise refuse(
            f"'changelog: {config.changelog}' writes each change as a row, and mode 'mirror' has one row for each key",
            "use mode append or overwrite, or leave 'changelog' out",
        )
    if config.mode == "upsert":
        raise refuse(
            "mode 'upsert' is not for files, which cannot be updated by key",
            "write to a database; or use mode mirror for one file that is written anew from a full read",
        )
    if config.mode != "mirror":
        for option in ("key", "delete_max"):
            if option in config.model_fields_set:
                raise refuse(f"'{option}' is for mode 'mirror'", f"leave '{option}' out")
    url = config.path if is_stored(config.path) else None
    path = context.path(config.path) if url is None else Path(divided(url)[1])
    if url is None and "storage" in config.model_fields_set:
        raise refuse("'storage' is for URLs, and 'path' is a path of this machine", "leave it out")
    is_folder = config.path.endswith("/") or not path.suffix
    if config.mode == "mirror":
        _check_mirror(config, is_folder, refuse)
    format_: str | None = config.format
    if format_ == "auto":
        format_by_name = "parquet" if is_folder else format_of(path)
        if format_by_name not in _EXTENSIONS:
            raise refuse(
                f"the name '{path.name}' does not say a format that can be written",
                "end it in .parquet, .arrow, .csv, .ndjson or .json, or set 'format'",
            )
        format_ = format_by_name
    assert format_ is not None
    mode = config.mode or ("append" if is_folder else "overwrite")
    if url is not None and not is_folder and mode != "overwrite":
        raise refuse(
            f"mode '{mode}' is not for one file in a store, which can only be replaced",
            "use mode overwrite; to append, take the extension off the path and write a folder of parts",
        )
    if not is_folder:
        for option in ("partition_by", "rows_per_part", "part_bytes_max"):
            if getattr(config, option):
                raise refuse(
                    f"'{option}' is for a folder, and '{config.path}' is one file",
                    "take the extension off the path to write a folder of parts",
                )
        if mode == "append" and format_ not in ("csv", "ndjson"):
            raise refuse(
                f"a file of format {format_} cannot be appended to",
                "take the extension off the path to append parts to a folder"
                + (", or write ndjson" if format_ == "json" else ""),
            )
    if config.changelog == "debezium" and (format_ == "csv" or config.partition_by):
        what = "'partition_by'" if config.partition_by else "format csv"
        raise refuse(
            f"'changelog: debezium' writes each change as an object with the row inside, so it takes no {what}",
            "write ndjson, json, parquet or arrow, without 'partition_by'; or use changelog: columns",
        )
    packed = _compression(config, path, format_, refuse)
    return Target(path, is_folder, format_, packed, mode, url)


def _check_mirror(
    config: FileDestinationConfig, is_folder: bool, refuse: Callable[..., ConfigError]
) -> None:
    if is_folder:
        raise refuse(
            f"mode 'mirror' is for one file, and '{config.path}' is a folder of parts",
            "give the path an extension to write one file, or use mode overwrite",
        )
    if not config.key:
        raise refuse(
            "mode 'mirror' needs 'key': the columns that tell rows apart",
            "name these columns in 'key', or use mode overwrite",
        )
    if not config.header:
        raise refuse(
            "mode 'mirror' needs the names of the columns in the file, and 'header' is false",
            "leave 'header' out, or use mode overwrite",
        )


def _compression(config: FileDestinationConfig, path: Path, format_: str, refuse: object) -> str:
    assert callable(refuse)
    chosen: str = config.compression
    by_name = split_extension(path)[1] if path.suffix else NONE
    if format_ in _TEXTS:
        if chosen in ("snappy", "lz4"):
            raise refuse(f"compression '{chosen}' is for columns, not text", "use gzip or zstd")
        return by_name if chosen == "auto" else chosen
    default, supported = _INSIDE[format_]
    if chosen == "auto":
        chosen = default
    if chosen not in supported:
        raise refuse(
            f"compression '{chosen}' is not for {format_}", f"use one of: {', '.join(supported)}"
        )
    if format_ == "arrow" and by_name != NONE:
        raise refuse(
            "an Arrow file is not compressed as a whole",
            f"name it {path.stem}, and set 'compression' to zstd or lz4",
        )
    return "uncompressed" if chosen == "none" else chosen

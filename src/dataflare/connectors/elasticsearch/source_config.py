"""The options of a source of Elasticsearch or OpenSearch."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from dataflare.connectors.elasticsearch.config import ElasticsearchConfig, Names
from dataflare.model.units import Duration
from dataflare.sdk.many_tables import ManyTables
from dataflare.sdk.sql.config import Incremental

Metadata = Literal["id", "index", "routing", "version", "seq_no"]
_EXPRESSION = re.compile(r"-?[^A-Z\\/?\"<>| ,#]+")


class ElasticsearchSourceConfig(ElasticsearchConfig, ManyTables):
    chosen_by: ClassVar[str] = "index"
    index: Names = Field(
        min_length=1,
        description="the indexes, aliases, data streams or patterns to read: logs-*, or a list",
    )
    query: dict[str, Any] | None = Field(
        None, description="which documents, in the server's query language: {term: {status: open}}"
    )
    columns: list[str] = Field(
        default_factory=list, description="the fields to read; by default all"
    )
    metadata: list[Metadata] = Field(
        default_factory=list,
        description="what else to read of a document, as the columns _id, _index, _routing, _version, _seq_no",
    )
    incremental: Incremental | None = Field(
        None, description="read only documents that are new since the last run"
    )
    batch_size: int = Field(
        1_000, ge=1, le=10_000, description="how many documents to request at once"
    )
    slices: int | None = Field(
        None,
        ge=1,
        le=1_024,
        description="into how many parts each index is divided, which are read beside each other; by default one a "
        "shard. A number that is not a multiple of the shards is raised to the next one",
    )
    keep_alive: Duration = Field(
        300.0,
        ge=1,
        description="how long the server keeps the point in time that a run reads, after its last request; a run "
        "that was interrupted can be resumed as long",
    )

    @field_validator("index")
    @classmethod
    def _names(cls, value: list[str]) -> list[str]:
        for each in value:
            if not _EXPRESSION.fullmatch(each):
                raise ValueError(f"{each!r} cannot be the name of an index, or a pattern of names")
        return value

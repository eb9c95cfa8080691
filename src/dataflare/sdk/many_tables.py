"""The options by which a source with a catalogue reads many tables, topics, indexes or files, each as a stream.

The planner makes one source for each of them, whose config has the option that chooses it and neither of these.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _not_required(schema: dict[str, Any], class_: type[ManyTables]) -> None:
    """The option that chooses one is left out where 'tables' is given."""
    required = [name for name in schema.get("required", ()) if name != class_.chosen_by]
    schema.pop("required", None)
    if required:
        schema["required"] = required


class ManyTables(BaseModel):
    """A config inherits from it, and says which option chooses one table."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_not_required)

    chosen_by: ClassVar[str] = ""
    """The option that chooses one table; empty where 'tables' is beside that option."""
    chosen_as: ClassVar[str] = "-"
    """What that option is while nothing is chosen."""

    tables: Annotated[
        list[str] | None, BeforeValidator(_listed, json_schema_input_type=str | list[str])
    ] = Field(
        None,
        min_length=1,
        description="many of them, each a stream: names and patterns with * and ?; those that begin with ! are taken away",
    )
    per_table: dict[str, dict[str, Any]] | None = Field(
        None, description="with 'tables': options of single ones, by the name of the stream"
    )

    @model_validator(mode="before")
    @classmethod
    def _chosen_or_many(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if data.get("per_table") is not None and data.get("tables") is None:
            raise ValueError("'per_table' needs 'tables'")
        if data.get("tables") is None or not cls.chosen_by:
            return data
        if data.get(cls.chosen_by) is not None:
            raise ValueError(f"set one of '{cls.chosen_by}' and 'tables'")
        return {**data, cls.chosen_by: cls.chosen_as}

"""Questions in GraphQL: the body of a request, and the errors in an answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from dataflare.connectors.http.json_path import text_at
from dataflare.formats.json_values import BadJson, decode


class GraphqlQuery(BaseModel):
    """What is asked."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    query: str = Field(min_length=1, description="the question, with its variables declared")
    variables: dict[str, Any] = Field(
        default_factory=dict,
        repr=False,
        description="the values of its variables; parameters of paging and `incremental` are added to them",
    )

    def body(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {"query": self.query, "variables": {**self.variables, **params}}


def errors_in(content: bytes) -> str | None:
    """The messages of an answer's errors; None where it has none. An answer with errors may lack rows."""
    try:
        text = text_at(content, "$.errors")
        found = None if text is None else decode(text)
    except BadJson:
        return None
    if not found:
        return None
    each = found if isinstance(found, list) else [found]
    texts = [str(e.get("message", e)) if isinstance(e, dict) else str(e) for e in each]
    return "; ".join(texts)[:400]

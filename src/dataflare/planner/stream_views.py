"""One stream of a source with many tables, as a source of its own in the logical plan.

Always true: a view never reads. The physical plan makes one stage of all views of a source, and that stage
reads by the source itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from dataflare.errors import InternalError
from dataflare.model.progress import Position, Split
from dataflare.model.types import Schema
from dataflare.planner.graph import Graph, SourceNode
from dataflare.sdk.declarations import Declarations
from dataflare.sdk.places import Table
from dataflare.sdk.source import SourceCapabilities, SourceConnector, SplitReader, Stream


class StreamView(SourceConnector):
    """whole: the source that reads. stream: what of it this node of the plan is. siblings: the names of all streams
    of the source."""

    def __init__(self, whole: SourceConnector, stream: Stream, siblings: frozenset[str]) -> None:
        super().__init__(whole.config, whole.context)
        self.whole, self.stream, self.siblings = whole, stream, siblings
        self.type = whole.type  # type: ignore[misc]
        self.finds_new_fields = whole.finds_new_fields

    def capabilities(self) -> SourceCapabilities:
        stream = self.stream
        return replace(
            self.whole.capabilities(),
            changelog=stream.changelog,
            key=stream.key if stream.changelog else (),
            deletes_by_key=stream.deletes_by_key,
            leaves_out=stream.leaves_out,
        )

    async def schema(self) -> Schema:
        return self.stream.columns

    def primary_key(self) -> tuple[str, ...]:
        return self.stream.key

    def declarations(self) -> Declarations | None:
        return self.stream.declarations

    def reads_all(self) -> bool:
        return self.whole.reads_all()

    def carries(self) -> bool:
        return self.whole.carries()

    def is_incremental(self) -> bool:
        return self.whole.is_incremental()

    def table(self) -> Table | None:
        return None

    def effects(self) -> Sequence[str]:
        return self.whole.effects()

    def notes(self) -> Sequence[str]:
        return self.whole.notes()

    def findings(self) -> Mapping[str, str]:
        return self.whole.findings()

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        raise self._never("splits")

    async def open(self, split: Split, position: Position | None) -> SplitReader:
        raise self._never("open")

    def _never(self, call: str) -> InternalError:
        return InternalError(f"'{call}' of the stream {self.stream.name} of '{self.context.step}'")


Views = Sequence[tuple[SourceNode, StreamView]]


def streams_by_source(graph: Graph) -> dict[str, list[tuple[SourceNode, StreamView]]]:
    """By source with streams, the nodes of those that are read."""
    found: dict[str, list[tuple[SourceNode, StreamView]]] = {}
    for node in graph:
        if isinstance(node, SourceNode) and isinstance(node.connector, StreamView):
            found.setdefault(node.step, []).append((node, node.connector))
    return found


def reading(connector: SourceConnector, views: Views) -> SourceConnector:
    """What reads for a source's nodes: the source itself, which is told which of its streams are read."""
    if not views:
        return connector
    whole = views[0][1].whole
    whole.streams_known = views[0][1].siblings
    whole.streams_read = frozenset(view.stream.name for _, view in views)
    written_as = [view.written_as for _, view in views]
    whole.written_as = {name: mode for modes in written_as for name, mode in modes.items()}
    whole.not_truncated = {n: s for _, view in views for n, s in view.not_truncated.items()}
    whole.not_ranged = {n: s for _, view in views for n, s in view.not_ranged.items()}
    needs = [view.needs_unchanged for _, view in views]
    whole.needs_unchanged = {name: columns for each in needs for name, columns in each.items()}
    return whole

"""Find the step where the rows of dead letters enter again, and the workflow that begins there. Pure.

Always true: a letter has the row as it entered its step's chain of row steps (the part that runs as
one query), so it enters at the head of that chain in the current plan. A source's letter has the text of
its row: the row is read again, and goes to all steps that read the source.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from dataflare.model.batch import INSERTS
from dataflare.model.types import Schema
from dataflare.operators.python import PythonCall
from dataflare.operators.stamp import Stamp
from dataflare.planner.changelog import arriving_kinds, row_kinds
from dataflare.planner.graph import (
    BranchNode,
    DestinationNode,
    Graph,
    Node,
    Port,
    RowsNode,
    SourceNode,
    StatefulNode,
    UnionNode,
)
from dataflare.sdk.messages.letters import FIELDS, METADATA, RAW
from dataflare.workflow.form import reserved
from dataflare.workflow.graph import looked_up
from dataflare.workflow.model import DestinationStep, InputRef, SourceStep
from dataflare.workflow.nodes import SpotMap
from dataflare.workflow.settings import DeadLetter

if TYPE_CHECKING:
    from pathlib import Path

    from dataflare.workflow.model import AnyStep, Workflow

SOURCE = reserved("_replay")
"""The source of a replay's rows."""


class Feed(Struct, frozen=True):
    """first: the step that the rows enter, or the source that they come from. schema: their columns."""

    first: str
    schema: Schema


def feed_of(graph: Graph, step: str, columns: Iterable[str]) -> Feed | str:
    """Where a letter of a step with these columns enters. A text says why it cannot be replayed."""
    node = graph.nodes.get(step)
    feed: Feed | str
    if node is None:
        return f"the workflow has no step '{step}' any more"
    if isinstance(node, SourceNode):
        if not {RAW} <= set(columns) <= {RAW, METADATA, FIELDS}:
            return (
                f"source '{step}' wrote them, and they hold the values of their rows but not the text by which "
                "it finds a row again: fix the data, run the workflow again where it reads these rows once more, "
                "and throw the letters away with `dataflare dlq purge`"
            )
        feed = Feed(step, node.schema)
    elif isinstance(node, DestinationNode) and set(columns) == set(node.schema.names):
        feed = Feed(step, node.schema)
    elif isinstance(node, RowsNode | BranchNode):
        feed = _head(graph, node)
    elif isinstance(node, StatefulNode) and node.operator.spread and len(node.ports) == 1:
        feed = Feed(step, graph.schema(node.ports[0]))
    elif isinstance(node, DestinationNode) and len(node.ports) == 1:
        feed = _walk(graph, step, node.ports[0])
    else:
        return _whole(graph, step, step)
    if isinstance(feed, str):
        return feed
    for each in _behind(graph, feed.first):
        behind = graph.nodes[each]
        if isinstance(behind, StatefulNode) and not behind.operator.spread:
            return _whole(graph, behind.step, behind.id)
    if arriving_kinds(row_kinds(graph), graph.nodes[feed.first]) - INSERTS:
        return (
            f"step '{step}' receives changes, and their rows may have changed since: fix the cause, read the table again "
            "(`dataflare resync`, or a run with --fresh), and throw the letters away with `dataflare dlq purge`"
        )
    return feed


def _whole(graph: Graph, step: str, node: str) -> str:
    needs = f"step '{step}' needs all of its rows at once: "
    if reads_all_before(graph, node):
        return f"{needs}run the workflow again instead"
    return (
        f"{needs}fix the rows where they are read, and run the workflow with --fresh, which reads all rows again; "
        "empty a destination with mode append before, because it gets all rows again too"
    )


def _head(graph: Graph, node: RowsNode | BranchNode) -> Feed | str:
    """The head of the chain of a row step. A Python function receives the row directly."""
    if isinstance(node, RowsNode) and _is_python(node):
        return Feed(node.id, graph.schema(node.input))
    return _walk(graph, node.id, node.input)


def _walk(graph: Graph, first: str, port: Port) -> Feed | str:
    while True:
        before = graph.nodes[port.node]
        if len(graph.consumers(before.id)) != 1:
            break
        if isinstance(before, UnionNode) and any(_is_chained(graph, p) for p in before.ports):
            return f"they come through the union '{before.step}', and letters do not say from which input"
        if not isinstance(before, RowsNode) or _is_python(before) or _is_stamp(before):
            break
        first, port = before.id, before.input
    return Feed(first, graph.schema(port))


def _is_chained(graph: Graph, port: Port) -> bool:
    return isinstance(graph.nodes[port.node], RowsNode) and len(graph.consumers(port.node)) == 1


def _is_python(node: RowsNode) -> bool:
    return any(isinstance(operator, PythonCall) for operator in node.operators)


def _is_stamp(node: Node) -> bool:
    """Whether it gives the rows of a source their event time. The planner adds it."""
    return isinstance(node, RowsNode) and any(isinstance(each, Stamp) for each in node.operators)


def _behind(graph: Graph, first: str) -> set[str]:
    """A node and all nodes that its rows reach."""
    ids = {first}
    for node in graph:
        if any(port.node in ids for port in node.inputs):
            ids.add(node.id)
    return ids


def replaying(
    workflow: Workflow, graph: Graph, feed: Feed, rows: Path, *, letters: Path
) -> Workflow:
    """The part of the workflow behind a feed. It reads the rows from a file and adds them to the
    destinations. Its name is that of the file's folder. letters: the folder of local dead letters.

    It has no alerts, also none of `validate` rules about all rows: they are about a run of the workflow, and these are
    some rows of one."""
    step_names = {graph.nodes[each].step for each in _behind(graph, feed.first)}
    read_again = isinstance(graph.nodes[feed.first], SourceNode)
    local = DeadLetter(path=str(letters))

    empty: dict[str, SourceStep] = {}

    def own_input(ref: InputRef) -> InputRef:
        node = graph.nodes.get(str(ref)) or graph.nodes[ref.step]
        if read_again and node.id == feed.first:
            return InputRef(SOURCE, None if node.id == str(ref) else ref.output, ref.spot)
        if ref.step in step_names:
            return ref
        # No rows, and the columns that the steps behind it may name.
        name = reserved(f"_empty_{len(empty) + 1}")
        schema = node.outputs[None if node.id == str(ref) else ref.output]
        config = SpotMap({"rows": []})
        empty[name] = SourceStep(name=name, type="inline", config=config, schema=schema)
        return InputRef(name, None, ref.spot)

    def own(step: AnyStep) -> AnyStep:
        inputs = (
            (InputRef(SOURCE, None, step.spot),)
            if step.name == feed.first
            else tuple(own_input(ref) for ref in step.inputs)
        )
        more = {"max_errors": None, "dead_letter": step.error_handling.dead_letter or local}
        handling = step.error_handling.model_copy(update=more)
        return replace(step, inputs=inputs, error_handling=handling)

    steps = [
        own(step)
        for step in workflow.steps()
        if step.name in step_names and step.name not in workflow.sources
    ]
    tables = [looked_up(step) for step in steps]
    config = SpotMap({"path": str(rows), "format": "parquet"})
    checkpoint = workflow.settings.checkpoint.model_copy(update={"storage": None})
    source = SourceStep(name=SOURCE, type="file", config=config)
    first = graph.nodes[feed.first]
    stamps = (graph.nodes[port.node] for port in first.inputs)
    timed = first.step if read_again else next((s.step for s in stamps if _is_stamp(s)), None)
    if timed is not None:
        source = replace(source, event_time=workflow.sources[timed].event_time)
    more = {"mode": "auto", "guarantee": None, "checkpoint": checkpoint, "parallelism": 1}
    return replace(
        workflow,
        name=rows.parent.name,
        settings=workflow.settings.model_copy(update=more),
        sources={name: workflow.sources[name] for name in tables if name is not None}
        | {SOURCE: source}
        | empty,
        transformations={s.name: s for s in steps if s.name in workflow.transformations},
        destinations={s.name: _adding(s, graph) for s in steps if isinstance(s, DestinationStep)},
        alerts=(),
        notifiers={},
    )


def destinations(graph: Graph, feed: Feed) -> list[DestinationNode]:
    """Those behind a feed, in the plan's order."""
    behind = _behind(graph, feed.first)
    return [node for node in graph if isinstance(node, DestinationNode) and node.id in behind]


def overwritten(graph: Graph, feed: Feed) -> list[str]:
    """The destinations behind a feed whose content each run replaces."""
    return [node.id for node in destinations(graph, feed) if node.connector.replaces()]


def replaced_by_key(graph: Graph, feed: Feed) -> list[str]:
    """The destinations behind a feed in which a row takes the place of the one with its key, and cannot know which is newer."""
    return [
        node.step
        for node in destinations(graph, feed)
        if node.connector.keeps_last and node.connector.newest_by is None
    ]


def cannot_grow(graph: Graph, feed: Feed) -> str | None:
    """Why no row can be added to a destination behind a feed; None where rows can be added to all."""
    for node in destinations(graph, feed):
        reason = node.connector.cannot_add()
        if reason is not None:
            return f"destination '{node.step}' is {reason}: run the workflow again"
    return None


def reads_all(graph: Graph, feed: Feed) -> bool:
    """Whether each run reads all rows that may reach a feed."""
    return reads_all_before(graph, feed.first)


def reads_all_before(graph: Graph, id_: str) -> bool:
    """Whether each run reads all rows that may reach a node."""
    before = {id_}
    for node in reversed(list(graph)):
        if node.id in before:
            before.update(port.node for port in node.inputs)
    nodes = [graph.nodes[each] for each in before]
    return all(node.connector.reads_all() for node in nodes if isinstance(node, SourceNode))


def _adding(step: DestinationStep, graph: Graph) -> DestinationStep:
    node = graph.nodes[step.name]
    assert isinstance(node, DestinationNode)
    config = step.config
    for statements in ("before_sql", "after_sql"):
        # These statements are for whole runs; one may empty the table.
        config = config.without(statements)
    if node.connector.replaces():
        for option in ("mode", "key", "delete_max"):
            config = config.without(option)
        config["mode"] = "append"
    return replace(step, config=config)

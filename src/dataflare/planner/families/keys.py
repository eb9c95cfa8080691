"""The key of a step where the file names none: that of its source's table. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dataflare.errors import ConfigError
from dataflare.operators.history import History
from dataflare.operators.history_versions import VALID_FROM
from dataflare.planner.declared import reaching
from dataflare.planner.graph import Graph, Port, SourceNode, StatefulNode
from dataflare.planner.history_mode import STEP
from dataflare.sdk.declarations import Declaration, Declarations
from dataflare.workflow.model import DestinationStep, TransformationStep
from dataflare.workflow.nodes import SpotMap, spot_of

_KEYED = ("upsert", "mirror")


def lacks_key(step: DestinationStep, options: Mapping[str, Any]) -> bool:
    """Whether a destination's mode needs a key that its config does not name. options: of its connector."""
    return step.config.get("mode") in _KEYED and "key" in options and not step.config.get("key")


def with_key(
    step: DestinationStep | TransformationStep, graph: Graph, ports: list[Port]
) -> SpotMap:
    """The config with the key of the table that its rows are of. Raises ConfigError (E0404) where there is none."""
    keys = {_key(graph, port) for port in ports}
    if len(keys) == 1 and (key := keys.pop()):
        return keyed(step.config, key)
    table = step.name.partition(".")[2]
    help_ = "name it: key: [...]"
    if table:
        help_ = (
            f"name it: per_table: {{{table}: {{key: [...]}}}}, or let that table append: "
            f"per_table: {{{table}: {{mode: append}}}}"
        )
    raise ConfigError(
        f"the rows that reach '{step.name.replace(STEP, '')}' have no key: the table has none, or a step changes it",
        code="E0404",
        step=step.name,
        spot=step.spot_of("config", "mode"),
        help=help_,
    )


def key_of_versions(graph: Graph, ports: list[Port]) -> tuple[str, ...]:
    """The key of the versions that a `history` step gives; empty where the rows are not of one."""
    node = graph.nodes[ports[0].node]
    if len(ports) == 1 and isinstance(node, StatefulNode) and isinstance(node.operator, History):
        return (*node.operator.keys, VALID_FROM)
    return ()


def keyed(config: SpotMap, key: tuple[str, ...]) -> SpotMap:
    """The config with a key."""
    changed = config.without("key")
    changed.put("key", list(key), None, spot_of(config, "mode"))
    return changed


def _key(graph: Graph, port: Port) -> tuple[str, ...]:
    found = reaching(graph, port, _of_source)
    return found.key if found is not None else ()


def _of_source(node: SourceNode) -> Declarations:
    columns = {name: Declaration() for name in node.schema.names}
    return Declarations(node.type, columns, node.connector.primary_key())

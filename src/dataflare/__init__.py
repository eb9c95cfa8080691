"""DataFlare: data integration from one file, batch and streaming, exactly once.

The names in `__all__` are the Python API. Each is imported on first use, so that `dataflare.__version__`
is fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataflare.expr.own import Aggregate as Aggregate
    from dataflare.jobs.options import RunOptions as RunOptions
    from dataflare.jobs.preview import preview as preview
    from dataflare.jobs.result import RunResult as RunResult
    from dataflare.jobs.run import arun as arun
    from dataflare.jobs.run import run as run
    from dataflare.model.batch import SharedDataBatch as SharedDataBatch
    from dataflare.model.types import Schema as Schema
    from dataflare.planner import Plan as Plan
    from dataflare.planner import plan as plan
    from dataflare.sdk.destination import DestinationConnector as DestinationConnector
    from dataflare.sdk.lookup import LookupConnector as LookupConnector
    from dataflare.sdk.processor import Processor as Processor
    from dataflare.sdk.registry import register as register
    from dataflare.sdk.source import SourceConnector as SourceConnector
    from dataflare.workflow.dsl import Workflow as Workflow
    from dataflare.workflow.load import load as load

__version__ = "0.1.0"

_ROOMS = {
    "Aggregate": "dataflare.expr.own",
    "DestinationConnector": "dataflare.sdk.destination",
    "LookupConnector": "dataflare.sdk.lookup",
    "Plan": "dataflare.planner",
    "Processor": "dataflare.sdk.processor",
    "RunOptions": "dataflare.jobs",
    "RunResult": "dataflare.jobs",
    "Schema": "dataflare.model.types",
    "SharedDataBatch": "dataflare.model.batch",
    "SourceConnector": "dataflare.sdk.source",
    "Workflow": "dataflare.workflow.dsl",
    "arun": "dataflare.jobs",
    "load": "dataflare.workflow.load",
    "plan": "dataflare.planner",
    "preview": "dataflare.jobs",
    "register": "dataflare.sdk.registry",
    "run": "dataflare.jobs",
}

__all__ = [
    "Aggregate",
    "DestinationConnector",
    "LookupConnector",
    "Plan",
    "Processor",
    "RunOptions",
    "RunResult",
    "Schema",
    "SharedDataBatch",
    "SourceConnector",
    "Workflow",
    "__version__",
    "arun",
    "load",
    "plan",
    "preview",
    "register",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'dataflare' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_ROOMS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

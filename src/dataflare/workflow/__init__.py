"""The workflow file: YAML with places, variables, includes and overlays, settings, and its JSON Schema.

It connects to no system and imports no connector, operator or Polars. It depends on `errors`, `model`
and `security`. `load` is the entry point and returns a `Workflow`.
"""

from dataflare.workflow.bind import bind
from dataflare.workflow.load import load, load_text
from dataflare.workflow.model import (
    DestinationStep,
    InputRef,
    SourceStep,
    Step,
    TransformationStep,
    Workflow,
    WorkflowTest,
)
from dataflare.workflow.settings import ErrorHandling, EventTime, Settings

__all__ = [
    "DestinationStep",
    "ErrorHandling",
    "EventTime",
    "InputRef",
    "Settings",
    "SourceStep",
    "Step",
    "TransformationStep",
    "Workflow",
    "WorkflowTest",
    "bind",
    "load",
    "load_text",
]

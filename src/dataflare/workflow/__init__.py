"""The workflow file: YAML with places, variables, includes and overlays, settings, and its JSON Schema.

Never opens a system the workflow names, never imports a connector, an operator or Polars. Leans on
`errors`, `model` and `security`; `load` is the door, `Workflow` what comes out of it.
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

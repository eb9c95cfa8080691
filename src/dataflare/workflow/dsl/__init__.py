"""The Python DSL: a workflow written in Python, step by step, with completion in editors.

It builds the same model as a YAML file, with the same loader, and can be converted to a file and back.
Plans and runs are made by the public functions of `dataflare`.
"""

from __future__ import annotations

from dataflare.workflow.dsl.outcome import DrawnPlan, Outcome
from dataflare.workflow.dsl.streams import Stream
from dataflare.workflow.dsl.workflow import Workflow

__all__ = ["DrawnPlan", "Outcome", "Stream", "Workflow"]

"""The Python DSL: a workflow written in Python, step by step, with completion in editors.

Builds the same model as a YAML file, through the same loader, and turns into one and back. Never
runs anything itself: it asks the public names of `dataflare` for plans and runs.
"""

from __future__ import annotations

from dataflare.workflow.dsl.outcome import DrawnPlan, Outcome
from dataflare.workflow.dsl.streams import Stream
from dataflare.workflow.dsl.workflow import Workflow

__all__ = ["DrawnPlan", "Outcome", "Stream", "Workflow"]

"""A workflow of YAML as Python, and that as YAML again, has the same model and the same plan."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from random_flows import Drawn, workflows

from dataflare import Workflow, plan
from dataflare.workflow.dsl.source_code import to_python
from dataflare.workflow.load import load_text


@given(drawn=workflows())
@settings(max_examples=60, deadline=None)
def test_any_workflow_there_and_back_is_the_same(drawn: Drawn):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "w.yaml"
        file.write_text(drawn.file)
        code = to_python(Workflow.from_yaml(file))
    names: dict[str, Any] = {"__name__": "converted"}
    exec(compile(code, "converted.py", "exec"), names)
    in_python: Workflow = names["wf"]
    again = load_text(in_python.to_yaml())
    expected = plan(drawn.workflow).view()
    for made in (in_python.build(), again):
        assert made.to_json() == drawn.workflow.to_json()
        assert made.fingerprints() == drawn.workflow.fingerprints()
        assert plan(made).view() == expected

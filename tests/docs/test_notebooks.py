"""The notebooks of the examples run, in a real kernel, whose event loop runs already."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(path.name for path in EXAMPLES.glob("*.ipynb"))


def executed(name: str, folder: Path) -> list[dict[str, str]]:
    """What the code cells of a notebook show: by cell, its outputs by MIME type, and what it printed."""
    shutil.copytree(EXAMPLES / "data", folder / "data")
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    return [shown(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]


def shown(outputs: list[Any]) -> dict[str, str]:
    made: dict[str, str] = {}
    for output in outputs:
        made |= output.get("data", {})
        if output.output_type == "stream":
            made[output.name] = made.get(output.name, "") + output.text
    return made


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of its own for a kernel of this very Python."""
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    monkeypatch.delenv("DATAFLARE_HOME", raising=False)
    work = tmp_path / "work"
    work.mkdir()
    return work


def test_the_notebook_draws_its_plan_and_outcome_and_gives_frames(kernel: Path):
    _, plan, preview, outcome, frame, arrow, yaml = executed("notebook.ipynb", kernel)
    assert plan["image/svg+xml"].startswith("<svg")
    assert "by_sensor" in plan["image/svg+xml"]
    assert "exactly once" in plan["text/plain"]
    assert "294.65" in preview["text/plain"]

    told = outcome["text/html"]
    assert "finished" in told
    assert "dataflare dlq show notebook" in told
    assert "memory: outcome.frame(&#x27;totals&#x27;)" in told
    assert "<th style" in told
    assert "294.85" in frame["text/plain"]
    assert "kelvin: double" in arrow["text/plain"]
    assert "type: aggregate" in yaml["stdout"]
    assert (kernel / ".dataflare").is_dir()


def test_notebooks_are_kept_without_outputs_and_are_listed():
    listed = (EXAMPLES / "README.md").read_text()
    for name in NOTEBOOKS:
        notebook = nbformat.read(EXAMPLES / name, as_version=4)
        assert not [cell.id for cell in notebook.cells if cell.get("outputs")]
        assert f"[{name}]" in listed
    assert NOTEBOOKS == ["notebook.ipynb"], "a test for each"

"""Errors of a workflow in Python show their line; what only the process knows is not written down."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from optional_packages import package

from dataflare import Workflow
from dataflare.connectors.inline import InlineSource
from dataflare.errors import ConfigError, DataFlareError

SCRIPT = """\
from dataflare import Workflow
wf = Workflow("s")
rows = wf.source("rows", "inline", rows=[{"amount": 1}])
good = rows.filter("good", "amuont > 0")
good.to("out", "memory")
wf.run()
"""


def test_a_script_shows_the_line_under_the_traceback(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "s.py"], cwd=tmp_path, capture_output=True, text=True)
    tail = done.stderr[done.stderr.index("error[E0203]") :]
    assert "s.py:4:29" in tail
    assert 'good = rows.filter("good", "amuont > 0")' in tail
    assert "did you mean 'amount'?" in tail


def test_ipython_shows_it_too(tmp_path: Path) -> None:
    package("IPython")
    code = (
        "from IPython.core.interactiveshell import InteractiveShell\n"
        f"InteractiveShell.instance(colors='NoColor').run_cell({SCRIPT!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    told = done.stdout + done.stderr
    assert "error[E0203]" in told
    assert 'good = rows.filter("good", "amuont > 0")' in told[told.index("error[E0203]") :]


@pytest.mark.parametrize("use", ["build", "plan", "run", "preview"])
def test_each_use_points_it_out(use: str) -> None:
    wf = Workflow("w")
    wf.source("rows", "inline", rows=[{"a": 1}]).filter("f", "b > 0").to("out", "memory")
    if use == "build":
        wf.source("lost", "inline", rows=[{"a": 1}])
    with pytest.raises(DataFlareError) as caught:
        getattr(wf, use)(*(["f"] if use == "preview" else []))
    (note,) = caught.value.__notes__
    assert "test_errors_in_scripts.py:" in note


SCRIPT_WITH_A_FUNCTION = """\
from dataflare import Workflow
def add(frame):
    return frame
wf = Workflow("s")
wf.source("rows", "inline", rows=[{"a": 1}]).python("same", add).to("out", "blackhole")
print("noise")
"""


def test_a_function_of_the_script_is_not_written_down(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(SCRIPT_WITH_A_FUNCTION)
    command = [sys.executable, "-m", "dataflare", "convert", "s.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "error[E0408]" in done.stderr
    assert "same" in done.stderr


def test_a_function_of_a_module_is(tmp_path: Path) -> None:
    (tmp_path / "own_functions.py").write_text("def add(frame):\n    return frame\n")
    text = SCRIPT_WITH_A_FUNCTION.replace(
        "def add(frame):\n    return frame", "from own_functions import add"
    )
    (tmp_path / "s.py").write_text(text)
    command = [sys.executable, "-m", "dataflare", "convert", "s.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "function: 'own_functions:add'" in done.stdout
    assert "noise" not in done.stdout


class Registered(InlineSource):
    type = "registered_here"


def test_a_registered_class_is_not_written_down() -> None:
    wf = Workflow("w")
    wf.source("rows", Registered, rows=[{"a": 1}]).to("out", "blackhole")
    with pytest.raises(ConfigError, match="rows") as caught:
        wf.to_yaml()
    assert caught.value.code == "E0408"
    assert "type: python" in str(caught.value.help)

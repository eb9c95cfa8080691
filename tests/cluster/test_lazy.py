"""A run in one process does not pay for the cluster."""

from __future__ import annotations

import subprocess
import sys


def test_a_run_in_one_process_imports_nothing_of_the_cluster() -> None:
    code = (
        "import sys, dataflare.jobs, dataflare.cli.run\n"
        "print([name for name in sys.modules if name.startswith(('ray', 'pyarrow', 'dataflare.cluster.'))])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"

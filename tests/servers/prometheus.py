"""A real Prometheus for tests of metrics: it scrapes ports of this machine, judges rules, and is queried."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

from servers.process import ProcessServer, free_port, program, thrown_away

_CONFIG = """\
global: {{scrape_interval: 200ms, evaluation_interval: 200ms}}
rule_files: [{folder}/rules/*.yml]
scrape_configs:
  - job_name: dataflare
    file_sd_configs: [{{files: [{folder}/targets.json], refresh_interval: 200ms}}]
"""


class PrometheusServer(ProcessServer):
    """`url` says how to reach it. rules: files to judge, from the start on."""

    def __init__(self, folder: Path, binary: Path, rules: tuple[Path, ...] = ()) -> None:
        super().__init__(folder)
        self._binary, self.port = binary, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        (folder / "rules").mkdir()
        for rule in rules:
            (folder / "rules" / rule.name).write_bytes(rule.read_bytes())
        (folder / "prometheus.yml").write_text(_CONFIG.format(folder=folder))
        self.scrape()

    def command(self) -> list[str]:
        return [
            str(self._binary),
            f"--config.file={self.folder}/prometheus.yml",
            f"--storage.tsdb.path={self.folder}/data",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]

    def answers(self) -> bool:
        with (
            contextlib.suppress(URLError, ConnectionError),
            urlopen(f"{self.url}/-/ready", timeout=2),
        ):
            return True
        return False

    def scrape(self, *ports: int) -> None:
        """From now on, these."""
        targets = [{"targets": [f"127.0.0.1:{port}" for port in ports]}]
        part = self.folder / "part.json"
        part.write_text(json.dumps(targets))
        os.replace(part, self.folder / "targets.json")

    def api(self, path: str, **params: str) -> Any:
        with urlopen(f"{self.url}/api/v1/{path}?{urlencode(params)}", timeout=10) as answer:
            told = json.load(answer)
        assert told["status"] == "success", told
        return told["data"]

    def query(self, text: str) -> dict[tuple[tuple[str, str], ...], float]:
        """By labels, without those of the scrape, the values of now."""
        left_out = ("__name__", "instance", "job")
        return {
            tuple(sorted((k, v) for k, v in each["metric"].items() if k not in left_out)): float(
                each["value"][1]
            )
            for each in self.api("query", query=text)["result"]
        }


@contextlib.contextmanager
def server(*rules: Path) -> Iterator[PrometheusServer]:
    """A running server, removed afterwards. Raises pytest's own outcomes."""
    binary = program("Prometheus", "prometheus", "prometheus")
    with thrown_away(PrometheusServer, "prometheus", binary, rules) as made:
        yield made


def check_rules(*rules: Path) -> str:
    """What promtool says. Fails the test where it refuses them."""
    return _promtool("check", *rules)


def judge_rules(cases: Path) -> str:
    """What promtool says of rules that are judged over given series. Fails the test where one is not as it should be."""
    return _promtool("test", cases)


def _promtool(what: str, *files: Path) -> str:
    tool = program("promtool", "promtool", "prometheus")
    done = subprocess.run(
        [tool, what, "rules", *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

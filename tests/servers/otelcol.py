"""A real OpenTelemetry Collector for tests: it takes OTLP, and sends what it took on to a receiver, by OTLP over HTTP.

It is built from the collector's own modules (`collector/`), because it has no package in Debian.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from servers.fetch import go_program
from servers.process import ProcessServer, free_port, listens, thrown_away

_SOURCE = Path(__file__).parent / "collector"


class Collector(ProcessServer):
    """http and grpc: how to reach it. to: the receiver of what it took."""

    def __init__(self, folder: Path, binary: Path, to: str) -> None:
        super().__init__(folder)
        self._binary = binary
        ports = free_port(), free_port()
        self.grpc, self.http = f"grpc://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"
        self._ports = ports
        pipeline = {"receivers": ["otlp"], "exporters": ["otlp_http"]}
        config = {
            "receivers": {
                "otlp": {
                    "protocols": {
                        "grpc": {"endpoint": f"127.0.0.1:{ports[0]}"},
                        "http": {"endpoint": f"127.0.0.1:{ports[1]}"},
                    }
                }
            },
            "exporters": {
                "otlp_http": {
                    "endpoint": to, "compression": "none", "sending_queue": {"enabled": False},
                }
            },
            "service": {
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": {"traces": pipeline, "metrics": pipeline},
            },
        }  # fmt: skip
        (folder / "config.json").write_text(json.dumps(config))

    def command(self) -> list[str]:
        return [str(self._binary), f"--config=file:{self.folder}/config.json"]

    def answers(self) -> bool:
        return all(map(listens, self._ports))


@contextlib.contextmanager
def server(to: str = "http://127.0.0.1:9") -> Iterator[Collector]:
    """A running collector, removed afterwards. Raises pytest's own outcomes."""
    with thrown_away(Collector, "otelcol", go_program(_SOURCE), to) as made:
        yield made

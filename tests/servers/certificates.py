"""Certificates for the occasion."""

from __future__ import annotations

import subprocess
from pathlib import Path


def make_certificate(certificate: Path, key: Path, names: str = "DNS:localhost") -> None:
    """A certificate signed by itself. names: those it is good for, as openssl writes them."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=localhost", "-addext", f"subjectAltName={names}",
         "-keyout", str(key), "-out", str(certificate)], capture_output=True, check=True,
    )  # fmt: skip

"""The columns of the rows that the cases move, with their types."""

from __future__ import annotations

SHORT = {
    "id": "int64",
    "customer": "int64",
    "status": "string",
    "amount": "float64",
    "country": "string",
    "created_at": "timestamp",
    "sku": "string",
    "note": "string",
}
"""About 200 bytes as JSON or as Avro."""
TEXTS = tuple(f"text_{number:02}" for number in range(12))
WIDE = {**SHORT, **dict.fromkeys(TEXTS, "string")}
"""About 1 KB as JSON."""

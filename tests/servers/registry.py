"""A schema registry for tests, made from the public protocol of Confluent's: strict where that is.

Schemas are checked, ids are given once for equal texts, and a new version of a subject has to be compatible
(BACKWARD: the new schema reads what the old ones wrote). Avro is judged by fastavro.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import fastavro
from servers.web import Answer, Asked, HttpServer, http_server

_TYPES = ("AVRO", "JSON", "PROTOBUF")


@dataclass
class SchemaRegistry:
    """credentials: the header Authorization that each request needs. broken: answers to give instead, the
    next first."""

    credentials: str | None = None
    broken: list[Answer] = field(default_factory=list)
    schemas: list[dict[str, Any]] = field(default_factory=list)
    subjects: dict[str, list[int]] = field(default_factory=dict)

    def __call__(self, asked: Asked) -> Answer:
        if self.broken:
            return self.broken.pop(0)
        if self.credentials is not None and asked.headers.get("Authorization") != self.credentials:
            return _error(401, 40101, "Unauthorized")
        if asked.method == "POST" and "vnd.schemaregistry" not in asked.headers.get(
            "Content-Type", ""
        ):
            return _error(415, 415, "HTTP 415 Unsupported Media Type")
        path = asked.path
        if found := re.fullmatch(r"/schemas/ids/(\d+)", path):
            number = int(found[1])
            if asked.method != "GET" or not 1 <= number <= len(self.schemas):
                return _error(404, 40403, f"Schema {number} not found")
            return Answer(self.schemas[number - 1])
        if found := re.fullmatch(r"/subjects/([^/]+)(?:/versions(?:/(latest|\d+))?)?", path):
            return self._subject(asked, found[1], found[2])
        return _error(404, 404, "HTTP 404 Not Found")

    def _subject(self, asked: Asked, subject: str, version: str | None) -> Answer:
        ids = self.subjects.get(subject, [])
        if asked.method == "GET" and version is not None:
            if not ids:
                return _error(404, 40401, f"Subject '{subject}' not found.")
            number = len(ids) if version == "latest" else int(version)
            if not 1 <= number <= len(ids):
                return _error(404, 40402, f"Version {version} not found.")
            id_ = ids[number - 1]
            where = {"subject": subject, "version": number, "id": id_}
            return Answer(where | self.schemas[id_ - 1])
        if asked.method != "POST":
            return _error(405, 405, "HTTP 405 Method Not Allowed")
        schema = self._schema(asked.json())
        if schema is None:
            return _error(422, 42201, "Invalid schema")
        number = self.schemas.index(schema) + 1 if schema in self.schemas else 0
        if asked.path.endswith("/versions"):
            if number in ids:
                return Answer({"id": number})
            if any(not _reads(schema, self.schemas[each - 1]) for each in ids):
                return _error(
                    409, 409, f'Schema being registered is incompatible with subject "{subject}"'
                )
            if not number:
                self.schemas.append(schema)
                number = len(self.schemas)
            self.subjects.setdefault(subject, []).append(number)
            return Answer({"id": number})
        if not ids:
            return _error(404, 40401, f"Subject '{subject}' not found.")
        if number not in ids:
            return _error(404, 40403, "Schema not found")
        version_ = ids.index(number) + 1
        return Answer({"subject": subject, "version": version_, "id": number, **schema})

    def _schema(self, body: dict[str, Any]) -> dict[str, Any] | None:
        """What is kept of a request; None if it is not a schema."""
        if not isinstance(body.get("schema"), str) or not body.keys() <= {
            "schema", "schemaType", "references",
        }:  # fmt: skip
            return None
        type_ = body.get("schemaType", "AVRO")
        if type_ not in _TYPES:
            return None
        if type_ == "AVRO":
            try:
                _avro(body["schema"], [self.schemas[i - 1]["schema"] for i in self._referred(body)])
            except (ValueError, KeyError, TypeError, fastavro.schema.SchemaParseException):
                return None
        kept = {"schema": body["schema"]}
        if type_ != "AVRO":
            kept["schemaType"] = type_
        if body.get("references"):
            kept["references"] = body["references"]
        return kept

    def _referred(self, body: dict[str, Any]) -> list[int]:
        return [
            self.subjects[each["subject"]][each["version"] - 1]
            for each in body.get("references") or ()
        ]

    def add(self, subject: str, text: str, type_: str = "AVRO", references: Any = ()) -> int:
        """Register a schema without a request."""
        body: dict[str, Any] = {"schema": text, "schemaType": type_, "references": [*references]}
        answer = self._subject(
            Asked("POST", f"/subjects/{subject}/versions", {}, {}, json.dumps(body).encode()),
            subject,
            None,
        )
        assert answer.status == 200, answer.content
        id_: int = answer.content["id"]
        return id_


@contextmanager
def schema_registry(**options: Any) -> Iterator[tuple[SchemaRegistry, HttpServer]]:
    registry = SchemaRegistry(**options)
    with http_server(registry) as server:
        yield registry, server


def _error(status: int, code: int, message: str) -> Answer:
    return Answer({"error_code": code, "message": message}, status)


def _avro(text: str, references: list[str]) -> Any:
    named: dict[str, Any] = {}
    for each in references:
        fastavro.parse_schema(json.loads(each), named)
    return fastavro.parse_schema(json.loads(text), named)


def _reads(new: dict[str, Any], old: dict[str, Any]) -> bool:
    """Whether the new schema reads what the old one wrote: fastavro tries it with example values."""
    if (new.get("schemaType"), old.get("schemaType")) != (None, None):
        return new.get("schemaType") == old.get("schemaType")
    from fastavro.utils import generate_many

    writer, reader = _avro(old["schema"], []), _avro(new["schema"], [])
    try:
        for row in generate_many(writer, 3):
            out = io.BytesIO()
            fastavro.schemaless_writer(out, writer, row)
            out.seek(0)
            fastavro.schemaless_reader(out, writer, reader)
    except fastavro.read.SchemaResolutionError:
        return False
    return True

"""Elasticsearch and OpenSearch: documents of an index as rows, by the REST interface that both have.

Never shows credentials or a query string in a message, and never sends them to a server that the config does not name.
Depends on `sdk`, on the NDJSON of `formats`, and on httpx (the extra `elasticsearch`).
"""

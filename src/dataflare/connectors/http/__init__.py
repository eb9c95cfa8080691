"""Reads paged JSON APIs and calls webhooks.

Never shows a query string, a header or a credential in what it says: a URL stands there without them.
Leans on `sdk`, on the NDJSON of `formats`, and on httpx (the extra `http`).
"""

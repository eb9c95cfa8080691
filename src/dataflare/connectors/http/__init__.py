"""Reads paged JSON APIs and calls webhooks.

Never shows a query string, a header or a credential in a message: URLs are shown without them.
Depends on `sdk`, on the NDJSON of `formats`, and on httpx (the extra `http`).
"""

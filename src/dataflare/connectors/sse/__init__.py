"""Server-sent events as a source.

It depends on `sdk.push` for the log.
"""

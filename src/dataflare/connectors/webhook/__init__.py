"""Requests that others send over HTTP, as a source.

It answers with success only for what is on disk. It depends on `sdk.push` for the log.
"""

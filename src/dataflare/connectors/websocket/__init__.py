"""Messages of a WebSocket server, and messages to one.

It depends on `sdk.push` for the log of the source.
"""

"""Messages over TCP, UDP and Unix sockets.

It depends on `sdk.push` for the log of the source.
"""

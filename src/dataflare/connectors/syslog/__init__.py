"""Messages of syslog, over UDP, TCP, TLS and Unix sockets.

It depends on `sdk.push` for the log of the source.
"""

"""Lines of standard input, as messages.

It keeps nothing: what was read is not read again. It depends on `sdk.brokers` for messages.
"""

"""What the sources and destinations of message brokers share.

Messages are read in batches and decoded as columns; a broker is told that it may forget a message after a checkpoint
has the message, never before. It knows no broker: a connector brings a `Feed`. It depends on `sdk.messages` for the
bytes of messages.
"""

"""Topics of Apache Kafka, and of what speaks its protocol, as sources and destinations.

It assigns partitions itself and keeps its own positions; it never joins a consumer group. It depends on `sdk.messages`
for the bytes of messages.
"""

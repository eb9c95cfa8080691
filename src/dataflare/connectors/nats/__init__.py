"""NATS JetStream: streams as sources, by their sequence or as a durable consumer, and subjects as destinations.

It makes no streams. It depends on `sdk.brokers` and nats-py.
"""

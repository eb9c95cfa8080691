"""Apache Pulsar: topics as sources, by a subscription, and as destinations.

It makes subscriptions, and no topics of its own accord. It depends on `sdk.brokers` and pulsar-client.
"""

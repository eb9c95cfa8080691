"""RabbitMQ: queues and streams as sources, exchanges and queues as destinations.

It makes no queues and no exchanges. It depends on `sdk.brokers` and aiormq.
"""

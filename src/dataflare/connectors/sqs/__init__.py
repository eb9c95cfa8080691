"""Amazon SQS: queues as sources, whose messages are deleted after the checkpoint that has them, and as destinations.

It makes no queues. It depends on `sdk.brokers`, `sdk.aws` and boto3.
"""

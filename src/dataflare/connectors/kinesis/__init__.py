"""Amazon Kinesis Data Streams: shards as splits, read by their sequence numbers, and streams as destinations.

It makes no streams. It depends on `sdk.brokers`, `sdk.aws` and boto3.
"""

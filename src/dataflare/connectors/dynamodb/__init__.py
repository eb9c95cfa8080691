"""Amazon DynamoDB: tables read by parallel scans, and their changes from DynamoDB Streams.

It makes no tables and switches no stream on. It depends on `sdk.brokers`, `sdk.aws`, `formats.messages` and boto3.
"""

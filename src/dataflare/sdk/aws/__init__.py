"""What connectors to services of Amazon share: options, clients and errors.

It knows no service. It depends on botocore.
"""

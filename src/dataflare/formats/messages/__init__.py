"""The messages of brokers: bytes to rows and back, a whole batch in one call.

Never reads a network: the schemas of a registry come through a function that the caller gives. Never
decides what becomes of a bad message: it is data, with its bytes. Depends on the readers and writers of
`formats`.
"""

"""What operators remember: indexes for point access and logs of partial aggregates.

Never does I/O: state is immutable frames that a checkpoint may store, and never holds a Python object
per row. Depends on `model.hashing` for the key hash.
"""

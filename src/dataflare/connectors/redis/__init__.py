"""Redis: streams as sources; streams, lists, hashes and documents as destinations; a lookup of the fields of a key.

It never scans the keys of a server. It depends on `sdk`, `formats` and redis-py.
"""

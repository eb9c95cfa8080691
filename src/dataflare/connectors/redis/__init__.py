"""Redis: the fields of a key's hash or JSON document, asked by a lookup.

Never writes and never scans. Leans on `sdk`, `formats` and redis-py.
"""

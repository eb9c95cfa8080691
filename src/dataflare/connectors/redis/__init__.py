"""Redis: a lookup of the fields of a key's hash or JSON document.

Never writes and never scans. Depends on `sdk`, `formats` and redis-py.
"""

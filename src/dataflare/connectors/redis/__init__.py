"""Redis: a lookup of the fields of a key's hash or JSON document.

Never writes and never scans. Leans on `sdk`, `formats` and redis-py.
"""

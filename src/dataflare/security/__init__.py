"""Secrets: providers of their values, and the removal of these values from everything that is shown.

It never writes a secret and never puts one into an error. It depends on `errors` and `formats`.
Import from the submodules.
"""

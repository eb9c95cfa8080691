"""Retries of failed calls: how often, and when.

It does not decide which calls may be made twice; the engine does. It depends on `errors`, which say
whether a retry can help.
"""

"""Runs one workflow in several processes, on one machine or on many.

Never decides what a run may resume, and never changes what a plan computes: a run over many processes gives the rows of
one process. Depends on `engine` for tasks and channels.
"""

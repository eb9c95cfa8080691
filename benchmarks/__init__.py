"""Measure DataFlare beside the engines it is compared with, in the same run, on the same files.

Never reports a figure without its reference, and none whose results differ from the reference's. Leans
on DataFlare's command line only: what is measured is what users run.
"""

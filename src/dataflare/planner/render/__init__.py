"""Draw a plan: text, Mermaid, DOT and SVG, each a pure function from the plan's JSON view to text.

It does not read the plan's objects, files or the terminal, so it can draw a view from anywhere. It
depends on the standard library only.
"""

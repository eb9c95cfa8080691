"""Draw a plan: text, Mermaid, DOT and SVG, each a pure function from the plan's JSON view to text.

Never looks at a plan's objects, a file or the terminal, so that a view from anywhere can be drawn.
Leans on nothing but the standard library.
"""

"""Make one step for each table of the sources that read many, before anything is bound.

It asks these sources what they have, and rewrites the workflow: what is left knows nothing of families, except by
its names with a dot. It depends on the catalogues of `sdk` and on the step types of `operators`.
"""

from dataflare.planner.families.listing import Only, expanded, reads_many, stream_names_of

__all__ = ["Only", "expanded", "reads_many", "stream_names_of"]

"""Run a workflow many times with faults from a seed, and compare what it writes with an undisturbed run: `dataflare chaos`.

It writes to throwaway copies of the destinations only, and never to the places that the workflow names. It depends on
`jobs.diff` to compare, and runs `dataflare run` as processes of their own.
"""

from dataflare.jobs.chaos.chaos import Chaos, Outcome
from dataflare.jobs.chaos.processes import Command
from dataflare.jobs.chaos.scenario import attempts_of, attempts_text

__all__ = ["Chaos", "Command", "Outcome", "attempts_of", "attempts_text"]

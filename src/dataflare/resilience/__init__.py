"""What happens to calls that fail: retries, circuit breakers, and how waits end when the run stops.

It does not decide which calls may be made twice; the engine does. It imports `errors`, which say whether a retry can help,
`model` for durations, and `sdk` for injected faults and traces.
"""

"""Which steps may be new in the middle of a run."""

from __future__ import annotations

from types import SimpleNamespace as Fake

from dataflare.jobs.stream_tables import added_steps


def test_a_step_is_new_only_where_all_its_rows_are_of_new_tables() -> None:
    def step(name: str, *streams: str) -> Fake:
        return Fake(name=name, inputs=[Fake(step="shop", output=each) for each in streams])

    steps = [step("old", "a"), step("both", "a", "b"), step("new", "b"), step("all", "b", "c")]
    workflow = Fake(transformations={each.name: each for each in steps}, destinations={})
    source = Fake(streams_known={"a", "b", "c"}, streams_begun=lambda position: {"a"})
    plan = Fake(stages=[Fake(name="shop", source=source)])
    assert added_steps(workflow, plan, {"shop": [{}]}) == {"new", "all"}  # type: ignore[arg-type]

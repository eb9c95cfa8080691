"""Views of runs in the text format of Prometheus, by its own library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import CollectorRegistry

from dataflare.observability.table import METRICS, Metric
from dataflare.observability.times import LATENCY_BOUNDS_S, Histogram
from dataflare.observability.view import RunView


def exposed(runs: Sequence[RunView]) -> bytes:
    """All metrics of these runs."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Views(runs))
    return generate_latest(registry)


class _Views:
    """A collector, as the library calls it."""

    def __init__(self, runs: Sequence[RunView]) -> None:
        self._runs = runs

    def collect(self) -> Iterator[Any]:
        for metric in METRICS:
            yield _family(metric, self._runs)


def _family(metric: Metric, runs: Sequence[RunView]) -> Any:
    labels = ["workflow", *metric.labels]
    name = metric.name
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(name, metric.help, labels=labels)
        for run, values, value in _samples(metric, runs):
            assert isinstance(value, Histogram)
            histogram.add_metric([run.workflow, *values], _buckets(value), value.sum)
        return histogram
    made = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = made(name, metric.help, labels=labels)
    for run, values, value in _samples(metric, runs):
        assert not isinstance(value, Histogram)
        family.add_metric([run.workflow, *values], value)
    return family


def _samples(
    metric: Metric, runs: Sequence[RunView]
) -> Iterator[tuple[RunView, tuple[str, ...], float | Histogram]]:
    for run in runs:
        for values, value in metric.read(run):
            yield run, values, value


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Upper bounds with how many values are at or below each."""
    total, buckets = 0, []
    for bound, number in zip((*LATENCY_BOUNDS_S, None), histogram.counts, strict=True):
        total += number
        buckets.append(("+Inf" if bound is None else f"{bound:g}", float(total)))
    return buckets

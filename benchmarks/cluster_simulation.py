"""The checkpoint of a cluster that we do not have: `python -m benchmarks.cluster_simulation [measure | check]`.

    (nothing)   simulate 100 and 1,000 workers with 20,000 tasks, from the costs in `COSTS`
    measure     measure these costs on this machine, and print them
    check       measure them, simulate runs of 1 to 4 workers on this machine, and compare with real ones; exit status 1 if one
                differs by more than 20 %

It is a simulation of discrete events. A worker is one event loop, which does one thing after the other; workers have a
processor each, except in `check`, where all share those of this machine. What happens, as in the engine:

1. the job tells each worker to cut (`Cut`), and each asks its tasks;
2. a task without inputs cuts itself, and sends a barrier into each channel of its exchange; a task behind an exchange
   cuts when it has the barrier of each channel, stores its chunk, and sends its own barriers;
3. each task's share goes to the job as a message; beside them come the reports, four times a second;
4. with all shares the job makes the manifest, stores it and commits.

All stages exchange their rows with all tasks of the next one, which is the most barriers that there can be. To keep a
thousand workers quick, all barriers from one worker to another one of a stage are one event, whose cost is theirs together.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct, structs

from benchmarks.tasks import workflow

TOKEN = b"simulation"
REPORTS_PER_S, REPORTS_MAX_PER_S = 4.0, 6_000.0
"""Of a task, and of all: workers tell the job at most 4 MiB/s, and 700 bytes of a task."""
BAR_S, APART_MAX = 0.5, 0.2


class Costs(Struct, frozen=True):
    """Seconds of CPU of one event loop, except latency_s, store_s and chunk_s, which are waits.

    message_out, message_in: of a small message. share_out, share_in: of a task's share, with its counts. report_out,
    report_in: of one task in a report. mark_out, mark_in: of a barrier over a link; mark_local: of one that stays in its
    process. task: to cut a task. chunk_s: to store its chunk, on a thread beside the loop. manifest_task: of each task, at the job.
    store_s: of a manifest. latency_s: of the network. told_job, told_worker: to tell, and to read, a task
    with its channels, at the start."""

    message_out: float = 5.4e-6
    message_in: float = 5.8e-6
    share_out: float = 8.9e-6
    share_in: float = 10.5e-6
    report_out: float = 1.8e-6
    report_in: float = 1.9e-6
    mark_out: float = 2.6e-6
    mark_in: float = 5.1e-6
    mark_local: float = 1e-6
    task: float = 0.4e-3
    manifest_task: float = 4.3e-6
    store_s: float = 4e-3
    chunk_s: float = 0.7e-3
    latency_s: float = 0.2e-3
    told_job: float = 1.2e-6
    told_worker: float = 1.5e-6


COSTS = Costs()


class Outcome(Struct, frozen=True):
    """Of one checkpoint. barriers_s: until the last task is cut. shares_s: until the job has all shares. whole_s: until it is
    committed. job_s: CPU of the job's loop for it. reports: the part of that loop's time which reports take; with 1 and
    more it never catches up."""

    barriers_s: float
    shares_s: float
    whole_s: float
    job_s: float
    reports: float


def simulate(
    costs: Costs,
    workers: int,
    stages: int,
    parallelism: int,
    processors: int | None = None,
    *,
    chunks: bool = True,
) -> Outcome:
    """A checkpoint of `stages` * `parallelism` tasks. processors: that all processes share; None: one for each. chunks: each task
    has new state, which a worker stores one after the other."""
    tasks = stages * parallelism
    # Tasks of a stage go to the workers in turn.
    of_worker = np.array([len(range(n, parallelism, workers)) for n in range(workers)], float)
    slower = 1.0 if processors is None else max(1.0, min(workers, parallelism) / processors)
    told = min(tasks * REPORTS_PER_S, REPORTS_MAX_PER_S)
    reports = told * costs.report_in
    own = (1.0 - told / workers * costs.report_out) / slower
    if reports >= 1.0 or own <= 0.0:
        return Outcome(*[float("inf")] * 4, reports)
    free, stored = np.zeros(workers), np.zeros(workers)
    at_job: list[tuple[float, float]] = []
    events: list[tuple[float, int, int, bool]] = []
    job_s, barriers_s = 0.0, 0.0
    for worker in range(workers):
        job_s += costs.message_out
        free[worker] = job_s + costs.latency_s + costs.message_in / own
        heapq.heappush(events, (free[worker], worker, 0, True))
    arrived, last = np.zeros(stages), np.zeros((stages, workers))
    while events:
        now, worker, stage, cuts = heapq.heappop(events)
        mine = of_worker[worker]
        if cuts:
            # Its tasks of the stage have all barriers.
            work = mine * (costs.task + costs.share_out)
            if stage + 1 < stages:
                work += mine * mine * costs.mark_local
                work += mine * (parallelism - mine) * costs.mark_out
            free[worker] = done = max(free[worker], now) + work / own
            barriers_s = max(barriers_s, done)
            if mine:
                if chunks and stage:
                    stored[worker] = max(stored[worker], done) + mine * costs.chunk_s
                at_job.append((max(done, stored[worker]) + costs.latency_s, mine))
            if stage + 1 < stages:
                last[stage + 1, worker] = max(last[stage + 1, worker], done)
                heapq.heappush(events, (done + costs.latency_s, worker, stage + 1, False))
            continue
        # Its barriers arrive at all other workers.
        takes = mine * of_worker * costs.mark_in / own
        takes[worker] = 0.0
        free = np.where(takes > 0, np.maximum(free, now) + takes, free)
        last[stage] = np.maximum(last[stage], np.where(takes > 0, free, 0.0))
        arrived[stage] += 1
        if arrived[stage] == workers:
            for other in range(workers):
                heapq.heappush(events, (max(now, last[stage, other]), other, stage, True))
    job = job_s
    busy = 1.0 - reports
    for at, shares in sorted(at_job):
        job = max(job, at) + shares * costs.share_in / busy
        job_s += shares * costs.share_in
    job_s += tasks * costs.manifest_task
    whole = job + tasks * costs.manifest_task / busy + costs.store_s
    return Outcome(barriers_s, job, whole, job_s, reports)


# --- measured -------------------------------------------------------------------------------------


def cpu_s(call: Any, times: int) -> float:
    """Seconds of CPU of a call, the least of three turns."""
    turns = []
    for _ in range(3):
        began = time.process_time()
        for _ in range(times):
            call()
        turns.append((time.process_time() - began) / times)
    return min(turns)


def steady(stages: int, parallelism: int, interval: str) -> str:
    """The workflow of `benchmarks.tasks`, whose rows come at a low rate for as long as it runs."""
    made = workflow(stages, parallelism, 1_000_000)
    made["sources"]["rows"]["config"]["rate"] = "10/s"
    made["settings"]["checkpoint"]["interval"] = interval
    made["destinations"]["out"]["type"] = "blackhole"
    return json.dumps(made)


def _hand(tasks: list[str]) -> Any:
    """The job's side of a worker, whose messages come from nowhere."""
    from types import SimpleNamespace

    from dataflare.checkpoint.shared_store import SharedStore
    from dataflare.cluster.crew import _Hand
    from dataflare.engine.metrics import JobMetrics

    lost = asyncio.get_running_loop().create_future()
    link = SimpleNamespace(peer="worker", lost=lost, on_message=None)
    control = SimpleNamespace(share=lambda share: None)
    metrics = JobMetrics({"step7": "transformation"})
    store = SharedStore(Path(), "0f0e0d0c-0000-4000-8000-000000000000")
    hosted = SimpleNamespace(control=control, metrics=metrics, store=store, paces={})
    hand = _Hand(link, hosted, lambda what, arguments: None, lambda: None, lambda other: None)  # type: ignore[arg-type]
    stage = SimpleNamespace(name="step7")
    hand.add([SimpleNamespace(task=task, stage=stage) for task in tasks])  # type: ignore[misc]
    return hand


async def measured_orders(costs: Costs) -> Costs:
    """What it takes to make and to read the messages, without the link."""
    from dataflare.checkpoint.manifest import OperatorSnapshot, StateChunk
    from dataflare.cluster.orders import Cut, Report, Shared, TaskReport, packed, unpacked
    from dataflare.engine.hosting import TaskView
    from dataflare.engine.messages import Checkpoint, Share
    from dataflare.engine.metrics import JobMetrics
    from dataflare.model.progress import Barrier
    from dataflare.observability.times import Spent

    metrics = JobMetrics({"step7": "transformation"}).of_task("step7")
    metrics.step("step7").rows_in = 17
    chunk = StateChunk("step7-3-a1-0000000012-4.arrow", 17, 1200, "0123456789abcdef", (0, 31))
    snapshot = OperatorSnapshot(3, (chunk,), {"step": "step7"})
    cut_counts = {"step7": structs.replace(metrics.step("step7"))}
    shared = Shared(Share("step7[3]", 12, state=snapshot), cut_counts, metrics.counts)
    view = TaskView("step7[3]", 7, 0, 1200, {7: 17})
    told = [
        TaskReport(
            structs.replace(view, task=f"step7[{n}]"),
            {"step7": structs.replace(metrics.step("step7"))},
            Spent(),
            False,
            None,
            None,
        )
        for n in range(200)
    ]
    report = Report(told, {}, {}, {})
    cut = Cut(Checkpoint(Barrier(12)))
    body, told_body, cut_body = packed(shared), packed(report), packed(cut)
    hand = _hand([f"step7[{n}]" for n in range(200)])
    return structs.replace(
        costs,
        share_out=costs.share_out + cpu_s(lambda: packed(shared), 2000),
        share_in=costs.share_in + cpu_s(lambda: hand._heard(body), 2000),
        report_out=cpu_s(lambda: packed(report), 50) / 200,
        report_in=cpu_s(lambda: hand._heard(told_body), 50) / 200,
        message_out=costs.message_out + cpu_s(lambda: packed(cut), 2000),
        message_in=costs.message_in + cpu_s(lambda: unpacked(cut_body), 2000),
    )


CHANNELS, ROUNDS, MESSAGES = 500, 20, 20_000


async def reader() -> None:
    """The other process: reads messages, and barriers of channels into one inbox."""
    from dataflare.cluster.channels import Entry
    from dataflare.cluster.link import Link, LinkServer
    from dataflare.engine.backpressure import BackpressureController
    from dataflare.engine.channel import Inbox, MemoryBudget

    seen = 0
    began = time.process_time()
    reading: list[asyncio.Task[None]] = []

    async def read(link: Link) -> None:
        controller = BackpressureController(initial_credits=1000, max_credits=1000)
        box = Inbox("reader", controller, MemoryBudget(1 << 30, controller))
        for number in range(CHANNELS):
            Entry(link, number, box.channel())
        link.send_message(b"0")
        for _ in range(ROUNDS + 1):
            before = time.process_time()
            await box.next()
            link.send_message(repr(time.process_time() - before).encode())

    def on_link(link: Link) -> None:
        def heard(message: bytes) -> None:
            nonlocal seen, began
            if message == b"channels":
                reading.append(asyncio.ensure_future(read(link)))
                return
            if not seen:
                began = time.process_time()
            seen += 1
            if seen == MESSAGES:
                link.send_message(repr(time.process_time() - began).encode())

        link.on_message = heard

    server = LinkServer(TOKEN, "reader", on_link)
    print(json.dumps(await server.start()), flush=True)
    await asyncio.to_thread(sys.stdin.read)


async def measured_link(costs: Costs) -> Costs:
    """What the link takes for a message and for a barrier, in both processes."""
    from dataflare.cluster.channels import RemoteChannel
    from dataflare.cluster.link import Link
    from dataflare.model.progress import Barrier

    words = [sys.executable, "-m", "benchmarks.cluster_simulation", "reader"]
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdin is not None
    try:
        host, port = json.loads(child.stdout.readline())
        link = await Link.connect((host, port), TOKEN, "writer")
        answers: asyncio.Queue[bytes] = asyncio.Queue()
        link.on_message = answers.put_nowait
        body, before = bytes(800), time.process_time()
        for number in range(MESSAGES):
            link.send_message(body)
            if number % 100 == 99:
                await link.written()
        message_in = float(await answers.get()) / MESSAGES
        message_out = (time.process_time() - before) / MESSAGES
        link.send_message(b"channels")
        channels = [RemoteChannel(link, number) for number in range(CHANNELS)]
        await answers.get()
        outs, ins = [], []
        for epoch in range(1, ROUNDS + 2):
            before = time.process_time()
            for channel in channels:
                channel.put(Barrier(epoch))
            await link.written()
            outs.append((time.process_time() - before) / CHANNELS)
            ins.append(float(await answers.get()) / CHANNELS)
        await link.aclose()
    finally:
        child.stdin.close()
        child.wait(30)
    return structs.replace(
        costs,
        message_out=message_out,
        message_in=message_in,
        share_out=message_out,
        share_in=message_in,
        mark_out=statistics.median(outs[1:]),
        mark_in=statistics.median(ins[1:]),
    )


def measured_store(costs: Costs, folder: Path) -> Costs:
    """What a manifest takes, for each task and for itself."""
    from dataflare.checkpoint.manifest import Manifest, OperatorSnapshot, StateChunk
    from dataflare.checkpoint.store import LocalStore

    lineage = "0f0e0d0c-0000-4000-8000-000000000000"
    store = LocalStore(folder / "store", lineage)

    def publish(tasks: int, epoch: int) -> tuple[float, float]:
        shares = tuple(
            OperatorSnapshot(n, (StateChunk(f"s-{n}-a1-1-1.arrow", 17, 1200, "0" * 16, (0, 31)),))
            for n in range(tasks)
        )
        manifest = Manifest(
            lineage=lineage, run_id="run", attempt=1, epoch=epoch, created_at="", final=False,
            fingerprints={}, sources={}, operators={"s": shares}, committables={}, counters={},
        )  # fmt: skip
        wall, cpu = time.perf_counter(), time.process_time()
        store.publish(manifest)
        return time.perf_counter() - wall, time.process_time() - cpu

    few = [publish(10, epoch) for epoch in range(1, 12)]
    many = [publish(2010, epoch) for epoch in range(12, 23)]
    each = statistics.median(cpu for _, cpu in many) - statistics.median(cpu for _, cpu in few)
    return structs.replace(
        costs, manifest_task=each / 2000, store_s=statistics.median(wall for wall, _ in few)
    )


def measured_tasks(costs: Costs, folder: Path) -> Costs:
    """What a task and a barrier in its process take: from whole runs in one process, with many checkpoints and with none."""
    rows, wants = [], []
    for stages, parallelism in ((4, 2), (4, 12), (12, 6), (4, 24)):
        took = cut_cpu_s(stages, parallelism, folder / f"{stages}-{parallelism}")
        tasks = stages * parallelism
        took -= tasks * costs.manifest_task
        rows.append([tasks, (stages - 1) * parallelism**2])
        wants.append(took)
    # Weighted, so that small runs count as much as large ones.
    weights = np.array([1 / want for want in wants])
    found, *_ = np.linalg.lstsq(
        np.array(rows, float) * weights[:, None], np.array(wants) * weights, rcond=None
    )
    task, mark = (max(1e-7, float(each)) for each in found)
    return structs.replace(costs, task=task, mark_local=mark)


def cut_cpu_s(stages: int, parallelism: int, folder: Path, seconds: float = 6.0) -> float:
    """CPU of one checkpoint of a run in this process: the least of two turns."""
    found = []
    for turn in range(3):  # the first one warms up
        spent = []
        for interval in ("1h", "100ms"):
            before, place = time.process_time(), folder / f"{interval}-{turn}"
            count = len(run_for(stages, parallelism, interval, seconds, place)) + 3
            spent.append(time.process_time() - before)
        found.append((spent[1] - spent[0]) / count)
    return max(1e-6, min(found[1:]))


def measured_chunk(costs: Costs, folder: Path) -> Costs:
    """What a task's chunk takes, where it is stored: a few rows, in a file of their own."""
    import polars as pl

    from dataflare.checkpoint.store import LocalStore

    store = LocalStore(folder / "chunks", "0f0e0d0c-0000-4000-8000-000000000000")
    frame, took = pl.DataFrame({"key": range(20), "value": range(20)}), []
    for number in range(200):
        began = time.perf_counter()
        store.write_chunk(f"step7-0-a1-0000000001-{number}.arrow", frame)
        took.append(time.perf_counter() - began)
    return structs.replace(costs, chunk_s=statistics.median(took))


def run_for(
    stages: int, parallelism: int, interval: str, seconds: float, folder: Path, workers: Any = None
) -> list[float]:
    """Run it for so long. Gives the seconds of its checkpoints, except the first ones."""
    from dataflare.checkpoint.shared_store import SharedStore
    from dataflare.jobs import RunOptions, run
    from dataflare.jobs.progress import Progress
    from dataflare.workflow.load import load_text

    took: dict[int, float] = {}

    def listen(progress: Progress) -> None:
        if progress.last_checkpoint_s is not None:
            took[progress.checkpoints] = progress.last_checkpoint_s

    folder.mkdir(parents=True, exist_ok=True)
    options = RunOptions(home=folder / "home", for_s=seconds, listener=listen)
    if workers is not None:
        options = structs.replace(options, workers=workers, storage=SharedStore)
    result = run(load_text(steady(stages, parallelism, interval), base=folder), options)
    if result.error is not None:
        raise result.error
    return list(took.values())[2:-1]


def measured_start(costs: Costs, folder: Path) -> Costs:
    """What a task takes when all are told to a worker."""
    from dataflare.engine.deploy import deployed
    from dataflare.planner import plan
    from dataflare.workflow.load import load_text

    parallelism, stages = 100, 6
    flow = load_text(steady(stages, parallelism, "1h"), base=folder)
    channels = (stages - 1) * parallelism**2
    specs = deployed(plan(flow, home=folder / "home").stages, None)
    body = pickle.dumps(specs, protocol=pickle.HIGHEST_PROTOCOL)
    told = cpu_s(lambda: pickle.dumps(specs, protocol=pickle.HIGHEST_PROTOCOL), 2)
    read = cpu_s(lambda: pickle.loads(body), 2)
    print(f"{len(body) / channels:.1f} bytes a channel are told to each worker")
    return structs.replace(costs, told_job=told / len(specs), told_worker=read / len(specs))


def measure() -> Costs:
    with tempfile.TemporaryDirectory(prefix="simulation-") as name:
        folder = Path(name)
        costs = asyncio.run(measured_link(Costs()))
        costs = asyncio.run(measured_orders(costs))
        costs = measured_store(costs, folder)
        costs = measured_start(costs, folder)
        costs = measured_chunk(costs, folder)
        return measured_tasks(costs, folder)


def show(costs: Costs) -> None:
    for name, value in structs.asdict(costs).items():
        print(f"    {name}: float = {value:.3g}")


def check(turns: int, seconds: float) -> int:
    """Simulated and real, side by side."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "cluster"))
    from worker_processes import WorkerProcesses

    costs = measure()
    show(costs)
    costs = structs.replace(costs, latency_s=0.1e-3)
    processors = len(os.sched_getaffinity(0))
    apart = []
    for workers, stages, parallelism in ((1, 4, 16), (2, 4, 16), (3, 4, 24), (4, 6, 16), (4, 4, 32)):  # fmt: skip
        simulated = simulate(costs, workers, stages, parallelism, processors, chunks=False).whole_s
        real = []
        processes = WorkerProcesses(workers)
        try:
            for _ in range(turns):
                with tempfile.TemporaryDirectory(prefix="simulation-") as folder:
                    took = run_for(
                        stages, parallelism, "500ms", seconds, Path(folder), workers=processes
                    )
                real.append(statistics.median(took))
        finally:
            processes.close()
        found = statistics.median(real)
        apart.append(abs(simulated / found - 1))
        print(
            f"{workers} workers, {stages * parallelism:4} tasks: {found * 1000:7.1f} ms ({min(real) * 1000:.1f}"
            f"..{max(real) * 1000:.1f}), simulated {simulated * 1000:7.1f} ms: {simulated / found - 1:+.0%}"
        )
    met = max(apart) <= APART_MAX
    print(f"{'met' if met else 'MISSED'}: at most {APART_MAX:.0%} apart")
    return 0 if met else 1


def tables(costs: Costs) -> int:
    met = False
    print("workers  stages x tasks   tasks  last cut  all shares     whole  CPU of job  reports")
    for workers, stages, parallelism in (
        (10, 20, 100), (100, 20, 100), (100, 200, 100), (100, 20, 1000), (1000, 20, 1000), (1000, 200, 100),
    ):  # fmt: skip
        outcome = simulate(costs, workers, stages, parallelism)
        tasks = stages * parallelism
        print(
            f"{workers:7}  {stages:4} x {parallelism:<8}  {tasks:6}  {outcome.barriers_s:7.3f}s  {outcome.shares_s:8.3f}s"
            f"  {outcome.whole_s:7.3f}s  {outcome.job_s:8.3f}s  {outcome.reports:7.1%}"
        )
        if (workers, stages) == (100, 200):
            met = outcome.whole_s <= BAR_S
    tasks = 20_000
    print(
        f"start of {tasks:,} tasks on 1,000 workers: the job {1000 * tasks * costs.told_job:.1f} s of CPU to tell each worker "
        f"all of them, and each worker {tasks * costs.told_worker:.2f} s to read them"
    )
    return 0 if met else 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=("measure", "check", "reader"))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of a real run")
    given = parser.parse_args()
    match given.what:
        case "reader":
            asyncio.run(reader())
            return 0
        case "measure":
            show(measure())
            return 0
        case "check":
            return check(given.turns, given.seconds)
    return tables(COSTS)


if __name__ == "__main__":
    sys.exit(main())

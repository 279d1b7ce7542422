"""What does the whole way cost: received, committed, folded, built, and merged into the catalog?

The real daemon without targets. Reading storage is not counted: objects come from memory, and the time inside the
double is taken off; parsing what was read is counted. Not counted either: counting the catalog for the summary, which a
daemon does once, at the end of a finite source.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.doubles import MemoryObjects, MemorySource
from benchmarks.inbox import make_database
from benchmarks.multiply import Wire, Workload
from benchmarks.process import Cost, FloorSampler, measure
from flytelineage.engine.daemon import Daemon, Summary
from flytelineage.engine.workflow_events import WorkflowEvents
from flytelineage.errors import ExitCode
from flytelineage.inbox.sql import Inbox
from flytelineage.lineage.schemas import SchemaReader
from flytelineage.storage import Storage


class _Daemon(Daemon):
    """Knows what its summaries cost."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.summary_seconds = 0.0

    def summary(self) -> Summary:
        """As ever."""
        start = time.thread_time()
        try:
            return super().summary()
        finally:
            self.summary_seconds += time.thread_time() - start


def run(wire: Wire, load: Workload, folder: Path) -> Cost:
    """Measure in this process."""
    url = make_database(folder)
    sampler = FloorSampler(wire, load.bodies)
    objects = MemoryObjects(load, sampler)
    storage = Storage()
    daemon = _Daemon(
        source=MemorySource(load.bodies, sampler),
        inbox=Inbox(url=url),
        storage=storage,
        schemas=SchemaReader(storage=storage),
        events=WorkflowEvents(),
        objects=objects,
    )

    def work() -> float:
        assert daemon.run() is ExitCode.OK
        return objects.seconds + daemon.summary_seconds

    cost = measure(load, sampler, work)
    _check(daemon, load, url)
    return cost


def _check(daemon: Daemon, load: Workload, url: str) -> None:
    """Every execution has become lineage, with every task and every edge."""
    summary = daemon.summary()
    assert summary.derived == summary.runs == load.executions, summary
    assert summary.tasks == load.pipelines * load.tasks, summary
    inbox = Inbox(url=url)
    inbox.open(readonly=True)
    edges = inbox.database.connect().exec_driver_sql("SELECT count(*) FROM edge").scalar_one()
    inbox.close()
    assert edges == load.pipelines * load.edges, (edges, load.pipelines * load.edges)

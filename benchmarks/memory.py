"""Does memory grow with open executions?

A daemon is started and left idle, then gets the first five messages of each of many executions, of which none ends.
RSS before and after says what an operator sees; tracemalloc, in a process of its own because it slows everything down,
says how much of it Python's objects are.
"""

from __future__ import annotations

import gc
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

from benchmarks.doubles import MemoryObjects, StreamSource
from benchmarks.multiply import Multiplier, Workload
from flytelineage.engine.daemon import Daemon, tune_garbage_collection
from flytelineage.engine.workflow_events import WorkflowEvents
from flytelineage.errors import ExitCode
from flytelineage.inbox.sql import Inbox
from flytelineage.lineage.schemas import SchemaReader
from flytelineage.storage import Storage

_IDLE_SECONDS = 2.0
_MEGABYTE = 1_000_000


def run(executions: str, traced: str, folder: str) -> dict[str, Any]:
    """Measure in this process.

    Args:
        executions: how many are open in the end.
        traced: ``traced`` for tracemalloc, else RSS.
        folder: empty, for the database.

    Returns:
        Megabytes: ``idle`` and ``open`` (tracemalloc: ``open`` is the peak).
    """
    source = StreamSource(Multiplier("external").make_open(int(executions)))
    storage = Storage()
    daemon = Daemon(
        source=source,
        inbox=Inbox(url=f"sqlite:///{Path(folder) / 'inbox.db'}"),
        storage=storage,
        schemas=SchemaReader(storage=storage),
        events=WorkflowEvents(),
        objects=MemoryObjects(Workload()),
    )
    if traced == "traced":
        tracemalloc.start()
    tune_garbage_collection()
    codes: list[ExitCode] = []
    thread = threading.Thread(target=lambda: codes.append(daemon.run()), name="daemon")
    thread.start()
    try:
        time.sleep(_IDLE_SECONDS)
        gc.collect()
        idle = tracemalloc.get_traced_memory()[0] if tracemalloc.is_tracing() else _rss()
        if tracemalloc.is_tracing():
            tracemalloc.reset_peak()
        source.let.set()
        while not source.drained.wait(1.0):
            assert thread.is_alive(), "the daemon died"
        time.sleep(_IDLE_SECONDS)
        gc.collect()
        end = tracemalloc.get_traced_memory()[1] if tracemalloc.is_tracing() else _rss()
        summary = daemon.summary()
        assert summary.executions == int(executions), summary
        assert summary.derived == 0, summary
    finally:
        daemon.stop()
        thread.join()
    assert codes == [ExitCode.OK], codes
    return {"idle": idle / _MEGABYTE, "open": end / _MEGABYTE}


def _rss() -> int:
    """Resident bytes of this process (proc(5): the second number is pages)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096

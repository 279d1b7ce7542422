"""What does it cost to have an event durably in the inbox, and acknowledged?

The real receiver, inbox and writer thread; SQLite with ``synchronous=FULL``, as shipped.
"""

from __future__ import annotations

import threading
from pathlib import Path

from benchmarks.doubles import MemorySource
from benchmarks.multiply import Wire, Workload
from benchmarks.process import Cost, FloorSampler, measure
from flytelineage.clock import SystemClock
from flytelineage.engine.receiver import Receiver
from flytelineage.inbox.sql import Inbox


def make_database(folder: Path) -> str:
    """Make an empty database, so that the schema's migration is not measured; returns its URL."""
    url = f"sqlite:///{folder / 'inbox.db'}"
    inbox = Inbox(url=url)
    inbox.open()
    inbox.close()
    return url


def run(wire: Wire, load: Workload, folder: Path) -> Cost:
    """Measure in this process."""
    url = make_database(folder)
    sampler = FloorSampler(wire, load.bodies)
    source = MemorySource(load.bodies, sampler)

    def work() -> float:
        inbox = Inbox(url=url)
        inbox.open()
        Receiver(source, inbox, SystemClock()).run(threading.Event())
        assert inbox.counts.events == len(load.bodies)
        inbox.close()
        return 0.0

    cost = measure(load, sampler, work)
    assert source.acknowledged == len(load.bodies)
    return cost

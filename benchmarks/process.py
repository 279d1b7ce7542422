"""One measurement, one fresh process: what a measurement leaves behind (caches, arenas, threads) ends with it.

Time is the CPU time of the whole process, user and system, of all its threads (``time.process_time``): work that moves
to another thread is still work, and what other processes do on the machine counts less than in wall time. It still
counts: a busy neighbour can double the CPU time of the same instructions, from one second to the next. So the floor is
sampled all through a measurement (:class:`FloorSampler`), by the doubles that the daemon calls, and a figure is only
ever given as a multiple of that.
"""

from __future__ import annotations

import importlib
import json
import logging
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.floor import floor_of
from benchmarks.multiply import CORPUS, Wire, Workload
from flytelineage.engine.daemon import tune_garbage_collection


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU time in seconds per event: what was measured, and the floor meanwhile."""

    seconds: float
    floor: float

    @property
    def ratio(self) -> float:
        """Times the floor."""
        return self.seconds / self.floor


class FloorSampler:
    """Runs the floor, a few messages at a time, within what is measured; its own time is taken off there."""

    def __init__(self, wire: Wire, bodies: Sequence[str]) -> None:
        self._floor = floor_of(wire)
        self._bodies = bodies
        self._next = 0
        self._lock = threading.Lock()
        self._messages = 0
        self.seconds = 0.0
        """CPU time of the samples."""

    def sample(self, messages: int) -> None:
        """Run the floor for some messages, in the calling thread."""
        with self._lock:
            start = self._next
            self._next = (start + messages) % len(self._bodies)
        part = self._bodies[start : start + messages]
        before = time.thread_time()
        self._floor(part)
        seconds = time.thread_time() - before
        with self._lock:
            self.seconds += seconds
            self._messages += len(part)

    @property
    def floor(self) -> float:
        """Seconds per event."""
        return self.seconds / self._messages


def measure(load: Workload, sampler: FloorSampler, work: Callable[[], float]) -> Cost:
    """Measure in this process.

    Args:
        load: what ``work`` consumes.
        sampler: of the floor; ``work`` sees to it that it is called.
        work: does it all; returns seconds of CPU time that are not to be counted, besides the sampler's.
    """
    tune_garbage_collection()  # as the daemon's process does
    start = time.process_time()
    excluded = work()
    seconds = time.process_time() - start - excluded - sampler.seconds
    return Cost(seconds / len(load.bodies), sampler.floor)


def measure_apart(question: str, wire: Wire, workload: Path, folder: Path) -> Cost:
    """Measure in a fresh process.

    Args:
        question: the module that has ``run(wire, load, folder) -> Cost``.
        wire: of the workload.
        workload: a pickled :class:`~benchmarks.multiply.Workload`.
        folder: empty, for databases.
    """
    return Cost(**call_apart(question, wire, str(workload), str(folder)))


def call_apart(*arguments: str) -> dict[str, Any]:
    """Run this module in a fresh process; returns what it printed last."""
    command = [sys.executable, "-m", "benchmarks.process", *arguments]
    done = subprocess.run(command, cwd=CORPUS.parent.parent, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _main(question: str, *arguments: str) -> None:
    logging.basicConfig(level=logging.WARNING)
    module = importlib.import_module(f"benchmarks.{question}")
    if question == "memory":
        print(json.dumps(module.run(*arguments)))
        return
    wire, workload, folder = arguments
    with Path(workload).open("rb") as file:
        load = pickle.load(file)  # noqa: S301  (written by our own parent process)
    print(json.dumps(asdict(module.run(wire, load, Path(folder)))))


if __name__ == "__main__":
    _main(*sys.argv[1:])

"""One measurement, one fresh process: what a measurement leaves behind (caches, arenas, threads) ends with it.

Time is the CPU time of the whole process, user and system, of all its threads (``time.process_time``): work that moves
to another thread is still work, and what other processes do on the machine counts less than in wall time. It still
counts: a busy neighbour can double the CPU time of the same instructions. So the floor is measured in the same process
just before and just after, a figure is only ever given as a multiple of that, and a repetition whose two floors
disagree is measured again.
"""

from __future__ import annotations

import importlib
import json
import logging
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.floor import floor_of
from benchmarks.multiply import CORPUS, Wire, Workload
from flytelineage.engine.daemon import tune_garbage_collection

_AGREE: Final = 1.15
"""Floors before and after that differ by no more say that the machine was the same meanwhile."""
_TRIES: Final = 4


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU time in seconds per event, and the floor around it."""

    seconds: float
    before: float
    after: float

    @property
    def floor(self) -> float:
        """Seconds per event, the mean of both."""
        return (self.before + self.after) / 2

    @property
    def ratio(self) -> float:
        """Times the floor."""
        return self.seconds / self.floor

    @property
    def steady(self) -> bool:
        """Whether the machine was the same before and after."""
        return max(self.before, self.after) <= _AGREE * min(self.before, self.after)


def measure(wire: Wire, load: Workload, work: Callable[[], float]) -> Cost:
    """Measure in this process.

    Args:
        wire: of the workload.
        load: what ``work`` consumes.
        work: does it all; returns seconds of CPU time that are not to be counted.
    """
    floor = floor_of(wire)
    events = len(load.bodies)
    tune_garbage_collection()  # as the daemon's process does
    floor(load.bodies[:1_000])

    def cpu(call: Callable[[], Any]) -> tuple[float, Any]:
        start = time.process_time()
        result = call()
        return (time.process_time() - start) / events, result

    before, _ = cpu(lambda: floor(load.bodies))
    seconds, excluded = cpu(work)
    after, _ = cpu(lambda: floor(load.bodies))
    return Cost(seconds - excluded / events, before, after)


def measure_apart(question: str, wire: Wire, workload: Path, folder: Path) -> Cost:
    """Measure in a fresh process, again while the machine was not steady; the last try stands.

    Args:
        question: the module that has ``run(wire, load, folder) -> Cost``.
        wire: of the workload.
        workload: a pickled :class:`~benchmarks.multiply.Workload`.
        folder: empty, for databases.
    """
    cost = Cost(0.0, 0.0, 0.0)
    for attempt in range(_TRIES):
        place = folder / f"{question}-{attempt}"
        place.mkdir()
        cost = Cost(**call_apart(question, wire, str(workload), str(place)))
        if cost.steady:
            break
    return cost


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

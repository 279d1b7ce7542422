"""Run the benchmarks and print a table: goals are those of docs/benchmarks.md."""

from __future__ import annotations

import argparse
import json
import pickle
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

from benchmarks.multiply import RUNS, Multiplier, Wire
from benchmarks.process import Cost, call_apart, measure_apart

SIZES: Final = (6, 100, 500, 2_000)
GOALS: Final = {"inbox": 3.0, "whole": 6.0}
"""CPU per event, as a multiple of the floor."""
SCALE_GOAL: Final = 1.2
"""The multiple at the largest size, as a multiple of that at the smallest."""
MEMORY_GOAL: Final = 50.0
"""Megabytes that open executions may add."""
_WAYS: Final = {"inbox": "into the inbox", "whole": "the whole way"}


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table."""

    what: str
    value: float
    unit: str
    goal: float | None = None
    detail: str = ""

    @property
    def missed(self) -> bool:
        """Whether there is a goal, and it is not reached."""
        return self.goal is not None and self.value > self.goal


def main() -> int:
    """Measure what is asked for.

    Returns:
        1 with ``--check`` when a goal is missed.
    """
    options = _options()
    rows: list[Row] = []
    folder = Path(tempfile.mkdtemp(prefix="flytelineage-bench-", dir=options.folder))
    try:
        if "cpu" in options.only:
            rows += _cpu(options, folder)
        if "memory" in options.only:
            rows += _memory(options, folder)
    finally:
        shutil.rmtree(folder)
    _print(rows)
    if options.json:
        options.json.write_text(json.dumps([{**_dict(row), "missed": row.missed} for row in rows], indent=1) + "\n")
    return int(options.check and any(row.missed for row in rows))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--events", type=int, default=30_000, help="messages per workload, about (default %(default)s)")
    parser.add_argument("--repetitions", type=int, default=3, help="the median counts (default %(default)s)")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="tasks per execution")
    parser.add_argument("--wires", nargs="+", choices=get_args(Wire), default=list(get_args(Wire)))
    parser.add_argument("--only", nargs="+", choices=("cpu", "memory"), default=["cpu", "memory"])
    parser.add_argument("--executions", type=int, default=100_000, help="open ones (default %(default)s)")
    parser.add_argument("--traced", type=int, default=25_000, help="open ones under tracemalloc; 0: skip it")
    parser.add_argument("--folder", type=Path, help="for databases; on a disk like the daemon's (default: temporary)")
    parser.add_argument("--json", type=Path, help="write the table there, too")
    parser.add_argument("--check", action="store_true", help="end with 1 when a goal is missed")
    return parser.parse_args()


def _cpu(options: argparse.Namespace, folder: Path) -> list[Row]:
    """Every repetition measures everything once, so that a slow minute of the machine does not fall on one figure."""
    workloads = _make_workloads(options, folder)
    costs: dict[tuple[Wire, int, str], list[Cost]] = {}
    for repetition in range(options.repetitions):
        for (wire, size), file in workloads.items():
            for question in GOALS:
                place = folder / f"{repetition}-{wire}-{size}-{question}"
                place.mkdir()
                cost = measure_apart(question, wire, file, place)
                shutil.rmtree(place)
                costs.setdefault((wire, size, question), []).append(cost)
                _progress(
                    f"{repetition + 1}/{options.repetitions} {wire} {size} tasks, {_WAYS[question]}: {cost.ratio:.2f}x"
                )
    rows = []
    for wire in options.wires:
        for question, goal in GOALS.items():
            ratios = {}
            for size in options.sizes:
                found = costs[wire, size, question]
                ratios[size] = statistics.median(cost.ratio for cost in found)
                rows.append(
                    Row(f"{wire}, {size} tasks, {_WAYS[question]}", ratios[size], "x floor", goal, _spread(found))
                )
            first, last = min(ratios), max(ratios)
            if first != last:
                what = f"{wire}, {_WAYS[question]}, {last} tasks to {first}"
                rows.append(Row(what, ratios[last] / ratios[first], "x", SCALE_GOAL))
    return rows


def _make_workloads(options: argparse.Namespace, folder: Path) -> dict[tuple[Wire, int], Path]:
    found: dict[tuple[Wire, int], Path] = {}
    for wire in options.wires:
        multiplier = Multiplier(wire)
        for size in options.sizes:
            file = folder / f"{wire}-{size}.pickle"
            executions = max(RUNS, round(options.events / multiplier.events_of(size)))
            with file.open("wb") as out:
                pickle.dump(multiplier.make(size, executions), out)
            found[wire, size] = file
    return found


def _spread(costs: Sequence[Cost]) -> str:
    ratios = sorted(cost.ratio for cost in costs)
    floor = min(cost.floor for cost in costs) * 1e6
    best = min(cost.seconds for cost in costs) * 1e6
    return f"{ratios[0]:.2f} to {ratios[-1]:.2f}; best {best:.1f} us, floor {floor:.1f} us"


def _memory(options: argparse.Namespace, folder: Path) -> list[Row]:
    rows = []
    for traced, executions in (("", options.executions), ("traced", options.traced)):
        if executions:
            place = folder / f"memory{traced}"
            place.mkdir()
            found = call_apart("memory", str(executions), traced, str(place))
            shutil.rmtree(place)
            what = f"{executions:,} open executions, {'traced peak' if traced else 'RSS'}"
            detail = f"{found['idle']:.1f} MB idle, {found['open']:.1f} MB open"
            rows.append(Row(what, found["open"] - found["idle"], "MB", MEMORY_GOAL, detail))
            _progress(f"{what}: {rows[-1].value:.1f} MB")
    return rows


def _dict(row: Row) -> dict[str, object]:
    return {"what": row.what, "value": row.value, "unit": row.unit, "goal": row.goal, "detail": row.detail}


def _print(rows: Sequence[Row]) -> None:
    width = max((len(row.what) for row in rows), default=0)
    for row in rows:
        goal = "" if row.goal is None else f"goal {row.goal:g}"
        verdict = "" if row.goal is None else "MISSED" if row.missed else "ok"
        print(f"{row.what:<{width}}  {row.value:6.2f} {row.unit:<7}  {goal:<8}  {verdict:<6}  {row.detail}".rstrip())


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

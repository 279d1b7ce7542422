"""Names and places: what a URI, a task and a workflow are called (DESIGN.md 4).

Pure functions of text. The rules of Flyte's paths come from flyte-events.md 2.2 and 3.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from flytelineage.lineage.types import Placed
from flytelineage.model import NamingRule

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/*")
_SCHEMES: Final = {"s3a": "s3", "s3n": "s3", "gcs": "gs"}
_PLATFORMS: Final = {
    "s3": "s3",
    "gs": "gcs",
    "abfs": "abs",
    "abfss": "abs",
    "wasb": "abs",
    "wasbs": "abs",
    "file": "file",
    "bq": "bigquery",
    "hdfs": "hdfs",
    "snowflake": "snowflake",
    "http": "http",
    "https": "http",
}
_RAW_OUTPUT: Final = re.compile(r"/[a-z0-9]{2}/([^/]+)/(?:\d+/\d+/)?[0-9a-f]{32}(?=/|$)")
"""Flyte's raw-output shape: two-character shard, a segment, (index and attempt of a legacy map,) 32 hex."""
_ATTEMPT: Final = re.compile(r"(?P<node>.+)-\d+")
_INDEX: Final = re.compile(r"(?P<rest>.+-\d+)-n\d+-\d+")
_PARTITION: Final = re.compile(r"[^/=]+=[^/]*")
_MAP_SUFFIX: Final = re.compile(r"_[0-9a-f]{32}(?:-arraynode)?$")
_DIGITS: Final = re.compile(r"(\d+)")


def normalise_uri(uri: str) -> str:
    """One spelling for one place: ``s3a`` is ``s3``, doubled and trailing slashes go, the scheme is lower case.

    Keys are taken literally, nothing is percent-decoded: object stores do not either.
    """
    if uri.startswith("s3://") and uri[5:6] not in ("/", "") and not uri.endswith("/") and "//" not in uri[5:]:
        return uri
    match = _SCHEME.match(uri)
    if match is None:
        return re.sub(r"/{2,}", "/", uri).rstrip("/")
    scheme = match[1].lower()
    rest = re.sub(r"/{2,}", "/", uri[match.end() :]).rstrip("/")
    return f"{_SCHEMES.get(scheme, scheme)}://{'/' if scheme == 'file' else ''}{rest}"


def placed(uri: str) -> Placed:
    """The dataset of a place: its platform, named by its path without hive-style partition folders.

    Args:
        uri: normalised.
    """
    scheme, _, path = uri.partition("://")
    if not path:
        return Placed("file", uri)
    parts = [part for part in path.split("/") if not _PARTITION.fullmatch(part)]
    name = "/".join(parts) or path
    return Placed(_PLATFORMS.get(scheme, scheme), name)


class RunScope(NamedTuple):
    """What a run-scoped URI tells of its writer.

    Attributes:
        node: unique id of the present execution's node that wrote it, in clear; empty when it is not told.
        named: the URI names its writer in clear. With an empty ``node`` that is a node of another execution, or one of
            the present execution that no event told of.
        ours: the name, as far as it goes, is the present execution's.
    """

    node: str
    named: bool
    ours: bool


def run_scope(
    uri: str, execution: str, nodes: Container[str], arrays: Container[str] = (), children: Sequence[str] = ()
) -> RunScope | None:
    """Read the writer from a URI (DESIGN.md 4, "Who wrote it").

    Args:
        uri: normalised.
        execution: the present execution's name.
        nodes: the present execution's unique node ids.
        arrays: those of them that are maps: only theirs is an index in the segment.
        children: names of its child executions, which begin with its own.

    Returns:
        None when the URI is a place that outlives its run.
    """
    match = _RAW_OUTPUT.search(uri)
    if match is not None:
        return _read_segment(match[1], execution, nodes, arrays, children)
    # A path that user code built from the execution's name lives as long as the run, whoever of its tasks wrote it.
    prefix = execution + "-"
    for part in uri.partition("://")[2].split("/")[1:]:
        if part == execution or (part.startswith(prefix) and _begins_with_node(part[len(prefix) :], nodes)):
            return RunScope("", named=False, ours=True)
    return None


def _read_segment(
    segment: str, execution: str, nodes: Container[str], arrays: Container[str], children: Sequence[str]
) -> RunScope:
    """``<execution>-<unique node id>-<attempt>[-n<index>-<attempt>]``; without a dash it was hashed for its length."""
    rest = segment.removeprefix(execution + "-")
    if rest != segment and not (children and any(segment.startswith(child + "-") for child in children)):
        # The longest known node wins: "n0-0-n1-0" is sub-node n0-0-n1 of a map where it exists, else index 1 of n0.
        known = nodes
        while (match := _ATTEMPT.fullmatch(rest)) is not None:
            if match["node"] in known:
                return RunScope(match["node"], named=True, ours=True)
            known = arrays
            index = _INDEX.fullmatch(rest)
            if index is None:
                break
            rest = index["rest"]
        return RunScope("", named=True, ours=True)
    return RunScope("", named=_ATTEMPT.fullmatch(segment) is not None, ours=False)


def _begins_with_node(rest: str, nodes: Container[str]) -> bool:
    parts = rest.split("-")
    return any("-".join(parts[:count]) in nodes for count in range(1, min(len(parts), 16) + 1))


@lru_cache(maxsize=20_000)
def task_name(flyte_task: str) -> str:
    """A Flyte task's name without what flytekit adds for a map: ``map_extract_<32 hex>-arraynode``."""
    return _MAP_SUFFIX.sub("", flyte_task)


def module_of(name: str) -> str:
    """The Python module of a task's or a workflow's name, empty for a name without one."""
    return name.rpartition(".")[0]


@lru_cache(maxsize=20_000)
def natural_key(path: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key in which n9 stands before n10."""
    return tuple(
        (0, int(part), part) if part.isdecimal() and part.isascii() and len(part) < 18 else (1, 0, part)
        for part in _DIGITS.split(path)
        if part
    )


def name_workflow(launch_plans: Iterable[str], tasks: Iterable[tuple[str, str]]) -> tuple[str, NamingRule] | None:
    """The workflow's name, by the best rule that applies.

    Args:
        launch_plans: launch plan names that CloudEvents v2 told for this execution.
        tasks: (spec path, task name) of the nodes that run code.

    Returns:
        Name and rule, or None when no task is known to take a module from.
    """
    named = sorted(tasks, key=lambda item: natural_key(item[0]))
    modules = {module_of(task_name(name)) for _, name in named}
    # A workflow's default launch plan bears the workflow's name; covid.nightly, made by hand, lies in no task's module.
    for launch_plan in sorted(launch_plans):
        if module_of(launch_plan) in modules - {""}:
            return launch_plan, NamingRule.LAUNCH_PLAN
    if not named:
        return None
    name = task_name(named[0][1])
    return module_of(name) or name, NamingRule.MODULE


def short_task(name: str, module: str) -> str:
    """A task's name without the pipeline's module, where it shares it."""
    return name[len(module) + 1 :] if module and name.startswith(module + ".") else name


def numbered(name: str, position: int) -> str:
    """The label of the ``position``-th node (from 0) that runs the same task."""
    return name if position == 0 else f"{name}#{position + 1}"

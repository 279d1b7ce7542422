"""Expected lineage: written by hand beside the tests, from the flows' source and the identity rules of DESIGN.md 4.

``tests/expected/CASE.json`` is the whole document of ``flytelineage export`` after the case, and nothing else, was
ingested from CloudEvents v2. The other publishers carry neither the launch plan nor labels; what follows from that is
one substitution, :func:`module_form`, applied to the same file. Random parts of URIs, times and the facts of parquet
footers are the recording's own, written out.
"""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

EXPECTED = Path(__file__).parents[1] / "expected"

Document = dict[str, Any]
"""What ``flytelineage export`` prints, as JSON values."""


def load(case: str) -> Document:
    """The expected document of a case, as CloudEvents v2 tell it."""
    document: Document = json.loads((EXPECTED / f"{case}.json").read_text(encoding="utf-8"))
    return document


def module_form(document: Document) -> Document:
    """What is left of a document when nobody names the workflow: the same, but for what only v2 carries.

    Each pipeline that was named after its workflow is named after the workflow's module, ``flows.covid.covid_wf``
    becomes ``flows.covid``, also in the names of its datasets; the naming rule is ``module``; there are no tags.
    """
    result = copy.deepcopy(document)
    renamed: dict[str, str] = {}
    for pipeline in result["pipelines"]:
        pipeline["tags"] = []
        if pipeline["naming_rule"] == "launch_plan":
            pipeline["naming_rule"] = "module"
            pipeline["workflow"] = pipeline["workflow"].rpartition(".")[0]
            renamed[pipeline["name"]] = ".".join((pipeline["domain"], pipeline["project"], pipeline["workflow"]))
    substituted: Document = _substitute(result, renamed)
    return in_order(substituted)


def in_order(document: Document) -> Document:
    """The document with its lists of entities sorted as the export sorts them."""
    keys = {
        "pipelines": ("name",),
        "tasks": ("pipeline", "name"),
        "datasets": ("platform", "name"),
        "runs": ("execution",),
    }
    for name, by in keys.items():
        document[name].sort(key=lambda entity: tuple(entity[key] for key in by))
    for task in document["tasks"]:
        for edges in ("inputs", "outputs", "upstream", "inferred_upstream"):
            task[edges].sort()
    for dataset in document["datasets"]:
        dataset["upstreams"].sort()
    return document


def differences(actual: Document, expected: Document) -> str:
    """What is missing (-) and what is too much (+), for a person; empty when the documents are the same."""
    if actual == expected:
        return ""
    wanted, found = (json.dumps(document, indent=1).splitlines() for document in (expected, actual))
    return "\n".join(difflib.unified_diff(wanted, found, "expected", "actual", lineterm="", n=6))


def _substitute(value: Any, renamed: Mapping[str, str]) -> Any:
    """Replace whole names of pipelines, and those that datasets' names begin with."""
    if isinstance(value, dict):
        return {key: _substitute(item, renamed) for key, item in value.items()}
    if isinstance(value, list):
        return [_substitute(item, renamed) for item in value]
    if isinstance(value, str):
        for old, new in renamed.items():
            if value == old or value.startswith(f"{old}."):
                return new + value[len(old) :]
    return value

"""flytelineage: lineage of Flyte executions, from a queue of events into a catalog."""

from __future__ import annotations

__version__ = "0.1.0"

"""Bytes to events: every wire format in which Flyte's lifecycle events reach a queue, and nothing else."""

from flytelineage.events.decode import Encoding, Event, Mark, decode
from flytelineage.events.facts import Facts, NodeFacts, TaskFacts, WorkflowFacts, read_facts

__all__ = ["Encoding", "Event", "Facts", "Mark", "NodeFacts", "TaskFacts", "WorkflowFacts", "decode", "read_facts"]

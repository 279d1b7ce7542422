"""Which configurable classes there are: ours, and those that other packages install.

Imported only when options are read in full: ``--version`` and ``--help`` need none of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from traitlets.config import Configurable

GROUPS = ("flytelineage.sources", "flytelineage.targets")
"""Entry point groups whose classes have options."""

_OURS = (
    "flytelineage.sources.sqs:SQSSource",
    "flytelineage.sources.recorded:RecordedSource",
    "flytelineage.inbox.sql:Inbox",
    "flytelineage.storage:Storage",
    "flytelineage.lineage.schemas:SchemaReader",
    "flytelineage.engine.workflow_events:WorkflowEvents",
    "flytelineage.engine.daemon:Daemon",
    "flytelineage.targets.file:FileTarget",
)


def load(path: str) -> type[Configurable]:
    """Import one of our own classes from ``module:Class``."""
    module, _, name = path.partition(":")
    found: type[Configurable] = getattr(import_module(module), name)
    return found


def components() -> tuple[list[type[Configurable]], list[str]]:
    """Find every component class that has options.

    Returns:
        The classes, ours first, each once; and a sentence for each plug-in that cannot be imported. Such a plug-in must
        not keep the rest from starting; naming it in ``WorkflowEvents.targets`` stops the start.
    """
    found = [load(path) for path in _OURS]
    broken: list[str] = []
    for entry_point in _entry_points():
        try:
            cls = entry_point.load()
        except Exception as error:  # noqa: BLE001  (somebody else's module may do anything on import)
            reason = f"{type(error).__name__}: {error}"
            broken.append(f"The plug-in {entry_point.name} ({entry_point.value}) cannot be loaded: {reason}")
            continue
        if isinstance(cls, type) and issubclass(cls, Configurable) and cls not in found:
            found.append(cls)
    return [cls for cls in found if cls.class_traits(config=True)], broken


def subclasses(cls: type[Configurable]) -> Iterator[type[Configurable]]:
    """Yield every class below this one that is imported, for classes that a configuration file brings along."""
    for child in cls.__subclasses__():
        yield child
        yield from subclasses(child)


def _entry_points() -> list[EntryPoint]:
    return [entry_point for group in GROUPS for entry_point in sorted(entry_points(group=group))]

"""What is done with the events of workflows: when they settle, and which targets their lineage goes to."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any

from traitlets import Bool, Float, Int, List
from traitlets.config import LoggingConfigurable

from flytelineage.errors import ConfigurationError
from flytelineage.inbox.sql import Settle
from flytelineage.targets.base import Target

GROUP = "flytelineage.targets"
"""Entry point group of targets."""


class WorkflowEvents(LoggingConfigurable):
    """When an execution's lineage is derived, and who is told."""

    targets: List[Any] = List(
        help="Where lineage is sent besides the catalog: names of installed targets (--targets=file), or, in the "
        "configuration file, Target instances. Empty: nowhere, the catalog alone."
    ).tag(config=True)
    emit = Bool(
        True,
        help="Send deliveries. False: derive lineage and hold what would be sent, until a start with True.",
    ).tag(config=True)
    settle_seconds = Float(
        10.0,
        min=0.0,
        help="Seconds that an ended execution whose nodes have all ended waits after its last event, for late ones. "
        "Doubles each time that a late event makes it be derived again.",
    ).tag(config=True)
    long_settle_seconds = Float(
        300.0,
        min=0.0,
        help="Seconds that an execution waits after its last event when events are missing, and at most; also how "
        "long executions wait while the queue is being drained.",
    ).tag(config=True)
    read_attempts = Int(
        8,
        min=1,
        help="Tries to read an execution's objects from storage that does not answer, after which its lineage is "
        "derived without them.",
    ).tag(config=True)
    read_retry_seconds = Float(
        5.0,
        min=0.0,
        help="First delay in seconds before storage that did not answer is asked again; doubles each time.",
    ).tag(config=True)
    batch_size = Int(64, min=1, help="Executions whose lineage is derived together.").tag(config=True)

    @property
    def settle(self) -> Settle:
        """The settle times."""
        return Settle(self.settle_seconds, self.long_settle_seconds)

    def make_targets(self) -> list[Target]:
        """Make the configured targets, unopened.

        Returns:
            In the order of the option, each with a name of its own.

        Raises:
            ConfigurationError: there is no such target, it cannot be imported, or two have one name.
        """
        targets = [self._make(item) for item in self.targets]
        names = [target.name for target in targets]
        for name in names:
            if names.count(name) > 1:
                msg = f"WorkflowEvents.targets holds two targets of the name {name!r}: give each a name of its own."
                raise ConfigurationError(msg)
        return targets

    def _make(self, item: Any) -> Target:
        if isinstance(item, Target):
            if not item.name:
                item.name = _default_name(type(item))
            return item
        if not isinstance(item, str):
            msg = f"WorkflowEvents.targets holds {item!r}: write a target's name, or a Target instance."
            raise ConfigurationError(msg)
        found = entry_points(group=GROUP, name=item)
        if not found:
            known = sorted(entry_points(group=GROUP).names)
            near = difflib.get_close_matches(item, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"installed are {', '.join(known)}."
            msg_0 = f"WorkflowEvents.targets: there is no target {item!r}: {hint}"
            raise ConfigurationError(msg_0)
        try:
            cls = next(iter(found)).load()
        except Exception as error:  # somebody else's module may do anything on import
            msg_0 = f"WorkflowEvents.targets: {item!r} cannot be imported: {error}."
            raise ConfigurationError(msg_0) from error
        if not (isinstance(cls, type) and issubclass(cls, Target)):
            msg_0 = f"WorkflowEvents.targets: {item!r} is registered as {cls!r}, which is no Target."
            raise ConfigurationError(msg_0)
        target: Target = cls(parent=self)
        target.name = target.name or item
        return target


def _default_name(cls: type[Target]) -> str:
    registered: Sequence[Any] = tuple(entry_points(group=GROUP))
    for entry_point in registered:
        if entry_point.value == f"{cls.__module__}:{cls.__qualname__}":
            return str(entry_point.name)
    return cls.__name__

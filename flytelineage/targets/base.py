"""Where lineage goes: the seam between the catalog and catalogs elsewhere.

A target translates one entity (a Pipeline, Task, Dataset or Run of :mod:`flytelineage.model`) into another catalog's
words. It knows nothing of events, of sources and of other targets. Register one as an entry point of the group
``flytelineage.targets``; :class:`flytelineage.testing.TargetContract` is the suite that every target passes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from traitlets import Float, Int, Unicode

from flytelineage.component import Component
from flytelineage.model import Entity, Kind


@dataclass(frozen=True, slots=True)
class Change:
    """The present state of one entity, on its way to one target.

    Attributes:
        kind: what it is.
        key: the entity's stable name within its kind (a run's is its execution key).
        revision: grows whenever the entity changes. A target never goes back to a smaller one.
        entity: the whole state, or None when there is no such entity any more.
    """

    kind: Kind
    key: str
    revision: int
    entity: Entity | None


class Target(Component):
    """Base of all targets.

    Must override: :meth:`send`. May override: :meth:`open`, :meth:`send_all`, :meth:`close`. Every call comes from one
    thread, the target's own; a call may block, up to ``lease_seconds / 2``. Sending the same change again must change
    nothing (invariant 3). Errors: :class:`~flytelineage.errors.RetryableError` is tried again later with a growing
    delay, :class:`~flytelineage.errors.PermanentError` becomes a dead letter; neither holds up another entity.
    Anything else is a defect of the target: it is retried too, with its traceback in the log.
    """

    name = Unicode(
        help="Unique name of this target; names its deliveries in the database. Default: the entry point's name."
    ).tag(config=True)
    batch_size = Int(50, min=1, help="The most entities that are handed over in one call.").tag(config=True)
    retry_base_seconds = Float(
        2.0, min=0.0, help="First delay after a failed delivery, in seconds; doubles each time."
    ).tag(config=True)
    retry_cap_seconds = Float(
        600.0, min=0.0, help="The longest delay between two tries of a delivery, in seconds."
    ).tag(config=True)
    max_attempts = Int(
        0, min=0, help="Tries after which a delivery becomes a dead letter; 0: never, it is tried until it succeeds."
    ).tag(config=True)

    def open(self) -> None:  # noqa: B027  (optional)
        """Check the configuration and connect, once, before the first call.

        Raises:
            ConfigurationError: an option is missing or wrong; the process stops. An unreachable server is no such
                error: deliveries wait.
        """

    @abstractmethod
    def send(self, change: Change) -> None:
        """Make the other catalog show this entity's state.

        Raises:
            RetryableError: try later.
            PermanentError: this state can never be sent.
        """

    def send_all(self, changes: Sequence[Change]) -> Sequence[Exception | None]:
        """Send 1 to :attr:`batch_size` changes, in the order of :class:`~flytelineage.model.Kind`.

        Returns:
            One entry per change, in order: None for sent, else what :meth:`send` would have raised.
        """
        outcomes: list[Exception | None] = []
        for change in changes:
            try:
                self.send(change)
            except Exception as error:  # noqa: BLE001  (a boundary per item: the outcome is recorded)
                outcomes.append(error)
            else:
                outcomes.append(None)
        return outcomes

    def close(self, timeout: float) -> bool:
        """Flush and let go, within ``timeout`` seconds; idempotent.

        Returns:
            Whether everything that :meth:`send` accepted has reached the other catalog.
        """
        return True

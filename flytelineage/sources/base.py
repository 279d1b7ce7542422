"""Where messages come from: the seam between a queue and the engine.

A source knows its queue and nothing of Flyte, of the inbox or of targets. Register one as an entry point of the group
``flytelineage.sources``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event

from traitlets import Int

from flytelineage.component import Component


@dataclass(frozen=True, slots=True)
class Message:
    """One message as the queue delivered it.

    Attributes:
        body: the text, untrusted.
        message_id: the queue's id, for logs and dead letters only: it is no key (DESIGN.md 4).
        receipt: what the source needs to delete this delivery; opaque to everybody else.
    """

    body: str
    message_id: str = ""
    receipt: str = ""


class Source(Component):
    """Base of all sources.

    Must override: :meth:`open`, :meth:`receive`, :meth:`acknowledge`. May override: :meth:`extend`, :meth:`release`,
    :meth:`close`, :attr:`exhausted`, :attr:`visibility_timeout`. ``receive``, ``acknowledge`` and ``extend`` are
    called by several threads at once.
    """

    receivers = Int(1, min=1, help="Threads that receive messages.").tag(config=True)

    visibility_timeout: float = float("inf")
    """Seconds until an unacknowledged message comes back; the engine extends messages that wait longer than half."""

    @abstractmethod
    def open(self) -> None:
        """Find the queue, once, before any other call. Blocks for a few seconds at most.

        Raises:
            ConfigurationError: the queue or the credentials are missing; the process stops.
        """

    @abstractmethod
    def receive(self, stop: Event) -> Sequence[Message]:
        """Wait a bounded time for messages.

        Retries throttling and network faults by itself, waiting on ``stop``, until it is set.

        Returns:
            0 to :attr:`batch_size` messages, in no order. A full batch means that more are waiting.
        """

    batch_size: int = 10
    """The most messages that one :meth:`receive` returns."""

    @abstractmethod
    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Delete messages whose content is committed. Any number; idempotent.

        A message that could not be deleted comes back and is recognised: this never raises for a single entry.
        """

    def extend(self, messages: Sequence[Message]) -> None:  # noqa: B027  (optional)
        """Keep messages hidden for another :attr:`visibility_timeout`. Best effort."""

    def release(self, messages: Sequence[Message]) -> None:  # noqa: B027  (optional)
        """Give back messages that were not committed, so that another daemon gets them now. Best effort."""

    @property
    def exhausted(self) -> bool:
        """Whether no message will ever come again (recordings end, queues do not)."""
        return False

    def close(self) -> None:  # noqa: B027  (optional)
        """Let go of everything; idempotent."""

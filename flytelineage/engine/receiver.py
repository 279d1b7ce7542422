"""From the source into the inbox: receive, decode, commit, and only then delete (invariant 1)."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from threading import Event
from typing import Any, Final, NamedTuple

from flytelineage.clock import Clock
from flytelineage.errors import DecodeError
from flytelineage.events import decode
from flytelineage.inbox.sql import Batch, DeadLetter, Inbox
from flytelineage.sources.base import Message, Source

log = logging.getLogger(__name__)

_DEPTH: Final = 50
"""Batches a receiver hands over before it waits for a commit: groups of them share one (ingest.md 1)."""
_DEPTH_CHARACTERS: Final = 16_000_000
"""And what their bodies may hold together: a single message may have a megabyte."""
_RETRY_SECONDS: Final = (1.0, 60.0)
"""First and longest pause after a commit failed: what was received comes back by itself."""


class _Pending(NamedTuple):
    future: Future[Any]
    messages: Sequence[Message]
    received_at: float
    size: int


@dataclass(slots=True)
class ReceiverCounts:
    """Of one receiver, since its start."""

    messages: int = 0


def decode_batch(messages: Sequence[Message]) -> Batch:
    """Decode messages; what is no event becomes a dead letter with its reason. Never raises."""
    events = []
    letters = []
    for message in messages:
        try:
            events.append(decode(message.body))
        except DecodeError as error:
            letters.append(_letter(message, str(error)))
        except Exception as error:  # a defect of ours must not stop the queue
            log.exception(
                "A message could not be decoded", extra={"action": "decode_defect", "message_id": message.message_id}
            )
            letters.append(_letter(message, f"defect while decoding: {type(error).__name__}"))
    return Batch(events, letters)


def _letter(message: Message, reason: str) -> DeadLetter:
    return DeadLetter(reason, message.body.encode("utf-8", "surrogatepass"), message.message_id)


class Receiver:
    """One receiving thread's work."""

    def __init__(self, source: Source, inbox: Inbox, clock: Clock) -> None:
        self.counts = ReceiverCounts()
        self.backlogged = False
        """Whether the last receive came back full: the queue is being drained."""
        self._source = source
        self._inbox = inbox
        self._clock = clock
        self._pending: deque[_Pending] = deque()
        self._size = 0
        self._failures = 0

    def run(self, stop: Event) -> None:
        """Receive until ``stop`` is set or the source is exhausted; then let go of what is not committed."""
        try:
            while not stop.is_set():
                # A receive that may wait must not keep committed messages undeleted meanwhile.
                full = self._size > _DEPTH_CHARACTERS
                self._settle(0 if full or not self.backlogged else _DEPTH - 1)
                if self._failures:
                    self._clock.wait(stop, min(_RETRY_SECONDS[1], _RETRY_SECONDS[0] * 2 ** (self._failures - 1)))
                messages = self._source.receive(stop)
                self.backlogged = len(messages) >= self._source.batch_size
                if messages:
                    self.counts.messages += len(messages)
                    future = self._inbox.append(decode_batch(messages))
                    size = sum(len(message.body) for message in messages)
                    self._size += size
                    self._pending.append(_Pending(future, messages, self._clock.monotonic(), size))
                elif self._source.exhausted:
                    break
        finally:
            self.backlogged = False
            self._settle(0)

    def _settle(self, most: int) -> None:
        """Delete what is committed, until at most ``most`` batches wait for their commit."""
        done: list[Message] = []
        while self._pending and (len(self._pending) > most or self._pending[0].future.done()):
            pending = self._pending[0]
            try:
                pending.future.result(timeout=self._patience(pending))
            except FutureTimeoutError:
                waiting = [message for item in self._pending for message in item.messages]
                log.info("The database is slow: keeping %d messages hidden", len(waiting), extra={"action": "extended"})
                self._source.extend(waiting)
                self._pending = deque(item._replace(received_at=self._clock.monotonic()) for item in self._pending)
            except Exception as error:  # noqa: BLE001  (a boundary per batch: it stays in the queue)
                self._size -= self._pending.popleft().size
                self._fail(error, pending.messages)
            else:
                self._size -= self._pending.popleft().size
                self._recover()
                done.extend(pending.messages)
        if done:
            self._source.acknowledge(done)

    def _patience(self, pending: _Pending) -> float | None:
        """Seconds until half of the visibility timeout is over; None: it never is."""
        half = self._source.visibility_timeout / 2
        if half == float("inf"):
            return None
        return max(0.05, half - (self._clock.monotonic() - pending.received_at))

    def _fail(self, error: Exception, messages: Sequence[Message]) -> None:
        self._failures += 1
        self._source.release(messages)
        if self._failures == 1:
            log.error(
                "The inbox cannot be written, messages stay in the queue: %s", error, extra={"action": "commit_failed"}
            )

    def _recover(self) -> None:
        if self._failures:
            log.info("The inbox is written again", extra={"action": "commit_recovered"})
            self._failures = 0

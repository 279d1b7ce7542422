"""A queue and an object store in memory, which sample the floor when they are called."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from benchmarks.multiply import Workload
from benchmarks.process import FloorSampler
from flytelineage.errors import ObjectNotFoundError
from flytelineage.lineage.build import FoundSchema
from flytelineage.sources.base import Message, Source

_EVERY_RECEIVE: Final = 20
_RECEIVE_SAMPLE: Final = 60
"""Messages of the floor for every 20 receives, 200 messages."""
_READ_SAMPLE: Final = 1_000
"""For every time that literal maps are read, of at most some 4,000 events."""


class MemorySource(Source):
    """Delivers ten messages a call, as SQS does, without waiting; then it is exhausted."""

    def __init__(self, bodies: Sequence[str], sampler: FloorSampler) -> None:
        super().__init__()
        self._sampler = sampler
        self._messages = [Message(body, f"message-{n}", f"receipt-{n}") for n, body in enumerate(bodies)]
        self._next = 0
        self.acknowledged = 0

    def open(self) -> None:
        """Nothing to find."""

    def receive(self, stop: threading.Event) -> Sequence[Message]:
        """The next ten."""
        start, self._next = self._next, self._next + self.batch_size
        if start // self.batch_size % _EVERY_RECEIVE == 0:
            self._sampler.sample(_RECEIVE_SAMPLE)
        return self._messages[start : self._next]

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Count."""
        self.acknowledged += len(messages)

    @property
    def exhausted(self) -> bool:
        """Whether all were delivered."""
        return self._next >= len(self._messages)


class StreamSource(Source):
    """Delivers what an iterator makes, once it is let; never exhausted."""

    def __init__(self, bodies: Iterator[str]) -> None:
        super().__init__()
        self._bodies = bodies
        self._delivered = 0
        self._ended = False
        self.let = threading.Event()
        self.drained = threading.Event()
        self.acknowledged = 0

    def open(self) -> None:
        """Nothing to find."""

    def receive(self, stop: threading.Event) -> Sequence[Message]:
        """The next ten, or after a moment none."""
        if self._ended or not self.let.is_set():
            stop.wait(0.05)
            return ()
        batch = []
        for body in self._bodies:
            batch.append(Message(body, f"message-{self._delivered}", f"receipt-{self._delivered}"))
            self._delivered += 1
            if len(batch) == self.batch_size:
                return batch
        self._ended = True
        if not self._delivered:
            self.drained.set()
        return batch

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Count."""
        self.acknowledged += len(messages)
        if self._ended and self.acknowledged == self._delivered:
            self.drained.set()


class MemoryObjects:
    """An :class:`~flytelineage.lineage.reading.ObjectReader`; ``seconds`` is the CPU time that was spent inside."""

    def __init__(self, load: Workload, sampler: FloorSampler | None = None) -> None:
        self._load = load
        self._sampler = sampler
        self.seconds = 0.0

    def literals(self, uris: Sequence[str]) -> Mapping[str, bytes | Exception]:
        """From memory."""
        if self._sampler is not None:
            self._sampler.sample(_READ_SAMPLE)
        start = time.thread_time()
        found: dict[str, bytes | Exception] = {}
        for uri in uris:
            data = self._load.literals.get(uri)
            found[uri] = ObjectNotFoundError(uri) if data is None else data
        self.seconds += time.thread_time() - start
        return found

    def schemas(self, wanted: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], FoundSchema | Exception | None]:
        """From memory."""
        start = time.thread_time()
        found = {key: self._load.schemas.get(key) for key in wanted}
        self.seconds += time.thread_time() - start
        return found

"""The real process, killed at any instant: nothing is lost, nothing is there twice. And how it stops when asked to."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from flytelineage.errors import ExitCode, InboxError
from tests.support.aws import AwsEmulator
from tests.support.corpus import Published, Publisher, Recording
from tests.support.daemon import Process, export
from tests.support.expected import Document, differences
from tests.support.waiting import wait_until

pytestmark = pytest.mark.kill

KILLS = 12
"""At least, of each of the two publishers."""
SEED = int(os.environ.get("KILL_SEED", "0")) or random.randrange(1, 1 << 32)
"""Printed with a failure; KILL_SEED=... repeats its instants (as far as two machines are ever at the same place)."""
VISIBILITY_SECONDS = 2

Lineage = tuple[Document, dict[tuple[str, str], Any]]
"""The export, and the state that the file target was told."""


def few_recordings() -> list[Recording]:
    """Cases with retries, cache hits, recovered nodes, placed datasets, two versions and failures."""
    return [
        Recording(case) for case in ("diamond", "caching", "retry", "recover", "lake-publish", "versions", "failing")
    ]


def many_recordings() -> list[Recording]:
    """The same, and more executions of their pipelines."""
    copies = few_recordings()
    for letter in "ab":
        copies.append(Recording("covid", {"covid-1": f"covid-{letter}"}))
        copies.append(Recording("diamond", {"orders-1": f"orders-{letter}"}))
        copies.append(Recording("retry", {"retry-1": f"retry-{letter}"}))
        copies.append(Recording("caching", {"cached-": f"cache{letter}-"}))
    return copies


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("publisher", ["external", "cloudevents"])
def test_a_killed_process_loses_nothing(aws: AwsEmulator, tmp_path: Path, publisher: Publisher) -> None:
    print(f"KILL_SEED={SEED}")  # noqa: T201  (pytest shows it with a failure)
    chance = random.Random(f"{SEED}/{publisher}")
    recordings = many_recordings()
    messages = shuffled(recordings, publisher, chance)
    for recording in recordings:
        aws.upload(recording)
    undisturbed = run_undisturbed(aws, tmp_path / "undisturbed", messages, recordings)

    queue = aws.queue(visibility=VISIBILITY_SECONDS)
    process = Process(aws, queue, tmp_path / "killed", ["--targets=file"])
    share = len(messages) // KILLS
    met: list[tuple[int, int]] = []
    try:
        while messages or len(met) < KILLS:
            # There is always something to do, and the queue never gets as long as moto cannot bear.
            if aws.depth(queue) < share:
                aws.publish(queue, messages[:share])
                del messages[:share]
            instant = chance.choice(["any", "receiving", "deriving"])
            before, told = aws.depth(queue), told_bytes(process)
            process.start()
            if instant == "receiving" and before:
                wait_until_begun(process, before)
            elif instant == "deriving":
                # what is missing of an execution may not have been published yet: then there is nothing to derive
                with suppress(AssertionError):
                    wait_until(lambda told=told: told_bytes(process) > told, 8, "the target is told something")  # type: ignore[misc]
            pause(chance.uniform(0.0, 3.0 if instant == "any" else 0.7))
            assert is_alive(process)
            assert process.kill() == -signal.SIGKILL
            met.append((aws.depth(queue), len(runs_of(process))))
        process.start()
        wait_for_lineage(process, undisturbed)
        # What was committed and not yet deleted at the last kill comes back when its visibility is over.
        wait_until(lambda: aws.depth(queue) == 0, 30, "the queue is empty")
        assert process.terminate() == ExitCode.OK, process.output
    finally:
        process.close()

    print(f"left in the queue and runs in the catalog at each kill: {met}")  # noqa: T201
    assert any(depth for depth, _ in met), "no kill met a queue that was not empty"
    assert any(runs for _, runs in met), "no kill met a catalog that was not empty"
    assert aws.depth(queue) == 0
    assert lineage(process) == undisturbed


@pytest.mark.slow
def test_sigterm_drains_and_exits_0_and_the_next_process_goes_on(aws: AwsEmulator, tmp_path: Path) -> None:
    recordings = few_recordings()
    messages = shuffled(recordings, "external", random.Random(1))
    for recording in recordings:
        aws.upload(recording)
    undisturbed = run_undisturbed(aws, tmp_path / "undisturbed", messages, recordings)

    queue = aws.queue(visibility=VISIBILITY_SECONDS)
    process = Process(aws, queue, tmp_path / "stopped", ["--targets=file", "--FlyteLineage.shutdown_timeout=20"])
    half = len(messages) // 2
    try:
        for part, stop in ((messages[:half], signal.SIGTERM), (messages[half:], signal.SIGINT)):
            aws.publish(queue, part)
            before = aws.depth(queue)
            process.start()
            wait_until_begun(process, before)
            started = time.monotonic()
            assert process.terminate(stop) == ExitCode.OK, process.output
            assert time.monotonic() - started < 20
        process.start()
        wait_for_lineage(process, undisturbed)
        assert process.terminate() == ExitCode.OK, process.output
    finally:
        process.close()
    assert lineage(process) == undisturbed


def test_a_second_signal_exits_at_once(aws: AwsEmulator, tmp_path: Path, silent_store: SilentStore) -> None:
    queue = aws.queue(visibility=VISIBILITY_SECONDS)
    aws.publish(queue, Recording("covid").published("external"))
    process = Process(
        aws,
        queue,
        tmp_path / "hanging",
        [
            f"--Storage.endpoint_url={silent_store.url}",
            "--Storage.request_timeout_seconds=120",
            "--FlyteLineage.shutdown_timeout=120",
        ],
    )
    try:
        process.start()
        # it reads an object from a store that never answers: the first signal waits for that
        wait_until(silent_store.was_asked, 60, "the store was asked")
        process.signal(signal.SIGTERM)
        pause(1.0)
        assert process.is_running, f"it did not wait for its work:\n{process.output}"
        started = time.monotonic()
        process.signal(signal.SIGTERM)
        assert process.wait(5) == ExitCode.INTERRUPTED, process.output
        assert time.monotonic() - started < 3
    finally:
        process.close()

    # and nothing is lost
    aws.upload(Recording("covid"))
    process.options = ()
    try:
        process.start()
        wait_until(lambda: runs_of(process) == ["flytesnacks/development/covid-1"], 60, "the run is there")
        assert process.terminate() == ExitCode.OK, process.output
    finally:
        process.close()


# -- helpers --------------------------------------------------------------------------------------------------------


def shuffled(recordings: Sequence[Recording], publisher: Publisher, chance: random.Random) -> list[Published]:
    """The messages out of order, mixed over a few executions, so that executions end all along the way."""
    mixed = list(recordings)
    chance.shuffle(mixed)
    placed = [
        (number + chance.uniform(0.0, 2.0), message)
        for number, recording in enumerate(mixed)
        for message in recording.published(publisher)
    ]
    return [message for _, message in sorted(placed, key=lambda item: item[0])]


class SilentStore:
    """A server that takes connections and never answers."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self._connections: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def was_asked(self) -> bool:
        """Whether somebody has connected."""
        with suppress(BlockingIOError):
            self._connections.append(self._socket.accept()[0])
        return bool(self._connections)

    def close(self) -> None:
        """Hang up."""
        for connection in (*self._connections, self._socket):
            connection.close()


@pytest.fixture
def silent_store() -> Iterator[SilentStore]:
    store = SilentStore()
    yield store
    store.close()


def run_undisturbed(aws: AwsEmulator, folder: Path, messages: list[Published], recordings: list[Recording]) -> Lineage:
    """What one process makes of the messages when nobody disturbs it."""
    queue = aws.queue(visibility=30)
    process = Process(aws, queue, folder, ["--targets=file"])
    runs = sorted({name for recording in recordings for name in recording.succeeded()})
    try:
        process.start()
        aws.publish(queue, messages)
        wait_until(lambda: is_alive(process) and aws.depth(queue) == 0, 120, "the queue is empty", 0.25)
        wait_until(
            lambda: is_alive(process) and runs_of(process) == runs,
            60,
            "every run is in the catalog",
            0.25,
        )
        wait_until(lambda: is_quiet(process), 60, "the file target knows the catalog", 0.25)
        assert process.terminate() == ExitCode.OK, process.output
    finally:
        process.close()
    result = lineage(process)
    assert_told(result)
    return result


def wait_for_lineage(process: Process, expected: Lineage) -> None:
    """Wait until export and file target are the expected ones, or say how they differ."""
    try:
        wait_until(lambda: is_alive(process) and lineage(process) == expected, 120, "the lineage is whole", 0.5)
    except AssertionError as error:
        document, told = lineage(process)
        different = differences(document, expected[0]) or [
            f"{key}: {told.get(key)} instead of {expected[1].get(key)}"
            for key in sorted({*told, *expected[1]})
            if told.get(key) != expected[1].get(key)
        ]
        msg = f"{error} (- missing, + too much):\n{different}\n{process.output}"
        raise AssertionError(msg) from None


def is_alive(process: Process) -> bool:
    assert process.is_running, f"it ended by itself:\n{process.output}"
    return True


def wait_until_begun(process: Process, depth: int) -> None:
    """Wait until a process has committed and deleted some of the ``depth`` messages that were there before it.

    Hidden messages tell nothing: those of a killed predecessor stay hidden for a while.
    """
    wait_until(
        lambda: is_alive(process) and process.aws.depth(process.queue) < depth, 60, "the process deletes messages"
    )


def is_quiet(process: Process) -> bool:
    """Whether the file target was told what the catalog holds."""
    assert is_alive(process)
    return told_matches(*lineage(process))


def told_matches(document: Document, told: dict[tuple[str, str], Any]) -> bool:
    """Whether the file target's entities are those of the export, whole."""
    by_kind = {"pipeline": "pipelines", "task": "tasks", "dataset": "datasets", "run": "runs"}
    for kind, name in by_kind.items():
        entities = [entity for (of, _), entity in told.items() if of == kind]
        if sorted(map(repr, entities)) != sorted(map(repr, document[name])):
            return False
    return True


def assert_told(result: Lineage) -> None:
    assert told_matches(*result), "the file target was told something else than the catalog holds"


def catalog(process: Process) -> Document:
    """The export beside the running process; empty as long as there is no database."""
    if not process.database.exists():
        return {"version": 1, "pipelines": [], "tasks": [], "datasets": [], "runs": []}
    return export(process.database)


def runs_of(process: Process) -> list[str]:
    """The executions in the catalog; none, when the process was killed before its database had a schema."""
    try:
        return [run["execution"] for run in catalog(process)["runs"]]
    except InboxError:
        return []


def lineage(process: Process) -> Lineage:
    """The export, and the file target read by revision."""
    told = process.folder / "lineage.jsonl"
    lines = told.read_text(encoding="utf-8").splitlines() if told.exists() else []
    return catalog(process), read_by_revision(lines)


def read_by_revision(lines: Sequence[str]) -> dict[tuple[str, str], Any]:
    """The file target's state: of each kind and key the last line with the greatest revision.

    Read here once more, by what the target's documentation says, and not by the target's own reader.
    """
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for line in lines:
        try:
            change = json.loads(line)
        except json.JSONDecodeError:
            continue  # half a line, of a process that was killed
        of = (change["kind"], change["key"])
        if of not in newest or change["revision"] >= newest[of]["revision"]:
            newest[of] = change
    return {of: change["entity"] for of, change in newest.items() if change["entity"] is not None}


def told_bytes(process: Process) -> int:
    """How much the file target was told."""
    told = process.folder / "lineage.jsonl"
    return told.stat().st_size if told.exists() else 0


def pause(seconds: float) -> None:
    """Let a random time pass: the instant of a kill is what the test is about."""
    wait_until_time = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= wait_until_time, seconds + 1, "the instant has come", 0.005)

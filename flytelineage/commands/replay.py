"""``flytelineage replay``: recorded messages instead of a queue, the same way into the catalog."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import cleandoc
from typing import TYPE_CHECKING, Any

from traitlets import Bool

from flytelineage.app import FlyteLineage
from flytelineage.commands.base import Command
from flytelineage.errors import ConfigurationError, ExitCode
from flytelineage.options import report

if TYPE_CHECKING:
    from flytelineage.engine.daemon import Progress, Summary


class ReplayCommand(Command):
    """Reads recorded messages as the daemon reads a queue, derives their lineage, delivers it and ends."""

    name = "flytelineage replay"
    description = (
        "Reads recorded messages from files, or from every file in folders: one JSON-encoded SQS message body a line. "
        "They go the same way as a queue's, and every execution is settled when the input ends. Safe to repeat."
    )
    examples = cleandoc("""
        flytelineage replay messages/covid.jsonl
        flytelineage replay messages/ --objects=objects/ --json
    """)
    arguments_allowed = sys.maxsize

    as_json = Bool(help="Print the summary as JSON.").tag(config=True)

    aliases: dict[Any, Any] = {
        "objects": (
            "Storage.objects",
            "Folder that serves s3://bucket/key from FOLDER/bucket/key; other stores are then not read, unless "
            "Storage.allowed_schemes is set too.",
        ),
        "targets": FlyteLineage.aliases["targets"],
        **Command.aliases,
    }
    flags: dict[Any, Any] = {
        "json": ({"ReplayCommand": {"as_json": True}}, as_json.help),
        **Command.flags,
    }

    def forward_options(self) -> None:
        """Suit a recording: its objects stand for themselves, and somebody waits for the end.

        Nothing is fetched from a store that was not recorded; and storage that does not answer is asked three times
        within seconds, where the daemon would ask for minutes.
        """
        super().forward_options()
        events = self._options.section(self._options.by_name["WorkflowEvents"], self.config)
        if not {"read_attempts", "read_retry_seconds"} & set(events):
            self.config.WorkflowEvents.read_attempts = 3
            self.config.WorkflowEvents.read_retry_seconds = 1.0
        storage = self._options.section(self._options.by_name["Storage"], self.config)
        if storage.get("objects") and "allowed_schemes" not in storage:
            self.config.Storage.allowed_schemes = ["s3"]

    def main(self) -> None:
        """Replay, and print what came of it.

        Raises:
            ConfigurationError: there is no such file, or no message in what was named.
        """
        from flytelineage.sources.recorded import RecordedSource

        if not self.extra_args:
            msg = "Nothing to replay is named: write flytelineage replay PATH, a file of recorded messages or a folder."
            raise ConfigurationError(msg)
        source = RecordedSource(paths=[os.path.expanduser(path) for path in self.extra_args], parent=self)
        source.open()  # before there is a database: a wrong path must leave none behind
        with _progress_bars(lambda: source.total) as on_progress:
            self.exit_code = self.drain(lambda: source, on_progress)
        if self.stopped_by is not None and self.exit_code == ExitCode.OK:
            self.exit_code = ExitCode.INCOMPLETE
        summary = self.daemon.summary()
        self.write(json.dumps(summary.as_dict(), indent=2) + "\n" if self.as_json else _describe(summary))
        if self.exit_code != ExitCode.OK:
            report("Not everything was replayed and delivered: run the same command again, it is safe to repeat.")


@contextmanager
def _progress_bars(total: Callable[[], int]) -> Iterator[Callable[[Progress], None] | None]:
    """Show bars on stderr while the block runs, when that is a terminal; log lines go above them.

    Args:
        total: how many messages there are; 0 until that is known.

    Yields:
        What the engine calls with how far it is, or None.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.TextColumn("{task.description:<10}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with rich_progress.Progress(*columns, console=console, transient=True, redirect_stdout=False) as bars:
        messages = bars.add_task("messages", total=None)
        executions = bars.add_task("executions", total=None)

        def on_progress(progress: Progress) -> None:
            bars.update(messages, completed=progress.messages, total=total() or None)
            bars.update(executions, completed=progress.derived, total=progress.derived + progress.pending)

        yield on_progress


def _describe(summary: Summary) -> str:
    """Say in a few lines what was read and what the catalog holds."""
    lines = [
        f"{summary.messages:,} messages read: {summary.events:,} new events, {summary.duplicates:,} known already, "
        f"{summary.dead_letters:,} dead letters",
        f"{summary.derived:,} executions derived",
        f"the catalog holds {summary.pipelines:,} pipelines, {summary.tasks:,} tasks, {summary.datasets:,} datasets, "
        f"{summary.runs:,} runs",
    ]
    if summary.deliveries_sent or summary.deliveries_pending:
        lines.append(f"{summary.deliveries_sent:,} deliveries sent, {summary.deliveries_pending:,} waiting")
    return "\n".join(lines) + "\n"

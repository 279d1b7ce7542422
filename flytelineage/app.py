"""FlyteLineage, the traitlets Application: options, wiring and life cycle. No domain logic.

The only module that knows every other one. Components are imported when they are needed: ``--version`` and ``--help``
answer without them.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Sequence
from inspect import cleandoc
from typing import TYPE_CHECKING, Any

from traitlets import Float, Unicode
from traitlets.config import Configurable
from traitlets.utils.importstring import import_item

from flytelineage import __version__
from flytelineage.application import StrictApplication
from flytelineage.errors import ConfigurationError, ExitCode
from flytelineage.options import walk
from flytelineage.signals import StopSignals, leave_at_once

if TYPE_CHECKING:
    from flytelineage.engine.daemon import Daemon, Progress
    from flytelineage.sources.base import Source

log = logging.getLogger(__name__)


class FlyteLineage(StrictApplication):
    """The daemon, and the options that it and every command share."""

    name = "flytelineage"
    version = __version__
    description = "Reads the events that Flyte publishes and keeps the lineage of what it ran in a catalog."
    examples = cleandoc("""
        flytelineage --sqs_queue=flyte-events              # the daemon: from the queue into flytelineage.db
        flytelineage replay messages/ --objects=objects/   # recorded messages instead of a queue
        flytelineage show                                  # what the catalog says
        flytelineage help replay                           # the options of a command
    """)
    subcommands: dict[str, Any] = {
        "replay": ("flytelineage.commands.replay.ReplayCommand", "Read recorded messages instead of a queue."),
        "export": ("flytelineage.commands.export.ExportCommand", "Print the catalog as one JSON document."),
        "show": ("flytelineage.commands.show.ShowCommand", "Print the catalog, a pipeline or a dataset for a person."),
    }

    sqs_queue = Unicode(
        help="Name or URL of the SQS queue to drain: the same as SQSSource.queue. The daemon needs it, commands do not."
    ).tag(config=True)
    aws_region = Unicode(
        None,
        allow_none=True,
        help="AWS region of the queue: the same as SQSSource.region. None: the region in the queue's URL, else what "
        "the AWS chain says (AWS_REGION, profile), else us-east-1.",
    ).tag(config=True)
    # traitlets has a class method of this name, for singletons; this application is none (see launch_instance)
    instance = Unicode(  # type: ignore[assignment]
        help="Name of this Flyte installation, part of every key, where several feed one catalog. Empty: there is only "
        "one."
    ).tag(config=True)
    config_file = Unicode(
        "flytelineage_config.py",
        help="Python file with the configuration, only from the command line. The default, in the working directory, "
        "may be absent; a file that is named here must be there. Empty: read no file.",
    ).tag(config=True, command_line=True)
    shutdown_timeout = Float(
        25.0,
        min=0.0,
        help="Longest time in seconds from SIGTERM or SIGINT to the exit, for work under way to finish. 0: leave at "
        "once; nothing is lost either way.",
    ).tag(config=True)
    aliases: dict[Any, Any] = {
        "sqs_queue": "FlyteLineage.sqs_queue",
        "targets": (
            "WorkflowEvents.targets",
            "Where lineage is sent besides the catalog, by name; repeat it for several.",
        ),
        "config_file": "FlyteLineage.config_file",
        "log-level": "FlyteLineage.log_level",
        "log_format": "FlyteLineage.log_format",
        "log_datefmt": "FlyteLineage.log_datefmt",
    }

    flags: dict[Any, Any] = {
        "debug": ({"FlyteLineage": {"log_level": logging.DEBUG}}, "Log everything: the same as --log-level=DEBUG."),
        "show-config": ({"FlyteLineage": {"show_config": True}}, StrictApplication.show_config.help),
        "show-config-json": ({"FlyteLineage": {"show_config_json": True}}, StrictApplication.show_config_json.help),
        "generate-config": ({"FlyteLineage": {"generate_config": True}}, StrictApplication.generate_config.help),
    }

    stopped_by: str | None = None
    """Name of the signal that stopped the engine."""

    def main(self) -> None:
        """Drain the queue until a signal comes; commands do something else."""
        from flytelineage.sources.sqs import SQSSource

        def make_source() -> Source:
            source = SQSSource(parent=self)
            if not source.queue:
                msg = "No queue is given: write --sqs_queue=NAME_OR_URL."
                raise ConfigurationError(msg)
            return source

        self.exit_code = self.drain(make_source)

    def drain(
        self, make_source: Callable[[], Source], on_progress: Callable[[Progress], None] | None = None
    ) -> ExitCode:
        """Run the engine on a source until that is exhausted or a signal stops it.

        Args:
            make_source: makes the source, inside the signals' handling.
            on_progress: called by the engine's thread with how far it is.

        Returns:
            The engine's exit code.
        """
        from flytelineage.engine.daemon import tune_garbage_collection

        with StopSignals() as signals:
            self.daemon: Daemon = self.make_daemon(make_source())
            signals.on_stop(self.daemon.stop)
            tune_garbage_collection()
            log.info("flytelineage %s starts.", __version__, extra={"action": "starting"})
            code = self.daemon.run(on_progress)
            self.stopped_by = signals.received
        log.info(
            "flytelineage stops with exit code %d, because of %s.",
            code,
            self.stopped_by or ("the end of its input" if code == ExitCode.OK else "a failure"),
            extra={"action": "stopped"},
        )
        return code

    def make_daemon(self, source: Source) -> Daemon:
        """Build the engine and its parts from the options; nothing is opened yet."""
        from flytelineage.engine.daemon import Daemon
        from flytelineage.engine.workflow_events import WorkflowEvents
        from flytelineage.inbox.sql import Inbox
        from flytelineage.lineage.schemas import SchemaReader
        from flytelineage.storage import Storage

        storage = Storage(parent=self)
        return Daemon(
            source=source,
            inbox=Inbox(parent=self),
            storage=storage,
            schemas=SchemaReader(storage=storage, parent=self),
            events=WorkflowEvents(parent=self),
            instance=self.instance,
            shutdown_timeout=self.shutdown_timeout,
            parent=self,
        )

    # -- options

    def find_components(self) -> tuple[list[type[Configurable]], list[str]]:
        """Return the component classes, and a sentence for each plug-in that cannot be loaded."""
        from flytelineage.components import components

        return components()

    def file_classes(self) -> list[type[Configurable]]:
        """Return every command, and the classes that a configuration file defines or imports for itself."""
        from flytelineage.components import subclasses
        from flytelineage.sources.base import Source
        from flytelineage.targets.base import Target

        commands = [import_item(path) for path, _ in FlyteLineage.subcommands.values()]
        return [*commands, *subclasses(Source), *subclasses(Target)]

    def forward_options(self) -> None:
        """Hand the queue and its region to the source."""
        self._forward("sqs_queue", "SQSSource", "queue")
        self._forward("aws_region", "SQSSource", "region")

    def _forward(self, own: str, section: str, option: str) -> None:
        """Set a component's option from ours, unless it was given itself, and nearer to the user."""
        direct_on_command_line = f"{section}.{option}" in self.cli_config
        own_on_command_line = any(path.endswith(f".{own}") for path, _ in walk(self.cli_config))
        if getattr(self, own) and (own_on_command_line or not direct_on_command_line):
            self.config[section][option] = getattr(self, own)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the console script ``flytelineage``.

    Args:
        argv: arguments without the program's name; None: the process's own.

    Returns:
        The process's exit code.
    """
    # a catalog may hold names that the terminal's encoding has no letters for
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    code = FlyteLineage().run(argv)
    if argv is None and any(t is not threading.main_thread() and not t.daemon for t in threading.enumerate()):
        # the engine has used its time: a thread that hangs in somebody's library must not hold up the exit
        leave_at_once(code)
    return code

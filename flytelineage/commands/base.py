"""What every command shares: the application's options, and reading the catalog beside a running daemon."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flytelineage.app import FlyteLineage
from flytelineage.application import LogLevel

if TYPE_CHECKING:
    from flytelineage.inbox.sql import Inbox


class Command(FlyteLineage):
    """Base of the commands: reads the same options as the daemon, from the same places.

    What is configured for ``FlyteLineage`` holds for every command; a command's own name narrows it.
    """

    subcommands: dict[str, Any] = {}
    aliases: dict[Any, Any] = {k: v for k, v in FlyteLineage.aliases.items() if k not in ("sqs_queue", "targets")}

    log_level = LogLevel(
        FlyteLineage.log_level.values, default_value=logging.WARNING, help=FlyteLineage.log_level.help
    ).tag(config=True)

    @contextmanager
    def reading(self) -> Iterator[Inbox]:
        """Open the database for reading, beside whoever writes it.

        Raises:
            InboxError: there is no database yet, or it cannot be read.
        """
        from flytelineage.inbox.sql import Inbox

        inbox = Inbox(parent=self)
        inbox.open(readonly=True)
        try:
            yield inbox
        finally:
            inbox.close()

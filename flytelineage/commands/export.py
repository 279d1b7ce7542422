"""``flytelineage export``: the catalog as one JSON document."""

from __future__ import annotations

import json
import os
from inspect import cleandoc
from pathlib import Path
from typing import Any

from traitlets import Int, List, Unicode

from flytelineage.commands.base import Command
from flytelineage.errors import ConfigurationError


class ExportCommand(Command):
    """Prints the catalog, or a part of it, as one JSON document: sorted, and the same for the same input."""

    name = "flytelineage export"
    description = "Prints the catalog as one JSON document. Reads beside a running daemon."
    examples = cleandoc("""
        flytelineage export > lineage.json
        flytelineage export --execution=flytesnacks/development/f01234 --indent=0
        flytelineage export --pipeline=development.flytesnacks.covid_wf --output=covid.json
    """)

    execution = List(
        Unicode(), help="Executions to export, as project/domain/name; repeat it for several. Empty: all."
    ).tag(config=True)
    pipeline = List(Unicode(), help="Names of pipelines to export; repeat it for several. Empty: all.").tag(config=True)
    output = Unicode(help="File to write, replaced in one step. Empty or -: stdout.").tag(config=True)
    indent = Int(2, min=0, help="Spaces that each level is indented by. 0: one line.").tag(config=True)

    aliases: dict[Any, Any] = {
        "execution": "ExportCommand.execution",
        "pipeline": "ExportCommand.pipeline",
        "output": "ExportCommand.output",
        "indent": "ExportCommand.indent",
        **Command.aliases,
    }

    def main(self) -> None:
        """Write the document.

        Raises:
            ConfigurationError: there is no such execution, pipeline or folder.
        """
        from flytelineage.catalog.export import export_document

        with self.reading() as inbox:
            document = export_document(inbox, executions=list(self.execution), pipelines=list(self.pipeline))
        text = json.dumps(document, indent=self.indent or None) + "\n"
        if self.output in ("", "-"):
            self.write(text)
        else:
            _replace(Path(self.output).expanduser(), text)


def _replace(path: Path, text: str) -> None:
    """Write a file that is either the old one or the whole new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        msg = f"{path} cannot be written: {error.strerror or error}."
        raise ConfigurationError(msg) from error

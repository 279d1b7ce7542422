"""``flytelineage show``: the catalog for a person."""

from __future__ import annotations

from inspect import cleandoc

from flytelineage.commands.base import Command


class ShowCommand(Command):
    """Prints the catalog, or one pipeline or dataset, as a tree."""

    name = "flytelineage show"
    description = "Prints the catalog, or one pipeline or dataset of it, as a tree. Reads beside a running daemon."
    examples = cleandoc("""
        flytelineage show
        flytelineage show development.flytesnacks.covid_wf
        flytelineage show lake/gold/orders
    """)
    arguments_allowed = 1

    def main(self) -> None:
        """Print the tree.

        Raises:
            ConfigurationError: there is no pipeline or dataset of this name.
        """
        from rich.console import Console

        from flytelineage.catalog.show import render

        console = Console(highlight=False)
        with self.reading() as inbox:
            tree = render(inbox, self.extra_args[0] if self.extra_args else None)
            with console.capture() as captured:
                console.print(tree)
        self.write(captured.get())

"""An application that refuses what it does not understand, in one sentence, and shows no secret.

What traitlets' own leaves to logging and chance: an unknown option, a value of the wrong type or a broken configuration
file stops the start; the command line wins over the file whatever section it names.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Generator, Sequence
from contextlib import suppress
from pathlib import Path
from pprint import pformat
from typing import Any

from traitlets import Bool, Dict, Enum, TraitError, Unicode, default, observe, validate
from traitlets.config import Application, Config, Configurable
from traitlets.config.loader import ArgumentError
from traitlets.utils.importstring import import_item
from traitlets.utils.text import indent, wrap_paragraphs

from flytelineage import logs
from flytelineage.errors import ConfigurationError, ExitCode
from flytelineage.options import COMMAND_LINE, ArgumentLoader, Options, nearest, overlay, read_config_file, report, walk
from flytelineage.redaction import Redactor

log = logging.getLogger(__name__)


class OutputClosedError(Exception):
    """Whoever read our stdout has left (``| head``): there is nobody to write for."""


class LogLevel(Enum):  # type: ignore[type-arg]
    """A level of :mod:`logging` by number or by name, upper or lower case."""

    def validate(self, obj: Any, value: Any) -> Any:
        """Return the level as traitlets stores it."""
        return super().validate(obj, value.upper() if isinstance(value, str) else value)


class StrictApplication(Application):
    """Reads options strictly and turns every failure into an exit code.

    Must override: :meth:`main`. May override: :meth:`find_components`, :meth:`file_classes`, :meth:`forward_options`.
    """

    option_description = "Short names of what is set most often; --help-all lists every option."
    keyvalue_description = (
        "Each option is written --Class.option=VALUE here, and c.Class.option = VALUE in the configuration file. "
        "What is set for a class holds for the classes made from it, which are named after it here."
    )
    subcommand_description = "Written first: {app} COMMAND [options]. {app} help COMMAND lists its options."

    config_file = Unicode(help="Python file with the configuration. Empty: read no file.").tag(config=True)
    log_level = LogLevel(
        (0, 10, 20, 30, 40, 50, "WARN", *logs.LEVELS),
        default_value=logging.INFO,
        help="Least level that is logged, by name or number. 0: everything. Libraries never log below WARNING.",
    ).tag(config=True)
    log_format = Unicode(
        logs.FORMAT,
        help="Format of a log line, with %-style fields of Python's logging and %(action)s, the stable name of what "
        "happened.",
    ).tag(config=True)
    log_datefmt = Unicode(
        logs.DATE_FORMAT, help="Format of %(asctime)s, as for time.strftime. Empty: ISO 8601 with milliseconds."
    ).tag(config=True)
    show_config = Bool(help="Print the effective configuration instead of starting; secrets are hidden.").tag(
        config=True, command_line=True
    )
    show_config_json = Bool(
        help="Print the effective configuration as JSON instead of starting; secrets are hidden."
    ).tag(config=True, command_line=True)
    logging_config = Dict(
        help="More handlers and loggers, as for logging.config.dictConfig, merged into: the formatter and the handler "
        "console (stderr), the root logger (libraries, WARNING and above) and the logger flytelineage (log_level). "
        "Only the formatter console hides secrets. Empty: stderr alone."
    ).tag(config=True)
    generate_config = Bool(help="Write a configuration file with every option commented out, instead of starting.").tag(
        config=True, command_line=True
    )

    exit_code: int = ExitCode.OK
    arguments_allowed = 0
    """The most positional arguments that this command takes."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.redactor = Redactor()
        self.files_read: list[Path] = []
        self.broken_plugins: list[str] = []
        self._file_config = Config()
        self._options = Options([type(self)], {}, ())

    # -- life cycle

    @classmethod
    def launch_instance(cls, argv: list[str] | None = None, **kwargs: Any) -> None:
        """Run and leave the process with the exit code."""
        sys.exit(cls(**kwargs).run(argv))

    def run(self, argv: Sequence[str] | None = None) -> int:
        """Read the options, do what they say, and turn whatever goes wrong into an exit code.

        Args:
            argv: the arguments without the program's name; None: the process's own.

        Returns:
            An :class:`~flytelineage.errors.ExitCode`.
        """
        active: StrictApplication = self
        try:
            active = self.initialize(list(sys.argv[1:] if argv is None else argv))
            active.start()
        except SystemExit as leaving:
            return leaving.code if isinstance(leaving.code, int) else ExitCode.OK
        except OutputClosedError:
            return ExitCode.OK
        except ConfigurationError as error:
            report(active.redactor.text(str(error)))
            return error.exit_code
        except TraitError as error:
            report(active.redactor.text(str(error)))
            return ExitCode.CONFIGURATION
        except KeyboardInterrupt:
            return ExitCode.INTERRUPTED
        except Exception:  # noqa: BLE001  (the top of the process)
            return active.crashed()
        return active.exit_code

    def crashed(self) -> ExitCode:
        """Log the exception that nobody expected."""
        with suppress(ConfigurationError):  # it may not have come that far
            self._configure_logging()
        log.critical(
            "Stopped by a defect of flytelineage; nothing is lost.", exc_info=True, extra={"action": "crashed"}
        )
        return ExitCode.FAILURE

    def initialize(self, argv: list[str] | None = None) -> StrictApplication:  # type: ignore[override]
        """Read the command line, then the configuration file, and check both.

        Returns:
            The application that the command line asks for: this one, or a command.

        Raises:
            ConfigurationError: an option does not exist or has a wrong value.
            SystemExit: help or the version was printed.
        """
        arguments = argv or []
        self.argv = arguments
        if arguments[:1] == ["help"]:
            arguments = [*arguments[1:], "--help"]
        if arguments and arguments[0] in self.subcommands:
            command: StrictApplication = import_item(self.subcommands[arguments[0]][0])(parent=self)
            self.subapp = command
            return command.initialize(arguments[1:])
        self._answer_questions(arguments)
        classes, self.broken_plugins = self.find_components()
        self.classes = [type(self), *classes]
        if "--help-all" in _before_dashes(arguments):
            self.print_help(classes=True)
            raise SystemExit(ExitCode.OK)
        self.parse_command_line(arguments)
        self._read_config_file()
        self._apply()
        self._configure_logging()
        for sentence in self.broken_plugins:
            log.warning("%s", sentence, extra={"action": "plugin_broken"})
        return self

    def start(self) -> None:
        """Run the daemon until it is stopped, or do what an option asks for instead."""
        if self.generate_config:
            self._write_config_file()
        elif self.show_config or self.show_config_json:
            self.start_show_config()
        else:
            self.main()

    def main(self) -> None:
        """Do the work, when no option asks for something else; set :attr:`exit_code`."""
        raise NotImplementedError

    def find_components(self) -> tuple[list[type[Configurable]], list[str]]:
        """Return the classes with options besides this one, and a sentence for each that cannot be loaded."""
        return [], []

    def file_classes(self) -> list[type[Configurable]]:
        """Return the classes that a file may set although they are not this application's."""
        return []

    def forward_options(self) -> None:
        """Hand options on to the components that own them, when every option is known."""

    # -- reading options

    def parse_command_line(self, argv: list[str] | None = None) -> None:
        """Read and check the arguments.

        Raises:
            ConfigurationError: an option or a value is wrong, or there is an argument too many.
        """
        arguments = argv or []
        flags, aliases = self.flatten_flags()
        options = Options(self.classes, aliases, flags)
        options.check_arguments(arguments)
        loader = ArgumentLoader(arguments, aliases, flags, classes=list(options.by_name.values()), log=self.log)
        try:
            self.cli_config = loader.load_config()
        except ArgumentError as error:
            if valueless := re.match(r"argument (\S+): expected", str(error)):
                names = [f"--{alias}" for alias, long in aliases.items() if f"--{long}" == valueless[1]]
                name = next((name for name in names if name in arguments), valueless[1])
                msg = f"{name} needs a value: write {name}=VALUE."
                raise ConfigurationError(msg) from error
            msg = f"The command line cannot be read: {error}"
            raise ConfigurationError(msg) from error
        options.check_argument_values(self.cli_config, arguments)
        self.extra_args = loader.extra_args
        if len(self.extra_args) > self.arguments_allowed:
            raise ConfigurationError(self._too_many(self.extra_args[self.arguments_allowed]))
        self.update_config(self.cli_config)
        self._options = options

    def _answer_questions(self, arguments: list[str]) -> None:
        """Answer what needs no component, quickly."""
        read = _before_dashes(arguments)
        if "--help" in read or "-h" in read:
            self.print_help()
        elif "--version" in read or "-V" in read:
            self.print_version()
        else:
            return
        raise SystemExit(ExitCode.OK)

    def _too_many(self, argument: str) -> str:
        application = self.parent if isinstance(self.parent, StrictApplication) else self
        commands = dict(application.subcommands)
        if argument in commands:
            return f"The command {argument} comes first: flytelineage {argument} [options]"
        if application is not self:
            return f"{argument!r} is one argument too many: {self.name} takes {self.arguments_allowed or 'none'}."
        near = nearest(argument, commands)
        hint = f"did you mean {near}?" if near else f"the commands are {', '.join(commands)}."
        return f"There is nothing to do with the argument {argument!r}; {hint}"

    def _read_config_file(self) -> None:
        named = any(path.endswith(".config_file") for path, _ in walk(self.cli_config))
        if not self.config_file:
            return
        path = Path(self.config_file).expanduser()
        if not path.exists():
            if named and not self.generate_config:
                msg = f"There is no configuration file {path}."
                raise ConfigurationError(msg)
            return
        if self.generate_config:  # it is about to be replaced
            return
        self._file_config = read_config_file(path.absolute())
        own = self._options
        every = Options([*self.classes, *self.file_classes()], own.aliases, own.flags)
        every.check_file(self._file_config, path)
        every.leaves = own.leaves
        self._options = every
        self.files_read = [path]

    def _apply(self) -> None:
        """Merge file and command line, the command line above, and take the result over."""
        merged = overlay(self._options, self._file_config, self.cli_config)
        self.redactor = self._options.secrets(merged)
        self.update_config(merged)
        self.forward_options()

    # -- configuration shown and written

    def start_show_config(self) -> None:
        """Print every option's effective value; secrets are hidden."""
        shown = self._options.effective(self.config, self.redactor)
        if self.show_config_json:
            self.write(json.dumps(shown, indent=2, sort_keys=True, default=str) + "\n")
            return
        lines = [f"# from {path}" for path in self.files_read]
        for section, values in shown.items():
            given_in_cli, given_in_file = (
                self._options.section(self._options.by_name[section], config)
                for config in (self.cli_config, self._file_config)
            )
            lines += ["", section]
            for name, value in values.items():
                origin = COMMAND_LINE if name in given_in_cli else "file" if name in given_in_file else ""
                lines.append(f"  .{name} = {pformat(value, compact=True)}{f'  # {origin}' if origin else ''}")
        self.write("\n".join(lines).lstrip("\n") + "\n")

    def _write_config_file(self) -> None:
        path = Path(self.config_file).expanduser()
        if path.exists() and not (sys.stdin.isatty() and _asks(f"Overwrite {path}? [y/N] ")):
            msg = f"{path} exists already and is left as it is: name another with --config_file=FILE."
            raise ConfigurationError(msg)
        try:
            path.write_text(self.generate_config_file(), encoding="utf-8")
        except OSError as error:
            msg = f"{path} cannot be written: {error.strerror or error}."
            raise ConfigurationError(msg) from error
        report(f"wrote {path}")

    def write(self, text: str) -> None:
        """Write a result to stdout.

        Raises:
            OutputClosedError: nobody reads it any more.
        """
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError as error:
            # or the interpreter's own flush at its end fails
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise OutputClosedError from error

    # -- what traitlets does otherwise

    def print_help(self, classes: bool = False) -> None:
        """Print the help; with every option of every component, if asked."""
        self.write("\n".join(self.emit_help(classes)) + "\n")

    def print_version(self) -> None:
        """Print the version."""
        self.write(f"{self.version}\n")

    def generate_config_file(self, classes: Any = None) -> str:
        """Return a configuration file with every option that a file may set, commented out."""
        text: str = super().generate_config_file(classes)
        here_only = [
            name for name, trait in self.class_traits(config=True).items() if trait.metadata.get("command_line")
        ]
        block = rf"## (?:(?!\n## ).)*?\n# c\.\w+\.(?:{'|'.join(here_only)}) = [^\n]*\n\n?"
        return re.sub(block, "", text, flags=re.DOTALL)

    def _classes_with_config_traits(self, classes: Any = None) -> Generator[type[Configurable], None, None]:
        """Yield the classes of the help, without the bases whose options show below this application's name."""
        for cls in super()._classes_with_config_traits(classes):
            if cls not in (Application, StrictApplication):
                yield cls

    @default("log")
    def _log_default(self) -> logging.Logger:
        return logging.getLogger(logs.LOGGER)

    @validate("log_format")
    def _check_log_format(self, proposal: Any) -> str:
        text: str = proposal["value"]
        try:
            logs.check_format(text)
        except (ValueError, TypeError, KeyError) as error:
            msg = f"--log_format={text!r} cannot be used: {error}"
            raise TraitError(msg) from error
        return text

    def get_default_logging_config(self) -> dict[str, Any]:
        """Return the configuration of the process's one log handler, for traitlets."""
        level = self.log_level if isinstance(self.log_level, int) else logging.getLevelName(self.log_level)
        return logs.logging_config(level, self.log_format, self.log_datefmt or None, self.redactor)

    def _configure_logging(self) -> None:
        try:
            super()._configure_logging()
        except (ValueError, TypeError, AttributeError, ImportError) as error:
            reason = f"{error}: {error.__cause__}" if error.__cause__ else str(error)
            msg = f"FlyteLineage.logging_config cannot be used: {reason}"
            raise ConfigurationError(msg) from error

    @observe("log_datefmt", "log_format", "log_level", "logging_config")
    def _observe_logging_change(self, change: Any) -> None:
        """Do nothing: logging is set up once, when every option is known."""

    @observe("log", type="default")
    def _observe_logging_default(self, change: Any) -> None:
        """Do nothing, as above."""

    @observe("config")
    def _config_changed(self, change: Any) -> None:
        """Load the options without logging them, as traitlets would: they may hold secrets."""
        super(Application, self)._config_changed(change)

    @observe("show_config", "show_config_json")
    def _show_config_changed(self, change: Any) -> None:
        """Do nothing: start() looks at the options."""

    def emit_alias_help(self) -> Generator[str, None, None]:
        """Yield the help of the short options, without importing the components that they belong to."""
        for alias, target in self.aliases.items():
            long, text = target if isinstance(target, tuple) else (target, None)
            name = long.partition(".")[2]
            yield f"--{alias}=<{name}>"
            yield from (indent(line) for line in wrap_paragraphs(text or str(type(self).class_traits()[name].help)))
            yield indent(f"Equivalent to: [--{long}]")


def _before_dashes(arguments: list[str]) -> list[str]:
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def _asks(question: str) -> bool:
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")

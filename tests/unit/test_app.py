"""The command line in this process: options, their errors, what is shown, logging and signals."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import signal
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from traitlets import Bool, Dict, Unicode
from traitlets.config import Configurable

from flytelineage import __version__, components
from flytelineage.app import FlyteLineage
from flytelineage.engine.daemon import Daemon, Progress
from flytelineage.errors import (
    CredentialsError,
    ExitCode,
    FlyteLineageError,
    InboxLockedError,
    QueueNotFoundError,
    RetryableError,
)
from flytelineage.options import Options
from flytelineage.redaction import HIDDEN, Redactor, is_secret_name, redact
from flytelineage.signals import StopSignals
from flytelineage.sources.base import Source
from flytelineage.sources.sqs import SQSSource

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _own_directory_and_logging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An application reads the working directory and configures the process's logging: leave both as they were."""
    monkeypatch.chdir(tmp_path)
    root, ours = logging.getLogger(), logging.getLogger("flytelineage")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


class Run:
    """What one run of the command line did."""

    def __init__(self, app: FlyteLineage, code: int, out: str, err: str) -> None:
        self.app, self.code, self.out, self.err = app, code, out, err

    @property
    def sentence(self) -> str:
        """The only line on stderr."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("flytelineage: ")
        return lines[0].removeprefix("flytelineage: ")

    @property
    def shown(self) -> dict[str, dict[str, Any]]:
        """The configuration that --show-config-json printed."""
        assert self.code == ExitCode.OK, self.err
        shown: dict[str, dict[str, Any]] = json.loads(self.out)
        return shown


Cli = Callable[..., Run]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    def run(*arguments: str, app: FlyteLineage | None = None) -> Run:
        app = app or FlyteLineage()
        code = app.run(arguments)
        captured = capsys.readouterr()
        return Run(app, code, captured.out, captured.err)

    return run


def configure(*lines: str, name: str = "flytelineage_config.py") -> None:
    Path(name).write_text("\n".join(lines) + "\n", encoding="utf-8")


class ScriptedDaemon:
    """Stands for the engine: does what it is told when it runs."""

    def __init__(self, work: Callable[[ScriptedDaemon], ExitCode]) -> None:
        self.work = work
        self.stops = 0

    def run(self, on_progress: Callable[[Progress], None] | None = None) -> ExitCode:
        return self.work(self)

    def stop(self) -> None:
        self.stops += 1


class ScriptedApp(FlyteLineage):
    """The application with a scripted engine."""

    def __init__(self, work: Callable[[ScriptedDaemon], ExitCode]) -> None:
        super().__init__()
        self.scripted = ScriptedDaemon(work)

    def make_daemon(self, source: Source) -> Daemon:
        self.source = source
        return self.scripted  # type: ignore[return-value]


# -- options that are wrong


@pytest.mark.parametrize(
    ("argument", "named", "nearest"),
    [
        ("--sqs_que=x", "--sqs_que", "--sqs_queue"),
        ("--sqs-queue=x", "--sqs-queue", "--sqs_queue"),
        ("--FlyteLineage.instanc=1", "--FlyteLineage.instanc", "--FlyteLineage.instance"),
        ("--flytelineage.instance=1", "--flytelineage.instance", "--FlyteLineage.instance"),
        ("--SQSSorce.queue=x", "--SQSSorce.queue", "--SQSSource.queue"),
        ("--aws_region=x", "--aws_region", "--FlyteLineage.aws_region"),
        ("--Nope.x=1", "--Nope.x", "SQSSource"),
        ("--Inbox.nope=1", "--Inbox.nope", "url"),
        ("--log_level=DEBUG", "--log_level", "--log-level"),
        ("--verison", "--verison", "--help-all"),
        ("-x", "-x", "--help-all"),
        ("--log-level=loud", "--log-level='loud'", "DEBUG"),
        ("--SQSSource.receivers=many", "--SQSSource.receivers='many'", "a whole number, at least 1"),
        ("--SQSSource.receivers=0", "--SQSSource.receivers", "a whole number, at least 1"),
        ("--WorkflowEvents.emit=maybe", "--WorkflowEvents.emit='maybe'", "a boolean"),
        ("--FlyteLineage.shutdown_timeout=-1", "shutdown_timeout", "at least 0"),
        ("--log_format=%(nothing)s", "--log_format", "nothing"),
        ("--config_file=nope.py", "nope.py", "configuration file"),
        ("--sqs_queue", "--sqs_queue", "--sqs_queue=VALUE"),
        ("--debug=1", "--debug", "takes no value"),
        ("repley", "'repley'", "replay"),
        ("some-file", "'some-file'", "replay, export, show"),
    ],
)
def test_a_wrong_argument_is_named_in_one_sentence_with_the_right_one(
    cli: Cli, argument: str, named: str, nearest: str
) -> None:
    run = cli(argument)
    assert run.code == ExitCode.CONFIGURATION
    assert named in run.sentence
    assert nearest in run.sentence
    assert run.out == ""


def test_an_option_given_twice_is_refused(cli: Cli) -> None:
    run = cli("--sqs_queue=a", "--sqs_queue=b")
    assert run.code == ExitCode.CONFIGURATION
    assert "--sqs_queue is given twice" in run.sentence


def test_a_command_behind_options_is_told_to_come_first(cli: Cli) -> None:
    assert "flytelineage replay [options]" in cli("--debug", "replay", "x").sentence


@pytest.mark.parametrize("command", [("show", "a", "b"), ("export", "a")])
def test_an_argument_too_many_for_a_command_is_named(cli: Cli, command: tuple[str, ...]) -> None:
    run = cli(*command)
    assert run.code == ExitCode.CONFIGURATION
    assert f"{command[-1]!r} is one argument too many" in run.sentence


@pytest.mark.parametrize(
    ("line", "named", "nearest"),
    [
        ('c.FlyteLineage.sqs_queu = "x"', "c.FlyteLineage.sqs_queu", "c.FlyteLineage.sqs_queue"),
        ('c.sqs_queue = "x"', "c.sqs_queue", "c.FlyteLineage.sqs_queue"),
        ("c.Nope.x = 1", "c.Nope.x", "SQSSource"),
        ("c.SQSSource.recievers.append(1)", "c.SQSSource.recievers", "c.SQSSource.receivers"),
        ('c.FlyteLineage.SQSSource.quue = "x"', "c.FlyteLineage.SQSSource.quue", "c.SQSSource.queue"),
        ('c.SQSSource.receivers = "many"', "c.SQSSource.receivers = 'many'", "a whole number"),
        ("c.SQSSource.receivers = -1", "c.SQSSource.receivers = -1", "at least 1"),
        ("c.FlyteLineage.shutdown_timeout = None", "c.FlyteLineage.shutdown_timeout = None", "a number"),
        ('c.WorkflowEvents.targets = "file"', "c.WorkflowEvents.targets = 'file'", "a list"),
        ("c.FlyteLineage.show_config = True", "show_config", "command line only"),
    ],
)
def test_a_wrong_line_of_the_file_is_named_with_its_number(cli: Cli, line: str, named: str, nearest: str) -> None:
    configure("# first", "", line)
    run = cli("--show-config")
    assert run.code == ExitCode.CONFIGURATION
    assert run.sentence.startswith("flytelineage_config.py:3: ")
    assert named in run.sentence
    assert nearest in run.sentence


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("x = [", "SyntaxError"),
        ("nothing", "NameError: name 'nothing' is not defined"),
        ('raise ValueError("postgresql://u:geheim@h/d")', f"ValueError: postgresql://u:{HIDDEN}@h/d"),
        ("raise SystemExit(0)", "SystemExit"),
        ("import json; json.loads('{')", "JSONDecodeError"),
    ],
)
def test_a_broken_file_stops_the_start_with_its_line(cli: Cli, line: str, reason: str) -> None:
    configure("", line)
    run = cli("--show-config")
    assert run.code == ExitCode.CONFIGURATION
    assert f"{Path('flytelineage_config.py').absolute()}:2: {reason}" in run.sentence


def test_a_broken_file_that_another_loads_is_named_itself(cli: Cli) -> None:
    configure("load_subconfig('more.py')")
    configure("", "", "nothing", name="more.py")
    assert "more.py:3: NameError" in cli("--show-config").sentence


def test_an_unreadable_file_stops_the_start(cli: Cli) -> None:
    Path("flytelineage_config.py").mkdir()
    run = cli("--show-config")
    assert run.code == ExitCode.CONFIGURATION
    assert "flytelineage_config.py cannot be read: Is a directory" in run.sentence


def test_a_missing_default_file_is_fine(cli: Cli) -> None:
    assert cli("--show-config").code == ExitCode.OK


def test_the_default_file_named_and_missing_stops_the_start(cli: Cli) -> None:
    assert cli("--config_file=flytelineage_config.py", "--show-config").code == ExitCode.CONFIGURATION


# -- which value holds

PRECEDENCE = [
    ("FlyteLineage", "instance", ("file", "line")),
    ("FlyteLineage", "shutdown_timeout", (3.5, 4.5)),
    ("SQSSource", "receivers", (3, 4)),
    ("Inbox", "url", ("sqlite:///file.db", "sqlite:///line.db")),
    ("WorkflowEvents", "emit", (False, True)),
    ("WorkflowEvents", "targets", (["file"], ["other"])),
    ("FileTarget", "path", ("file", "line")),
]


@pytest.mark.parametrize(("section", "option", "values"), PRECEDENCE)
def test_command_line_over_file_over_default(
    cli: Cli, section: str, option: str, values: tuple[object, object]
) -> None:
    in_file, in_line = values
    default = cli("--show-config-json").shown[section][option]
    assert default not in ([in_file] if in_file != default else [])
    configure(f"c.{section}.{option} = {in_file!r}")
    assert cli("--show-config-json").shown[section][option] == in_file
    text = in_line[0] if isinstance(in_line, list) else in_line
    shown = cli(f"--{section}.{option}={text}", "--show-config-json").shown
    assert shown[section][option] == in_line


def test_both_spellings_of_a_value_work(cli: Cli) -> None:
    assert cli("--sqs_queue=x", "--show-config-json").shown["FlyteLineage"]["sqs_queue"] == "x"
    assert cli("--sqs_queue", "x", "--show-config-json").shown["FlyteLineage"]["sqs_queue"] == "x"
    assert cli("--FlyteLineage.aws_region", "x", "--show-config-json").shown["FlyteLineage"]["aws_region"] == "x"


@pytest.mark.parametrize(
    "line", ["c.FileTarget.batch_size = 3", "c.Target.batch_size = 3", "c.WorkflowEvents.FileTarget.batch_size = 3"]
)
def test_the_command_line_wins_over_a_more_specific_section_of_the_file(cli: Cli, line: str) -> None:
    configure(line)
    assert cli("--show-config-json").shown["FileTarget"]["batch_size"] == 3
    assert cli("--Target.batch_size=7", "--show-config-json").shown["FileTarget"]["batch_size"] == 7


def test_the_log_level_of_the_command_line_wins_whatever_section_the_file_names(cli: Cli) -> None:
    configure('c.ShowCommand.log_level = "ERROR"', 'c.FlyteLineage.log_level = "ERROR"')
    run = cli("show", "--log-level=INFO", "--show-config-json")
    assert run.shown["ShowCommand"]["log_level"] in ("INFO", logging.INFO)
    assert logging.getLogger("flytelineage").level == logging.INFO


def test_what_the_file_appends_adds_to_the_default(cli: Cli) -> None:
    configure('c.WorkflowEvents.targets.append("file")', 'c.Storage.allowed_schemes.append("file")')
    shown = cli("--show-config-json").shown
    assert shown["WorkflowEvents"]["targets"] == ["file"]
    assert "s3" in shown["Storage"]["allowed_schemes"]
    assert "file" in shown["Storage"]["allowed_schemes"]


def test_the_components_get_what_is_shown() -> None:
    configure("c.SQSSource.receivers = 5", 'c.FlyteLineage.aws_region = "eu-west-1"', 'c.Inbox.url = "sqlite:///f.db"')
    app = ScriptedApp(lambda daemon: ExitCode.OK)
    assert app.run(["--sqs_queue=q", "--SQSSource.receivers=6"]) == ExitCode.OK
    assert isinstance(app.source, SQSSource)
    assert (app.source.queue, app.source.region, app.source.receivers) == ("q", "eu-west-1", 6)


@pytest.mark.parametrize(
    ("line", "arguments", "queue"),
    [
        ('c.FlyteLineage.sqs_queue = "file"', (), "file"),
        ('c.SQSSource.queue = "file"', (), "file"),
        ('c.SQSSource.queue = "file"', ("--sqs_queue=line",), "line"),
        ('c.FlyteLineage.sqs_queue = "file"', ("--SQSSource.queue=line",), "line"),
        ('c.FlyteLineage.sqs_queue = "file"', ("--sqs_queue=line", "--SQSSource.queue=other"), "line"),
    ],
)
def test_two_names_of_the_queue_are_one_option(cli: Cli, line: str, arguments: tuple[str, ...], queue: str) -> None:
    configure(line)
    assert cli(*arguments, "--show-config-json").shown["SQSSource"]["queue"] == queue


def test_a_target_class_of_the_file_itself_has_options() -> None:
    configure(
        "from flytelineage.testing import RecordingTarget",
        "class OwnTarget(RecordingTarget):",
        "    pass",
        "c.OwnTarget.batch_size = 3",
    )
    assert FlyteLineage().run(["--show-config"]) == ExitCode.OK


def test_commands_read_the_same_configuration(cli: Cli) -> None:
    configure('c.FlyteLineage.instance = "main"', 'c.Inbox.url = "sqlite:///other.db"', "c.ExportCommand.indent = 4")
    shown = cli("export", "--show-config-json").shown
    assert shown["ExportCommand"]["instance"] == "main"
    assert shown["ExportCommand"]["indent"] == 4
    assert shown["Inbox"]["url"] == "sqlite:///other.db"


def test_a_command_s_options_in_the_file_do_not_disturb_the_daemon(cli: Cli) -> None:
    configure("c.ExportCommand.indent = 0", "c.ReplayCommand.as_json = True")
    assert cli("--show-config").code == ExitCode.OK


def test_recorded_objects_close_every_other_store(cli: Cli, tmp_path: Path) -> None:
    shown = cli("replay", f"--objects={tmp_path}", "--show-config-json").shown
    assert shown["Storage"]["objects"] == str(tmp_path)
    assert shown["Storage"]["allowed_schemes"] == ["s3"]
    configure('c.Storage.allowed_schemes = ["s3", "gs"]')
    shown = cli("replay", f"--objects={tmp_path}", "--show-config-json").shown
    assert shown["Storage"]["allowed_schemes"] == ["s3", "gs"]


# -- secrets


@pytest.mark.parametrize(
    "name",
    [
        "password", "db_password", "token", "authToken", "api_key", "apiKey", "apikey", "key", "secret_key",
        "clientSecret", "AWSAccessKeyId", "X-Amz-Signature", "sig", "Authorization", "auth_tokens", "private_key",
        "passwords",
    ],
)  # fmt: skip
def test_secret_names(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "keyspace", "monkey", "partition_key", "primaryKey", "key_prefix", "token_file", "password_path", "keyboard",
        "settle_seconds", "queue", "targets", "secretary", "token_timeout_seconds", "", "author",
    ],
)  # fmt: skip
def test_names_that_only_look_like_secrets(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:geheim@h/d", "postgresql://u:***@h/d"),
        ("postgresql+psycopg://u:ge@h:eim@h/d", "postgresql+psycopg://u:***@h/d"),
        ("https://u:geheim@h/p?x=1", "https://***@h/p?x=1"),
        ("https://geheim@h/p", "https://***@h/p"),
        ("failed: https://h/p?token=geheim&x=1.", "failed: https://h/p?token=***&x=1."),
        ("https://h/p?X-Amz-Signature=geheim&key=geheim", "https://h/p?X-Amz-Signature=***&key=***"),
        ("connect password=geheim host=h", "connect password=*** host=h"),
        ("{'api_key': 'geheim', 'x': 1}", "{'api_key': '***', 'x': 1}"),
        ("abfs://container@account.dfs.core.windows.net/x", "abfs://container@account.dfs.core.windows.net/x"),
        ("s3://bucket/key=1/part", "s3://bucket/key=1/part"),
        ("http://localhost:4566/000000000000/queue", "http://localhost:4566/000000000000/queue"),
        ("arn:aws:sqs:eu-west-1:1:q", "arn:aws:sqs:eu-west-1:1:q"),
    ],
)
def test_texts_are_shown_without_secrets(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_a_learned_secret_is_hidden_in_any_form() -> None:
    redactor = Redactor()
    redactor.learn_from("url", "postgresql://u:ge%40heim@h/d")
    redactor.learn_from("headers", {"Authorization": "Bearer abcdef"})
    assert redactor.text("login of u with ge@heim or ge%40heim and Bearer abcdef failed") == (
        "login of u with *** or *** and *** failed"
    )


class Secretive(Configurable):
    """A component with secrets."""

    url = Unicode(help="A URL.").tag(config=True)
    password = Unicode(help="A secret by its name.").tag(config=True)
    phrase = Unicode(help="A secret by its tag.").tag(config=True, secret=True)
    headers = Dict(help="Secrets inside.").tag(config=True)
    partition_key = Unicode(help="No secret.").tag(config=True)
    token_enabled = Bool(help="No secret: no text.").tag(config=True)


class SecretiveApp(ScriptedApp):
    """An application with a component that has secrets."""

    def find_components(self) -> tuple[list[type[Configurable]], list[str]]:
        classes, broken = super().find_components()
        return [*classes, Secretive], broken


SECRETS = (
    'c.Secretive.url = "https://u:geheim1@h/?sig=geheim2"',
    'c.Secretive.password = "geheim3"',
    'c.Secretive.phrase = "geheim4"',
    'c.Secretive.headers = {"X-Token": "geheim5", "Accept": "text"}',
    'c.Secretive.partition_key = "day"',
    "c.Secretive.token_enabled = True",
)


@pytest.mark.parametrize("option", ["--show-config", "--show-config-json"])
def test_show_config_hides_secrets_and_nothing_else(cli: Cli, option: str) -> None:
    configure(*SECRETS)
    run = cli(option, app=SecretiveApp(lambda daemon: ExitCode.OK))
    assert run.code == ExitCode.OK
    assert "geheim" not in run.out + run.err
    for text in ("text", "day", "sig=***", "https://***@h/"):
        assert text in run.out


def test_show_config_hides_secrets_of_the_command_line(cli: Cli) -> None:
    app = SecretiveApp(lambda daemon: ExitCode.OK)
    run = cli("--show-config", "--Secretive.password=geheim", "--Inbox.url=postgresql://u:geheim@h/d", app=app)
    assert run.code == ExitCode.OK
    assert "geheim" not in run.out + run.err
    assert "postgresql://u:***@h/d" in run.out


def test_logs_and_tracebacks_hide_secrets(cli: Cli) -> None:
    def work(daemon: ScriptedDaemon) -> ExitCode:
        logging.getLogger("flytelineage.x").info("with %s", "geheim3")
        logging.getLogger("somebody.else").warning("with %s", "https://u:geheim1@h")
        msg = "no way in with geheim4"
        raise RuntimeError(msg)

    configure(*SECRETS)
    run = cli("--sqs_queue=q", "--debug", app=SecretiveApp(work))
    assert run.code == ExitCode.FAILURE
    assert "Traceback" in run.err
    assert "RuntimeError: no way in with ***" in run.err
    assert "flytelineage.x: with ***" in run.err
    assert "geheim" not in run.err


def test_an_error_s_sentence_hides_secrets(cli: Cli) -> None:
    def work(daemon: ScriptedDaemon) -> ExitCode:
        msg = "no geheim4 here"
        raise QueueNotFoundError(msg)

    configure(*SECRETS)
    run = cli("--sqs_queue=q", "--log-level=ERROR", app=SecretiveApp(work))
    assert run.sentence == "no *** here"


# -- life cycle


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CredentialsError("no credentials"), ExitCode.CREDENTIALS),
        (QueueNotFoundError("no queue"), ExitCode.QUEUE),
        (InboxLockedError("locked"), ExitCode.INBOX),
    ],
)
def test_what_cannot_work_is_one_sentence_and_an_exit_code(cli: Cli, error: FlyteLineageError, code: ExitCode) -> None:
    def work(daemon: ScriptedDaemon) -> ExitCode:
        raise error

    run = cli("--sqs_queue=q", "--log-level=ERROR", app=ScriptedApp(work))
    assert run.code == code
    assert run.sentence == str(error)


@pytest.mark.parametrize("error", [RuntimeError("defect"), RetryableError("escaped")])
def test_a_defect_exits_with_a_traceback(cli: Cli, error: Exception) -> None:
    def work(daemon: ScriptedDaemon) -> ExitCode:
        raise error

    run = cli("--sqs_queue=q", app=ScriptedApp(work))
    assert run.code == ExitCode.FAILURE
    assert "Traceback (most recent call last)" in run.err


@pytest.mark.parametrize("code", [ExitCode.OK, ExitCode.WORKER_DIED, ExitCode.INCOMPLETE])
def test_the_engine_s_exit_code_is_the_process_s(cli: Cli, code: ExitCode) -> None:
    assert cli("--sqs_queue=q", app=ScriptedApp(lambda daemon: code)).code == code


def test_no_queue_is_one_sentence_and_makes_no_database(cli: Cli) -> None:
    run = cli()
    assert run.code == ExitCode.CONFIGURATION
    assert "--sqs_queue=NAME_OR_URL" in run.sentence
    assert not list(Path().iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_exits_with_0(cli: Cli, number: signal.Signals) -> None:
    earlier = signal.getsignal(number)

    def work(daemon: ScriptedDaemon) -> ExitCode:
        os.kill(os.getpid(), number)
        assert daemon.stops == 1
        return ExitCode.OK

    run = cli("--sqs_queue=q", app=ScriptedApp(work))
    assert run.code == ExitCode.OK
    assert number.name in run.err
    assert signal.getsignal(number) is earlier


def test_a_signal_before_the_engine_is_there_exits_with_0() -> None:
    earlier = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as leaving, StopSignals():
        os.kill(os.getpid(), signal.SIGTERM)
    assert leaving.value.code == 0
    assert signal.getsignal(signal.SIGTERM) is earlier


def test_the_shutdown_timeout_reaches_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def record(self: Daemon, **options: Any) -> None:
        given.update(options)

    monkeypatch.setattr(Daemon, "__init__", record)
    monkeypatch.setattr(Daemon, "run", lambda self, on_progress: ExitCode.OK)
    assert FlyteLineage().run(["--sqs_queue=q", "--FlyteLineage.shutdown_timeout=7", "--FlyteLineage.instance=i"]) == 0
    assert given["shutdown_timeout"] == 7.0
    assert given["instance"] == "i"


# -- logging


def test_module_loggers_follow_level_and_format(cli: Cli) -> None:
    def work(daemon: ScriptedDaemon) -> ExitCode:
        logger = logging.getLogger("flytelineage.some.module")
        logger.debug("fine detail", extra={"action": "detail"})
        logger.warning("plain")
        logging.getLogger("botocore").debug("Authorization: x")
        logging.getLogger("botocore").warning("throttled")
        return ExitCode.OK

    run = cli("--sqs_queue=q", "--debug", "--log_format=<%(action)s> %(message)s", app=ScriptedApp(work))
    assert "<detail> fine detail" in run.err.splitlines()
    assert "<-> plain" in run.err.splitlines()
    assert "<-> throttled" in run.err.splitlines()
    assert "Authorization" not in run.err
    assert run.out == ""
    run = cli("--sqs_queue=q", "--log-level=error", app=ScriptedApp(work))
    assert run.err == ""


def test_logging_config_adds_a_handler(cli: Cli) -> None:
    configure(
        "c.FlyteLineage.logging_config = {",
        "  'handlers': {'file': {'class': 'logging.FileHandler', 'filename': 'own.log', 'formatter': 'console'}},",
        "  'root': {'handlers': ['console', 'file']},",
        "}",
    )
    run = cli("--sqs_queue=q", app=ScriptedApp(lambda daemon: ExitCode.OK))
    for handler in logging.getLogger().handlers:
        handler.close()
    assert run.code == ExitCode.OK
    assert Path("own.log").read_text(encoding="utf-8") == run.err


def test_a_logging_config_that_cannot_work_is_one_sentence(cli: Cli) -> None:
    configure("c.FlyteLineage.logging_config = {'handlers': {'file': {'class': 'nowhere.Handler'}}}")
    run = cli("--sqs_queue=q", app=ScriptedApp(lambda daemon: ExitCode.OK))
    assert run.code == ExitCode.CONFIGURATION
    assert "logging_config" in run.sentence
    assert "nowhere" in run.sentence


@pytest.mark.parametrize("level", ["debug", "10", "WARNING", "WARN", "0"])
def test_levels_by_name_and_number(cli: Cli, level: str) -> None:
    assert cli(f"--log-level={level}", "--show-config").code == ExitCode.OK
    name = logging.getLevelName(level.upper()) if level.isalpha() else int(level)
    assert logging.getLogger("flytelineage").level == name


def test_log_lines_have_a_time_unless_told_otherwise(cli: Cli) -> None:
    run = cli("--sqs_queue=q", app=ScriptedApp(lambda daemon: ExitCode.OK))
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} INFO flytelineage", run.err)
    run = cli("--sqs_queue=q", "--log_datefmt=%Y", app=ScriptedApp(lambda daemon: ExitCode.OK))
    assert re.match(r"\d{4} INFO", run.err)


# -- help, version, files


def test_version_and_help_import_no_component(cli: Cli) -> None:
    assert cli("--version").out == f"{__version__}\n"
    run = cli("--help")
    assert run.code == ExitCode.OK
    for alias in ("sqs_queue", "targets", "config_file", "log-level", "log_format", "log_datefmt", "debug"):
        assert f"--{alias}" in run.out
    assert "Folder that serves" in cli("help", "replay").out


def test_help_all_lists_every_component(cli: Cli) -> None:
    run = cli("--help-all")
    for name in ("FlyteLineage", "SQSSource", "Inbox", "Storage", "SchemaReader", "WorkflowEvents", "FileTarget"):
        assert f"\n{name}(" in run.out


def test_every_option_has_a_help_text(cli: Cli) -> None:
    app = cli("--show-config").app
    options = Options([*app.classes, *app.file_classes()], {}, ())
    for section in options.by_name:
        for name, trait in options.traits(section).items():
            assert trait.help.strip(), f"{section}.{name} has no help"


def _broken_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint(name="theirs", value="nowhere.to_be.found:Target", group="flytelineage.targets")
    installed = components._entry_points()
    monkeypatch.setattr(components, "_entry_points", lambda: [broken, *installed])


def test_a_broken_plug_in_breaks_neither_help_nor_start(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    _broken_entry_point(monkeypatch)
    run = cli("--help-all")
    assert run.code == ExitCode.OK
    assert "\nFileTarget(" in run.out
    run = cli("--sqs_queue=q", app=ScriptedApp(lambda daemon: ExitCode.OK))
    assert run.code == ExitCode.OK
    assert "The plug-in theirs (nowhere.to_be.found:Target) cannot be loaded" in run.err


def test_a_generated_file_works_and_is_not_overwritten(cli: Cli) -> None:
    assert cli("--generate-config").code == ExitCode.OK
    path = Path("flytelineage_config.py")
    text = path.read_text(encoding="utf-8")
    assert "# c.SQSSource.queue = ''" in text
    assert "show_config" not in text
    assert cli("--show-config").code == ExitCode.OK
    path.write_text(text + "\n# mine\n", encoding="utf-8")
    run = cli("--generate-config")
    assert run.code == ExitCode.CONFIGURATION
    assert "flytelineage_config.py exists already" in run.sentence
    assert path.read_text(encoding="utf-8").endswith("# mine\n")
    assert cli("--generate-config", "--config_file=other.py").code == ExitCode.OK


@pytest.mark.parametrize(("answer", "code"), [("y\n", ExitCode.OK), ("\n", ExitCode.CONFIGURATION)])
def test_on_a_terminal_overwriting_is_asked(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, answer: str, code: ExitCode
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    configure("# mine")
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    run = cli("--generate-config")
    assert run.code == code
    assert "Overwrite flytelineage_config.py?" in run.err
    assert ("# mine" in Path("flytelineage_config.py").read_text(encoding="utf-8")) is (code != ExitCode.OK)


def test_every_line_of_a_generated_file_can_be_used(cli: Cli) -> None:
    cli("--generate-config")
    before = cli("--show-config-json").shown
    path = Path("flytelineage_config.py")
    text = re.sub(r"(?m)^# (c\.\w+\.\w+ = )", r"\1", path.read_text(encoding="utf-8"))
    assert text.count("\nc.") > 20
    path.write_text(text, encoding="utf-8")
    assert cli("--show-config-json").shown == before


def test_the_example_works_as_it_is_and_with_every_comment_removed(cli: Cli) -> None:
    example = (ROOT / "flytelineage_config.py").read_text(encoding="utf-8")
    configure(example)
    defaults = cli("--config_file=", "--show-config-json").shown
    shown = cli("--show-config-json").shown
    assert shown == defaults
    configure(re.sub(r"(?m)^# (c\.)", r"\1", example))
    shown = cli("--show-config-json").shown
    assert shown["SQSSource"]["queue"] == "flyte-events"
    assert shown["WorkflowEvents"]["targets"] == ["file"]


# -- commands without a catalog


@pytest.mark.parametrize("command", ["show", "export"])
def test_a_reading_command_without_a_database_says_what_to_run_first(cli: Cli, command: str) -> None:
    run = cli(command)
    assert run.code == ExitCode.INBOX
    assert "flytelineage replay" in run.sentence
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("arguments", "named"), [((), "flytelineage replay PATH"), (("nope",), "nope"), (("empty",), "empty")]
)
def test_replay_of_nothing_is_one_sentence(cli: Cli, arguments: tuple[str, ...], named: str) -> None:
    Path("empty").mkdir()
    run = cli("replay", *arguments)
    assert run.code == ExitCode.CONFIGURATION
    assert named in run.sentence


def test_replay_with_objects_that_are_not_there_is_one_sentence(cli: Cli) -> None:
    run = cli("replay", __file__, "--objects=nope")
    assert run.code == ExitCode.CONFIGURATION
    assert "'nope'" in run.sentence


def test_running_in_one_process_twice_keeps_nothing(cli: Cli) -> None:
    assert cli("--sqs_queue=x", "--show-config-json").shown["FlyteLineage"]["sqs_queue"] == "x"
    assert cli("--show-config-json").shown["FlyteLineage"]["sqs_queue"] == ""

"""The command line as a real process: exit codes, what goes to which stream, signals, pipes, terminals."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flytelineage import __version__
from flytelineage.errors import ExitCode

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / "tests" / "corpus"
COVID = CORPUS / "covid" / "messages.external.jsonl"
COMMAND = [sys.executable, "-m", "flytelineage"]
PLAIN = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FLYTE", "COLUMNS"))}
ENVIRONMENT = {**PLAIN, "PYTHONPATH": str(ROOT), "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null"}
TIMEOUT_SECONDS = 60.0

Process = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def flytelineage(tmp_path: Path) -> Process:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            cwd=tmp_path,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )

    return run


def sentence(run: subprocess.CompletedProcess[str]) -> str:
    lines = run.stderr.splitlines()
    assert len(lines) == 1, run.stderr
    assert "Traceback" not in run.stderr
    return lines[0]


def test_version(flytelineage: Process) -> None:
    run = flytelineage("--version")
    assert (run.returncode, run.stdout, run.stderr) == (0, f"{__version__}\n", "")


def test_help_and_version_are_quick(flytelineage: Process) -> None:
    modules = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "flytelineage", "--help"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=True,
    ).stderr
    # by what is imported, not by the clock: a busy machine is slow at everything
    for heavy in ("boto3", "pyarrow", "sqlalchemy", "flyteidl", "rich"):
        assert not re.search(rf"\| +{heavy}$", modules, re.MULTILINE), f"--help imports {heavy}"


def test_help_all_has_every_component_and_a_text_for_every_option(flytelineage: Process) -> None:
    run = flytelineage("--help-all")
    assert run.returncode == 0
    assert run.stderr == ""
    for name in ("FlyteLineage", "SQSSource", "Inbox", "Storage", "SchemaReader", "WorkflowEvents", "FileTarget"):
        assert f"\n{name}(" in run.stdout
    lines = run.stdout[run.stdout.index("Class options") :].splitlines()
    options = [number for number, line in enumerate(lines) if re.match(r"--\w+\.\w+", line)]
    assert len(options) > 30
    for number in options:
        assert re.match(r" {4}(?!Default:|Choices:)\S", lines[number + 1]), f"{lines[number]} has no help"


@pytest.mark.parametrize(
    ("argument", "nearest"),
    [
        ("--sqs_que=x", "--sqs_queue"),
        ("--FlyteLineage.instanc=1", "--FlyteLineage.instance"),
        ("--Nope.x=1", "SQSSource"),
        ("--SQSSource.receivers=many", "a whole number"),
        ("reply", "replay"),
    ],
)
def test_a_wrong_argument_is_one_sentence(flytelineage: Process, argument: str, nearest: str) -> None:
    run = flytelineage(argument)
    assert run.returncode == ExitCode.CONFIGURATION
    assert run.stdout == ""
    assert argument.partition("=")[0] in sentence(run)
    assert nearest in sentence(run)


def test_a_broken_configuration_file_is_named_with_its_line(flytelineage: Process, tmp_path: Path) -> None:
    path = tmp_path / "flytelineage_config.py"
    path.write_text("c.FlyteLineage.instance = 'x'\n\nc.FlyteLineage.instance = nothing\n", encoding="utf-8")
    run = flytelineage("--sqs_queue=x")
    assert run.returncode == ExitCode.CONFIGURATION
    assert f"{path}:3: NameError" in sentence(run)


def test_an_option_that_the_file_misspells_is_named_with_its_line(flytelineage: Process, tmp_path: Path) -> None:
    (tmp_path / "flytelineage_config.py").write_text("\nc.FlyteLineage.sqs_queu = 'x'\n", encoding="utf-8")
    run = flytelineage()
    assert run.returncode == ExitCode.CONFIGURATION
    assert "flytelineage_config.py:2: " in sentence(run)
    assert "c.FlyteLineage.sqs_queue" in sentence(run)


@pytest.mark.parametrize("option", ["--show-config", "--show-config-json"])
def test_show_config_prints_no_secret(flytelineage: Process, tmp_path: Path, option: str) -> None:
    (tmp_path / "flytelineage_config.py").write_text(
        'c.Inbox.url = "postgresql://lineage:geheim@db/lineage"\n'
        'c.SQSSource.endpoint_url = "https://someone:geheim@proxy/?token=geheim"\n',
        encoding="utf-8",
    )
    run = flytelineage(option)
    assert run.returncode == 0
    assert "geheim" not in run.stdout + run.stderr
    assert "postgresql://lineage:***@db/lineage" in run.stdout


def test_the_example_configuration_works(flytelineage: Process, tmp_path: Path) -> None:
    text = (ROOT / "flytelineage_config.py").read_text(encoding="utf-8")
    (tmp_path / "flytelineage_config.py").write_text(text, encoding="utf-8")
    run = flytelineage("--show-config-json")
    assert run.returncode == 0
    assert json.loads(run.stdout)["FlyteLineage"]["sqs_queue"] == ""


def test_no_queue_no_credentials_no_database(flytelineage: Process) -> None:
    run = flytelineage()
    assert (run.returncode, "--sqs_queue" in sentence(run)) == (ExitCode.CONFIGURATION, True)
    run = flytelineage("--sqs_queue=flyte-events", "--log-level=ERROR")
    assert (run.returncode, "credentials" in sentence(run)) == (ExitCode.CREDENTIALS, True)


@pytest.mark.parametrize("command", ["show", "export"])
def test_reading_before_there_is_a_database(flytelineage: Process, command: str) -> None:
    run = flytelineage(command)
    assert run.returncode == ExitCode.INBOX
    assert "flytelineage replay" in sentence(run)


def test_replay_export_show(flytelineage: Process, tmp_path: Path) -> None:
    run = flytelineage("replay", str(COVID), f"--objects={CORPUS / 'objects'}", "--json")
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    summary = json.loads(run.stdout)
    assert summary["runs"] == 1
    assert summary["duplicates"] == 0

    again = flytelineage("replay", str(COVID), f"--objects={CORPUS / 'objects'}")
    assert again.returncode == 0
    assert "0 new events" in again.stdout
    assert "3 tasks" in again.stdout

    run = flytelineage("export")
    assert run.returncode == 0
    document = json.loads(run.stdout)
    assert len(document["tasks"]) == 3
    execution, pipeline = document["runs"][0]["execution"], document["pipelines"][0]["name"]

    run = flytelineage("export", f"--execution={execution}", "--output=out.json", "--indent=0")
    assert (run.returncode, run.stdout) == (0, "")
    written = (tmp_path / "out.json").read_text(encoding="utf-8")
    assert written.count("\n") == 1
    assert json.loads(written)["runs"] == document["runs"]
    assert not list(tmp_path.glob(".out.json*"))

    run = flytelineage("export", f"--pipeline={pipeline}x")
    assert run.returncode == ExitCode.CONFIGURATION
    assert pipeline in sentence(run)
    run = flytelineage("export", "--output=nowhere/out.json")
    assert run.returncode == ExitCode.CONFIGURATION
    assert "nowhere/out.json cannot be written" in sentence(run)

    run = flytelineage("show")
    assert (run.returncode, run.stderr) == (0, "")
    assert pipeline in run.stdout
    assert "\x1b" not in run.stdout
    run = flytelineage("show", pipeline)
    assert run.returncode == 0
    assert "fetch" in run.stdout
    run = flytelineage("show", f"{pipeline}x")
    assert run.returncode == ExitCode.CONFIGURATION
    assert pipeline in sentence(run)


@pytest.mark.parametrize("arguments", [("--help-all",), ("--show-config",), ("export",), ("show",)])
def test_a_reader_that_leaves_is_no_error(flytelineage: Process, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    if arguments[0] in ("export", "show"):
        assert flytelineage("replay", str(COVID), f"--objects={CORPUS / 'objects'}").returncode == 0
    read, write = os.pipe()
    os.close(read)  # nobody reads, as after head has seen enough
    try:
        run = subprocess.run(
            [*COMMAND, *arguments],
            cwd=tmp_path,
            env=ENVIRONMENT,
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    finally:
        os.close(write)
    assert (run.returncode, run.stderr) == (0, "")


SCRIPTED = """
import sys, threading
from flytelineage.app import FlyteLineage
from flytelineage.errors import ExitCode

class ScriptedDaemon:
    def __init__(self):
        self.stopping = threading.Event()
    def stop(self):
        self.stopping.set()
    def run(self, on_progress=None):
        print("running", flush=True)
        self.stopping.wait()
        print("draining", flush=True)
        if "drains" not in sys.argv:
            threading.Event().wait()
        return ExitCode.OK

class ScriptedApp(FlyteLineage):
    def make_daemon(self, source):
        return ScriptedDaemon()

sys.exit(ScriptedApp().run(["--sqs_queue=x"]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("drains", [True, False])
def test_the_first_signal_drains_the_second_leaves(tmp_path: Path, number: signal.Signals, drains: bool) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPTED, *(["drains"] if drains else [])],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.send_signal(number)
        assert process.stdout.readline() == "draining\n"
        if not drains:
            process.send_signal(number)
        _, errors = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == (ExitCode.OK if drains else ExitCode.INTERRUPTED)
    assert "Traceback" not in errors
    assert ("second signal" in errors) is not drains


def test_a_thread_that_hangs_does_not_hold_up_the_exit(tmp_path: Path) -> None:
    script = (
        "import sys, threading; from flytelineage.app import main;"
        "threading.Thread(target=threading.Event().wait).start();"
        "sys.exit(main())"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert run.returncode == ExitCode.CONFIGURATION
    assert "--sqs_queue" in sentence(run)


def test_a_signal_stops_a_daemon_whose_queue_does_not_answer(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            [*COMMAND, "--sqs_queue=x", "--SQSSource.endpoint_url=http://127.0.0.1:1"],
            cwd=tmp_path,
            env={**ENVIRONMENT, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"},
            stderr=errors,
        ) as process,
    ):
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while b"Reading SQSSource" not in log.read_bytes():
            assert time.monotonic() < deadline, log.read_text()
            assert process.poll() is None, log.read_text()
            select.select([], [], [], 0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_SECONDS) == ExitCode.OK, log.read_text()
    assert "Traceback" not in log.read_text()


def test_replay_on_a_terminal_shows_progress_on_stderr_only(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "replay", str(COVID), f"--objects={CORPUS / 'objects'}", "--json"],
        cwd=tmp_path,
        env={**ENVIRONMENT, "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # how Linux says that the other side has closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    out, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 0
    assert b"messages" in shown
    assert json.loads(out)["runs"] == 1

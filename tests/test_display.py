"""What a person sees of a session: bars or a line while the end delivers, links at the start, a table in a notebook."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import tracelet_shim as tracelet
from tests import gated
from tests.conftest import RunPython
from tests.delivery.programs import eventually, relays
from tests.replay.commands import COMMAND, environment
from tests.terminal import Terminal
from tracelet_shim import errors
from tracelet_shim.bus.messages import BackendState
from tracelet_shim.cli.replay import _View
from tracelet_shim.display.notebook import html_table
from tracelet_shim.display.printable import printable
from tracelet_shim.display.terminal import say
from tracelet_shim.replay import Progress
from tracelet_shim.state.ledger import Ledger
from tracelet_shim.state.rows import Changes, Refused, RunRow

PROGRAM = """
import os, sys
import tracelet_shim as tracelet
from torch.utils.tensorboard import SummaryWriter
session = tracelet.start_logging(backend=["gated", "tensorboard"], exit_timeout=float(os.environ.get("TIMEOUT", 600)))
writer = SummaryWriter("runs/x")
for i in range(300):
    writer.add_scalar("loss", i / 7, i)
"""

ASKS = not Console(force_terminal=True, _environ={"TTY_INTERACTIVE": "0"}).is_interactive
LINE = r"delivering \d+ more events, for up to 4 s"  # the other tracker may have some to deliver too


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Return the environment of a program on a terminal, with a tracker that takes nothing until ``gate`` is there."""
    Path("script.py").write_text(PROGRAM)
    env = {**environment(**gated.install(tmp_path / "site")), "TERM": "xterm-256color"}
    env.pop("NO_COLOR")
    yield env
    (tmp_path / "gate").touch()
    eventually(lambda: not relays(tmp_path))


def lines(text: str) -> list[str]:
    """Return the lines that were written, without what moves the cursor and colours."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    return [line.strip() for line in re.split(r"[\r\n]+", plain) if line.strip()]


def test_bars_on_a_terminal(gate: dict[str, str]) -> None:
    """While the end delivers, each tracker that is behind has a bar with its counts; what stands there at last is that all has
    arrived. The cursor is visible throughout: who kills the program now has his terminal as it was."""
    with Terminal([sys.executable, "script.py"], gate) as terminal:
        terminal.wait_for(r"tracelet-shim: gated .*0/300.*for up to 600 s")
        assert terminal.text.rfind("\x1b[?25h") > terminal.text.rfind("\x1b[?25l")
        Path("gate").touch()
        assert terminal.end() == 0
    assert any(re.search(r"gated .* 300/300", line) for line in lines(terminal.text)[-2:])  # the other may have a bar, too
    assert "delivering" not in terminal.text
    assert "Traceback" not in terminal.text


def test_a_line_beside_the_bars(gate: dict[str, str]) -> None:
    """What there is to say while the bars are shown has a line of its own, above them."""
    speaker = """
import threading, time
from tracelet_shim.display.terminal import say
def speak():
    while not os.path.exists("speak"):
        time.sleep(0.05)
    say("by the way [b]")
threading.Thread(target=speak, daemon=True).start()
"""
    Path("script.py").write_text(PROGRAM + speaker)
    with Terminal([sys.executable, "script.py"], gate) as terminal:
        terminal.wait_for("0/300")
        Path("speak").touch()
        terminal.wait_for(r"by the way(.|\s)*0/300")
        Path("gate").touch()
        assert terminal.end() == 0
    assert "tracelet-shim: by the way [b]" in lines(terminal.text)


def test_the_bars_of_what_missed_the_deadline(gate: dict[str, str]) -> None:
    """The end is as bounded with bars as without, and the warning stands below them."""
    with Terminal([sys.executable, "script.py"], {**gate, "TIMEOUT": "3"}) as terminal:
        terminal.wait_for("0/300")
        assert terminal.end() == 0
    assert "gated: 300 events were not delivered" in terminal.text[terminal.text.rfind("0/300") :]


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"TERM": "dumb"}, True),
        pytest.param({"TTY_INTERACTIVE": "0"}, True, marks=pytest.mark.skipif(not ASKS, reason="rich before 14.1 does not ask")),
        ({"TRACELET_QUIET": "1"}, False),
    ],
    ids=["dumb", "not interactive", "quiet"],
)
def test_terminals_without_bars(gate: dict[str, str], variables: dict[str, str], line: bool) -> None:
    """A terminal that cannot move its cursor gets the line; who asked for quiet gets nothing."""
    with Terminal([sys.executable, "script.py"], {**gate, **variables, "TIMEOUT": "4"}) as terminal:
        assert terminal.end() == 0
    assert len(re.findall(LINE, terminal.text)) == line
    assert "/300" not in terminal.text
    assert ("tensorboard --logdir" in terminal.text) == line


def test_no_color(gate: dict[str, str]) -> None:
    """NO_COLOR leaves the bars, without colours."""
    with Terminal([sys.executable, "script.py"], {**gate, "NO_COLOR": "1"}) as terminal:
        terminal.wait_for("0/300")
        Path("gate").touch()
        assert terminal.end() == 0
    assert "\x1b[3" not in terminal.text


def test_bars_that_fail(gate: dict[str, str], tmp_path: Path) -> None:
    """Where rich is broken, the line takes the place of the bars, and the program ends as ever."""
    (tmp_path / "rich.py").write_text("raise RuntimeError('broken')")
    with Terminal([sys.executable, "script.py"], {**gate, "TIMEOUT": "4"}) as terminal:
        assert terminal.end() == 0
    assert len(re.findall(LINE, terminal.text)) == 1
    assert "Traceback" not in terminal.text


def test_interrupted_bars(gate: dict[str, str]) -> None:
    """Ctrl-C while the bars are there ends the waiting as it does without them."""
    with Terminal([sys.executable, "script.py"], gate) as terminal:
        terminal.wait_for("0/300")
        terminal.type("\x03")
        terminal.end()
    assert terminal.text.rfind("\x1b[?25h") > terminal.text.rfind("\x1b[?25l")


def test_a_line_without_a_terminal(run_python: RunPython, gate: dict[str, str]) -> None:
    """In a file or a pipe it is one line, and nothing of a terminal; rich is not even imported."""
    env = {**gate, "TIMEOUT": "4"}
    check = "import atexit\natexit.register(lambda: print('rich' in sys.modules))\n"
    done = run_python(check + PROGRAM, env=env)
    assert len(re.findall(LINE, done.stderr)) == 1
    assert "\x1b" not in done.stderr
    assert done.stdout == "False\n"


def test_links_are_said_once(run_python: RunPython) -> None:
    """At the start there is a line a tracker with the run's link, and none again when the relay had to be restarted."""
    done = run_python(
        """
        import os, signal
        import tracelet_shim as tracelet
        from torch.utils.tensorboard import SummaryWriter
        session = tracelet.start_logging(backend="tensorboard")
        writer = SummaryWriter("runs/x")
        for kill in (True, False):
            for i in range(10):
                writer.add_scalar("loss", i, i)
            assert session.flush(60)
            if kill:
                os.kill(session._bus._parts[0].bus.relay_pid, signal.SIGKILL)
        """
    )
    assert "starting it again" in done.stderr
    assert done.stderr.count("tensorboard: tensorboard --logdir") == 1


class Cells(HTMLParser):
    """The texts of a table's cells, and the links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "a":
            self.links.append(dict(attrs)["href"] or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1] in ("td", "th", "a"):
            self.rows[-1][-1] += data


def test_the_table_of_a_notebook() -> None:
    """Web links can be clicked, local places are text, and nothing that a tracker says becomes markup."""
    rows = [
        ("wandb", "https://wandb.ai/a/b?x=1&y='2'", BackendState("open", 7, 2, 1, None)),
        ("aim", "aim up --repo '/tmp/<b>'", BackendState("retrying", 0, 9, 0, "<script>alert(1)</script>")),
        ("odd", "javascript:alert(1)", BackendState()),
    ]
    table = html_table("a <title>", rows)
    found = Cells(table)
    assert found.rows == [
        ["tracker", "run", "state", "delivered", "pending", "set aside", "latest error"],
        ["wandb", "https://wandb.ai/a/b?x=1&y='2'", "open", "7", "2", "1", ""],
        ["aim", "aim up --repo '/tmp/<b>'", "retrying", "0", "9", "0", "<script>alert(1)</script>"],
        ["odd", "javascript:alert(1)", "opening", "0", "0", "0", ""],
    ]
    assert found.links == ["https://wandb.ai/a/b?x=1&y='2'"]
    assert "<caption>a &lt;title&gt;</caption>" in table


def test_a_session_in_a_notebook(tmp_path: Path) -> None:
    """A session shows itself at once, whatever its tracker is doing, and later with what it has delivered."""
    from torch.utils.tensorboard import SummaryWriter

    session = tracelet.start_logging(backend="tensorboard", project="p", exp_name="e", delivery="thread")
    try:
        assert Cells(session._repr_html_()).rows[1][2] in ("opening", "open")
        with SummaryWriter("runs/x") as writer:
            writer.add_scalar("loss", 1.0, 0)
        assert session.flush(60)
        place = f"tensorboard --logdir {tmp_path}/tracelet-runs/p/e"
        assert Cells(session._repr_html_()).rows[1:] == [["tensorboard", place, "open", "1", "0", "0", ""]]
        assert repr(session) == f"<Session {session.id} [tensorboard] active>"
    finally:
        tracelet.stop_logging()
    assert f"session {session.id}: finished" in session._repr_html_()
    assert repr(session) == f"<Session {session.id} [tensorboard] finished>"


# -- what others have put into a name, a tag, an error or a ledger ------------------------------------------------------

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp\u2028a\r\nb :skull: [red]c[/red] \x7f"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp a b :skull: [red]c[/red] \x7f"
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@given(st.text() | st.text(alphabet="#[] vso\n\r\t\x1b\x9b\u202e\udcff"))
def test_what_is_printable(text: str) -> None:
    """It is one line that no terminal obeys, and that stays as it is; what was harmless has not changed."""
    shown = printable(text)
    assert not OBEYED.search(shown)
    assert "\n" not in shown
    assert not re.search(r"##\w*\[", shown)
    assert printable(shown) == shown
    if not OBEYED.search(text) and "\n" not in text and "##" not in text:
        assert shown == text


def test_a_line_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing in a line makes a second one, or moves the cursor."""
    say(EVIL)
    assert capsys.readouterr().err == f"tracelet-shim: {SHOWN}\n"


def test_a_traceback_is_printable() -> None:
    """Where the interpreter prints an error of ours, it is printable as well."""
    assert str(errors.ConfigurationError(EVIL)) == SHOWN
    assert str(errors.DeliveryError(EVIL, {"mlflow": 1})) == SHOWN


def test_the_table_of_a_notebook_is_printable() -> None:
    """A text in it cannot turn round what stands beside it."""
    found = Cells(html_table(EVIL, [(EVIL, EVIL, BackendState(EVIL, error=EVIL))]))
    assert found.rows[1] == [SHOWN, SHOWN, SHOWN, "0", "0", "0", SHOWN]


@pytest.fixture
def evil_ledger(tmp_path: Path) -> Path:
    """Return a log directory with a ledger of somebody else's."""
    state = tmp_path / "got" / ".tracelet"
    ledger = Ledger(state)
    columns = "id, started, ended, status, root, project, exp_name, cwd, host, pid, events, records"
    row = ("abc", 1.0, 2.0, EVIL, EVIL, EVIL, EVIL, "/", "h", 1, 2, 2)
    ledger._db.execute(f"INSERT INTO sessions ({columns}) VALUES ({','.join('?' * 12)})", row)
    ledger.save(row[0], 2, 2, [RunRow(EVIL, EVIL, f"https://x/{EVIL}", 1, 1, 1, EVIL, EVIL)])
    ledger.commit(row[0], Changes(refused=[Refused(EVIL, EVIL, 7, EVIL, EVIL, 3, EVIL, 1.0)]))
    ledger.close()
    return tmp_path / "got"


@pytest.mark.parametrize(
    "arguments",
    [("status", "got"), ("status", EVIL), ("replay", EVIL), ("replay", "got", EVIL), ("run", "-b", EVIL, "true"), ("run", EVIL)],
    ids=["status", "status of nothing", "replay", "resume", "run for a tracker", "run"],
)
def test_the_commands_on_a_terminal(evil_ledger: Path, arguments: tuple[str, ...]) -> None:
    """What a ledger or an argument has is shown and not obeyed, in lines and in tables."""
    with Terminal([COMMAND, *arguments], environment(TERM="xterm-256color", COLUMNS="400")) as terminal:
        terminal.end()
    plain = re.sub(r"\x1b\[([0-9;]*m|2K|\?25[hl])", "", terminal.text)  # rich's own: colours, of which there is no red, and bars
    assert not re.search("\x1b|\x9b|\u202e|\x07", plain)
    assert "\x1b[31m" not in terminal.text
    assert arguments == ("status", EVIL) or r"\x1b]0;owned\x07" in plain
    assert not re.search(r"(?m)^\s*::", plain)


def test_doctor_on_a_terminal() -> None:
    """So is what the environment has."""
    variables = {"TERM": "xterm", "TRACELET_PROJECT": EVIL, "TRACELET_BACKEND": EVIL, "TRACELET_STATE_DIR": f"/nowhere{EVIL}"}
    with Terminal([COMMAND, "doctor"], environment(COLUMNS="400", **variables)) as terminal:
        terminal.end()
    assert not re.search("\x1b[^\\[]|\x1b\\[2J|\x9b|\u202e|\x07", terminal.text)
    assert SHOWN in terminal.text


def test_json_is_for_programs(evil_ledger: Path) -> None:
    """In JSON the texts are what they are, escaped as JSON does it."""
    with Terminal([COMMAND, "status", "--json", "got"], environment()) as terminal:
        assert terminal.end() == 0
    (session,) = json.loads(terminal.text)
    assert session["exp_name"] == session["runs"][0]["error"] == EVIL
    assert not re.search("[\x1b\x9b\u202e\x7f]", terminal.text)


def test_a_line_of_progress_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    """Off a terminal there is a line when something has moved, and none for the same again."""
    view = _View()
    for read in (0, 0, 0, 5_000_000, 5_000_000):
        view._next_line = 0.0  # it is time
        view.progress(Progress(read, 9_000_000, {"mlflow": BackendState("opening", 0, 7)}))
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "tracelet-shim: read 0.0 of 9.0 MB; mlflow: 0 delivered, 7 pending",
        "tracelet-shim: read 5.0 of 9.0 MB; mlflow: 0 delivered, 7 pending",
    ]

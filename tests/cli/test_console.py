"""Progress on stderr and tables on stdout, on a terminal and off it."""

import io
import re
import sys
import threading
from collections.abc import Sequence

import pytest
from rich.console import Console

from ambient_curate.cli.console import ConsoleProgress, render_table
from ambient_curate.progress import Progress, track, warn


class Screen:
    """A console on a string."""

    def __init__(self, *, terminal: bool, width: int = 80, **changes: object) -> None:
        self.file = io.StringIO()
        self.console = Console(
            file=self.file,
            force_terminal=terminal,
            width=width,
            _environ={"TERM": "xterm-256color"},
            **changes,  # type: ignore[arg-type]
        )

    @property
    def text(self) -> str:
        return self.file.getvalue()

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


def test_lines_at_the_start_the_end_and_every_ten_seconds_with_the_time_left() -> None:
    now = [0.0]
    screen = Screen(terminal=False, get_time=lambda: now[0])
    progress: Progress = ConsoleProgress(screen.console)
    with track(progress, "fit fold 1/5", total=200) as advance:
        for second in range(1, 26):
            now[0] = second
            advance(2, note=f"loss {second / 100}")
    with track(progress, "scan") as advance:
        now[0] += 3700
        advance(1200)
    assert screen.lines == [
        "fit fold 1/5: started",
        "fit fold 1/5: 10 %, loss 0.1, 0:00:10, 0:01:30 left",
        "fit fold 1/5: 20 %, loss 0.2, 0:00:20, 0:01:20 left",
        "fit fold 1/5: done, loss 0.25, 0:00:25",
        "scan: started",
        "scan: 1,200, 1:01:40",
        "scan: done, 1:01:40",
    ]


def test_the_time_left_leaves_out_what_was_done_before_an_interruption() -> None:
    now = [0.0]
    screen = Screen(terminal=False, get_time=lambda: now[0])
    with track(ConsoleProgress(screen.console), "training", total=1000) as advance:
        advance(900)  # found in a checkpoint
        for _ in range(5):
            now[0] += 2
            advance(1)
    assert screen.lines[1] == "training: 90 %, 0:00:10, 0:03:10 left"


def test_like_named_pieces_at_the_same_time_are_shown_as_one() -> None:
    now = [0.0]
    screen = Screen(terminal=False, get_time=lambda: now[0])
    progress = ConsoleProgress(screen.console)
    with track(progress, "fit", total=10) as one, track(progress, "fit", total=30) as other:
        for second in range(1, 11):
            now[0] = second
            one(0.5)
            other(0.5)
    assert screen.lines == [
        "fit: started",
        "fit: 24 %, 0:00:10, 0:00:31 left",
        "fit: done, 0:00:10",
    ]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_failure_ends_the_task_and_passes_through(terminal: bool) -> None:
    screen = Screen(terminal=terminal)
    progress = ConsoleProgress(screen.console)
    with pytest.raises(KeyboardInterrupt), track(progress, "read"):
        raise KeyboardInterrupt
    assert terminal or screen.lines == ["read: started", "read: stopped, 0:00:00"]
    with track(progress, "again"):
        pass  # a terminal allows one live display: this would fail had the first not ended
    assert "again" in screen.text.rpartition("read")[2]


def test_text_is_printed_as_it_is() -> None:
    screen = Screen(terminal=False)
    progress = ConsoleProgress(screen.console)
    name = "[bold]a[/] :smile: [/wrong] " + "x" * 100
    warn(progress, name)
    with track(progress, name) as advance:
        advance(1, note="[0, 1]")
    assert screen.lines == [
        f"warning: {name}",
        f"{name}: started",
        f"{name}: done, [0, 1], 0:00:00",
    ]


def test_bars_show_description_percent_and_note() -> None:
    screen = Screen(terminal=True, width=120)
    progress = ConsoleProgress(screen.console)
    with track(progress, "annotate [all]", total=4) as outer:
        with track(progress, "shard 0", total=None) as inner:
            inner(note="a.npz")
        warn(progress, "b.npz skipped")
        outer(3, note="[3 of 4]")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.text)
    assert "warning: b.npz skipped" in plain
    last = [line for line in plain.splitlines() if line.strip()][-1]
    assert last.startswith("annotate [all]")
    assert "75%" in last
    assert "[3 of 4]" in last
    assert "0:00:00" in last
    assert "shard 0" not in last


def test_bars_have_no_colour_under_no_color() -> None:
    def colours(environ: dict[str, str]) -> set[str]:
        file = io.StringIO()
        environ = {"TERM": "xterm-256color", "COLORTERM": "truecolor", **environ}
        console = Console(file=file, force_terminal=True, width=100, _environ=environ)
        with track(ConsoleProgress(console), "fit", total=2) as advance:
            advance()
        return set(re.findall(r"\x1b\[[0-9;]*(?:3|4)8;[0-9;]*m|\x1b\[3[0-7]m", file.getvalue()))

    assert colours({})
    assert not colours({"NO_COLOR": "1"})


@pytest.mark.parametrize("terminal", [False, True])
def test_threads_share_it(terminal: bool) -> None:
    screen = Screen(terminal=terminal, width=100)
    progress = ConsoleProgress(screen.console)
    seen: list[int] = []
    barrier = threading.Barrier(8, timeout=10)

    def work(index: int) -> None:
        barrier.wait()
        for _ in range(20):
            with track(progress, f"shard {index}", total=10) as advance:
                for _ in range(10):
                    advance(1)
            seen.append(index)

    with track(progress, "all", total=8):
        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(seen) == 160
    if not terminal:
        assert len(screen.lines) == 2 * 161
        assert sum(line.startswith("shard 3: done") for line in screen.lines) == 20


COLUMNS = ("dataset", "sigma_min", "verdict")
ROWS: Sequence[Sequence[str]] = (
    ("pusht [sim]", "0.074", "usable above"),
    ("データ", "-", "too few"),
    ("kitchen_" + "x" * 90, "1,000", "12 %"),
)


def test_a_table_in_a_pipe_is_aligned_and_whole() -> None:
    screen = Screen(terminal=False)
    render_table(COLUMNS, ROWS, title="verdict", console=screen.console)
    wide = "kitchen_" + "x" * 90
    assert screen.lines == [
        "verdict",
        "dataset" + " " * 91 + "  sigma_min  verdict",
        "pusht [sim]" + " " * 87 + "      0.074  usable above",
        "データ" + " " * 92 + "          -  too few",  # three characters, six cells
        wide + "      1,000  12 %",
    ]


def test_a_table_on_a_terminal_folds_but_drops_nothing() -> None:
    screen = Screen(terminal=True, width=60, no_color=True)
    render_table(COLUMNS, ROWS, title="verdict", console=screen.console)
    text = re.sub(r"\x1b\[[0-9;]*m", "", screen.text)
    assert max(map(len, text.splitlines())) <= 60
    assert text.count("x") == 90
    assert re.search(r"pusht \[sim\] +0\.074 ", text)
    header = next(line for line in text.splitlines() if "sigma_min" in line)
    number = next(line for line in text.splitlines() if "0.074" in line)
    assert header.index("sigma_min") + len("sigma_min") == number.index("0.074") + len("0.074")


@pytest.mark.parametrize(
    ("cells", "right"),
    [
        (["1", "-2.5", "+.3", "1e-4", "1,000", "12 %", "", "-"], True),
        (["1", "0.1 to 0.3"], False),
        (["1", "1.2.3"], False),
        (["12", "x"], False),
    ],
)
def test_numbers_are_aligned_to_the_right(cells: list[str], right: bool) -> None:
    screen = Screen(terminal=False)
    render_table(["a column"], [[cell] for cell in cells], console=screen.console)
    width = max(8, *map(len, cells))
    expected = [(cell.rjust(width) if right else cell).rstrip() for cell in cells]
    assert screen.lines[1:] == expected


def test_tables_go_to_stdout_and_progress_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    render_table(["n"], [["1"]])
    warn(ConsoleProgress(), "careful")
    captured = capsys.readouterr()
    assert captured.out == "n\n1\n"
    assert captured.err == "warning: careful\n"


def test_stdout_stays_stdout_under_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(terminal=True)
    with track(ConsoleProgress(screen.console), "fit"):
        sys.stdout.write("data\n")
    assert capsys.readouterr().out == "data\n"
    assert "data" not in screen.text


def test_a_ragged_row_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="argument"):
        render_table(["a", "b"], [["1"]])

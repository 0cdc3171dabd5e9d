"""What a log shows of counted work: not too many lines, the last one always, and none that fails because nobody reads."""

import pytest
from scripted import Clock

from clearsight.core import progress
from clearsight.core.progress import Lines, choose_display


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_line_is_said_when_it_is_due_and_the_last_one_always(clock):
    said = []
    lines = Lines(10.0, first=2.0, write=said.append)
    for clock.now in range(25):
        lines.offer(lambda now=clock.now: f"at {now}")
    assert said == ["at 2", "at 12", "at 22"]
    lines.flush()
    lines.flush()
    assert said == ["at 2", "at 12", "at 22", "at 24"]


def test_a_reader_that_has_gone_is_told_nothing_more(clock):
    tried = []

    def write(text):
        tried.append(text)
        raise BrokenPipeError

    lines = Lines(0.0, write=write)
    lines.offer(lambda: "one")
    lines.offer(lambda: "two")
    assert tried == ["one"]


def test_short_work_leaves_a_log_clean_and_long_work_says_rate_and_time_left(clock, capsys):
    with progress.LineMeter("reading pictures", 100) as advance:
        for clock.now in (0.5, 1.0, 1.9):
            advance(10)
    assert capsys.readouterr().err == ""
    clock.now = 0.0
    with progress.LineMeter("reading pictures", 100) as advance:
        for clock.now in range(1, 6):
            advance(20)
    assert capsys.readouterr().err.splitlines() == [
        "reading pictures: 40 of 100 pictures, 20 pictures/s, 3 s left",
        "reading pictures: 100 of 100 pictures, 20 pictures/s, 0 s left",
    ]
    clock.now = 0.0
    with pytest.raises(ValueError), progress.LineMeter("reading", 0) as advance:  # noqa: PT011, PT012
        clock.now = 4.0
        advance(2)
        clock.now = 5.0
        advance(1)
        raise ValueError
    assert capsys.readouterr().err == "reading: 2 pictures, 2.0 s/picture\n"


@pytest.mark.parametrize(("quiet", "terminal", "shown"), [(True, True, 1), (False, False, 2), (False, True, 3)])
def test_a_display_fits_where_it_is_shown(monkeypatch, quiet, terminal, shown):
    class Stream:
        def isatty(self):
            return terminal

    monkeypatch.setattr("sys.stderr", Stream())
    assert choose_display(quiet=quiet, silent=1, lines=2, live=3) == shown
    monkeypatch.setattr("sys.stderr", None)
    assert choose_display(quiet=False, silent=1, lines=2, live=3) == 1

"""What a log is told of a long work, and when."""

import pytest

from cxrjax.data import progress


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_a_log_has_a_line_at_once_then_after_half_a_minute_then_ever_more_rarely(capsys):
    clock = Clock()
    lines = progress.Lines("reading", 40_000, clock=clock)
    assert capsys.readouterr().out == "reading: 40,000 films\n"
    told = []
    for second in range(1, 20_000):  # two films a second
        clock.now = float(second)
        lines.count(2)
        if said := capsys.readouterr().out:
            told.append(second)
            assert said.count("\n") == 1
            if second == 30:
                assert said == "reading: 60 of 40,000 films, 0%, 2.0 films/s, about 5.5 h left\n"
    assert told[:10] == [30 * i for i in range(1, 11)]  # a tenth of 300 s is 30 s
    gaps = [b - a for a, b in zip(told, told[1:])]
    assert gaps == sorted(gaps) and gaps[-1] == progress.LAST
    assert all(gap >= before / 10 or gap == progress.LAST for gap, before in zip(gaps, told))
    clock.now = 40_000.0
    lines.count(2)  # the last film: whoever works says himself that it is done
    assert not capsys.readouterr().out


def test_what_was_done_before_is_no_speed_of_now(capsys):
    clock = Clock()
    lines = progress.Lines("reading", 300, "batch", first=100, clock=clock)
    clock.now = 50.0
    lines.count(100)
    assert capsys.readouterr().out == (
        "reading: 300 batches, 100 of them done before\n"
        "reading: 200 of 300 batches, 67%, 2.0 batches/s, about 50 s left\n")


@pytest.mark.parametrize("silent", [False, True])
def test_what_goes_by_is_what_came(silent, capsys):
    assert list(progress.of(iter("abc"), "letters", 3, "letter", silent=silent)) == list("abc")
    with progress.counter("letters", 3, "letter", silent=silent) as count:
        count(3)
    shown = capsys.readouterr()
    assert shown.out == "" if silent else "letters: 3 letters\n" * 2
    assert not shown.err


def test_on_a_terminal_there_is_a_bar_and_no_line(monkeypatch, capsys):
    monkeypatch.setattr(progress, "on_terminal", lambda: True)
    assert list(progress.of(iter("abc"), "letters", 3)) == list("abc")
    shown = capsys.readouterr()
    assert not shown.out and "letters" in shown.err and "3/3" in shown.err

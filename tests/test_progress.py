"""How far a long piece of work is, where standard error is no terminal."""

from __future__ import annotations

import io
import sys
import time

import pytest

from visionthink import progress
from visionthink.progress import stage


def test_a_line_at_the_start_and_then_now_and_then_even_if_nothing_is_finished(capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.05)
    with stage("tiny\nadaptive", 3, done=1) as advance:
        time.sleep(0.12)
        advance(2)
        time.sleep(0.12)
    printed = capsys.readouterr()
    first, *later = printed.err.splitlines()
    assert first == "tiny adaptive: 1 of 3" and printed.out == ""
    assert "tiny adaptive: 1 of 3 after 0 s" in later and later[-1] == "tiny adaptive: 3 of 3 after 0 s"
    time.sleep(0.12)
    assert capsys.readouterr().err == ""  # it ends with the stage


def test_a_short_stage_says_how_it_begins_and_ends(capsys):
    with stage("judging", 2) as advance:
        advance(2)
    assert capsys.readouterr().err == "judging: 0 of 2\njudging: 2 of 2 after 0 s\n"


def test_a_stage_that_fails_does_not_say_that_it_ended(capsys):
    with pytest.raises(ValueError), stage("judging", 2):
        raise ValueError
    assert capsys.readouterr().err == "judging: 0 of 2\n"


def test_a_stage_of_which_all_was_done_before_is_one_line(capsys):
    with stage("judging", 2, done=2):
        pass
    assert capsys.readouterr().err == "judging: all 2 were done before\n"


def test_a_reader_that_is_gone_does_not_stop_the_work(monkeypatch):
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    with stage("judging", 2) as advance:
        advance(2)

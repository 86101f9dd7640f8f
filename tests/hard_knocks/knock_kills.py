"""Kills at any moment, then resumed: the same bytes."""

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("fcntl", reason="processes are forked here, which Windows cannot")

from small_runs import RECIPE, forked, results, status_of, train

OLD = RECIPE.changed(seed=6, epochs=1)  # a run that is replaced
TOUCHES, FILES = 100, 20  # no run touches its folder more often, or writes more files


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(results, seconds) of a run that nobody disturbs."""
    path = tmp_path_factory.mktemp("whole")
    began = time.perf_counter()
    assert status_of(forked(train, path)) == 0
    return results(path), time.perf_counter() - began


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    path = tmp_path_factory.mktemp("old")
    assert status_of(forked(train, path, OLD)) == 0
    return path


@pytest.mark.parametrize("seed", range(25))
def test_four_kills_at_random_moments(tmp_path, whole, seed):
    wanted, seconds = whole
    draws = random.Random(seed)
    for _ in range(4):
        process = forked(train, tmp_path)
        time.sleep(draws.uniform(0, seconds))
        os.kill(process, signal.SIGKILL)
        assert status_of(process) in (0, -signal.SIGKILL)
    assert status_of(forked(train, tmp_path)) == 0
    assert results(tmp_path) == wanted


def killed_at(number, path, *, cut_short=False, **options):
    """Train, and die just before the folder is touched for the time `number`, from 0 on.

    With cut_short only temporary files count, once they are written, and that one is halved.
    """
    left = number

    def watch(event, given):
        nonlocal left
        events = ("os.chmod",) if cut_short else ("open", "os.rename", "os.remove", "os.mkdir")
        if event not in events or not str(given[0]).startswith(str(path)):
            return
        if event == "open" and not given[2] & (os.O_WRONLY | os.O_RDWR):
            return
        if left == 0:
            if cut_short:
                os.truncate(given[0], Path(given[0]).stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    sys.addaudithook(watch)
    train(path, **options)


@pytest.mark.parametrize("number", range(TOUCHES))
def test_a_kill_between_two_touches_of_the_folder(tmp_path, whole, number):
    assert status_of(forked(killed_at, number, tmp_path)) in (0, -signal.SIGKILL)
    assert status_of(forked(train, tmp_path)) == 0
    assert results(tmp_path) == whole[0]


@pytest.mark.parametrize("number", range(FILES))
def test_a_kill_in_the_middle_of_a_file(tmp_path, whole, number):
    assert status_of(forked(killed_at, number, tmp_path, cut_short=True)) in (0, -signal.SIGKILL)
    assert status_of(forked(train, tmp_path)) == 0
    assert results(tmp_path) == whole[0]


@pytest.mark.parametrize("number", range(TOUCHES // 2))  # its first epochs
def test_a_kill_while_an_older_run_is_replaced(tmp_path, whole, old, number):
    path = tmp_path / "run"
    shutil.copytree(old, path)
    again = {"resume": False, "overwrite": True}
    assert status_of(forked(killed_at, number, path, **again)) in (0, -signal.SIGKILL)
    if status_of(forked(train, path)):  # it is refused as long as the old run is there
        assert results(path) == results(old)
        assert status_of(forked(train, path, **again)) == 0
    assert results(path) == whole[0]


def test_no_moment_is_left_out(tmp_path):
    assert status_of(forked(killed_at, TOUCHES, tmp_path / "first")) == 0
    assert status_of(forked(killed_at, FILES, tmp_path / "second", cut_short=True)) == 0

"""`make hard-knocks`: what users, machines and files can do to the course, tried for real.

Each file here is one kind of trouble, and the first line of its docstring is its name in the table.
Every case is an ordinary test. They are too many and too slow for `make test`, which runs a few of
each kind beside the code that they are about.
"""

import signal
from collections import Counter

import pytest


@pytest.fixture(autouse=True)
def no_case_waits_for_ever():
    """A case that has not ended after two minutes is lost, such as one that opened a pipe."""
    if not hasattr(signal, "alarm"):  # Windows
        yield
        return
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it has waited for two minutes"))
    signal.alarm(120)
    yield
    signal.alarm(0)


def pytest_report_teststatus(report, config):
    """Dots would fill pages; the table says all."""
    if report.passed and "hard_knocks" in report.nodeid:  # `make test` comes by here, too
        return ("passed" if report.when == "call" else ""), "", ""
    return None


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter, config):
    rows: dict[str, Counter] = {}
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            counts = report.when == "call" or outcome != "passed"
            if counts and "hard_knocks" in report.nodeid:
                row = rows.setdefault(report.nodeid.partition("::")[0], Counter())
                row[outcome] += 1
                row["seconds"] += report.duration
    if not rows:
        return
    say = terminalreporter.write_line
    terminalreporter.section("hard knocks")
    say(f"{'':52} {'tried':>6} {'survived':>8} {'lost':>5} {'skipped':>7} {'seconds':>7}")
    total: Counter = Counter()
    for path, row in sorted(rows.items()):
        say(_line(_title(config.rootpath / path), row))
        total.update(row)
    say(_line("all", total))


def _title(path):
    return path.read_text(encoding="utf-8").split('"""')[1].splitlines()[0].rstrip(".")


def _line(title, row):
    lost = row["failed"] + row["error"]
    tried = row["passed"] + lost
    skipped = row["skipped"] or ""
    return f"{title:52} {tried:6} {row['passed']:8} {lost:5} {skipped:>7} {row['seconds']:7.0f}"

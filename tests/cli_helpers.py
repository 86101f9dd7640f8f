"""What the tests of the command line share, beside the fixtures in conftest.py."""

import os

import pytest

from cifar_utils.cli.main import main

posix = pytest.mark.skipif(os.name != "posix", reason="pipes, links and any name for a file")

FAST = ["--epochs", "2", "--batch-size", "50", "--precision", "fp32", "--validation", "30"]
FINAL = [word if word != "30" else "0" for word in FAST]


def refused(capsys, *arguments):
    """The one line in which a command refuses its arguments."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    lines = printed.rsplit("=" * 88, 1)[-1].strip().splitlines()  # below a stand-in notice, if any
    assert len(lines) == 1, printed
    return lines[0]

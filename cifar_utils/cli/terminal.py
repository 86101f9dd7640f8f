"""Where commands print: ASCII terminals, closed streams, pictures that fail."""

import codecs
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from cifar_utils.errors import reason, shown

# What a terminal that knows only ASCII or cp1252 shows for the signs that we print.
PLAIN = {
    "█": "#", "✓": "ok", "✗": "x", "→": "->", "×": "x", "·": "-", "–": "-", "…": "...",
    "±": "+/-", "★": "*", "µ": "u",
}  # fmt: skip


def open_streams() -> None:
    """Make stdout and stderr take any text, each line at once, even if they are closed."""
    # If one of them is closed, the next file that is opened takes its number, and what a library
    # prints there would go into that file.
    while (nowhere := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(nowhere)
    codecs.register_error("cifar_utils.plain", _in_plain_letters)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):  # those of a notebook have no need of it
            stream.reconfigure(line_buffering=True, errors="cifar_utils.plain")


def _in_plain_letters(error):
    r"""An error handler: our own signs in ASCII, and any other letter as in \u732b."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    plain = [PLAIN.get(letter) or letter.encode("unicode_escape").decode() for letter in letters]
    return "".join(plain), error.end


def drop_output() -> None:
    """Throw away what is still to be written to stdout, if nothing can take it."""
    try:
        sys.stdout.flush()
    except OSError:  # otherwise Python would try again at its end, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def pictures(remedy: str = "") -> Iterator[Callable[[Path, Callable[[Path], object]], bool]]:
    """Draw pictures whose failure costs the picture, but no result.

        with pictures("try again") as draw:
            draw(Path("curves.png"), lambda path: save(figure, path))

    Draw once all figures are printed and saved. A picture that fails is named on stderr, with the
    remedy, and `draw` returns False. If one cannot be written, the rest is not tried, because a
    disk that is full for one is full for all. The end of `with` then exits with status 1. Set
    CIFAR_UTILS_TRACEBACK=1 to see where it failed.
    """
    lost, full = False, False

    def draw(path, make):
        nonlocal lost, full
        if full:
            return False
        try:
            make(path)
        except Exception as error:
            if os.environ.get("CIFAR_UTILS_TRACEBACK"):
                raise
            lost, full = True, isinstance(error, OSError)
            said = f"{shown(path)} could not be drawn: {reason(error)}"
            if full:
                said = f"{reason(error)}; no more pictures are drawn"
            print("; ".join(filter(None, (said, remedy))), file=sys.stderr)
            return False
        return True

    yield draw
    if lost:
        raise SystemExit(1)

"""The command line's words: `cifar --help`, or `python -m cifar_utils --help`.

Each command has a file of its own: its words beside what it does. Set CIFAR_UTILS_TRACEBACK=1 to
see where an error arose.
"""

import argparse
import importlib.metadata
import os
import sys

from cifar_utils import __version__
from cifar_utils.cli import (
    bench,
    data,
    figures,
    lr_find,
    predict,
    recipes,
    report,
    ship,
    summary,
    test,
    train,
)
from cifar_utils.errors import CifarError

# In the order of --help.
COMMANDS = (
    train, test, predict, data, summary, recipes, lr_find, bench, report, figures, ship,
)  # fmt: skip


def main(arguments=None):
    """Run one command. A user's mistake ends in one line and exit status 2."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    os.environ["MPLBACKEND"] = "Agg"  # pictures go to files, whatever a notebook's shell has set
    if hasattr(sys.stdout, "reconfigure"):  # an epoch's line goes into a file or pipe at once
        sys.stdout.reconfigure(line_buffering=True)
    try:
        options.run(options)
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None  # what a shell says of a program that SIGPIPE has ended
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        out_of_memory = "out of memory" in str(error) or "allocate memory" in str(error)  # GPU, CPU
        if not isinstance(error, (CifarError, OSError, MemoryError)) and not out_of_memory:
            error.add_note(f"This is a bug in cifar_utils; please report it at {_address()}")
            raise
        if os.environ.get("CIFAR_UTILS_TRACEBACK"):
            raise
        has_flag = hasattr(options, "batch_size") or (
            hasattr(options, "recipe_batch_size") and (options.command != "bench" or options.recipe)
        )
        hint = "; choose a smaller --batch-size" if out_of_memory and has_flag else ""
        said = (str(error) or type(error).__name__).splitlines()[0]
        parser.exit(2, f"cifar {options.command}: error: {said}{hint}\n")


def _address():
    """Where to report a bug, from the package's own metadata."""
    try:
        urls = importlib.metadata.metadata("cifar-utils").get_all("Project-URL") or []
    except importlib.metadata.PackageNotFoundError:
        urls = []
    found = [url.partition(", ")[2] for url in urls if url.startswith("Issues")]
    return found[0] if found else "the repository that you cloned"


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake ends in one line, without the usage above it."""

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def make_parser():
    parser = Parser(
        prog="cifar",
        description="Train, test and explain image classifiers on CIFAR-10.",
        epilog="Each command has its own help: cifar train --help. "
        "Set CIFAR10_ROOT to where the data is, or should go.",
    )
    parser.add_argument("--version", action="version", version=f"cifar_utils {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(subparsers)
    return parser


if __name__ == "__main__":
    main()

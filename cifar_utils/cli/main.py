"""The command line: `cifar --help`, or `python -m cifar_utils --help`.

Each command has a file of its own, with its words beside what it does: `add` makes its parser, and
`run` does the work. Heavy imports stay inside `run`, so that --help comes at once. Set
CIFAR_UTILS_TRACEBACK=1 to see where a user's mistake was noticed.
"""

import argparse
import importlib
import importlib.metadata
import logging
import os
import pkgutil
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from cifar_utils import __version__, cli
from cifar_utils.cli.terminal import drop_output, open_streams
from cifar_utils.errors import CifarError, choose, nearest, reason, shown
from cifar_utils.recipes import RECIPES

# Every other file of this folder is a command, so a new command is a new file.
COMMANDS = [
    importlib.import_module(f"{cli.__name__}.{file.name}")
    for file in pkgutil.iter_modules(cli.__path__)
    if file.name not in ("main", "options", "terminal")
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command.

    A user's mistake ends in one line and exit status 2. Ctrl-C ends in status 130, a polite kill
    in 143, a closed terminal in 129, and a reader of our output who leaves in 141. If all is done
    but a picture could not be drawn, or if `cifar data` found only the stand-in, the status is 1.
    Any other exception is a bug and shows its traceback.
    """
    open_streams()
    os.environ["MPLBACKEND"] = "Agg"  # pictures go to files, even in a notebook's shell
    # Without a home that can be written to, it would say on each run where its caches are.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    parser = make_parser()
    options = argparse.Namespace(command="")
    try:
        options = parser.parse_args(arguments)
        with _signals_as_ctrl_c():
            options.run(options)
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        drop_output()
        raise SystemExit(141) from None  # as a shell reports a program that SIGPIPE has ended
    except KeyboardInterrupt as stop:  # the status is that of a shell for a signal's number
        raise SystemExit(128 + (stop.args[0] if stop.args else signal.SIGINT)) from None
    except Exception as error:
        if not (isinstance(error, (CifarError, OSError)) or _is_out_of_memory(error)):
            error.add_note(f"This is a bug in cifar_utils; please report it at {_address()}")
            raise
        if os.environ.get("CIFAR_UTILS_TRACEBACK"):
            raise
        said = _in_one_line(error, options)
        if said.startswith("unknown "):  # a name
            said += f"; see cifar {options.command} --help"
        drop_output()  # if it is stdout's disk that is full
        parser.exit(2, f"{' '.join(['cifar', options.command]).strip()}: error: {said}\n")


@contextmanager
def _signals_as_ctrl_c() -> Iterator[None]:
    """Inside it, SIGTERM and SIGHUP raise KeyboardInterrupt, too, with their number.

    Clusters, torchrun and `kill` send the first, and a terminal that closes the second. A signal
    that somebody handles or ignores already, as nohup does, stays so.
    """

    def stop(number, frame):
        raise KeyboardInterrupt(number)

    numbers = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")]  # Windows lacks one
    if threading.current_thread() is not threading.main_thread():  # Python allows it nowhere else
        numbers = []
    ours = [one for one in numbers if one and signal.getsignal(one) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = Parser(
        prog="cifar",
        description="Train, test and explain image classifiers on CIFAR-10.",
        epilog="Each command has its own help: cifar train --help. Set CIFAR10_ROOT to the folder "
        "where the data is, or should go.",
    )
    parser.add_argument("--version", action="version", version=f"cifar_utils {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(subparsers)
    return parser


# What other projects call a flag of ours.
ELSEWHERE = {
    "learning-rate": "lr", "train-batch": "batch-size",
    "net": "model", "arch": "model", "pretrained": "from", "weights": "from",
    "checkpoints": "out", "save": "out", "train-path": "data", "test-path": "data", "root": "data",
    "num-workers": "workers", "wd": "weight-decay", "scheduler": "schedule", "e": "epochs",
    "cm": "confusion",
}  # fmt: skip


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that reports a mistake in one line, with the word that was probably meant.

    It takes no abbreviated flags, because a later version may have two that begin alike.
    """

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[override]
        """As in ArgumentParser, but an unknown flag or word is refused here, by its own command.

        Unknown flags come first, because one may be the misspelt flag that seems to be missing.
        """
        if unknown := self._unknown_flags(sys.argv[1:] if args is None else args):
            self.error(" ".join(f"unknown {flag}{self._hint(flag)}" for flag in unknown))
        options, rest = super().parse_known_args(args, namespace)
        if rest:
            takes = rest[0] in RECIPES and "--recipe" in self._option_string_actions
            hint = f"; did you mean --recipe {rest[0]}?" if takes else ""
            self.error(f"unexpected {' '.join(rest)!r}{hint}")
        return options, rest

    def _unknown_flags(self, words: Sequence[str]) -> list[str]:
        """Which of the words are flags, without their values, that this parser does not have."""
        unknown = []
        for word in words:
            if word == "--" or (self._subparsers and not word.startswith("-")):
                break  # what follows is no flag, or belongs to the command that `word` names
            flag = word.partition("=")[0]
            known = {flag, flag[:2]} & self._option_string_actions.keys()  # -qv stands for -q -v
            if re.fullmatch(r"--?[A-Za-z]\S*", flag) and not known:
                unknown.append(flag)
        return unknown

    def _hint(self, flag: str) -> str:
        """The known flag that was probably meant, as a question; else the end of a clause."""
        names = {known.lstrip("-"): known for known in self._option_string_actions}
        for word, ours in ELSEWHERE.items():
            if ours in names:
                names.setdefault(word, names[ours])
        near = nearest(flag.lstrip("-"), names)
        return f"; did you mean {names[near]}?" if near else ";"

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        # Before Python 3.13, the value of --flag=-- would be an empty list.
        if action.option_strings and "--" in arg_strings:
            raise argparse.ArgumentError(action, "'--' is not a value")
        return super()._get_values(action, arg_strings)  # type: ignore[misc]

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None:
            of_a_command = isinstance(action, argparse._SubParsersAction)
            try:
                choose(value, list(action.choices), "command" if of_a_command else "value")
            except CifarError as error:
                raise argparse.ArgumentError(None if of_a_command else action, str(error)) from None

    def _print_message(self, message: str, file: Any = None) -> None:
        print(message, end="", file=file or sys.stderr, flush=True)  # or raises BrokenPipeError

    def error(self, message: str) -> NoReturn:
        message = shown(message)
        stop = "" if message[-1] in ";?" else ";"
        self.exit(2, f"{self.prog}: error: {message}{stop} see {self.prog} --help\n")


def _is_out_of_memory(error: Exception) -> bool:
    """Torch raises a RuntimeError: on a GPU one of its own, on a CPU a plain one."""
    if isinstance(error, RuntimeError):
        return "out of memory" in str(error) or "allocate memory" in str(error)
    return isinstance(error, MemoryError)


def _in_one_line(error: Exception, options: argparse.Namespace) -> str:
    """What an error says, and the flag that helps if the memory was too small."""
    said = reason(error)
    if isinstance(error, RuntimeError):  # torch's, which may add pages of advice
        said = shown(str(error).splitlines()[0])
    of_a_recipe = options.command in ("train", "lr-find") or getattr(options, "recipe", None)
    out_of_torchs_memory = isinstance(error, RuntimeError)  # no other kind of it gets here
    if out_of_torchs_memory and (hasattr(options, "batch_size") or of_a_recipe):
        said += "; choose a smaller --batch-size"
    return said


def _address() -> str:
    """Where to report a bug, from the package's own metadata."""
    try:
        urls = importlib.metadata.metadata("cifar-utils").get_all("Project-URL") or []
    except importlib.metadata.PackageNotFoundError:
        urls = []
    found = [url.partition(", ")[2] for url in urls if url.startswith("Issues")]
    return found[0] if found else "the repository that you cloned"

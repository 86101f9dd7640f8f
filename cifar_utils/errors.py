"""Errors: a CifarError is the user's to mend, and anything else is our bug."""

from collections.abc import Collection
from difflib import get_close_matches
from typing import Any


class CifarError(ValueError):
    """A user's mistake, in one line that names the valid choices or the remedy.

    The message may hold names from files: it is kept as `shown` shows it.
    """

    def __init__(self, message: object) -> None:
        super().__init__(shown(message))


class DivergedError(CifarError, ArithmeticError):
    """A training whose loss is no longer finite. where: the epoch and the step, in words."""

    def __init__(self, where: str) -> None:
        super().__init__(
            f"training diverged {where}: the loss is no longer finite; lower lr, or set clip_norm"
        )
        self.where = where


def first_line(error: BaseException) -> str:
    """What a library's error says first, with its kind; torch adds pages of advice."""
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')[:200]}"


def shown(text: object) -> str:
    r"""Text that may come from anywhere, on one line and with nothing that could move a cursor.

    Whatever is not printable is escaped as Python would: newlines, terminal escapes, marks that
    turn the direction of writing, and the lone surrogates of file names that are not UTF-8.
    """
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in str(text)
    )


def reason(error: BaseException) -> str:
    """What an error says, on one line; the name of its kind if it says nothing."""
    return shown(str(error).strip()) or type(error).__name__


def choose(name: Any, choices: Collection, what: str) -> None:
    """Raise CifarError, with the valid names, if `name` is not one of `choices`.

    what: the kind of thing that is chosen, such as "recipe".
    """
    if name not in list(choices):  # a list, because a dict cannot be asked for every kind of value
        valid = [str(choice) for choice in choices]
        near = did_you_mean(str(name), valid) or ";"
        raise CifarError(f"unknown {what} {name!r}{near} choose one of {', '.join(valid)}")


def plain(value: Any) -> Any:
    """A number of NumPy or torch as the Python number that it is; anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def whole(value: Any, what: str, *, least: int = 0, most: int | None = None) -> int:
    """`value` as an int; it may be a whole number of NumPy's or torch's, too.

    Raises CifarError, which calls it `what`, for anything else, 3.0 and True among them, and for a
    number below `least` or above `most`.
    """
    number = plain(value)
    if type(number) is not int or number < least or (most is not None and number > most):
        wanted = f"of at least {least}" if most is None else f"in {least:,} to {most:,}"
        raise CifarError(f"{what} is {value!r}; it must be a whole number {wanted}")
    return number


def did_you_mean(name: str, choices: Collection[str]) -> str:
    """ "; did you mean compact?" if `name` is close to one of `choices`, else an empty string."""
    near = nearest(name, choices)
    return f"; did you mean {near}?" if near else ""


def nearest(name: str, choices: Collection[str]) -> str | None:
    """The choice that `name` begins, or else the one that is spelt most like it; None if none is.

    Capital and small letters are the same here, and so are hyphens and underscores. What follows a
    dot does not count, because all file names end alike.
    """
    plain = {choice: choice.lower().replace("_", "-").partition(".")[0] for choice in choices}
    wanted = name.lower().replace("_", "-").partition(".")[0]
    begun = [
        choice
        for choice, word in plain.items()
        if word == wanted or (len(wanted) > 2 and word.startswith(wanted))
    ]
    if begun:
        return min(begun, key=len)
    # 0.7, because at difflib's own 0.6 "gpu" would be close to "cpu".
    close = get_close_matches(wanted, plain.values(), n=1, cutoff=0.7)
    return next((choice for choice, word in plain.items() if word in close), None)

"""Errors: a CifarError is the user's to mend, and anything else is our bug."""

from collections.abc import Collection


class CifarError(ValueError):
    """A user's mistake, in one line that names the valid choices or the remedy."""


class DivergedError(CifarError, ArithmeticError):
    """A training whose loss is no longer finite."""


def choose(name: str, choices: Collection[str], what: str) -> None:
    """Raise CifarError, with the valid names, if `name` is not one of `choices`.

    what: the kind of thing that is chosen, such as "recipe".
    """
    if name not in choices:
        raise CifarError(f"unknown {what} {name!r}; choose one of {', '.join(choices)}")

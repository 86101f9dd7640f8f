"""What an expected value may be, other than a plain value."""

from typing import Any


class Near:
    """An expected number that the answer may miss by `room`."""

    def __init__(self, value: float, room: float) -> None:
        self.value, self.room = value, room

    def allows(self, got: Any) -> bool:
        return abs(float(got) - self.value) <= self.room

    def __str__(self) -> str:
        return f"{self.value:g} ± {self.room:g}"


class AtMost:
    """An upper bound."""

    def __init__(self, value: float) -> None:
        self.value = value

    def allows(self, got: Any) -> bool:
        return got <= self.value

    def __str__(self) -> str:
        return f"at most {self.value:,}"


class AtLeast(AtMost):
    """A lower bound."""

    def allows(self, got: Any) -> bool:
        return got >= self.value

    def __str__(self) -> str:
        return f"at least {self.value:,}"

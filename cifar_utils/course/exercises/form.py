"""What an exercise is made of, and how a result is compared with the expected one."""

import math
import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MOST_SHOWN = 12  # numbers of a tensor that are printed; of a larger one, only its first four


@dataclass(frozen=True)
class Near:
    """An expected number that the answer may miss by `room`."""

    value: float
    room: float


@dataclass(frozen=True)
class Form:
    """Any finite tensor of that shape and type. For float32, any type of float will do."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Rule:
    """Whatever `holds` accepts. If it does not, the reader sees the sentence."""

    holds: Callable[[Any], bool]
    sentence: str


@dataclass(frozen=True)
class Case:
    """One input of an exercise and what the answer should give for it.

    Args:
        given: the input in words.
        arguments: what the answer is called with; None if the answer itself is the result.
        expected: an int, a float, a tensor, a set of pairs, or a Near, Form or Rule. A dict is for
            a function that returns several things: {name: expected}, in their order.
        of: what is looked at instead of the whole result, in words, and how it is computed. The
            case before this one should make sure of the result's form.
    """

    given: str
    arguments: tuple | None
    expected: Any
    of: tuple[str, Callable[[Any], Any]] | None = None


@dataclass(frozen=True)
class Exercise:
    """An exercise's cases, its known slips and three hints, each saying more than the last.

    A slip is a wrong answer and the sentence that helps whoever gives it. The sentence is printed
    if an answer gives what the slip gives, in all cases.
    """

    cases: Callable[[], Iterable[Case]]
    slips: Sequence[tuple[Any, str]]
    hints: tuple[str, str, str]


def value(expected: Any) -> Callable[[], Iterable[Case]]:
    """The one case of an exercise whose answer is a value."""
    return lambda: [Case("", None, expected)]


def form_fault(got: Any, expected: Any) -> str:
    """In words, what is wrong with the result's type or shape; empty if nothing is."""
    if isinstance(expected, Rule):
        return ""
    if isinstance(expected, dict):
        if not isinstance(got, (tuple, list)) or len(got) != len(expected):
            return f"That is {kind(got)}, but {' and '.join(expected)} are asked for."
        for name, part in zip(expected, got, strict=True):
            if fault := form_fault(part, expected[name]):
                return f"The {name}: {fault[0].lower()}{fault[1:]}"
        return ""
    if isinstance(expected, (Tensor, Form)):
        return _tensor_fault(got, expected)
    if isinstance(expected, set):
        wanted = "a list of pairs (i, j) of whole numbers is asked for"
        return "" if _are_pairs(got) else f"That is {kind(got)}, but {wanted}."
    if not _is_number(got):
        return f"That is {kind(got)}, but a number is asked for."
    if not math.isfinite(got):
        return _not_finite(math.isnan(got))
    if isinstance(expected, int) and isinstance(got, float):
        return "That is a float, but a whole number is asked for: see `//`, `math.ceil`, `int()`."
    return ""


def _tensor_fault(got, expected):
    if not isinstance(got, Tensor):
        remedy = " `torch.stack` or `torch.tensor` makes one." if isinstance(got, list) else ""
        return f"That is {kind(got)}, but a tensor is asked for.{remedy}"
    if got.shape != expected.shape:
        return f"Its shape is {tuple(got.shape)}, but {tuple(expected.shape)} is asked for."
    is_float, to_be_float = got.is_floating_point(), expected.dtype.is_floating_point
    if is_float != to_be_float or not (is_float or got.dtype == expected.dtype):
        wanted = "floats are" if to_be_float else f"{_name(expected.dtype)} is"
        return f"Its type is {_name(got.dtype)}, but {wanted} asked for."
    return "" if got.isfinite().all() else _not_finite(got.isnan().any())


def _not_finite(is_nan):
    if is_nan:
        return "There is a NaN (“not a number”), which comes from 0 / 0, for example."
    return "There is an infinite number: was there a division by zero, or an overflow?"


def agree(got: Any, expected: Any) -> bool:
    """Whether two results are the same: exactly, or to rounding for floats and tensors.

    `expected` may be what a case expects, but not a Rule, or another answer's result.
    """
    if isinstance(expected, Near):
        return _is_number(got) and abs(got - expected.value) <= expected.room
    if isinstance(expected, Form):
        return not _tensor_fault(got, expected)
    if isinstance(expected, Tensor):
        return (
            isinstance(got, Tensor)
            and not got.is_complex()
            and got.shape == expected.shape
            and torch.allclose(got.double(), expected.double(), 1e-4, 1e-5, equal_nan=True)
        )
    if isinstance(expected, set):
        return _are_pairs(got) and sorted(map(tuple, got)) == sorted(expected)
    if isinstance(expected, (dict, tuple, list)):
        parts = list(expected.values()) if isinstance(expected, dict) else expected
        same_length = isinstance(got, (tuple, list)) and len(got) == len(parts)
        return same_length and all(map(agree, got, parts))
    if not _is_number(got) or not _is_number(expected):
        return False
    if isinstance(got, int) and isinstance(expected, int):
        return got == expected
    both_nan = math.isnan(got) and math.isnan(expected)
    return both_nan or math.isclose(got, expected, rel_tol=1e-4, abs_tol=1e-6)


def as_expected(result: Any, expected: Any) -> Any:
    """A slip's result in place of a case's expected one, with the same room for rounding."""
    if isinstance(expected, Near) and _is_number(result):
        return Near(result, min(expected.room, 0.1 * abs(result)))
    if isinstance(expected, dict) and isinstance(result, (tuple, list)):
        return tuple(map(as_expected, result, expected.values()))
    if isinstance(expected, Form) and isinstance(result, Tensor):
        return Form(tuple(result.shape), result.dtype)
    return set(map(tuple, result)) if isinstance(expected, set) and _are_pairs(result) else result


def first_part(got: Any, expected: Any) -> tuple[str, Any, Any]:
    """Of several things that an answer returns, the first that is wrong: its name, it, its due."""
    if isinstance(expected, dict) and isinstance(got, (tuple, list)) and len(got) == len(expected):
        parts = list(zip(expected, got, expected.values(), strict=True))
        bad = [one for one in parts if form_fault(*one[1:])]
        bad += [one for one in parts if not agree(*one[1:])]
        if bad:
            return bad[0]
    return "", got, expected


def first_place(got: Any, expected: Any) -> str:
    """Where a tensor of the right form first differs, in words."""
    if not isinstance(expected, Tensor):
        return ""
    near = torch.isclose(got.double(), expected.double(), 1e-4, 1e-5)
    place = tuple((~near).nonzero()[0].tolist())
    return f"It differs first at {list(place)}, where yours is {show(got[place].item())}."


def show(result: Any) -> str:
    """A result on one line, shortened if it is long."""
    if isinstance(result, Tensor):
        if result.dim() < 3 and result.numel() <= MOST_SHOWN:
            return show(result.tolist())
        begun = result.numel() > MOST_SHOWN
        numbers = ", ".join(map(show, result.flatten()[: 4 if begun else None].tolist()))
        return f"{kind(result)}: {numbers}{', …' if begun else ''}"
    if isinstance(result, (list, tuple)):
        text = ", ".join(map(show, result[:100]))
        text = f"[{text}]" if isinstance(result, list) else f"({text})"
    elif isinstance(result, str):
        text = repr(result)
    elif isinstance(result, float):
        text = f"{result:.6g}"
        if text.removeprefix("-").isdecimal():  # 2.0 would look like a whole number
            text += ".0"
    elif isinstance(result, int) and abs(result) < 1e18:
        text = str(result)
    else:
        return kind(result)
    return text if len(text) <= 120 else text[:119] + "…"


def kind(result: Any) -> str:
    """What a result is, in words: "a list", "a float32 tensor (2, 10)"."""
    if isinstance(result, Tensor):
        article = "an" if _name(result.dtype)[0] == "i" else "a"
        return f"{article} {_name(result.dtype)} tensor {tuple(result.shape)}"
    if isinstance(result, (types.FunctionType, types.BuiltinFunctionType, type)):
        return "a class" if isinstance(result, type) else "a function"
    names = {str: "text", bool: "True or False", int: "a whole number", float: "a float"}
    names |= {list: "a list", tuple: "a tuple", dict: "a dict", set: "a set"}
    return names.get(type(result), f"an object of the type {type(result).__name__}")


def _name(dtype):
    return str(dtype).removeprefix("torch.")


def _is_number(result):
    if isinstance(result, int) and not isinstance(result, bool):
        return abs(result) < 1e300  # a larger one does not fit into a float
    return isinstance(result, float)


def _are_pairs(result):
    return isinstance(result, (list, tuple, set)) and all(
        isinstance(pair, (tuple, list)) and len(pair) == 2 and all(type(i) is int for i in pair)
        for pair in result
    )

"""Checkers of the notebooks' exercises: they print what your answer gives and what it should give.

A notebook calls nothing but `check("01a", answer)`. Each exercise is a function here that takes the
answer and yields rows (what, got, expected), in the module that is named like its notebook. The
solutions are in notebooks/solutions. Teachers: to add an exercise, write one more function and put
it into EXERCISES, at the end of its module.
"""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from cifar_utils.course.exercises import (
    augmentation,
    data_exploration,
    evaluation,
    grad_cam,
    model_building,
    speed,
    training,
)
from cifar_utils.course.exercises.form import AtMost, Near
from cifar_utils.errors import choose

Row = tuple[str, Any, Any]  # what, got, expected


def check(name: str, answer: Any) -> None:
    """Print, line by line, what the answer to an exercise gives beside what it should give.

    A mistake inside the answer is shown in one line. Used in every notebook.

    Args:
        name: the exercise's, such as "01a".
        answer: a value or a function, as the exercise asks. If it is still `...`, or a function
            that returns None, it counts as not answered yet.

    Raises:
        CifarError: if there is no exercise of that name.
    """
    is_right(name, answer)  # its result is left out, because a notebook would show it


def is_right(name: str, answer: Any) -> bool:
    """As `check`; True if every line is right."""
    choose(name, EXERCISES, "exercise")
    if answer is ...:
        print(f"{name}: not answered yet")
        return False
    if callable(answer) and not isinstance(answer, nn.Module):
        answer = _guarded(answer)
    all_right = True
    try:
        for what, got, expected in EXERCISES[name](answer):
            right = _same(got, expected)
            all_right &= right
            print(f"{'✓' if right else '✗'} {what}: got {_short(got)}, expected {_short(expected)}")
    except NotAnswered:
        print(f"{name}: not answered yet (a function has to `return` its answer)")
        return False
    except Changed:
        print("✗ your function changes the tensors that it is given; work on copies")
        return False
    except Exception as mistake:  # the reader's own code may fail in any way
        print(f"✗ your code raised {type(mistake).__name__}: {mistake}")
        return False
    return all_right


class NotAnswered(Exception):
    """The reader's function returned None."""


class Changed(Exception):
    """The reader's function wrote into its arguments, which would spoil the data in a training."""


def _guarded(function: Callable) -> Callable:
    """`function`, but it raises NotAnswered or Changed if it does what they say."""

    def call(*arguments):
        given = copy.deepcopy(arguments)
        result = function(*arguments)
        if result is None:
            raise NotAnswered
        for before, after in zip(given, arguments, strict=True):
            if isinstance(before, torch.Tensor) and not torch.equal(before, after):
                raise Changed
        return result

    return call


def _same(got: Any, expected: Any) -> bool:
    """Whether the answer is as expected: exactly, or to rounding for floats and tensors."""
    if isinstance(expected, (Near, AtMost)):
        return expected.allows(got)
    if isinstance(expected, torch.Tensor):
        got = torch.as_tensor(got)
        return got.shape == expected.shape and torch.allclose(
            got.double(), expected.double(), rtol=1e-4, atol=1e-5
        )
    if isinstance(expected, float):
        return math.isclose(float(got), expected, rel_tol=1e-4, abs_tol=1e-6)
    return got == expected


def _short(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, torch.Tensor) and value.numel() > 8:
        first = ", ".join(f"{number:g}" for number in value.flatten()[:4].tolist())
        return f"a tensor {tuple(value.shape)} that begins {first}"
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    if isinstance(value, list) and all(isinstance(number, float) for number in value):
        return "[" + ", ".join(f"{number:.4g}" for number in value) + "]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


EXERCISES: dict[str, Callable[[Any], Iterator[Row]]] = {
    name: rows
    for notebook in (
        data_exploration,
        augmentation,
        model_building,
        training,
        evaluation,
        grad_cam,
        speed,
    )
    for name, rows in notebook.EXERCISES.items()
}

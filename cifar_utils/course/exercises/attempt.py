"""An answer at work: the reader's own code, called case by case, with whatever it may do."""

import ast
import copy
import inspect
import re
import textwrap
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from cifar_utils.course.exercises.form import (
    Case,
    Exercise,
    Rule,
    agree,
    first_part,
    first_place,
    form_fault,
    kind,
    show,
)
from cifar_utils.errors import CifarError

COPIED = torch.Tensor, np.ndarray, list  # arguments that an answer could write into


class Try(NamedTuple):
    """What an answer gave in one case."""

    case: Case
    got: Any
    outcome: str  # in words
    help: str | None  # None if the result is right; empty if there is nothing particular to say


class NotAnswered(Exception):
    """The reader's function returns nothing, or `...`."""


class Stopped(Exception):
    """The reader's function gives no result that could be compared: the outcome, and some help."""


def attempt(exercise: Exercise, answer: Any, *, is_ours: bool = False) -> Iterator[Try]:
    """The answer's results, case by case, up to the first that has not the right form.

    is_ours: the answer is a slip, which need not be tried twice with the same generator.
    """
    for number, case in enumerate(exercise.cases()):
        try:
            got = _result(answer, case, first=number == 0, is_ours=is_ours)
        except Stopped as stopped:
            yield Try(case, None, *stopped.args)
            return
        expected = case.expected
        part, it, due = first_part(got, expected)
        if case.of:
            outcome = f"{case.of[0]} is {show(it)}"
        elif case.arguments is None:
            outcome = f"your answer is {kind(it) if isinstance(expected, Rule) else show(it)}"
        else:
            outcome = f"your {_noun(answer)} returns{f', as {part},' if part else ''} {show(it)}"
        fault = form_fault(got, expected)
        if isinstance(expected, Rule) and not expected.holds(got):
            fault = expected.sentence
        right = not fault and (isinstance(expected, Rule) or agree(got, expected))
        yield Try(case, got, outcome, None if right else fault or first_place(it, due))
        if fault:
            return


def is_open(answer: Any) -> bool:
    """Whether it is what a reader has before answering: nothing, `...`, or a tuple with a `...`."""
    if isinstance(answer, tuple):
        return any(part is None or part is ... for part in answer)
    return answer is None or answer is ...


def is_stub(answer: Any) -> bool:
    """Whether a function or a class still has a `...` alone, as every gap has in the beginning."""
    for function in vars(answer).values() if isinstance(answer, type) else [answer]:
        with suppress(OSError, TypeError, SyntaxError):  # no function, or one without a source
            tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
            lines = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)]
            if any(isinstance(line, ast.Constant) and line.value is ... for line in lines):
                return True
    return False


def _result(answer: Any, case: Case, *, first: bool, is_ours: bool) -> Any:
    if case.arguments is not None:
        if not callable(answer):
            raise Stopped(f"your answer is {kind(answer)}", "A function is asked for.")
        got = _call(answer, case.arguments)
        if is_open(got) and first:
            raise NotAnswered
        if is_open(got):
            help = "Is there a way through your function that meets no `return`?"
            raise Stopped("your function returns nothing", help)
        draws = not is_ours and any(isinstance(one, torch.Generator) for one in case.arguments)
        well_formed = not form_fault(got, case.expected)
        if draws and well_formed and not agree(_call(answer, case.arguments), got):
            help = "Draw with the generator that is given: the same seed, the same numbers."
            raise Stopped("your function returns something else each time", help)
    else:
        got = _call(lambda: answer, ())
    if case.of is None:
        return got
    what, computed = case.of
    try:
        return computed(got)
    except CifarError as fault:  # a network that we cannot measure
        raise Stopped(f"{what} cannot be computed", str(fault)) from fault
    except Exception as fault:  # a mistake in the reader's methods, or a result of changing form
        if _own_lines(fault, answer):
            raise _told(fault, answer, ()) from fault
        raise Stopped(f"{what} cannot be computed", "The check cannot read it.") from fault


def _call(answer: Callable, arguments: tuple) -> Any:
    """The plain result of the reader's code, called with copies of the arguments."""
    given = [_copy(argument) for argument in arguments]
    try:
        if isinstance(answer, nn.Module):  # the reader's own stays as it was
            with torch.no_grad():
                return _plain(copy.deepcopy(answer).cpu().eval()(*given))
        result = _plain(answer(*given))
    except Exception as mistake:  # the reader's own code may fail in any way
        raise _told(mistake, answer, arguments) from mistake
    for before, after in zip(arguments, given, strict=True):
        if isinstance(before, COPIED) and not _is_same(before, after):
            help = "It would spoil the data in a training: let it work on copies."
            what = "tensors" if isinstance(before, torch.Tensor) else "arguments"
            raise Stopped(f"your {_noun(answer)} changes the {what} that it is given", help)
    return result


def _told(mistake: Exception, answer: Callable, arguments: tuple) -> Exception:
    """An exception in the reader's code as a sentence, with the line of their function."""
    message = traceback.format_exception_only(mistake)[-1].splitlines()[0][:200]
    if "ellipsis" in message:  # the reader's function still computes with a `...`
        return NotAnswered()
    place = ""
    if lines := _own_lines(mistake, answer):
        place = f"It happens in line {lines[-1].lineno}: `{lines[-1].line}`."
    elif isinstance(mistake, TypeError):
        place = f"It is called with {len(arguments)} arguments, as the exercise says."
    if "before Module.__init__() call" in message:
        place = "Begin with `super().__init__()`: only then can a network take its layers."
    if numbers := re.search(r"mat1 and mat2 .* \(\d+x(\d+) and (\d+)x", message):
        got, made = numbers.groups()
        place += f" Read it so: {_in_a_product(answer, got, made)}."
    return Stopped(f"your {_noun(answer)} raises {message}", place.strip())


def _in_a_product(answer: Callable, columns: str, rows: str) -> str:
    if isinstance(answer, (type, nn.Module)):
        return f"a linear layer got {columns} numbers per row, but is made for {rows}"
    return f"the left matrix has {columns} columns and the right one {rows} rows, not equally many"


def _own_lines(mistake: Exception, answer: Any) -> list[traceback.FrameSummary]:
    """The lines of the reader's own code that led to an exception."""
    functions = [answer] if hasattr(answer, "__code__") else vars(_class_of(answer)).values()
    files = {one.__code__.co_filename for one in functions if hasattr(one, "__code__")}
    frames = traceback.extract_tb(mistake.__traceback__)
    return [one for one in frames if one.filename in files and "site-packages" not in one.filename]


def _plain(result: Any) -> Any:
    """NumPy's things as torch's and Python's; tensors on the CPU, without their gradients."""
    if isinstance(result, np.ndarray) and result.dtype.kind in "biuf":
        result = torch.from_numpy(result.copy())
    if isinstance(result, np.generic):
        return result.item()
    if isinstance(result, torch.Tensor):
        result = result.detach().cpu().to_dense()
        return result if result.dim() else result.item()
    if isinstance(result, (list, tuple)):
        parts = [_plain(part) for part in result]
        return parts if isinstance(result, list) else tuple(parts)
    return result


def _copy(argument: Any) -> Any:
    if isinstance(argument, torch.Tensor):
        return argument.clone()
    if isinstance(argument, COPIED):
        return copy.deepcopy(argument)
    if isinstance(argument, torch.Generator):
        return torch.Generator().set_state(argument.get_state())
    return argument


def _is_same(before: Any, after: Any) -> bool:
    if isinstance(before, torch.Tensor):
        return before.dtype == after.dtype and torch.equal(before, after)
    if isinstance(before, list):
        return len(before) == len(after) and all(map(_is_same, before, after))
    if isinstance(before, np.ndarray):
        return np.array_equal(before, after)
    return before is after or before == after  # NaN is not equal to itself


def _class_of(answer: Any) -> type:
    return answer if isinstance(answer, type) else type(answer)


def _noun(answer: Any) -> str:
    if isinstance(answer, type):
        return "class"
    return "network" if isinstance(answer, nn.Module) else "function"

"""An answer at work: the reader's own code, called case by case, with whatever it may do."""

import copy
import traceback
from collections.abc import Callable, Iterator
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
    except Exception as fault:  # a network that we cannot measure, or a result of changing form
        why = str(fault) if isinstance(fault, CifarError) else "The check cannot read it."
        raise Stopped(f"{what} cannot be computed", why) from fault


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
        if isinstance(before, torch.Tensor) and (
            before.dtype != after.dtype or not torch.equal(before, after)
        ):
            help = "It would spoil the data in a training: let it work on copies."
            raise Stopped("your function changes the tensors that it is given", help)
    return result


def _told(mistake: Exception, answer: Callable, arguments: tuple) -> Exception:
    """An exception in the reader's code as a sentence, with the line of their function."""
    message = traceback.format_exception_only(mistake)[-1].splitlines()[0][:200]
    if "ellipsis" in message:  # the reader's function still computes with a `...`
        return NotAnswered()
    code = getattr(answer, "__code__", None)
    frames = traceback.extract_tb(mistake.__traceback__)
    lines = [frame for frame in frames if code and frame.filename == code.co_filename]
    place = ""
    if lines:
        place = f"It happens in line {lines[-1].lineno}: `{lines[-1].line}`."
    elif isinstance(mistake, TypeError):
        place = f"It is called with {len(arguments)} arguments, as the exercise says."
    return Stopped(f"your {_noun(answer)} raises {message}", place)


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
    if isinstance(argument, torch.Generator):
        return torch.Generator().set_state(argument.get_state())
    return argument


def _noun(answer: Any) -> str:
    return "network" if isinstance(answer, nn.Module) else "function"

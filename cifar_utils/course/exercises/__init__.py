"""Checks of the notebooks' gaps and exercises: they show what yours gives, and hints when you ask.

A notebook calls `check("01a", answer)` for an exercise at its end and `answer = gap("01.1",
answer)` below a gap in its text; `hint("01a")` and `hint("01.1")` help when you are stuck. The
solutions are in notebooks/solutions; a gap's is in the notebook itself. Teachers: both are in the
module that is named like the notebook. To add one, put an `Exercise` into EXERCISES or GAPS there.
"""

import inspect
from collections import Counter
from itertools import zip_longest
from typing import Any, TypeVar

import torch

from cifar_utils.course.exercises import (
    augmentation,
    data_exploration,
    evaluation,
    experiments,
    grad_cam,
    learning,
    model_building,
    speed,
    training,
    transfer,
)
from cifar_utils.course.exercises.answers import worked
from cifar_utils.course.exercises.attempt import NotAnswered, Try, attempt, is_open, is_stub
from cifar_utils.course.exercises.form import Exercise, agree, as_expected
from cifar_utils.errors import choose, shown

Answer = TypeVar("Answer")

CHAPTERS = (
    data_exploration,
    augmentation,
    learning,
    model_building,
    training,
    experiments,
    evaluation,
    grad_cam,
    transfer,
    speed,
)
EXERCISES: dict[str, Exercise] = {
    name: exercise for chapter in CHAPTERS for name, exercise in chapter.EXERCISES.items()
}
GAPS: dict[str, Exercise] = {
    name: gap for chapter in CHAPTERS for name, gap in chapter.GAPS.items()
}
KNOWN = EXERCISES | GAPS
_hints_given: Counter[str] = Counter()


def check(name: str, answer: Any) -> None:
    """Print whether the answer to an exercise is right or, if not, the first input that shows it.

    What you should get is never printed: your own result is, and a sentence if the slip is a known
    one. A mistake inside your function is shown with its line. Used in every notebook.

    Args:
        name: the exercise's, such as "01a".
        answer: a value, a function or a network, as the exercise asks. NumPy's arrays and numbers
            are as good as torch's and Python's. As long as it is `...`, or a function that returns
            `...` or None, it counts as not answered yet.

    Raises:
        CifarError: if there is no exercise of that name.
    """
    is_right(name, answer)  # its result is left out, because a notebook would show it


def gap(name: str, answer: Answer) -> Answer:
    """Check what the reader wrote into a gap; return it if it is right, else the course's own.

    So a notebook goes on, unless the cell itself ends in an error. Prints what `check` prints and,
    if the answer is not right, one more sentence. Used in every notebook, always as `answer =
    gap(name, answer)`: the course's own answer comes from the full notebook, where it has the same
    name.

    Args:
        name: the gap's, such as "04.1".
        answer: as in `check`.

    Raises:
        CifarError: if there is no gap of that name.
    """
    choose(name, GAPS, "gap")
    right, verdict = _judge(name, answer)
    if right:
        print(verdict)
        return answer
    frame = inspect.currentframe()
    assert frame is not None and frame.f_back is not None
    ours = worked(name, dict(frame.f_back.f_globals))
    if ours is None or not _judge(name, ours)[0]:
        ours = None  # no full notebook, one that was written over, or a name that was
        goes_on = "The course's own answer cannot be had here, so cells below may need yours."
    else:
        goes_on = "Below, the notebook goes on with the course's own."
    print(f"{verdict}\n  {goes_on}" if "\n" in verdict else f"{verdict}. {goes_on}")
    return answer if ours is None else ours


def is_right(name: str, answer: Any) -> bool:
    """As `check`, of an exercise or a gap; True if the answer is right."""
    choose(name, KNOWN, "exercise")
    right, verdict = _judge(name, answer)
    print(verdict)
    return right


def _judge(name: str, answer: Any) -> tuple[bool, str]:
    """Whether the answer is right, and what the reader sees."""
    if is_open(answer):
        return False, f"{name}: not answered yet"
    if is_stub(answer):
        return False, f"{name}: not answered yet (there is still a `...` in it)"
    exercise = KNOWN[name]
    # The notebook's own draws stay as they were, and so does what it records for gradients.
    with torch.random.fork_rng(devices=[]), torch.set_grad_enabled(torch.is_grad_enabled()):
        try:
            tries = list(attempt(exercise, answer))
        except NotAnswered:
            return False, f"{name}: not answered yet (a function has to `return` its answer)"
        wrong = next((one for one in tries if one.help is not None), None)
        advice = _known_slip(exercise, tries) if wrong else ""
    if wrong is None:
        return True, f"✓ {name}: right" + (f" in all {len(tries)} cases" if tries[1:] else "")
    advice = advice or f'{wrong.help or "That is not right yet."} Stuck? exercises.hint("{name}")'
    given = f"given {wrong.case.given}\n  " if wrong.case.given else ""
    lines = f"✗ {name}: {given}{wrong.outcome}\n  {advice}".split("\n")
    return False, "\n".join(map(shown, lines))


def hint(name: str) -> None:
    """Print the next of three hints for an exercise or a gap, then where its solution is.

    Used in every notebook. Raises CifarError if there is neither of that name.
    """
    choose(name, KNOWN, "exercise")
    hints = KNOWN[name].hints
    if (step := _hints_given[name]) < len(hints):
        _hints_given[name] += 1
        print(f"Hint {step + 1} of {len(hints)} for {name}: {hints[step]}")
    else:
        full = "the full notebook: in the student edition, the folder `solved` holds it"
        where = f"solutions/{name[:2]}_solutions.ipynb" if name in EXERCISES else full
        print(f"{name}: those were all {len(hints)} hints. The solution is in {where}.")


def _known_slip(exercise: Exercise, tries: list[Try]) -> str:
    """The sentence of the slip that gives the same results in all cases; empty if none does."""
    if tries[-1].got is None:  # it did not come to a result
        return ""
    for slip, sentence in exercise.slips:
        pairs = zip_longest(tries, attempt(exercise, slip, is_ours=True))
        if all(a and b and agree(a.got, as_expected(b.got, a.case.expected)) for a, b in pairs):
            return sentence
    return ""

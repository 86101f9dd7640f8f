"""Checks of the notebooks' exercises: they show what your answer gives, and hints when you ask.

A notebook calls `check("01a", answer)` and, when you are stuck, `hint("01a")`. The solutions are in
notebooks/solutions. Teachers: each notebook's exercises are in the module that is named like it. To
add one, put an `Exercise` into EXERCISES there.
"""

from collections import Counter
from itertools import zip_longest
from typing import Any

import torch

from cifar_utils.course.exercises import (
    augmentation,
    data_exploration,
    evaluation,
    grad_cam,
    model_building,
    speed,
    training,
)
from cifar_utils.course.exercises.attempt import NotAnswered, Try, attempt, is_open
from cifar_utils.course.exercises.form import Exercise, agree, as_expected
from cifar_utils.errors import choose, shown

CHAPTERS = data_exploration, augmentation, model_building, training, evaluation, grad_cam, speed
EXERCISES: dict[str, Exercise] = {
    name: exercise for chapter in CHAPTERS for name, exercise in chapter.EXERCISES.items()
}
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


def is_right(name: str, answer: Any) -> bool:
    """As `check`; True if the answer is right."""
    choose(name, EXERCISES, "exercise")
    if is_open(answer):
        print(f"{name}: not answered yet")
        return False
    exercise = EXERCISES[name]
    with torch.random.fork_rng(devices=[]):  # the notebook's own draws stay as they were
        try:
            tries = list(attempt(exercise, answer))
        except NotAnswered:
            print(f"{name}: not answered yet (a function has to `return` its answer)")
            return False
        wrong = next((one for one in tries if one.help is not None), None)
        advice = _known_slip(exercise, tries) if wrong else ""
    if wrong is None:
        print(f"✓ {name}: right" + (f" in all {len(tries)} cases" if len(tries) > 1 else ""))
        return True
    advice = advice or f'{wrong.help or "That is not right yet."} Stuck? exercises.hint("{name}")'
    given = f"given {wrong.case.given}\n  " if wrong.case.given else ""
    for line in f"✗ {name}: {given}{wrong.outcome}\n  {advice}".split("\n"):
        print(shown(line))
    return False


def hint(name: str) -> None:
    """Print the next of three hints for an exercise; after the third, where its solution is.

    Used in every notebook. Raises CifarError if there is no exercise of that name.
    """
    choose(name, EXERCISES, "exercise")
    hints = EXERCISES[name].hints
    if (step := _hints_given[name]) < len(hints):
        _hints_given[name] += 1
        print(f"Hint {step + 1} of {len(hints)} for {name}: {hints[step]}")
    else:
        solution = f"solutions/{name[:2]}_solutions.ipynb"
        print(f"{name}: those were all {len(hints)} hints. The solution is in {solution}.")


def _known_slip(exercise: Exercise, tries: list[Try]) -> str:
    """The sentence of the slip that gives the same results in all cases; empty if none does."""
    if tries[-1].got is None:  # it did not come to a result
        return ""
    for slip, sentence in exercise.slips:
        pairs = zip_longest(tries, attempt(exercise, slip, is_ours=True))
        if all(a and b and agree(a.got, as_expected(b.got, a.case.expected)) for a, b in pairs):
            return sentence
    return ""

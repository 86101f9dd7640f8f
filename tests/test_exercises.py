"""The checks: right answers pass; every slip gets its sentence; nothing ends in a traceback.

The right answers to exercises come from notebooks/solutions, those to gaps from the notebooks.
"""

import ast
import contextlib
import inspect
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from cifar_utils.course import exercises
from cifar_utils.course.exercises import EXERCISES, GAPS, check, gap, hint, is_right
from cifar_utils.course.exercises.answers import worked
from cifar_utils.course.exercises.attempt import attempt
from cifar_utils.course.exercises.form import Form, Near, Rule, first_part, show
from cifar_utils.models import ConvNet, average_head, conv_bn_relu, create_model

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def worked_answers():
    """{exercise: its answer in the notebooks of solutions}."""
    answers = {}
    for path in sorted(NOTEBOOKS.glob("solutions/*.ipynb")):
        names = {}
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code" and "exercises" in source:  # its import, or a check
                exec(source, names)
                names["exercises"] = SimpleNamespace(check=answers.__setitem__)
    return answers


def uncalled(source):
    """A cell without the lines that only IPython understands."""
    return re.sub(r"^\s*[%!].*$", "", source, flags=re.M)


def notebook_answers():
    """{gap: its answer in the notebooks}, and {notebook: its names}, without running the rest.

    A gap whose value comes from the notebook's data is left out; nbval checks it.
    """
    answers, names_of = {}, {}
    for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        names = names_of[path.name[:2]] = {}
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        for node in (node for source in sources for node in ast.parse(uncalled(source)).body):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                exec(ast.unparse(node), names)
        for source in sources:
            for name, variable in re.findall(r'exercises\.gap\("([\d.]+)", (\w+)\)', source):
                with contextlib.suppress(NameError):
                    exec(source.split(f'{variable} = exercises.gap("{name}"')[0], names)
                    answers[name] = names[variable]
    return answers, names_of


GAP_ANSWERS, NAMES_OF = notebook_answers()
ANSWERS = worked_answers() | GAP_ANSWERS
KNOWN = EXERCISES | GAPS
CASES = {name: list(exercise.cases()) for name, exercise in KNOWN.items()}
FUNCTIONS = [
    name
    for name in KNOWN
    if name != "04d"
    and name in ANSWERS
    and CASES[name][0].arguments is not None
    and not isinstance(ANSWERS[name], type)
]
SLIPS = [
    pytest.param(name, *slip, id=f"{name}-{number}")
    for name, exercise in KNOWN.items()
    for number, slip in enumerate(exercise.slips)
]


def test_every_exercise_is_worked_has_slips_and_hints():
    assert set(ANSWERS) - set(GAP_ANSWERS) == set(EXERCISES)
    for name, exercise in (EXERCISES | GAPS).items():
        assert len(exercise.slips) >= 2 or name == "04d"  # its rules are tried below
        assert len({*exercise.hints}) == 3


@pytest.mark.parametrize("name", ANSWERS)
def test_the_worked_answer_is_right(name, capsys):
    assert is_right(name, ANSWERS[name]) is True
    assert capsys.readouterr().out.startswith(f"✓ {name}: right")


@pytest.mark.parametrize(("name", "slip", "sentence"), SLIPS)
def test_a_slip_gets_its_sentence_and_nothing_tells_the_answer(name, slip, sentence, capsys):
    assert is_right(name, slip) is False
    printed = capsys.readouterr().out
    assert printed.startswith(f"✗ {name}: ") and printed.count("✗") == 1
    assert printed.splitlines()[-1].strip() == sentence
    first = next(one for one in attempt(KNOWN[name], slip) if one.help is not None)
    _, own, _ = first_part(first.got, first.case.expected)
    assert show(own) in printed
    told = printed.replace(first.case.given, "").replace(show(own), "")
    assert not any(is_told(part, told) for part in parts_of(first.case.expected))


def parts_of(expected):
    return list(expected.values()) if isinstance(expected, dict) else [expected]


def is_told(expected, text):
    """Whether a text shows an expected result. One of one digit could be there by chance."""
    if isinstance(expected, (Rule, Form, set)):
        return isinstance(expected, set) and expected and str(sorted(expected)) in text
    words = show(expected.value if isinstance(expected, Near) else expected)
    return len(words) > 1 and re.search(rf"(?<![\d.]){re.escape(words)}(?![\d.]*\d)", text)


@pytest.mark.parametrize("name", KNOWN)
def test_hints_come_one_by_one_and_do_not_tell_a_value(name, capsys, monkeypatch):
    monkeypatch.setattr(exercises, "_hints_given", type(exercises._hints_given)())
    for _ in range(5):
        hint(name)
    *hints, closing, again = capsys.readouterr().out.splitlines()
    assert [line[:6] for line in hints] == ["Hint 1", "Hint 2", "Hint 3"]
    assert len(set(hints)) == 3 and closing == again
    if name in EXERCISES:
        solution = re.search(r"solutions/\d\d_solutions\.ipynb", closing).group()
        assert (NOTEBOOKS / solution).is_file()
    if name not in FUNCTIONS:
        assert not is_told(CASES[name][0].expected, "\n".join(hints))


@pytest.mark.parametrize("name", KNOWN)
def test_an_open_exercise_is_not_answered_yet(name, capsys):
    printed = ""
    for answer in (..., None):
        assert is_right(name, answer) is False
        printed += f"{name}: not answered yet\n"
    if name in FUNCTIONS:
        for answer in (lambda *_: None, lambda *_: ..., lambda *_: (..., ...), lambda *_: 1 + ...):
            assert is_right(name, answer) is False
            printed += f"{name}: not answered yet (a function has to `return` its answer)\n"
    assert capsys.readouterr().out == printed


# --- gaps -----------------------------------------------------------------------------------------


def fill(name, answer):
    """What `answer = gap(name, answer)` gives in the gap's notebook."""
    names = NAMES_OF[name[:2]] | {"gap": gap, "answer": answer}
    exec(f'result = gap("{name}", answer)', names)
    return names["result"]


def test_every_gap_of_the_notebooks_has_a_check_and_reversed():
    texts = [path.read_text(encoding="utf-8") for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")]
    found = [name for text in texts for name in re.findall(r'gap\(\\"([\d.]+)', text)]
    assert sorted(found) == sorted(GAPS)
    assert set(GAPS) - set(GAP_ANSWERS) == {"10.1"}  # it needs the notebook's own `wait`


@pytest.mark.parametrize("name", GAP_ANSWERS)
def test_a_gap_keeps_a_right_answer_and_replaces_any_other(name, capsys):
    right = ANSWERS[name]
    assert fill(name, right) is right
    assert capsys.readouterr().out.startswith(f"✓ {name}: right")

    def half_written(*arguments):
        result = arguments[0]
        ...
        return result

    class HalfWritten:
        def __init__(self, *arguments):
            ...
            self.width = 1

    goes_on = "Below, the notebook goes on with the course's own.\n"
    dots = f"{name}: not answered yet (there is still a `...` in it). {goes_on}"
    for answer, whole in (
        (..., f"{name}: not answered yet. {goes_on}"),
        (half_written, dots),
        (HalfWritten, dots),
        (KNOWN[name].slips[0][0], None),
    ):
        ours = fill(name, answer)
        printed = capsys.readouterr().out
        if whole:
            assert printed == whole  # one line
        else:
            assert printed.startswith(f"✗ {name}: ") and printed.endswith(f"\n  {goes_on}")
        assert ours is not answer and is_right(name, ours)
        capsys.readouterr()


@pytest.mark.parametrize("line", [None, "...", "return 7", "return nothing"])
def test_without_a_good_full_notebook_a_gap_keeps_what_there_is(
    line, capsys, tmp_path, monkeypatch
):
    """There is none, or a learner has written over it, or spoiled a name that it needs."""
    if line:
        cell = f'def convolve(*_):\n    {line}\n\n\nconvolve = exercises.gap("04.1", convolve)'
        (tmp_path / "notebooks").mkdir()
        notebook = {"cells": [{"cell_type": "code", "source": [cell]}]}
        (tmp_path / "notebooks" / "04_a.ipynb").write_text(json.dumps(notebook))
    monkeypatch.setattr("cifar_utils.course.exercises.answers.CLONE", tmp_path)
    assert fill("04.1", ...) is ...
    assert "The course's own answer cannot be had here" in capsys.readouterr().out


def test_a_notebook_of_the_student_edition_takes_its_answers_from_solved(tmp_path, monkeypatch):
    for folder, line in (("notebooks", "..."), ("solved", "return 7")):
        cell = f'def seven():\n    {line}\n\n\nseven = exercises.gap("04.1", seven)'
        notebook = {"cells": [{"cell_type": "code", "source": cell.splitlines(keepends=True)}]}
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "04_model.ipynb").write_text(json.dumps(notebook))
    monkeypatch.setattr("cifar_utils.course.exercises.answers.CLONE", tmp_path)
    assert worked("04.1", {})() == 7


# --- garbage --------------------------------------------------------------------------------------


class Odd:
    """What nobody should return."""

    def __eq__(self, other):
        raise RuntimeError

    def __repr__(self):
        raise RuntimeError


GARBAGE = [
    "text", b"", float("nan"), float("inf"), 10**400, 1j, True, [], [1, "a"], (1,), (1, 2, 3),
    {"a": 1}, {1, 2}, Odd(), Odd, np.array(["a"]), np.array([np.nan]), np.float64("nan"),
    np.bool_(True), torch.zeros(0), torch.full((2, 2), torch.nan), torch.zeros(2, dtype=torch.long),
    torch.ones(3, dtype=torch.complex64), torch.zeros(2, device="meta"), torch.eye(2).to_sparse(),
    [torch.zeros(2), torch.zeros(3)], (torch.tensor(torch.nan), torch.tensor(torch.inf)),
    [(0, 1, 2)], [(0.5, 1)], [("a", "b")], nn.ReLU(), nn.Linear(2, 2), nn.Sequential(), range(3),
    len,
]  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_garbage_gets_a_sentence(name, capsys):
    distorted = [
        lambda result: result.to(torch.complex64) if isinstance(result, torch.Tensor) else [result],
        lambda result: result[None] if isinstance(result, torch.Tensor) else (result, result),
        lambda result: result * torch.nan if isinstance(result, torch.Tensor) else torch.nan,
        lambda result: result[0] if isinstance(result, (tuple, torch.Tensor)) else str(result),
        lambda result: [*result, 1] if isinstance(result, list) else [result],
    ]
    answers = list(GARBAGE)
    if name in FUNCTIONS:
        answers += [lambda *_, result=result: result for result in GARBAGE]
        answers += [
            lambda *arguments, change=change: change(ANSWERS[name](*arguments))
            for change in distorted
        ]
    for answer in answers:
        assert is_right(name, answer) is False
        printed = capsys.readouterr().out
        assert printed.startswith(f"✗ {name}: ") and printed.count("✗") == 1
        assert len(printed.splitlines()) in (2, 3) and len(printed.splitlines()[-1]) > 20
        if answer is not len:
            assert "AttributeError" not in printed and "has no attribute" not in printed


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_mistake_in_the_readers_code_is_shown_with_its_line(name, capsys):
    def broken(*_):
        return {}["mine"]

    assert is_right(name, broken) is False
    printed = capsys.readouterr().out
    line = inspect.getsourcelines(broken)[1] + 1
    assert "your function raises KeyError: 'mine'" in printed
    assert f'It happens in line {line}: `return {{}}["mine"]`.' in printed


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_that_writes_into_the_data_is_told_so(name, capsys):
    def in_place(*arguments):
        result = ANSWERS[name](*arguments)
        for argument in arguments:
            if isinstance(argument, torch.Tensor):
                argument.zero_()
        return result

    has_tensors = any(isinstance(argument, torch.Tensor) for argument in CASES[name][0].arguments)
    assert is_right(name, in_place) is not has_tensors
    assert ("changes the tensors" in capsys.readouterr().out) is has_tensors


@pytest.mark.parametrize("name", FUNCTIONS)
def test_numpy_and_tensors_with_gradients_are_as_good(name):
    def as_numpy(result):
        if isinstance(result, tuple):
            return tuple(map(as_numpy, result))
        if isinstance(result, torch.Tensor):
            return result.numpy()
        return np.asarray(result)[()] if isinstance(result, (int, float)) else result

    def with_gradients(result):
        if isinstance(result, tuple):
            return tuple(map(with_gradients, result))
        is_float = isinstance(result, torch.Tensor) and result.is_floating_point()
        return nn.Parameter(result) if is_float else result

    for form in (as_numpy, with_gradients):
        assert is_right(name, lambda *given, form=form: form(ANSWERS[name](*given))) is True


# --- arguments that an answer may ignore ----------------------------------------------------------

IGNORED = [
    (name, place)
    for name in FUNCTIONS
    for place, argument in enumerate(CASES[name][0].arguments)
    if isinstance(argument, (int, float))
]


@pytest.mark.parametrize(("name", "place"), IGNORED)
def test_an_answer_that_ignores_an_argument_is_wrong(name, place):
    for constant in {case.arguments[place] for case in CASES[name]}:

        def answer(*arguments, constant=constant):
            return ANSWERS[name](*arguments[:place], constant, *arguments[place + 1 :])

        assert is_right(name, answer) is False, constant


@pytest.mark.parametrize("name", ["02c", "07d"])
def test_an_answer_that_ignores_the_generator_is_wrong(name, capsys):
    own = torch.Generator().manual_seed(1)
    assert is_right(name, lambda *given: ANSWERS[name](*given[:-1], own)) is False
    assert "Draw with the generator that is given" in capsys.readouterr().out


def test_a_branch_without_return_is_told(capsys):
    answer = ANSWERS["02b"]
    assert is_right("02b", lambda images: answer(images) if len(images) == 1 else None) is False
    assert "meets no `return`" in capsys.readouterr().out


# --- wrong answers without a sentence of their own, which have to fail all the same ---------------


def mixed_with_places(images, labels, partner, share):
    eye, places = torch.eye(10), torch.arange(len(images))
    mixed = share * images + (1 - share) * images[partner]
    return mixed, share * eye[places] + (1 - share) * eye[partner]


def on_the_diagonal(logits, labels, smoothing):
    log_p = logits.log_softmax(1)
    return -((1 - smoothing) * log_p.diagonal() + smoothing * log_p.mean(1)).mean()


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("01c", lambda images, labels, classes: (images.float().mean((1, 2, 3)), labels)),
        ("01d", lambda images: ANSWERS["01d"](images)[1:]),
        ("02b", lambda images: images.rot90(1, (2, 3))),
        ("02c", lambda images, generator: ANSWERS["02c"](images, generator).float().round()),
        ("02d", mixed_with_places),
        ("05d", on_the_diagonal),
        ("07c", lambda confidences, right, bins: ANSWERS["07c"](confidences, right, 2 * bins)),
        ("08d", lambda heatmaps, boxes: ANSWERS["08d"](heatmaps, boxes) ** 2),
        (
            "10d",
            lambda patches: (
                torch.linalg.inv(torch.linalg.cholesky(patches @ patches.T / patches.shape[1])).T
            ),
        ),
    ],
)
def test_a_wrong_answer_fails(name, answer, capsys):
    assert is_right(name, answer) is False
    assert f'Stuck? exercises.hint("{name}")' in capsys.readouterr().out


# --- a network ------------------------------------------------------------------------------------


def narrow(*layers):
    return ConvNet(nn.Sequential(*layers), average_head(8, 10))


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (lambda: create_model("compact"), "Fewer than 100,000 are allowed."),
        (lambda: narrow(conv_bn_relu(3, 8), nn.MaxPool2d(32, 1)), "At least three are asked for."),
        (lambda: narrow(*(conv_bn_relu(n, 8) for n in (3, 8, 8))), "At least 40 pixels"),
        (lambda: narrow(conv_bn_relu(3, 4)), "raises RuntimeError: "),  # 4 channels, 8 in the head
        (lambda: ConvNet(nn.Sequential(nn.Conv2d(3, 8, 3)), average_head(8, 7)), "(2, 7), but (2"),
        (lambda: nn.Linear(3, 10), "A network with `features` and `classifier` is asked for"),
        (lambda: ConvNet, "A network with `features` and `classifier` is asked for"),
    ],
)
def test_a_network_that_does_not_do_is_told_why(network, sentence, capsys):
    network = network()
    before = torch.get_rng_state()
    assert is_right("04d", network) is False and sentence in capsys.readouterr().out
    assert torch.equal(torch.get_rng_state(), before)
    assert getattr(network, "training", True)  # the reader's own stays as it was


# --- names and forms ------------------------------------------------------------------------------


def test_an_unknown_exercise_names_the_known():
    for function in (lambda: check("09z", 1), lambda: hint("09z")):
        with pytest.raises(ValueError, match="01a"):
            function()


def test_a_whole_float_is_shown_as_a_float(capsys):
    exercises.check("05a", 5280.0)
    assert capsys.readouterr().out.startswith(
        "✗ 05a: your answer is 5280.0\n  That is a float, but"
    )


def test_what_is_printed(capsys):
    assert check("01a", 12288) is None  # a notebook would show what is returned
    check("01a", 3072)
    check("04a", lambda size, kernel, stride, padding, dilation: size)
    check("02b", lambda images: images.flip(2).float())
    check("05a", "many")
    check("08a", lambda w: w / 16 * float("nan"))
    assert capsys.readouterr().out == (
        "✓ 01a: right\n"
        "✗ 01a: your answer is 3072\n"
        "  That is how many numbers there are. How many bytes does each float take?\n"
        "✗ 04a: given size 32, kernel 3, stride 1, padding 0, dilation 1\n"
        "  your function returns 32\n"
        '  That is not right yet. Stuck? exercises.hint("04a")\n'
        "✗ 02b: given one image, each colour [[1, 2], [3, 4]]\n"
        "  your function returns a float32 tensor (1, 3, 2, 2): "
        "3.0, 4.0, 1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0, 1.0, 2.0\n"
        '  Its type is float32, but uint8 is asked for. Stuck? exercises.hint("02b")\n'
        "✗ 05a: your answer is 'many'\n"
        '  That is text, but a number is asked for. Stuck? exercises.hint("05a")\n'
        "✗ 08a: given w 1.0\n"
        "  your function returns nan\n"
        "  There is a NaN (“not a number”), which comes from 0 / 0, for example. "
        'Stuck? exercises.hint("08a")\n'
    )


def test_a_number_may_be_rounded_within_its_room():
    assert is_right("10a", 1 / (0.4 + 0.6 / 20)) and is_right("10a", 2.33)
    assert is_right("10a", 2.35) is False


# --- classes --------------------------------------------------------------------------------------


class Listed(nn.Module):
    """Layers in a plain list, which torch does not see."""

    def __init__(self, width, num_classes):
        super().__init__()
        self.layers = [nn.Conv2d(3, num_classes, 32)]

    def forward(self, images):
        return self.layers[0](images).flatten(1)


class Early(nn.Module):
    def __init__(self, width, num_classes):
        self.layer = nn.Conv2d(3, width, 3)


class TooNarrow(nn.Module):
    def __init__(self, width, num_classes):
        super().__init__()
        self.linear = nn.Linear(512, num_classes)

    def forward(self, images):
        return self.linear(images.flatten(1))


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (Listed, "torch sees none: it does not look into a plain list."),
        (Early, "Begin with `super().__init__()`"),
        (TooNarrow, "`return self.linear(images.flatten(1))`. Read it so: a linear layer got 3072"),
    ],
)
def test_a_mistake_in_a_class_is_told_in_words(network, sentence, capsys):
    assert is_right("04.4", network) is False
    printed = capsys.readouterr().out
    assert sentence in printed and printed.startswith("✗ 04.4: given")


# --- what a check leaves as it was ----------------------------------------------------------------


def test_a_list_that_is_given_stays_as_it_was(capsys):
    def emptied(values, *rest):
        values.clear()
        return ANSWERS["06.7"](values, *rest)

    assert is_right("06.7", emptied) is False
    assert is_right("06.7", ANSWERS["06.7"]) is True


def test_recording_for_gradients_stays_as_it_was():
    def switched_off(*arguments):
        torch.set_grad_enabled(False)
        return ANSWERS["02b"](*arguments)

    assert is_right("02b", switched_off) and torch.is_grad_enabled()


def test_a_product_that_does_not_fit_is_told_without_a_layer(capsys):
    def product(grad_outputs, inputs, weight):
        return weight @ grad_outputs, inputs, weight

    assert is_right("03.5", product) is False
    assert "Read it so: the left matrix has 4 columns and the right one 2 rows" in (
        capsys.readouterr().out
    )


def test_a_list_of_tensors_that_is_written_into_is_told_so(capsys):
    def update(network, gradients, lr):
        for tensor, slope in zip(network, gradients, strict=True):
            tensor -= lr * slope
        return network

    assert is_right("03.7", update) is False
    assert "your function changes the arguments that it is given" in capsys.readouterr().out

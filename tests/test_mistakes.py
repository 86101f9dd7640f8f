"""Mistakes that everyone makes: each is one change, shows its symptom, and has a guard."""

import ast
import inspect
import math
import os
import warnings
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from cifar_utils import data
from cifar_utils.course import mistakes
from cifar_utils.course.mistakes import FAULTS, LETTERS, Outcome, Pipeline, Plan, run
from cifar_utils.errors import CifarError
from cifar_utils.sources import synthetic

REAL = os.environ.get("CIFAR10_ROOT")  # read here: tests see another
SHORT = Plan(validation=30, judged=20, epochs=2, batch_size=10)


def some_images(count, seed=0):
    draw = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 3, 32, 32), generator=draw, dtype=torch.uint8)
    return images, torch.randint(10, (count,), generator=draw)


def differing(pipeline):
    right = Pipeline()
    return [
        part.name
        for part in fields(Pipeline)
        if getattr(pipeline, part.name) != getattr(right, part.name)
    ]


# --- what they are --------------------------------------------------------------------------------


def test_each_mistake_is_in_one_part_and_has_one_letter():
    assert sorted(FAULTS) == list(range(1, 9)) == sorted(LETTERS.values())
    assert "".join(LETTERS) == "ABCDEFGH"
    assert list(LETTERS.values()) != sorted(LETTERS.values())  # the order gives nothing away
    assert all(len(differing(fault.pipeline)) == 1 for fault in FAULTS.values())
    assert len({fault.pipeline for fault in FAULTS.values()} | {Pipeline()}) == 9


@pytest.mark.parametrize("number", FAULTS)
def test_a_mistake_differs_from_the_right_part_in_two_lines_at_most(number):
    (name,) = differing(FAULTS[number].pipeline)
    ours, right = (getattr(one, name) for one in (FAULTS[number].pipeline, Pipeline()))
    if name == "rate":
        assert ours == 30 * right
        return
    theirs, sound = (
        {ast.unparse(line) for line in ast.walk(ast.parse(inspect.getsource(one)))
         if isinstance(line, (ast.Assign, ast.Return, ast.Expr))}
        for one in (ours, right)
    )  # fmt: skip
    missing = {line for line in sound - theirs if '"""' not in line}
    assert len(theirs - sound) <= 2 and missing


@pytest.mark.parametrize("number", FAULTS)
def test_the_package_still_has_the_line_that_guards_against_it(number):
    function, wanted = FAULTS[number].guard
    told = mistakes.guard(number)
    place, line = told.split(": ", 1)
    assert place.endswith(f".{function.__qualname__}") and line.startswith(wanted)
    lines = inspect.getsource(inspect.getmodule(function)).splitlines()
    assert line in [each.strip() for each in lines]


def test_a_guard_that_is_gone_is_told(monkeypatch):
    gone = FAULTS[1]._replace(guard=(mistakes.step, "optimizer.no_such_line()"))
    monkeypatch.setitem(FAULTS, 1, gone)
    with pytest.raises(CifarError, match=r"^step has no line that begins with"):
        mistakes.guard(1)
    with pytest.raises(CifarError, match="1"):
        mistakes.guard(9)


@pytest.mark.parametrize("number", FAULTS)
def test_what_is_shown_is_the_faulty_part_alone(number, capsys):
    mistakes.show(number)
    first, *code = capsys.readouterr().out.splitlines()
    assert first == f"# {number}: {FAULTS[number].words}"
    assert code == ["rate = 0.06"] if number == 6 else code[0].startswith("def ")
    assert sum(line.startswith("def ") for line in code) == (number != 6)


# --- each part, without a training ----------------------------------------------------------------


def test_the_first_loss_is_that_of_a_guess():
    torch.manual_seed(0)
    network = mistakes.small_network()
    assert sum(weights.numel() for weights in network.parameters()) == 33_946
    inputs, labels = torch.randn(8, 3, 32, 32), torch.arange(8)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    assert mistakes.step(network, optimizer, inputs, labels) == pytest.approx(math.log(10))


def test_without_zero_grad_the_second_step_has_both_gradients():
    inputs, labels = torch.randn(8, 6), torch.arange(8)
    moved = []
    for step in (mistakes.step, mistakes.step_without_zero_grad):
        torch.manual_seed(0)
        network = nn.Linear(6, 10)
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
        places = []
        for _ in range(3):
            places.append(network.weight.detach().clone())
            step(network, optimizer, inputs, labels)
        moved.append([(b - a).norm().item() for a, b in pairwise(places)])
    (right, again), (first, second) = moved
    assert again == pytest.approx(right, rel=1e-2)
    assert first == right and second == pytest.approx(2 * first, rel=1e-2)


def test_after_softmax_the_loss_has_a_lowest_value():
    sure = 100 * torch.eye(10)
    network = nn.Linear(10, 10, bias=False)
    network.weight.data.copy_(torch.eye(10))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    lowest = -math.log(math.e / (math.e + 9))
    assert mistakes.step_with_softmax(network, optimizer, sure, torch.arange(10)) == (
        pytest.approx(lowest)
    )
    assert f"{lowest:.2f}" == "1.46"  # as the notebook says
    assert mistakes.step(network, optimizer, sure, torch.arange(10)) < 1e-6


def test_judging_in_training_mode_changes_the_network_and_has_chance_in_it():
    torch.manual_seed(0)
    network, (images, labels) = mistakes.small_network(), some_images(200)
    nn.init.normal_(network[-1].weight)
    before = {name: value.clone() for name, value in network.state_dict().items()}

    def is_as_before():
        return all(torch.equal(before[name], now) for name, now in network.state_dict().items())

    assert len({mistakes.accuracy(network, images, labels) for _ in range(5)}) == 1
    augmented = {mistakes.accuracy_of_augmented(network, images, labels) for _ in range(8)}
    assert len(augmented) > 1 and is_as_before()
    in_training = {mistakes.accuracy_in_training_mode(network, images, labels) for _ in range(8)}
    assert len(in_training) > 1 and not is_as_before()


def test_images_and_labels_stay_together_and_parts_stay_apart():
    images, labels = torch.arange(12).view(-1, 1, 1, 1), torch.arange(12)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    ours, theirs = mistakes.shuffled(images, labels, order)
    assert torch.equal(ours.flatten(), theirs) and not torch.equal(theirs, labels)
    ours, theirs = mistakes.shuffled_apart(images, labels, order)
    assert not torch.equal(ours.flatten(), theirs)
    _, training, _, validation = mistakes.split(images, labels, order, 4)
    assert len(validation) == 4 and sorted([*training, *validation]) == list(range(12))
    _, training, _, validation = mistakes.split_that_overlaps(images, labels, order, 4)
    assert len(validation) == 4 and set(validation.tolist()) < set(training.tolist())


# --- running them ---------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_numbers_and_leaves_torchs_own_alone():
    images, labels = some_images(90)
    before = torch.get_rng_state()
    first, judged, other = run(
        [Pipeline(), FAULTS[5].pipeline, FAULTS[6].pipeline], images, labels, plan=SHORT
    )
    assert torch.equal(torch.get_rng_state(), before)
    (alone,) = run([FAULTS[5].pipeline], images, labels, plan=SHORT)
    assert judged.losses == alone.losses == first.losses != other.losses
    assert judged.validation == alone.validation
    (another,) = run([Pipeline()], images, labels, plan=SHORT, seed=1)
    assert another.losses != first.losses
    assert len(first.losses) == 12 and len(first.training) == len(first.loss_of_epochs) == 2
    assert first.loss_of_epochs[1] == pytest.approx(sum(first.losses[6:]) / 6)


def test_the_training_images_that_are_judged_are_no_validation_images():
    seen = []

    def noted(network, images, labels):
        seen.append({one.numpy().tobytes() for one in images})
        return 0.0

    run([replace(FAULTS[8].pipeline, accuracy=noted)], *some_images(60), plan=SHORT)
    assert len(seen[0]) == SHORT.judged and not seen[0] & seen[1]


def test_a_last_batch_that_is_smaller_belongs_to_its_epoch():
    images, labels = some_images(75)
    (outcome,) = run([Pipeline()], images, labels, plan=SHORT)  # 45 images in batches of 10
    assert len(outcome.losses) == 10 and len(outcome.loss_of_epochs) == 2


def test_a_warning_is_heard_and_told_of_the_pipeline_that_gave_it():
    def loud(network, images, labels):
        warnings.warn("as loud as can be", UserWarning, stacklevel=2)
        return mistakes.accuracy(network, images, labels)

    pipelines = [Pipeline(), replace(Pipeline(), accuracy=loud)]
    silent, heard = run(pipelines, *some_images(60), plan=SHORT)
    assert (silent.heard, heard.heard) == ((), ("UserWarning",))


def test_symptoms_are_three_lines_whatever_the_numbers():
    nothing = nn.Identity()
    outcome = Outcome([2.3, 2.2, math.nan], [0.1], [0.2], [0.2, 0.3, 0.2], True, nothing)
    loss, accuracy, judged = outcome.symptoms()
    assert loss == "loss:     step 1 2.30, step 2 2.20, last epoch nan"
    assert accuracy == "accuracy: training images 10.0%, validation images 20.0%"
    assert judged == "judged three times: 20.0%, 30.0%, 20.0%; that changes the network"
    huge = Outcome([2.3, 5e7], [0.1], [0.2], [0.2] * 3, False, nothing)
    assert "step 2 5.0e+07" in huge.symptoms()[0]
    assert huge.symptoms()[2].endswith("that does not change the network")


def test_the_figure_has_two_panels_a_letter_and_survives_any_loss():
    import matplotlib.pyplot as plt

    sound = Outcome([2.3, 2.0], [0.1, 0.3], [0.1, 0.2], [0.2] * 3, False, nn.Identity())
    ill = replace(sound, losses=[math.nan, math.inf])
    figure = mistakes.draw(dict.fromkeys("ABCDE", ill), sound, columns=4)
    titled = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titled == list("ABCDE") and len(figure.axes) == 16
    assert sum(bool(ax.lines) for ax in figure.axes) == 10
    plt.close(figure)


def test_the_table_gives_means_and_spreads_in_points():
    costs = {
        0: ([0.50, 0.52, 0.54], [0.51, 0.53, 0.55], set()),
        3: ([0.50, 0.50, 0.50], [0.40, 0.40, 0.40], {"UserWarning"}),
    }
    head, sound, third = mistakes.table(costs).splitlines()
    assert sound.split() == ["–", "+1.0", "±", "0.0", "52.0", "±", "2.0%", "nothing"]
    assert third.split() == [
        "3", "−10.0", "±", "0.0", "50.0", "±", "0.0%", "−2.0", "±", "2.0", "UserWarning",
    ]  # fmt: skip
    assert head.split()[:3] == ["reported", "−", "true"]


# --- each symptom, on the stand-in and on real images ---------------------------------------------


@pytest.fixture(scope="module", params=["synthetic", "cifar10"])
def outcomes(request):
    """The sound pipeline, 0, and the eight, on as many images as notebook 05 has."""
    if request.param == "cifar10" and not (REAL and data.official_folder(Path(REAL))):
        pytest.skip("$CIFAR10_ROOT holds no official files")
    if request.param == "synthetic":
        images, labels = synthetic.draw(2500, seed=0)
    else:
        train = data.load(REAL, source="cifar10").train
        images, labels = train.images[:2500], train.labels[:2500]
    pipelines = {0: Pipeline()} | {number: fault.pipeline for number, fault in FAULTS.items()}
    found = run(pipelines.values(), images, labels, plan=Plan(epochs=8))
    return dict(zip(pipelines, found, strict=True))


def late(values):
    """The mean of the last three epochs."""
    return sum(values[-3:]) / 3


@pytest.mark.slow
def test_the_sound_one_learns(outcomes):
    sound = outcomes[0]
    assert sound.losses[0] == pytest.approx(math.log(10), abs=1e-4)
    assert sound.loss_of_epochs[-1] < 2 and late(sound.validation) > 0.3
    assert len({*sound.again}) == 1 and not sound.changed
    assert late(sound.training) - late(sound.validation) > 0.04
    assert not any(outcome.heard for outcome in outcomes.values())


@pytest.mark.slow
def test_without_zero_grad_it_begins_soundly_and_explodes(outcomes):
    sound, ill = outcomes[0], outcomes[1]
    assert ill.losses[:2] == sound.losses[:2] and ill.losses[2] != sound.losses[2]
    assert ill.loss_of_epochs[-1] > 4 and late(ill.validation) < 0.15


@pytest.mark.slow
def test_with_two_softmaxes_it_learns_at_a_high_loss(outcomes):
    sound, ill = outcomes[0], outcomes[2]
    assert min(ill.losses) > 1.46 and ill.loss_of_epochs[-1] > sound.loss_of_epochs[-1] + 0.2
    assert 0.17 < late(ill.training) < late(sound.training)


@pytest.mark.slow
def test_in_training_mode_chance_judges_and_the_network_changes(outcomes):
    assert outcomes[3].losses == outcomes[0].losses
    assert len({*outcomes[3].again}) > 1 and outcomes[3].changed


@pytest.mark.slow
def test_with_labels_apart_nothing_is_learned(outcomes):
    ill = outcomes[4]
    assert all(2.25 < loss < 3 for loss in ill.loss_of_epochs)
    assert late(ill.training) < 0.2 and late(ill.validation) < 0.15


@pytest.mark.slow
def test_without_normalising_even_training_images_are_foreign(outcomes):
    sound, ill = outcomes[0], outcomes[5]
    assert ill.losses == sound.losses and len({*ill.again}) == 1 and not ill.changed
    assert late(ill.training) < late(sound.training) - 0.15
    assert late(ill.validation) < late(sound.validation) - 0.1


@pytest.mark.slow
def test_with_a_rate_too_large_the_second_loss_is_far_too_high(outcomes):
    sound, ill = outcomes[0], outcomes[6]
    assert ill.losses[0] == sound.losses[0] and ill.losses[1] > sound.losses[1] + 1
    assert late(ill.validation) < 0.15


@pytest.mark.slow
def test_on_augmented_images_chance_judges_and_the_network_stays(outcomes):
    sound, ill = outcomes[0], outcomes[7]
    assert ill.losses == sound.losses and len({*ill.again}) > 1 and not ill.changed
    assert late(ill.validation) < late(sound.validation)


@pytest.mark.slow
def test_validation_inside_training_is_as_good_as_training(outcomes):
    sound, ill = outcomes[0], outcomes[8]
    assert late(ill.validation) > late(sound.validation) + 0.04
    assert abs(late(ill.training) - late(ill.validation)) < 0.03

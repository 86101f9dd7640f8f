"""The average of the weights: the sum written out by hand, and what sees it."""

import copy

import pytest
import torch

from cifar_utils.checkpoints import load_weights
from cifar_utils.data import CLASSES
from cifar_utils.errors import CifarError
from cifar_utils.evaluate import evaluate
from cifar_utils.history import History
from cifar_utils.models import build
from cifar_utils.recipes import Recipe
from cifar_utils.runs import RunFolder
from cifar_utils.train import fit

RECIPE = Recipe("tiny", model="compact", epochs=3, batch_size=16, lr=0.05, seed=5)
PLAIN = {"device": "cpu", "precision": "fp32"}


def weights(model):
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def run(split, val, recipe, log=lambda run: None, **options):
    model = build(recipe, CLASSES)
    return model, fit(model, split, val, recipe, log=log, **PLAIN, **options)


def weights_of_all_steps(split, recipe):
    """What a run without an average passes through, (steps, numbers)."""
    model, seen = build(recipe, CLASSES), []

    def watched(batches):
        for batch in batches:
            seen.append(weights(model))  # the weights before the step
            yield batch

    fit(model, split, None, recipe, log=lambda run: None, progress=watched, **PLAIN)
    return torch.stack([*seen[1:], weights(model)])


@pytest.mark.parametrize("ema", [0.25, 1.0])
def test_the_average_is_the_weighted_sum_over_all_steps(painted_split, ema):
    """Of 12 steps: a span of 3, where each share is 2/3 of the next, or the plain mean."""
    split, val = painted_split(64), painted_split(20, seed=1)
    steps = weights_of_all_steps(split, RECIPE)
    span = 12 * ema
    shares = torch.full((12,), 1 / 12, dtype=torch.float64)
    if ema < 1:
        shares = torch.tensor([1 / 3] * 3 + [1.0] * 9, dtype=torch.float64)
        for step in range(12):
            shares[step] *= (1 - 1 / span) ** (11 - max(step, 2)) / (1 if step < 3 else span)
    assert shares.sum().item() == pytest.approx(1)
    model, history = run(split, val, RECIPE.changed(ema=ema))
    whole_numbers = [name for name in model.state_dict() if name.endswith("num_batches_tracked")]
    averaged = weights(model)
    wanted = shares @ steps
    counts = torch.cat([
        torch.full((value.numel(),), name in whole_numbers)
        for name, value in model.state_dict().items()
    ])  # fmt: skip
    torch.testing.assert_close(averaged[~counts], wanted[~counts], rtol=1e-4, atol=1e-6)
    assert set(averaged[counts].tolist()) == {12.0}
    assert (history.epochs[-1].val_loss, history.epochs[-1].val_accuracy) == evaluate(model, val)
    plain, same = run(split, val, RECIPE)
    assert (weights(plain) - averaged).abs().max() > 1e-3
    losses = [[row.train_loss for row in each.epochs] for each in (history, same)]
    assert losses[0] == losses[1]  # the training itself is as without


def test_what_is_saved_is_the_average_and_a_resumed_run_goes_on_with_both(tmp_path, painted_split):
    split, val, recipe = painted_split(64), painted_split(20, seed=1), RECIPE.changed(ema=0.2)
    states = []
    whole, history = run(split, val, recipe, log=lambda run: states.append(run.state()))
    for state in states[:-1]:
        resumed, again = run(split, val, recipe, resume=state)
        assert torch.equal(weights(resumed), weights(whole))
        assert [row.val_loss for row in again.epochs] == [row.val_loss for row in history.epochs]
    with RunFolder(tmp_path / "run") as folder:
        run(split, val, recipe, log=folder.save, resume=folder.state(recipe))
    saved, _ = load_weights(tmp_path / "run")
    assert torch.equal(weights(saved), weights(whole))
    with RunFolder(tmp_path / "run") as folder:  # finished: nothing is trained, all is there
        finished, _ = run(split, val, recipe, resume=folder.state(recipe))
    assert torch.equal(weights(finished), weights(whole))


def test_a_longer_run_averages_anew_and_one_without_goes_on_from_the_average(painted_split):
    split, recipe, states = painted_split(64), RECIPE.changed(ema=0.2), []
    run(split, None, recipe, log=lambda run: states.append(run.state()))
    longer = recipe.changed(epochs=4, epochs_before=3, schedule="constant", lr=1e-30)
    for ema, begins in ((1.0, "learner"), (0.0, "model")):
        model, history = run(split, None, longer.changed(ema=ema), resume=states[-1])
        for name, one in model.named_parameters():  # at such a rate they stay
            torch.testing.assert_close(one, states[-1][begins][name], rtol=0, atol=1e-7)
        assert history.is_finished and [each.ema for each in history.earlier] == [0.2]


def test_a_state_whose_average_does_not_fit_is_refused(painted_split, tmp_path):
    split, recipe, states = painted_split(32), RECIPE.changed(ema=0.2), []
    run(split, None, recipe, log=lambda run: states.append(run.state()))
    for change, complaint in (
        (lambda state: state.pop("learner"), "does not fit the network in training"),
        (lambda state: state.pop("average"), "does not fit the network in training"),
        (lambda state: state["average"]["tensors"].popitem(), "is missing"),
    ):
        state = copy.deepcopy(states[1])
        change(state)
        with pytest.raises(CifarError, match=complaint):
            run(split, None, recipe, resume=state)
    assert History.from_json(states[1]["history"]).recipe == recipe

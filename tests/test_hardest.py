"""Epochs of the hardest images: which ones they take, looked up in the losses of a plain loop."""

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from cifar_utils.augment import AUGMENTATIONS, alternating_flip
from cifar_utils.data import CLASSES, normalize
from cifar_utils.errors import CifarError
from cifar_utils.hardest import NOISE
from cifar_utils.models import build
from cifar_utils.recipes import Recipe
from cifar_utils.train import fit

RECIPE = Recipe("tiny", model="compact", epochs=6, batch_size=12, lr=0.05, dropout_factor=0.0,
                seed=5, hardest_share=0.6, hardest_from=0.3)  # fmt: skip
PLAIN = {"device": "cpu", "precision": "fp32"}


def weights(model):
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def run(split, recipe, log=lambda run: None, **options):
    model = build(recipe, CLASSES)
    return model, fit(model, split, None, recipe, log=log, **PLAIN, **options)


def watched(split, recipe):
    """{position: (loss, mirrored)} of each epoch of a run, the losses by a copy of its network."""
    model, epochs = build(recipe, CLASSES), []

    def progress(batches):
        epochs.append({})
        for images, labels in batches:
            with torch.no_grad():
                logits = copy.deepcopy(model).train()(normalize(images))
            losses = F.cross_entropy(logits, labels, reduction="none").tolist()
            for image, loss in zip(images, losses, strict=True):
                ways = [(split.images == one).flatten(1).all(1) for one in (image, image.flip(2))]
                ((mirrored, position),) = torch.stack(ways).nonzero().tolist()
                assert position not in epochs[-1]
                epochs[-1][position] = loss, mirrored
            yield images, labels

    history = fit(model, split, None, recipe, log=lambda run: None, progress=progress, **PLAIN)
    return epochs, history


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.setitem(AUGMENTATIONS, "crop-flip", (alternating_flip,))  # and nothing else
    return RECIPE.changed(augmentation="crop-flip")


def test_an_epoch_has_what_rested_and_the_hardest_of_each_class(random_split, recipe):
    split = random_split(100)
    assert split.labels.bincount().tolist() == [10] * 10
    epochs, history = watched(split, recipe)
    assert [len(epoch) for epoch in epochs] == [100, 100, 60, 60, 60, 60]
    for last, now in pairwise(epochs[1:]):
        for label in range(10):
            members = (split.labels == label).nonzero().flatten().tolist()
            rested = {position for position in members if position not in last}
            taken = {position for position in members if position in now}
            assert rested <= taken and len(taken) == 6
            left_out = [last[position][0] for position in members if position not in now]
            hard = [last[position][0] for position in taken - rested]
            assert max(left_out) < min(hard) + NOISE
    for epoch, row in zip(epochs, history.epochs[1:], strict=True):
        losses = [loss for loss, _ in epoch.values()]
        assert row.train_loss == pytest.approx(sum(losses) / len(epoch), rel=1e-4)
        assert row.images_per_second * row.seconds == pytest.approx(len(epoch))


def test_all_that_rested_come_back_even_if_half_rest_and_classes_are_odd(random_split, recipe):
    epochs, _ = watched(random_split(53), recipe.changed(hardest_share=0.5))
    assert [len(epoch) for epoch in epochs] == [53, 53, 27, 27, 27, 27]
    assert all(set(last) | set(now) == set(range(53)) for last, now in pairwise(epochs))


def test_an_image_is_mirrored_every_second_time_that_it_is_taken(random_split, recipe):
    split = random_split(50)
    epochs, _ = watched(split, recipe)
    for position in range(50):
        sides = [epoch[position][1] for epoch in epochs if position in epoch]
        assert len(sides) >= 4 and all(one != next for one, next in pairwise(sides))


def test_the_full_epochs_are_as_without(random_split):
    split = random_split(50)
    losses = [
        [row.train_loss for row in run(split, recipe)[1].epochs[:3]]
        for recipe in (RECIPE, RECIPE.changed(hardest_share=0.0))
    ]
    assert losses[0] == losses[1]


def test_a_resumed_run_takes_the_same_images(random_split):
    split, states = random_split(50), []
    whole, history = run(split, RECIPE, log=lambda run: states.append(run.state()))
    for state in states:
        resumed, again = run(split, RECIPE, resume=copy.deepcopy(state))
        assert torch.equal(weights(resumed), weights(whole))
        assert [row.train_loss for row in again.epochs] == [
            row.train_loss for row in history.epochs
        ]
    longer = RECIPE.changed(epochs=8, epochs_before=6)  # begins with all images
    _, history = run(split, longer, resume=states[-1])
    rows = history.epochs[-2:]
    assert [round(row.images_per_second * row.seconds) for row in rows] == [50, 30]


def test_a_state_without_losses_is_refused(random_split):
    split, states = random_split(50), []
    run(split, RECIPE, log=lambda run: states.append(run.state()))
    for damaged in ({}, states[3]["hardest"] | {"losses": torch.zeros(49)}):
        state = states[3] | {"hardest": damaged}
        with pytest.raises(CifarError, match="does not fit these images: losses of hardest"):
            run(split, RECIPE, resume=state)

"""The multiply-adds of whole trainings, against a plain sum over layers."""

import json
from fractions import Fraction
from functools import cache

import pytest
import torch
from cli_helpers import refused
from torch import nn

from cifar_utils.cli.main import main
from cifar_utils.data import CLASSES
from cifar_utils.models import create_model
from cifar_utils.profile import mult_adds
from cifar_utils.recipes import RECIPES, Recipe
from cifar_utils.results.operations import training_mult_adds

FAST = Recipe("fast", model="fastnet-half", epochs=3, batch_size=40, optimizer="muon",
              winograd=True, whitening=0.3, small_size=20, small_until=0.6)  # fmt: skip


def products(model, size):
    """(layer, multiply-adds of its forward pass for one image) in the order in which they run."""
    found = []

    def note(layer, inputs, outputs):
        places = outputs[0, 0].numel()  # of a linear layer: 1
        if isinstance(layer, nn.Conv2d):
            high, wide = layer.kernel_size
            each = high * wide * layer.in_channels // layer.groups * layer.out_channels
        else:
            each = layer.in_features * layer.out_features
        found.append((layer, places * each))

    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(note)
    model.eval()(torch.zeros(1, 3, size, size))
    return found


@cache
def step(name, size, *, whitened=False, bias_learns=True):
    """Forward, and backward once for each layer's weights and once for its inputs, if they need it.

    The first layer's inputs are images, and the second's matter only if the first one learns.
    """
    total = 0
    for number, (_, forward) in enumerate(products(create_model(name, seed=0), size)):
        weights = not (whitened and number == 0)
        inputs = number > (0 if bias_learns else 1)
        total += forward * (1 + weights + inputs)
    return total


def test_small_images_and_a_resting_bias_cost_less_from_their_step_on():
    """Nine steps in three epochs of 40, 40 and 20 images."""
    total = 0
    for number in range(9):
        done = Fraction(number, 9)
        size = 20 if done < Fraction("0.6") else 32
        learns = done <= Fraction("0.3")
        images = 20 if number % 3 == 2 else 40
        total += images * step("fastnet-half", size, whitened=True, bias_learns=learns)
    assert training_mult_adds(FAST, 100) == total / 100


@pytest.mark.parametrize("name", ["separable", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_grouped_and_strided_convolutions(name):
    recipe = Recipe(model=name, epochs=2, batch_size=64)
    assert training_mult_adds(recipe, 100) == 2 * step(name, 32)


def test_a_teacher_answers_at_full_size():
    """With forward passes only."""
    recipe = Recipe(model="separable", epochs=2, batch_size=100, teacher="fast-val",
                    small_size=24, small_until=0.5)  # fmt: skip
    teacher = mult_adds(create_model("fastnet", seed=0))
    wanted = step("separable", 24) + step("separable", 32) + 2 * teacher
    assert training_mult_adds(recipe, 100) == wanted


def test_the_last_layer_has_a_row_for_each_class_of_the_data():
    recipe = Recipe(model="separable", epochs=1, batch_size=100)
    two, ten = (training_mult_adds(recipe, 100, CLASSES[:count]) for count in (2, 10))
    inputs = create_model("separable").classifier[-1].in_features
    assert ten - two == 3 * 8 * inputs  # forward, and back to maps and weights


def test_only_the_epochs_of_the_recipe_itself_count():
    recipe = Recipe(epochs=3, batch_size=100)
    later = recipe.changed(epochs=5, epochs_before=2)
    assert training_mult_adds(later, 100) == training_mult_adds(recipe, 100) == 3 * step(
        "compact", 32)  # fmt: skip


def test_counting_leaves_the_readers_chance_alone():
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    training_mult_adds(RECIPES["compact"], 10)
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.slow
def test_bench_counts_without_a_race_and_without_data(capsys, tmp_path, nothing_from_outside):
    file = tmp_path / "counts.json"
    main(["bench", "--recipe", "quick", "--against", "airbench94", "--operations",
          "--epochs", "1", "--json", str(file)])  # fmt: skip
    quick, reference = RECIPES["quick"].changed(epochs=1), RECIPES["airbench94"]
    counts = [training_mult_adds(recipe) for recipe in (quick, reference)]
    printed, found = capsys.readouterr().out, json.loads(file.read_text())
    assert all(f"{count:,.0f}" in printed for count in counts)
    ratio = counts[0] / counts[1]
    assert f"quick computes {ratio:.3f} times as many as airbench94" in printed
    assert [row["mult_adds"] for row in found["recipes"]] == counts
    assert found["mult_adds_ratios"] == {"quick": pytest.approx(ratio)}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--operations"], "--operations needs --recipe"),
        (["--recipe", "fast", "--operations", "--limit", "9"], "--limit does nothing with --oper"),
    ],
)
def test_flags_of_a_race_are_refused_where_nothing_is_trained(capsys, words, complaint):
    assert complaint in refused(capsys, "bench", *words)

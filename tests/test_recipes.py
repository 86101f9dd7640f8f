import json
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cifar_utils.augment import AUGMENTATIONS
from cifar_utils.data import CLASSES
from cifar_utils.errors import CifarError
from cifar_utils.models import MODELS, build, create_model
from cifar_utils.optim import make_optimizer, rate_factor
from cifar_utils.recipes import RECIPES, Recipe, get_recipe, kind_of


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recipe_names_things_that_exist(recipe):
    assert recipe.model in MODELS and recipe.augmentation in AUGMENTATIONS
    assert 0 <= rate_factor(recipe, 0.3) <= 1
    if recipe.model in ("compact", "separable", "fastnet-quick"):
        model = create_model(recipe.model, initialization=recipe.initialization)
        assert make_optimizer(model, recipe).param_groups


def test_there_are_recipes_of_our_own_and_published_ones_for_the_five():
    five = ("vgg", "conv5", "compact", "separable", "resnet18")
    assert {*five, *(f"{name}-published" for name in five)} <= set(RECIPES)


# From the code of each system, not from recipes.py: what its authors set, and what torch does where
# they set nothing.
TORCHS = {
    "momentum": 0.9, "peak_momentum": 0, "beta2": 0.999, "nesterov": False, "weight_decay": 0,
    "decay_biases": True, "bias_lr_factor": 1, "per_epoch": False, "label_smoothing": 0,
    "clip_norm": 0, "small_until": 0, "whitening": 0,
    "initialization": "default", "dropout_factor": 1, "teacher": "", "views": 1, "epochs_before": 0,
    "start_from": "",
}  # fmt: skip
PUBLISHED = {
    "vgg-published": {
        "model": "vgg", "optimizer": "sgd", "lr": 0.001, "momentum": 0.9, "batch_size": 8,
        "epochs": 15, "schedule": "constant", "augmentation": "vgg-published",
    },
    "conv5-published": {
        "model": "conv5", "optimizer": "adam", "momentum": 0.9, "beta2": 0.995,
        "lr": 9.446932e-4, "weight_decay": 1.125745e-4, "schedule": "step",
        "step_every": 300 / 400, "step_factor": 2.357093e-4 / 9.446932e-4,
        "step_decay_factor": 2.125745e-4 / 1.125745e-4, "batch_size": 64, "epochs": 300 + 100,
        "augmentation": "conv5-published",
    },
    "compact-published": {
        "model": "compact", "optimizer": "adam", "lr": 0.001, "schedule": "cosine",
        "per_epoch": True, "batch_size": 128, "epochs": 100, "augmentation": "compact-published",
    },
    "separable-published": {
        "model": "separable", "optimizer": "sgd", "lr": 0.2, "momentum": 0.9, "schedule": "step",
        "step_every": 5 / 80, "step_factor": 0.75, "step_decay_factor": 1, "batch_size": 256,
        "epochs": 80, "augmentation": "separable-published",
    },
    "resnet18-published": {
        "model": "resnet18", "optimizer": "adam", "lr": 1.59e-2, "schedule": "one-cycle",
        "peak": 5 / 25, "start_factor": 1 / 100, "end_factor": 1 / 100 / 100, "momentum": 0.95,
        "peak_momentum": 0.85, "batch_size": 32, "epochs": 25,
        "augmentation": "resnet18-published",
    },
    "airbench94": {
        "model": "fastnet", "optimizer": "muon", "muon_lr": 0.24, "muon_momentum": 0.6,
        "muon_steps": 3, "renormalize": True, "momentum": 0.85, "lr": 1.656, "bias_lr_factor": 64,
        "weight_decay": 0.0161, "schedule": "linear", "label_smoothing": 0.2, "batch_size": 2000,
        "epochs": 8, "whitening": 3 / 8, "initialization": "dirac", "views": 6,
        "augmentation": "translate-alternating",
    },
}  # fmt: skip


def is_read(recipe, field):
    """Whether the training reads the field at all."""
    by, *values = field.metadata["only_with"] or ("model",)
    return getattr(recipe, by) in values[0] if values else bool(getattr(recipe, by))


@pytest.mark.parametrize(("name", "facts"), PUBLISHED.items(), ids=PUBLISHED)
def test_published_recipes_are_as_published(name, facts):
    """Every field that the training reads; `test_optim` compares the schedules step by step."""
    recipe, wanted = RECIPES[name], TORCHS | facts
    for field in fields(Recipe):
        if is_read(recipe, field) and field.name not in ("name", "seed", "winograd"):
            value = wanted[field.name]
            exact = isinstance(value, str | bool)
            got = getattr(recipe, field.name)
            assert got == (value if exact else pytest.approx(value)), field.name


def test_a_policy_and_a_recipe_of_one_name_are_one_thing():
    policies = [name for name in AUGMENTATIONS if name in RECIPES]
    assert len(policies) == 5
    assert all(RECIPES[name].augmentation == name for name in policies)


@pytest.mark.parametrize(
    ("name", "batch", "head_lr", "bias_lr", "decay", "momentum"),
    [
        ("airbench94", 2000, 0.67, 0.053, 2e-6, 0.85),
        ("fast", 500, 0.5415, 0.0573, 1.0418e-6, 0.825),
    ],
)
def test_rates_for_a_sum_of_losses_are_carried_over_to_the_mean(
    name, batch, head_lr, bias_lr, decay, momentum
):
    """The published figures, for logits x · w / 256 with w of size 1, against our row."""
    recipe = RECIPES[name]
    torchs_size = 9 / 256  # of a linear layer's weights, so that x · w / 9 is as large as theirs
    assert recipe.batch_size == batch and recipe.momentum == momentum
    assert recipe.lr == pytest.approx(head_lr * batch * torchs_size**2, rel=5e-3)
    assert recipe.lr * recipe.bias_lr_factor == pytest.approx(bias_lr * batch, rel=5e-3)
    a_step = decay * batch / (1 - momentum)
    assert recipe.lr * recipe.weight_decay == pytest.approx(a_step, rel=5e-3)
    assert nn.Linear(256, 10).weight.std().item() == pytest.approx(torchs_size, rel=0.06)


def test_recipes_of_older_files_load_and_are_as_they_were():
    added = ("bias_lr_factor", "muon_momentum", "muon_steps", "small_size", "small_until",
             "whitening", "views", "teacher", "teacher_share", "temperature", "peak_momentum",
             "per_epoch", "start_factor", "end_factor", "patience", "epochs_before",
             "start_from")  # fmt: skip
    older = {key: value for key, value in Recipe(lr=0.3).as_dict().items() if key not in added}
    assert Recipe.from_dict(older) == Recipe(lr=0.3)
    renamed = older | {
        "vector_rate": 64.0,
        "decay_vectors": False,
        "warmup": 0.0,
        "hardest_share": 0.0,
        "middle_size": 32,
    }
    del renamed["decay_biases"]
    assert Recipe.from_dict(renamed) == Recipe(lr=0.3, bias_lr_factor=64, decay_biases=False)
    for field, complaint in (
        ("warmup", "this recipe sets warmup"),
        ("hardest_share", "this recipe sets hardest_share"),
        ("lrr", "unknown recipe field 'lrr'"),
    ):
        with pytest.raises(CifarError, match=complaint):
            Recipe.from_dict(older | {field: 0.6})


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [({"beta2": 0.5}, "beta2 does nothing without optimizer adam or adamw"),
     ({"peak": 0.5, "schedule": "step"}, "peak does nothing without schedule one-cycle"),
     ({"per_epoch": True, "schedule": "constant"}, "per_epoch does nothing without schedule l"),
     ({"temperature": 2.0}, "temperature does nothing without teacher"),
     ({"small_size": 24, "small_until": 0.0}, "small_size does nothing without small_until"),
     ({"views": 3}, "unknown views 3; choose one of 1, 2, 6"),
     ({"optimizer": "lion"}, "unknown optimizer 'lion'; choose one of sgd, adam"),
     ({"schedule": "triangle"}, "unknown schedule 'triangle'; choose one of constant")],
)  # fmt: skip
def test_a_change_that_would_have_no_effect_is_refused(changes, complaint):
    with pytest.raises(CifarError, match=complaint):
        RECIPES["compact"].changed(**changes)
    assert RECIPES["compact"].changed(optimizer="adamw", beta2=0.5).beta2 == 0.5
    assert RECIPES["compact"].changed(teacher="fast-val", temperature=2).temperature == 2.0


fraction = st.floats(0, 0.99)
any_recipe = st.builds(
    Recipe,
    name=st.text(max_size=20),
    epochs=st.integers(1, 1000),
    batch_size=st.integers(1, 4096),
    lr=st.floats(1e-9, 100),
    momentum=fraction,
    weight_decay=st.floats(0, 10),
    nesterov=st.booleans(),
    peak=fraction,
    label_smoothing=fraction,
    seed=st.integers(0, 2**32 - 1),
)


@given(any_recipe)
def test_a_recipe_survives_json(recipe):
    assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 0), ("batch_size", -1), ("lr", 0.0), ("lr", float("nan")), ("momentum", 1.0),
     ("weight_decay", -1e-4), ("peak", 1.0), ("label_smoothing", 1.0),
     ("seed", -1), ("step_every", 0.0), ("clip_norm", -1.0), ("dropout_factor", 1.1),
     ("bias_lr_factor", 0.0), ("muon_momentum", 1.0), ("muon_steps", 0), ("muon_steps", 7),
     ("small_size", 33),
     ("small_until", 1.1), ("whitening", -0.1), ("epochs", 2.5), ("lr", "fast"),
     ("nesterov", 1), ("epochs", True), ("weight_decay", float("inf")),
     ("teacher_share", 1.1), ("temperature", 0.0), ("start_factor", 1.1), ("end_factor", -0.1),
     ("peak_momentum", 1.0)],
)  # fmt: skip
def test_a_value_out_of_range_names_the_field(field, value):
    with pytest.raises(ValueError, match=f"{field} is .*; it must be"):
        Recipe(**{field: value})


def test_a_recipe_says_how_its_network_begins():
    recipe = Recipe(model="conv5", seed=3, initialization="kaiming", dropout_factor=0.5)
    model = build(recipe, CLASSES)
    same = create_model("conv5", seed=3, initialization="kaiming")
    for ours, theirs in zip(model.parameters(), same.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert {layer.p for layer in model.modules() if isinstance(layer, nn.Dropout2d)} == {0.25}


def test_whole_numbers_serve_as_floats():
    assert Recipe(lr=1) == Recipe(lr=1.0)


@pytest.mark.parametrize("to_numpy", [np.int64, np.uint8, np.float32, np.float64, np.array])
def test_numbers_of_numpy_are_kept_as_plain_ones(to_numpy):
    whole_numbers = to_numpy is not np.float32 and to_numpy is not np.float64
    fields = {"lr": 1, "weight_decay": 0}
    fields |= {"epochs": 3, "seed": 7, "views": 6} if whole_numbers else {"lr": 0.5}
    recipe = Recipe(**{name: to_numpy(value) for name, value in fields.items()})
    assert recipe == Recipe(**fields) and repr(recipe) == repr(Recipe(**fields))
    assert json.loads(json.dumps(recipe.as_dict())) == Recipe(**fields).as_dict()
    assert Recipe(nesterov=np.False_).nesterov is False
    assert Recipe().changed(batch_size=np.int32(64)) == Recipe(batch_size=64)
    with pytest.raises(CifarError, match=r"epochs is 3\.0; it must be of type int"):
        Recipe(epochs=np.float64(3))


scalar = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.binary(max_size=3), st.integers(-(2**15), 2**15 - 1).map(np.int16),
    st.floats(width=32).map(np.float32), st.booleans().map(np.bool_),
    st.integers(10**308, 10**310), st.complex_numbers(),
)  # fmt: skip
anything = st.one_of(scalar, st.lists(scalar, max_size=3), st.dictionaries(scalar, scalar))


@given(st.sampled_from([field.name for field in fields(Recipe)]), anything)
def test_a_field_takes_any_value_or_refuses_it_in_a_line(name, value):
    try:
        recipe = Recipe(**{name: value})
    except CifarError as refused:
        assert str(refused).isprintable() and (name in str(refused) or "epochs" in str(refused))
    else:
        assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe
        assert type(getattr(recipe, name)) in (str, int, float, bool)


def test_every_field_has_help_and_a_value_that_fits():
    for field in fields(Recipe):
        assert field.metadata["help"] and type(field.default) is kind_of(field)


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(ValueError, match=r"unknown recipe 'lenet'.*vgg-published"):
        get_recipe("lenet")
    with pytest.raises(ValueError, match=r"no field 'learning_rate'; it has .*weight_decay"):
        Recipe().changed(learning_rate=1.0)

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cifar_utils import optim
from cifar_utils.models import create_model
from cifar_utils.recipes import RECIPES, Recipe


def scheduled(scheduler, steps):
    """The rates that a scheduler of torch's gives an optimizer of rate 1, step by step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = scheduler(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_step_equals_torchs():
    wanted = scheduled(lambda o: torch.optim.lr_scheduler.StepLR(o, 5, 0.75), 80)
    got = [optim.step(epoch / 80, every=5 / 80, factor=0.75) for epoch in range(80)]
    assert got == pytest.approx(wanted)


def test_cosine_equals_torchs():
    wanted = scheduled(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 100), 100)
    assert [optim.cosine(epoch / 100) for epoch in range(100)] == pytest.approx(wanted)


def test_linear_equals_torchs():
    make = torch.optim.lr_scheduler.LinearLR
    wanted = scheduled(lambda o: make(o, 1.0, 1e-9, total_iters=50), 50)
    assert [optim.linear(step / 50) for step in range(50)] == pytest.approx(wanted, abs=1e-6)


def test_one_cycle_equals_torchs():
    make = torch.optim.lr_scheduler.OneCycleLR
    wanted = scheduled(
        lambda o: make(o, 1.0, total_steps=101, pct_start=0.21, anneal_strategy="linear",
                       div_factor=25, final_div_factor=1e9),
        100,
    )  # fmt: skip
    got = [optim.one_cycle(step / 100, peak=20.21 / 100) for step in range(100)]
    assert got == pytest.approx(wanted, abs=1e-6)


@given(st.sampled_from(list(optim.SCHEDULES)), st.floats(0, 1), st.floats(0, 0.9))
@settings(deadline=None)
def test_every_factor_lies_between_0_and_1(schedule, progress, peak):
    recipe = Recipe(schedule=schedule, peak=peak)
    assert -1e-9 <= optim.rate_factor(recipe, progress) <= 1 + 1e-9


def test_weight_decay_steps_when_the_rate_does():
    recipe = Recipe(schedule="step", step_every=0.5, step_factor=0.1, step_decay_factor=3.0,
                    lr=1.0, weight_decay=0.01)  # fmt: skip
    optimizer = optim.make_optimizer(create_model("compact"), recipe)
    for progress, lr, decay in ((0.1, 1.0, 0.01), (0.49, 1.0, 0.01), (0.51, 0.1, 0.03)):
        optim.set_rates(optimizer, recipe, progress)
        for group in optimizer.param_groups:
            assert (group["lr"], group["weight_decay"]) == pytest.approx((lr, decay))


BATCHES = 4  # per epoch


def in_training(optimizer, epochs, scheduler=None, *, per_batch=False):
    """An optimizer of torch's before each step of its authors' loop: the options of its group."""
    for _ in range(epochs):
        for _ in range(BATCHES):
            yield dict(optimizer.param_groups[0])
            optimizer.step()
            if scheduler and per_batch:
                scheduler.step()
        if scheduler and not per_batch:
            scheduler.step()


def published(name):
    """What the authors' own lines make of one weight, one dict of options per step."""
    weights = [nn.Parameter(torch.zeros(1))]
    schedulers = torch.optim.lr_scheduler
    if name == "vgg":
        yield from in_training(torch.optim.SGD(weights, lr=0.001, momentum=0.9), 15)
    elif name == "conv5":
        for epochs, lr, decay in ((300, 9.446932e-4, 1.125745e-4), (100, 2.357093e-4, 2.125745e-4)):
            adam = torch.optim.Adam(weights, lr=lr, betas=(0.9, 0.995), weight_decay=decay)
            yield from in_training(adam, epochs)
    elif name == "compact":
        adam = torch.optim.Adam(weights, lr=0.001)
        yield from in_training(adam, 100, schedulers.CosineAnnealingLR(adam, T_max=100))
    elif name == "separable":
        sgd = torch.optim.SGD(weights, lr=0.2, momentum=0.9)
        yield from in_training(sgd, 80, schedulers.StepLR(sgd, step_size=5, gamma=0.75))
    else:
        adam = torch.optim.Adam(weights, lr=0.01)
        cycle = schedulers.OneCycleLR(
            adam, max_lr=1.59e-2, steps_per_epoch=BATCHES, epochs=25, pct_start=5 / 25,
            div_factor=100, three_phase=False, final_div_factor=100, anneal_strategy="linear",
        )  # fmt: skip
        yield from in_training(adam, 25, cycle, per_batch=True)


def ours(name):
    """The same of our published recipe, as `train_one_epoch` calls it."""
    recipe = RECIPES[f"{name}-published"]
    optimizer = optim.make_optimizer(nn.Linear(1, 1, bias=False), recipe)
    for epoch in range(recipe.epochs):
        span = epoch / recipe.epochs, (epoch + 1) / recipe.epochs
        for number in range(BATCHES):
            optim.set_rates(optimizer, recipe, span[0] + (span[1] - span[0]) * number / BATCHES)
            (group,) = optimizer.param_groups
            yield dict(group)


def options(steps):
    """Every option of torch's optimizers that is set, betas one by one."""
    steps = [step | {f"beta{i}": beta for i, beta in enumerate(step.pop("betas", ()))}
             for step in steps]  # fmt: skip
    scheduled = {"params", "initial_lr", "initial_weight_decay", "max_lr", "min_lr",
                 "base_momentum", "max_momentum"}  # fmt: skip
    return [
        {key: step[key] for key in step.keys() - scheduled if step[key] is not None}
        for step in steps
    ]


@pytest.mark.parametrize("name", ["vgg", "conv5", "compact", "separable"])
def test_published_schedules_equal_their_authors_at_every_step(name):
    """Rate, decay, momentum and every other option of the optimizer."""
    wanted, got = options(published(name)), options(ours(name))
    assert len(wanted) == len(got) == BATCHES * RECIPES[f"{name}-published"].epochs
    for theirs, step in zip(wanted, got, strict=True):
        assert step == pytest.approx(theirs, rel=1e-6, abs=1e-12)


def test_the_published_one_cycle_equals_torchs_within_one_step():
    """Ours peaks one step later. On the way up it lies between two of torch's steps."""
    wanted, got = options(published("resnet18")), options(ours("resnet18"))
    assert len(wanted) == len(got) == 25 * BATCHES
    peak = 5 * BATCHES
    assert got[0] == pytest.approx(wanted[0]) and got[0]["lr"] == pytest.approx(1.59e-4)
    assert wanted[-1]["lr"] == pytest.approx(1.59e-6)
    for step in range(1, len(got)):
        before, after = wanted[step - 1], wanted[step]
        for key in ("lr", "beta0"):
            low, high = sorted((before.pop(key), after[key]))
            value = got[step].pop(key)
            if step >= peak:
                assert value == pytest.approx(high if key == "lr" else low)
            else:
                assert low <= value <= high
        assert got[step] == before  # all other options


def momentum_of(group):
    return group["betas"][0] if "betas" in group else group["momentum"]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "muon"])
def test_momentum_goes_down_and_up_again_as_the_rate_goes_up_and_down(optimizer):
    recipe = Recipe(optimizer=optimizer, momentum=0.95, peak_momentum=0.85, peak=0.25,
                    muon_momentum=0.6)  # fmt: skip
    made = optim.make_optimizer(create_model("compact"), recipe)
    for progress in (0, 0.1, 0.25, 0.7, 1):
        optim.set_rates(made, recipe, progress)
        for group in made.param_groups:
            own = 0.6 if group.get("orthogonal") else 0.95
            wanted = float(np.interp(progress, (0, 0.25, 1), (own, 0.85, own)))
            assert momentum_of(group) == pytest.approx(wanted)
    made = optim.make_optimizer(create_model("compact"), recipe)
    optim.set_rates(made, recipe.changed(schedule="cosine"), 0.25)
    assert {momentum_of(group) for group in made.param_groups} <= {0.6, 0.95}


@pytest.mark.parametrize("shape", [(8, 8), (16, 27), (64, 9), (32, 288)])
def test_orthogonalize_moves_singular_values_to_1_and_keeps_the_directions(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    got = left.T @ optim.orthogonalize(matrix) @ right.T  # diagonal, if the directions are kept
    assert (got - got.diagonal().diag()).abs().max() < 1e-6
    kept = values > 0.05 * values.max()
    assert got.diagonal()[kept].min() > 0.6 and got.diagonal().max() < 1.3


@pytest.mark.parametrize(
    ("rank", "decades"), [(1, 0), (5, 0), (5, 3), (5, 6), (64, 0), (64, 3), (64, 6)]
)
def test_orthogonalize_in_fp32_follows_the_plain_iteration(rank, decades):
    """Working on the small square must not cost accuracy, nor blow up directions of rank zero."""
    generator = torch.Generator().manual_seed(rank)
    factors = [
        torch.randn(size, generator=generator).double() for size in ((64, rank), (rank, 576))
    ]
    matrix = factors[0] * 10 ** -torch.linspace(0, decades, rank).double() @ factors[1]
    x = matrix / matrix.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    error = optim.orthogonalize(matrix.float()).double() - x
    assert error.abs().max() < 2e-3 * x.abs().max()


@pytest.mark.parametrize("shape", [(8, 3, 3, 3), (64, 4, 1, 1), (5, 40, 3, 3)])
def test_renormalized_kernels_move_by_lr_in_proportion_to_their_size(shape):
    kernel = torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    muon = optim.Muon([kernel], lr=0.1, weight_decay=0.5, renormalize=True)
    kernel.grad = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    before = kernel.detach() * shape[0] ** 0.5 / kernel.detach().norm()
    muon.step()
    step = (kernel.detach() - before).norm() / before.norm()
    assert 0.7 * 0.1 < step < 1.2 * 0.1  # singular values of the update lie in [0.7, 1.2]


def after_steps(recipe, start, gradients):
    """Where the recipe's optimizer takes one number from `start`."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, start)
    optimizer = optim.make_optimizer(model, recipe)
    for gradient in gradients:
        model.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
    return model.weight.item()


@pytest.mark.parametrize("start", [-3.0, 0.5])
def test_without_a_gradient_adamw_shrinks_weights_and_adam_moves_them_by_lr(start):
    """Adam takes the decay for a gradient, and of a gradient it sees little but the sign."""
    recipe = Recipe(optimizer="adamw", lr=0.1, weight_decay=0.5)
    assert after_steps(recipe, start, [0.0]) == pytest.approx(start * (1 - 0.1 * 0.5))
    moved = after_steps(recipe.changed(optimizer="adam"), start, [0.0])
    assert moved == pytest.approx(start - math.copysign(0.1, start))


@pytest.mark.parametrize("momentum", [0.9, 0.0])
@pytest.mark.parametrize("nesterov", [False, True])
def test_two_steps_of_sgd_are_those_of_its_formulas(momentum, nesterov):
    recipe = Recipe(lr=0.1, weight_decay=0.0, momentum=momentum, nesterov=nesterov)
    first = 1.0
    second = momentum * first + 3.0
    if nesterov:  # one more step of the momentum, ahead of time
        wanted = 5.0 - 0.1 * (1.0 + momentum * first) - 0.1 * (3.0 + momentum * second)
    else:
        wanted = 5.0 - 0.1 * first - 0.1 * second
    assert after_steps(recipe, 5.0, [1.0, 3.0]) == pytest.approx(wanted)


def test_muon_without_orthogonalization_is_nesterov_sgd():
    twins = [create_model("compact", seed=0) for _ in range(2)]
    ours = optim.Muon([{"params": list(twins[0].parameters()), "orthogonal": False}], lr=0.1,
                      momentum=0.9)  # fmt: skip
    torchs = torch.optim.SGD(twins[1].parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for seed in range(4):
        images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
        for model, optimizer in zip(twins, (ours, torchs), strict=True):
            optimizer.zero_grad()
            model.eval()(images).square().sum().backward()
            optimizer.step()
    for one, other in zip(twins[0].parameters(), twins[1].parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon of its own")
@pytest.mark.parametrize("shape", [(48, 16, 3, 3), (64, 3, 3, 3)])
def test_muon_on_kernels_equals_torchs_on_their_matrices(shape):
    """torch.optim.Muon takes matrices only and iterates in bf16, hence the tolerance."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator)
    kernel, matrix = nn.Parameter(start.clone()), nn.Parameter(start.flatten(1).clone())
    ours = optim.Muon([kernel], lr=0.05, momentum=0.8, weight_decay=0.1)
    # torch averages the momentum where we sum it: the same direction, and only that counts.
    torchs = torch.optim.Muon([matrix], lr=0.05, momentum=0.8, weight_decay=0.1, nesterov=True)
    for _ in range(3):
        gradient = torch.randn(start.shape, generator=generator)
        kernel.grad, matrix.grad = gradient, gradient.flatten(1).clone()
        before = kernel.detach().flatten(1).clone()
        ours.step(), torchs.step()
        moved, wanted = kernel.detach().flatten(1) - before, matrix.detach() - before
        assert (moved - wanted).norm() < 0.05 * wanted.norm()
        with torch.no_grad():
            matrix.copy_(kernel.flatten(1))


def test_muon_treats_kernels_one_way_and_the_rest_another():
    recipe = Recipe(optimizer="muon", lr=0.3, muon_lr=0.02, weight_decay=0.5, decay_biases=False)
    model = create_model("compact")
    kernels, weights, vectors = optim.make_optimizer(model, recipe).param_groups
    assert {p.ndim for p in kernels["params"]} == {4} and kernels["orthogonal"]
    assert {p.ndim for p in weights["params"]} == {2} and not weights["orthogonal"]
    assert {p.ndim for p in vectors["params"]} == {1} and not vectors["orthogonal"]
    assert (kernels["lr"], weights["lr"], vectors["lr"]) == (0.02, 0.3, 0.3)
    assert [group["weight_decay"] for group in (kernels, weights, vectors)] == [0.5, 0.5, 0]
    held = [p for group in (kernels, weights, vectors) for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in model.parameters()}
    assert len(held) == len(list(model.parameters()))


def test_kernels_may_have_a_momentum_of_their_own_and_vectors_a_rate():
    recipe = Recipe(
        optimizer="muon", lr=0.5, muon_lr=0.02, momentum=0.8, muon_momentum=0.6, bias_lr_factor=64,
        weight_decay=0.1,
    )  # fmt: skip
    model = create_model("compact")
    kernels, weights, vectors = optim.make_optimizer(model, recipe).param_groups
    assert [group["momentum"] for group in (kernels, weights, vectors)] == [0.6, 0.8, 0.8]
    assert [group["lr"] for group in (kernels, weights, vectors)] == [0.02, 0.5, 32]
    assert vectors["lr"] * vectors["weight_decay"] == weights["lr"] * weights["weight_decay"]
    same = optim.make_optimizer(model, recipe.changed(muon_momentum=0.0))
    assert same.param_groups[0]["momentum"] == 0.8


def test_momentum_of_kernels_builds_up_as_the_published_muon_has_it():
    """Buffer: momentum · buffer + gradient. Step: gradient + momentum · buffer, orthogonalised."""
    recipe = Recipe(optimizer="muon", momentum=0.9, muon_momentum=0.6, muon_lr=0.1,
                    muon_steps=3, renormalize=True, weight_decay=0.5)  # fmt: skip
    draws = torch.Generator().manual_seed(0)
    model = nn.Conv2d(4, 8, 3, bias=False)
    wanted, buffer = model.weight.detach().clone(), torch.zeros(8, 36)
    optimizer = optim.make_optimizer(model, recipe)
    for _ in range(3):
        gradient = torch.randn(8, 4, 3, 3, generator=draws)
        model.weight.grad = gradient.clone()
        optimizer.step()
        buffer = 0.6 * buffer + gradient.flatten(1)
        update = optim.orthogonalize(gradient.flatten(1) + 0.6 * buffer, steps=3).view_as(wanted)
        wanted = wanted * 8**0.5 / wanted.norm() - 0.1 * update
        torch.testing.assert_close(model.weight.detach(), wanted)


@pytest.mark.parametrize("optimizer", ["muon", "sgd"])
def test_the_bias_of_a_whitening_layer_learns_in_the_first_part_only(optimizer):
    model = create_model("fastnet-half")
    recipe = Recipe(
        optimizer=optimizer, lr=0.5, bias_lr_factor=4, schedule="linear", whitening=0.25
    )
    made = optim.make_optimizer(model, recipe)
    early = made.param_groups[-1]
    assert len(made.param_groups) == 4 and len(early["params"]) == 1
    assert early["params"][0] is model.features[0][0].bias
    assert sum(len(group["params"]) for group in made.param_groups) == 6 + 1 + 6 + 1
    for progress, factor in ((0, 1), (0.125, 0.5), (0.25, 0), (0.3, 0), (0.9, 0)):
        optim.set_rates(made, recipe, progress)
        assert early["lr"] == pytest.approx(2.0 * factor)
        assert made.param_groups[1]["lr"] == pytest.approx(0.5 * (1 - progress))
    never = optim.make_optimizer(model, recipe.changed(whitening=0.0))
    assert len(never.param_groups) == 3 and "until" not in never.param_groups[-1]


@pytest.mark.parametrize("name", ("sgd", "adam", "adamw", "muon"))
def test_every_optimizer_lowers_the_loss(name):
    model = create_model("compact", seed=0).eval()
    recipe = Recipe(optimizer=name, lr=0.01 if name in ("sgd", "muon") else 1e-3, muon_lr=0.02)
    optimizer = optim.make_optimizer(model, recipe)
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(8):
        loss = nn.functional.cross_entropy(model(images), torch.arange(16) % 10)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_one_cycle_peaks_where_it_says():
    factors = [optim.one_cycle(step / 1000, peak=0.2) for step in range(1001)]
    assert factors.index(max(factors)) == 200 and max(factors) == 1
    assert factors[0] == 0.04 and factors[-1] == 0 and not any(map(math.isnan, factors))


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_plateau_is_torchs(patience):
    noise = torch.rand(40, generator=torch.Generator().manual_seed(0))
    losses = (2 - 0.05 * torch.arange(40).clamp(max=25) + 0.1 * noise).tolist()
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, factor=0.5, patience=patience)
    for number, loss in enumerate(losses):
        rate = optim.plateau(losses[:number], patience=patience, factor=0.5)
        assert rate == theirs.param_groups[0]["lr"]
        scheduler.step(loss)
    assert rate < 1


def test_a_rate_per_epoch_counts_the_epochs_of_its_own_recipe():
    """Four epochs of three steps after two others, as torch's cosine over four epochs."""
    recipe = Recipe(epochs=6, epochs_before=2, schedule="cosine", per_epoch=True, lr=1.0)
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = optim.make_optimizer(nn.ParameterList([parameter]), recipe)
    wanted = scheduled(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 4), 4)
    for step in range(12):
        optim.set_rates(optimizer, recipe, step / 12)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(wanted[step // 3])

"""Branches: they do what three convolutions would, and leave a plain network behind."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cifar_utils.branches import BranchedConv2d, fused, in_training, with_branches
from cifar_utils.checkpoints import load_weights
from cifar_utils.data import CLASSES
from cifar_utils.errors import CifarError
from cifar_utils.evaluate import evaluate
from cifar_utils.models import build, create_model
from cifar_utils.profile import parameter_count
from cifar_utils.recipes import Recipe
from cifar_utils.runs import RunFolder
from cifar_utils.train import fit

RECIPE = Recipe("tiny", model="compact", epochs=2, batch_size=64, lr=0.02, branches=True, seed=5)
PLAIN = {"device": "cpu", "precision": "fp32"}


class ThreeConvolutions(nn.Module):
    """What a branched layer stands for: three convolutions, each divided by its own deviation."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def outputs(self, maps):
        layer = self.layer
        common = {"stride": layer.stride, "dilation": layer.dilation, "groups": layer.groups}
        border = layer.padding[0] - layer.dilation[0]  # a thin kernel needs less, or even a cut
        return (
            F.conv2d(maps, layer.weight, padding=layer.padding, **common),
            F.conv2d(F.pad(maps, (layer.padding[1],) * 2 + (border,) * 2), layer.row, **common),
            F.conv2d(F.pad(maps, (border,) * 2 + (layer.padding[0],) * 2), layer.column, **common),
        )

    def forward(self, maps):
        layer, total = self.layer, 0.0
        outputs, measured = self.outputs(maps), self.outputs(maps[:32].detach())
        for number, (each, scale) in enumerate(zip(outputs, layer.scales.chunk(3), strict=True)):
            variance = layer.variances[number]
            if self.training:
                variance = measured[number].var((0, 2, 3), correction=0)
            total = total + each * (scale / (variance + 1e-5).sqrt()).view(-1, 1, 1)
        return total if layer.bias is None else total + layer.bias.view(-1, 1, 1)


def by_hand(network):
    twin = copy.deepcopy(network)
    for parent in list(twin.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, BranchedConv2d):
                setattr(parent, name, ThreeConvolutions(layer))
    return twin


def used(network):
    """The network with statistics and scales as a training may leave them."""
    for name, tensor in network.state_dict().items():
        if name.endswith(("variances", "running_var")):
            tensor.uniform_(0.3, 3)
        elif name.endswith(("running_mean", "scales")) or tensor.ndim == 1:
            tensor.add_(torch.randn_like(tensor) / 2) if tensor.is_floating_point() else None
    return network.eval()


@pytest.mark.parametrize("name", ["compact", "separable", "resnet18", "conv5", "fastnet-quick"])
def test_the_fused_network_does_what_three_convolutions_do(name):
    torch.manual_seed(0)
    model = create_model(name, seed=1).double().eval()
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    network = used(with_branches(model))
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    plain = create_model(name, seed=2).double().eval()
    tensors = fused(network)
    assert {key: value.shape for key, value in tensors.items()} == shapes
    plain.load_state_dict(tensors)
    with torch.no_grad():
        wanted = by_hand(network).eval()(images)
        assert (wanted - model(images)).abs().max() > 1e-3
        torch.testing.assert_close(network(images), wanted, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(plain(images), wanted, rtol=1e-9, atol=1e-9)
    assert parameter_count(plain) == parameter_count(model) < parameter_count(network)


@pytest.mark.parametrize("name", ["compact", "separable"])
def test_a_step_is_one_of_three_convolutions(name):
    """Outputs, the kernels' gradients and the running variances, in training."""
    network = with_branches(create_model(name, seed=1, dropout_factor=0.0).double()).train()
    twin = by_hand(network)
    images = torch.randn(40, 3, 32, 32, dtype=torch.float64, generator=torch.manual_seed(0))
    one, other = network(images), twin(images)
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    layers = [layer for layer in network.modules() if isinstance(layer, BranchedConv2d)]
    twins = [layer for layer in twin.modules() if isinstance(layer, ThreeConvolutions)]
    assert len(layers) == {"compact": 5, "separable": 13}[name]
    first = twins[0].outputs(images[:32])
    running = torch.stack([0.9 + 0.1 * each.var((0, 2, 3), correction=0) for each in first])
    torch.testing.assert_close(layers[0].variances, running)
    for network_out in (one, other):
        F.cross_entropy(network_out, torch.arange(40) % 10).backward()
    for layer, twin in zip(layers, twins, strict=True):
        for part in ("weight", "row", "column", "scales"):
            mine, theirs = (getattr(each, part).grad for each in (layer, twin.layer))
            torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-12)
            assert mine.norm() > 0


def test_a_layer_keeps_what_it_is_beside_its_kernel():
    conv = nn.Conv2d(3, 4, 3)
    conv.bias.requires_grad_(False)
    network = with_branches(nn.Sequential(conv, conv))
    one, again = network
    kernels = fused(network)
    assert torch.equal(kernels["0.weight"], kernels["1.weight"])
    assert one is again and one.weight.requires_grad and not one.bias.requires_grad
    one.train()(torch.empty(0, 3, 8, 8))  # a process may have no part of a batch
    assert torch.equal(one.variances, torch.ones(3, 4))
    with torch.autocast("cpu", torch.bfloat16):
        one(torch.randn(8, 3, 8, 8))
    assert one.variances.dtype == torch.float32 and (one.variances != 1).all()


def weights(model):
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def run(split, val, recipe, log=lambda run: None, **options):
    model = build(recipe, CLASSES)
    return model, fit(model, split, val, recipe, log=log, **PLAIN, **options)


def test_a_run_with_branches_ships_the_plain_network_and_is_resumed_to_the_same_bits(
    tmp_path, painted_split
):
    split, val, states = painted_split(128), painted_split(40, seed=1), []
    recipe = RECIPE.changed(optimizer="muon", muon_lr=0.02)
    whole, history = run(split, val, recipe, lambda run: states.append(run.state()))
    assert whole.state_dict().keys() == create_model("compact").state_dict().keys()
    assert history.epochs[-1].train_loss < history.epochs[1].train_loss
    assert (history.epochs[-1].val_loss, history.epochs[-1].val_accuracy) == evaluate(whole, val)
    learner = in_training(build(recipe, CLASSES), recipe)
    learner.load_state_dict(states[-1]["learner"])
    torch.testing.assert_close(
        by_hand(learner).eval()(torch.ones(2, 3, 32, 32)),
        whole.eval()(torch.ones(2, 3, 32, 32)),
        rtol=1e-3, atol=1e-4,
    )  # fmt: skip
    for state in states[:-1]:
        resumed, again = run(split, val, recipe, resume=state)
        assert torch.equal(weights(resumed), weights(whole))
        assert again.epochs[-1].val_loss == history.epochs[-1].val_loss
    with RunFolder(tmp_path / "run") as folder:
        run(split, val, recipe, folder.save, resume=folder.state(recipe))
    with RunFolder(tmp_path / "run") as folder:
        kept = folder.state(recipe)
    assert str(kept["learner"]) == str(states[-1]["learner"])
    saved, info = load_weights(tmp_path / "run")
    assert torch.equal(weights(saved), weights(whole)) and info.recipe.branches
    longer = recipe.changed(epochs=3, epochs_before=2)
    for branches in (True, False):
        asked = longer.changed(branches=branches)
        assert run(split, val, asked, resume=states[-1])[1].is_finished


def test_branches_have_first_weights_of_their_own_and_need_3x3_convolutions(painted_split):
    split, states = painted_split(32), []
    model = create_model("compact", seed=3)
    one, same, other = (with_branches(model, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(weights(one), weights(same))
    assert not torch.equal(one.features[0][0][0].row, other.features[0][0][0].row)
    assert torch.equal(one.features[0][0][0].weight, model.features[0][0][0].weight)
    before = torch.random.get_rng_state()
    with_branches(model)
    assert torch.equal(before, torch.random.get_rng_state())
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    with pytest.raises(CifarError, match="no 3×3 convolutions; set branches False"):
        fit(linear, split, None, RECIPE, log=lambda run: None, **PLAIN)
    with pytest.raises(CifarError, match="leave out one"):
        RECIPE.changed(start_from="compact")
    plain = RECIPE.changed(branches=False)
    run(split, None, plain, log=lambda run: states.append(run.state()))
    with pytest.raises(CifarError, match="was trained without branches"):
        run(split, None, RECIPE.changed(epochs=3, epochs_before=2), resume=states[-1])

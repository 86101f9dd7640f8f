"""Notebook 03: its backward pass by hand against autograd, finite differences, and torch's layers.

The functions come from the notebook's own cells, gaps filled in as in the full edition.
"""

import ast
import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "03_how_a_network_learns.ipynb"
WANTED = (
    "softmax_cross_entropy", "logit_gradient", "relu_backward", "linear_backward", "forward",
    "backward", "finite_difference", "random_network", "update", "momentum_step", "descend",
    "first_weights", "through_layers",
)  # fmt: skip


def functions():
    """The notebook's functions, defined in its order, without running anything else of it."""
    names = {"torch": torch, "math": math, "pairwise": pairwise}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            for node in ast.parse("".join(cell["source"])).body:
                if isinstance(node, ast.FunctionDef) and node.name in WANTED:
                    exec(ast.unparse(node), names)
    return names


HAND = functions()
SHAPES = [((7, 5, 4), 3), ((3, 8, 2), 1), ((6, 6, 6), 6), ((48, 16, 10), 20)]


def network_and_batch(sizes, count, seed=0):
    """A network with biases other than 0, and random inputs and labels, all in float64."""
    draws = torch.Generator().manual_seed(seed)
    network = HAND["random_network"](sizes, seed, dtype=torch.float64)
    network = [one + 0.1 * torch.randn(one.shape, generator=draws) for one in network]
    inputs = torch.randn(count, sizes[0], generator=draws, dtype=torch.float64)
    return network, inputs, torch.randint(sizes[-1], (count,), generator=draws)


def loss_of(network, inputs, labels):
    return nn.functional.cross_entropy(HAND["forward"](network, inputs)[0], labels)


@pytest.mark.parametrize(("sizes", "count"), SHAPES)
def test_backward_by_hand_is_autograds(sizes, count):
    network, inputs, labels = network_and_batch(sizes, count)
    loss, mine = HAND["backward"](network, inputs, labels)
    watched = [one.clone().requires_grad_() for one in network]
    theirs = loss_of(watched, inputs, labels)
    theirs.backward()
    torch.testing.assert_close(loss, theirs.detach(), rtol=1e-12, atol=0)
    for one, other in zip(mine, watched, strict=True):
        torch.testing.assert_close(one, other.grad, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("sizes", "count"), SHAPES[:3])
def test_backward_by_hand_is_what_nudging_gives(sizes, count):
    network, inputs, labels = network_and_batch(sizes, count, seed=1)
    _, mine = HAND["backward"](network, inputs, labels)
    for number, tensor in enumerate(network):

        def loss_with(moved, number=number):
            parts = [*network[:number], moved, *network[number + 1 :]]
            logits, _, _ = HAND["forward"](parts, inputs)
            return HAND["softmax_cross_entropy"](logits, labels)[1]

        for place in map(tuple, (tensor == tensor).nonzero().tolist()):  # every one
            slope = HAND["finite_difference"](loss_with, tensor, place, 1e-6)
            assert slope == pytest.approx(mine[number][place].item(), rel=1e-6, abs=1e-8)


def test_the_loss_bears_logits_of_any_size():
    logits, labels = torch.tensor([[1000.0, 0, -1000], [500, 501, 499]]), torch.tensor([0, 0])
    p, loss = HAND["softmax_cross_entropy"](logits, labels)
    torch.testing.assert_close(p, logits.softmax(1))
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits, labels))


def test_steps_are_those_of_torchs_sgd():
    network, inputs, labels = network_and_batch((5, 4, 3), 6)
    for momentum in (0.0, 0.9):
        mine, speeds = list(network), [torch.zeros_like(one) for one in network]
        theirs = [one.clone().requires_grad_() for one in network]
        optimizer = torch.optim.SGD(theirs, lr=0.1, momentum=momentum)
        for _ in range(5):
            _, gradients = HAND["backward"](mine, inputs, labels)
            plain = HAND["update"](mine, gradients, 0.1)
            moved = [
                HAND["momentum_step"](*three, 0.1, momentum)
                for three in zip(mine, speeds, gradients, strict=True)
            ]
            mine, speeds = zip(*moved, strict=True)
            optimizer.zero_grad()
            loss_of(theirs, inputs, labels).backward()
            optimizer.step()
            for one, other in zip(plain if momentum == 0 else mine, theirs, strict=True):
                torch.testing.assert_close(one, other.detach(), rtol=1e-10, atol=1e-12)


def test_torchs_default_first_weights_are_torchs():
    draws = torch.Generator().manual_seed(0)
    weight, bias = HAND["first_weights"]("torch's default", 300, 2000, draws)
    layer = nn.Linear(300, 2000)
    for mine, theirs in ((weight, layer.weight), (bias, layer.bias)):
        assert mine.abs().max().item() == pytest.approx(theirs.abs().max().item(), rel=0.01)
        assert mine.std().item() == pytest.approx(theirs.std().item(), rel=0.05)


@pytest.mark.parametrize("how", ["torch's default", "He's", "twice He's"])
def test_gradients_through_twenty_layers_are_autograds(how):
    draws = torch.Generator().manual_seed(3)
    images, labels = torch.randn(8, 12, generator=draws), torch.arange(8)
    differences, gradients = HAND["through_layers"](how, images, labels, seed=0, depth=6, width=16)

    draws, hidden, weights = torch.Generator().manual_seed(0), images, []
    for number in range(7):
        outs = 16 if number < 6 else 10
        weight, bias = HAND["first_weights"](how, hidden.shape[1], outs, draws)
        weights.append(weight.requires_grad_())
        sums = hidden @ weight + bias
        hidden = sums.relu()
        if number == 0:
            assert differences[0] == pytest.approx(hidden.std(dim=0).mean().item())
    nn.functional.cross_entropy(sums, labels).backward()
    assert len(differences) == len(gradients) == 6
    for gradient, weight in zip(gradients, weights, strict=False):
        assert gradient == pytest.approx(weight.grad.norm().item(), rel=1e-4)

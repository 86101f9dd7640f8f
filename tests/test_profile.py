"""What a network costs and sees, pinned and against oracles. A new network is one row of FACTS."""

import copy
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cifar_utils import profile
from cifar_utils.models import MODELS, create_model


class Facts(NamedTuple):
    trained: int  # parameters
    field: int  # receptive field in pixels
    stages: list[tuple[int, int]]  # channels and size of the maps after each stage
    frozen: int = 0  # parameters


BASIC = [(64, 32), (64, 32), (128, 16), (256, 8), (512, 4)]
BOTTLENECKS = [(64, 32), (256, 32), (512, 16), (1024, 8), (2048, 4)]
FACTS = {
    "vgg": Facts(34_749_002, 36, [(64, 16), (128, 8), (256, 4)]),
    "conv5": Facts(2_791_434, 24, [(32, 16), (128, 8), (256, 6)]),
    "compact": Facts(399_274, 48, [(32, 16), (64, 8), (128, 4), (128, 2)]),
    "separable": Facts(199_810, 95, [(32, 13), (32, 7), (64, 4), (52, 4)]),
    "resnet18": Facts(11_173_962, 109, BASIC),
    "resnet34": Facts(21_282_122, 225, BASIC),
    "resnet50": Facts(23_520_842, 107, BOTTLENECKS),
    "resnet101": Facts(42_512_970, 243, BOTTLENECKS),
    "resnet152": Facts(58_156_618, 363, BOTTLENECKS),
    "fastnet": Facts(1_971_352, 51, [(24, 31), (64, 15), (256, 7), (256, 3)],
                     frozen=24 * 12 + 2 * (64 + 256 + 256)),
    "fastnet-half": Facts(497_240, 51, [(24, 31), (32, 15), (128, 7), (128, 3)],
                          frozen=24 * 12 + 2 * (32 + 128 + 128)),
    "fastnet-quick": Facts(756_056, 51, [(24, 31), (32, 15), (128, 7), (192, 3)],
                           frozen=24 * 12 + 2 * (32 + 128 + 192)),
}  # fmt: skip
KINDS = ["vgg", "conv5", "compact", "separable", "resnet18", "fastnet"]


@pytest.mark.parametrize("name", MODELS)
def test_every_network_is_pinned(name):
    with torch.device("meta"):  # no numbers are needed
        model = MODELS[name]()
    everything = sum(p.numel() for p in model.parameters())
    shapes = [(channels, size, size) for channels, size in FACTS[name].stages]
    assert profile.parameter_count(model) == FACTS[name].trained
    assert everything == FACTS[name].trained + FACTS[name].frozen
    assert profile.receptive_field(model) == FACTS[name].field
    assert profile.stage_shapes(model) == shapes


@pytest.mark.parametrize("name", KINDS)
def test_receptive_field_is_what_gradients_reach(name):
    """An oracle without arithmetic: which input pixels change one unit of the last map?"""
    features = create_model(name).features.eval()
    for parameter in features.parameters():  # positive weights: nothing cancels, no ReLU closes
        nn.init.constant_(parameter, 1 / parameter[0].numel())
    for parent in list(features.modules()):
        for child_name, child in parent.named_children():
            if isinstance(child, nn.MaxPool2d):  # a maximum passes one gradient of four, a mean all
                setattr(parent, child_name, nn.AvgPool2d(2))
    images = torch.ones(1, 3, 160, 32, requires_grad=True)
    maps = features(images)
    maps[0, 0, maps.shape[2] // 2, maps.shape[3] // 2].backward()
    reached = images.grad[0, 0].abs().amax(1).nonzero()
    assert int(reached.max() - reached.min()) + 1 == FACTS[name].field


@pytest.mark.parametrize("name", [*KINDS, "resnet50"])
def test_mult_adds_equal_torchs_own_count(name):
    model = create_model(name).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    assert profile.mult_adds(model) == counter.get_total_flops() / 2


@pytest.mark.parametrize(("name", "smallest"), [("fastnet-half", 9), ("compact", 32)])
def test_networks_take_images_from_some_size_on(name, smallest):
    model = create_model(name).train()
    assert profile.takes(model, smallest) and not profile.takes(model, smallest - 1)
    assert model.training


@pytest.mark.parametrize("name", ["compact", "separable", "resnet18", "fastnet"])
def test_summary_prints_all_and_leaves_the_model_alone(name, capsys):
    model = create_model(name, seed=0).train()
    before = copy.deepcopy(model.state_dict())
    random_state = torch.get_rng_state()
    profile.summary(model)
    printed = capsys.readouterr().out
    facts = FACTS[name]
    assert f"Total params: {facts.trained + facts.frozen:,}" in printed
    assert f"\nTrainable params: {facts.trained:,}\n" in printed
    assert f"\nNon-trainable params: {facts.frozen:,}\n" in printed
    assert f"Mult-adds for one image: {profile.mult_adds(model):,}" in printed
    assert f"Receptive field: {facts.field} pixels" in printed
    assert "Estimated Total Size (MB)" in printed and "Output Shape" in printed
    rows = [line.split() for line in printed.splitlines() if "[-1, " in line]
    assert sum(int(row[-1].replace(",", "")) for row in rows) == profile.mult_adds(model)
    assert sum(int(row[-2].replace(",", "")) for row in rows) == facts.trained + facts.frozen
    assert model.training and torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_summary_rows_carry_their_own_layers_cost(capsys):
    profile.summary(create_model("compact"))
    rows = [line for line in capsys.readouterr().out.splitlines() if "[-1, " in line]
    assert rows[0].split()[0] == "Conv2d-1" and rows[0].endswith(f"{3 * 9 * 32 * 32 * 32:,}")
    assert rows[-1].split()[0] == "Linear-26" and rows[-1].endswith(" 640")

"""What a network costs and sees, pinned and against oracles. A new network is one row of FACTS."""

import copy
from typing import NamedTuple

import pytest
import torch
from strange_networks import CANNOT_TELL, SEES_ALL, ZOO
from torch import nn
from torch.overrides import TorchFunctionMode

from cifar_utils import profile
from cifar_utils.errors import CifarError
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
def test_mult_adds_are_what_the_layers_read(name):
    """Layer by layer: every output number of a convolution reads one kernel."""
    model, wanted = create_model(name).eval(), []

    def read(layer, inputs, output):
        kernel = layer.weight if isinstance(layer, nn.Linear) else layer.weight[0]
        places = 1 if isinstance(layer, nn.Linear) else output.numel()
        wanted.append(places * kernel.numel())

    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(read)
    with torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    assert profile.mult_adds(create_model(name)) == sum(wanted)


@pytest.mark.parametrize(("name", "smallest"), [("fastnet-half", 9), ("compact", 32)])
def test_networks_take_images_from_some_size_on(name, smallest):
    model = create_model(name).train()
    assert profile.takes(model, smallest) and not profile.takes(model, smallest - 1)
    assert model.training


@pytest.mark.parametrize("error", [AssertionError, ValueError, RuntimeError])
def test_a_network_may_refuse_a_size_in_any_way(error):
    class Picky(nn.Module):
        def forward(self, images):
            if images.shape[2] != 32:
                raise error("wrong size")
            return images

    assert profile.takes(Picky(), 32) and not profile.takes(Picky(), 20)


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


@pytest.mark.parametrize("name", [*ZOO, *SEES_ALL, *CANNOT_TELL])
def test_totals_count_parameters_once_and_mult_adds_as_often_as_they_run(name, capsys):
    network = (ZOO | SEES_ALL | CANNOT_TELL)[name]()
    wanted = by_hooks_and_functions(network)
    profile.summary(network.train())
    printed = capsys.readouterr().out
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert profile.mult_adds(network) == wanted
    assert f"\nTotal params: {parameters:,}\n" in printed
    assert f"\nMult-adds for one image: {wanted:,}" in printed
    assert "\nReceptive field: " in printed
    assert network.training and not any(layer._forward_hooks for layer in network.modules())


def by_hooks_and_functions(network):
    """Every convolution and matrix product that torch is asked for, in Python."""
    total = 0

    class Count(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            nonlocal total
            result = function(*args, **(kwargs or {}))
            name = getattr(function, "__name__", "")
            if name == "conv2d":
                total += result.numel() * args[1][0].numel()
            elif name == "conv_transpose2d":
                total += args[0].numel() * args[1][0].numel()
            elif name in ("linear", "bmm", "baddbmm", "matmul"):
                total += result.numel() * args[-1 if name == "baddbmm" else 0].shape[-1]
            elif name == "multi_head_attention_forward":  # 1024 places of 8 channels
                total += 4 * 1024 * 8 * 8 + 2 * 1024 * 1024 * 8
            return result

    with torch.no_grad(), Count():
        copy.deepcopy(network).eval()(torch.zeros(1, 3, 32, 32))
    return total


class Shared(nn.Module):
    """One layer under two parents."""

    def __init__(self):
        super().__init__()
        layer = nn.Conv2d(3, 3, 3, padding=1)
        self.one, self.other = nn.Sequential(layer, nn.ReLU()), nn.Sequential(layer)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))

    def forward(self, images):
        return self.head(self.other(self.one(images)))


def test_a_layer_with_two_parents_costs_twice_and_weighs_once(capsys):
    network = Shared()
    convolution, linear = 3 * 3 * 9 * 32 * 32, 3 * 32 * 32 * 10
    assert profile.mult_adds(network) == 2 * convolution + linear
    assert profile.receptive_field(network) == 5
    profile.summary(network)
    printed = capsys.readouterr().out
    assert f"Total params: {3 * 3 * 9 + 3 + linear + 10:,}\n" in printed
    assert f"Params size (MB): {(3 * 3 * 9 + 3 + linear + 10) * 4 / 2**20:.2f}\n" in printed
    assert printed.endswith("The totals count every parameter once.\n")


class Pair(nn.Module):
    def forward(self, images):
        return {"logits": images.mean((2, 3))}


REFUSED = {
    "no network": "compact",
    "a function": torch.relu,
    "grey images": nn.Sequential(nn.Conv2d(1, 2, 3)),
    "other sizes": nn.Sequential(nn.Flatten(), nn.Linear(5, 2)),
    "no parameters": nn.Sequential(nn.ReLU(), nn.Flatten()),
    "a dict": nn.Sequential(nn.Conv2d(3, 3, 1), Pair()),
    "recurrent": nn.Sequential(nn.Flatten(2), nn.LSTM(1024, 4)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_table_cannot_show_is_refused_in_one_line(name, capsys):
    with pytest.raises(CifarError) as refused:
        profile.summary(REFUSED[name])
    assert capsys.readouterr().out == "" and "\n" not in str(refused.value)


@pytest.mark.parametrize("change", ["half", "double", "bfloat16"])
def test_other_types_are_profiled_as_float32(change, capsys):
    network = getattr(create_model("compact", seed=0), change)()
    profile.summary(network)
    assert f"Mult-adds for one image: {profile.mult_adds(create_model('compact')):,}\n" in (
        capsys.readouterr().out
    )
    assert profile.stage_shapes(network) == profile.stage_shapes(create_model("compact"))

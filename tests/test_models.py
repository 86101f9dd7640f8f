import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.resnet import BasicBlock, Bottleneck

from cifar_utils import models, profile
from cifar_utils.models import MODELS, Dropout, create_model

PARAMETERS = {
    "vgg": 34_749_002,
    "conv5": 2_791_434,
    "compact": 399_274,
    "separable": 199_810,
    "resnet18": 11_173_962,
    "resnet34": 21_282_122,
    "resnet50": 23_520_842,
    "resnet101": 42_512_970,
    "resnet152": 58_156_618,
    "fastnet": 1_971_352,
    "fastnet-half": 497_240,
    "fastnet-quick": 756_056,
}
FROZEN = {
    "fastnet": 24 * 12 + 2 * (64 + 256 + 256),
    "fastnet-half": 24 * 12 + 2 * (32 + 128 + 128),
    "fastnet-quick": 24 * 12 + 2 * (32 + 128 + 192),
}
FIELDS = {"vgg": 36, "conv5": 24, "compact": 48, "separable": 95, "resnet18": 109, "fastnet": 51}


def test_every_model_is_pinned():
    assert set(PARAMETERS) == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_parameter_counts_are_exact(name):
    with torch.device("meta"):
        model = MODELS[name]()
    everything = sum(p.numel() for p in model.parameters())
    assert everything == PARAMETERS[name] + FROZEN.get(name, 0)
    assert profile.parameter_count(model) == PARAMETERS[name]


@pytest.mark.parametrize("name", FIELDS)
def test_receptive_fields_are_exact(name):
    assert profile.receptive_field(create_model(name)) == FIELDS[name]


@pytest.mark.parametrize("name", FIELDS)
def test_receptive_field_is_what_gradients_reach(name):
    """An oracle without arithmetic: which input pixels change one unit of the last map?"""
    features = copy.deepcopy(create_model(name).features).eval()
    for parameter in features.parameters():  # positive weights: nothing cancels, no ReLU closes
        nn.init.constant_(parameter, 1 / parameter[0].numel())
    for parent in list(features.modules()):
        for child_name, child in parent.named_children():
            if isinstance(
                child, nn.MaxPool2d
            ):  # passes one gradient of four; an average passes all
                setattr(parent, child_name, nn.AvgPool2d(2))
    images = torch.ones(1, 3, 160, 160, requires_grad=True)
    maps = features(images)
    maps[0, 0, maps.shape[2] // 2, maps.shape[3] // 2].backward()
    reached = images.grad[0, 0].abs().amax(1).nonzero()
    assert int(reached.max() - reached.min()) + 1 == profile.receptive_field(create_model(name))


@pytest.mark.parametrize("name", [*FIELDS, "resnet50"])
def test_mult_adds_equal_torchs_own_count(name):
    model = create_model(name).eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    assert profile.mult_adds(model) == counter.get_total_flops() / 2


@pytest.mark.parametrize(
    "name", ["vgg", "conv5", "compact", "separable", "resnet18", "resnet50", "fastnet"]
)
def test_forward_is_features_then_classifier(name):
    model = create_model(name, 7).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        logits = model(images)
        assert torch.equal(model.classifier(model.features(images)), logits)
    assert logits.shape == (2, 7)


@pytest.mark.parametrize("name", ["vgg", "conv5", "compact", "separable", "resnet18"])
def test_an_untrained_network_guesses_without_preference(name):
    model = create_model(name, seed=0).eval()
    with torch.no_grad():
        loss = F.cross_entropy(model(torch.randn(32, 3, 32, 32)), torch.arange(32) % 10)
    assert abs(loss.item() - math.log(10)) < 0.1


@pytest.mark.parametrize("name", MODELS)
def test_no_activation_works_in_place(name):
    with torch.device("meta"):
        model = MODELS[name]()
    assert not [m for m in model.modules() if getattr(m, "inplace", False)]


def unlike_fresh(block):
    """The block in evaluation mode with batch norms that do something, as after a training."""
    for name, value in block.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.ndim == 1:
            value.normal_()
    return block.eval()


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(64, 128, 2), (64, 64, 1)])
@pytest.mark.parametrize(
    ("ours", "theirs"), [(models.basic_block, BasicBlock), (models.bottleneck, Bottleneck)]
)
def test_residual_blocks_equal_torchvisions(ours, theirs, inputs, outputs, stride):
    torch.manual_seed(0)
    width = outputs // theirs.expansion
    block = unlike_fresh(ours(inputs, width, stride, 0.0))
    downsample = None
    if stride > 1:
        conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        downsample = nn.Sequential(conv, nn.BatchNorm2d(outputs))
    twin = theirs(inputs, width, stride, downsample).eval()
    weights = block.state_dict().values()  # in the same order
    twin.load_state_dict(dict(zip(twin.state_dict(), weights, strict=True)))
    maps = torch.randn(2, inputs, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(block(maps), twin(maps))


def test_conv_bn_relu_equals_its_three_formulas():
    torch.manual_seed(0)
    block = unlike_fresh(models.conv_bn_relu(3, 4))
    conv, norm, _ = block
    images = torch.randn(2, 3, 5, 5)
    with torch.no_grad():
        padded = np.pad(images.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
        maps = np.einsum("nchwij,ocij->nohw", windows, conv.weight.numpy())
        bias, mean, variance, scale, shift = (
            value.view(-1, 1, 1).numpy()
            for value in (conv.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        maps = (maps + bias - mean) / np.sqrt(variance + norm.eps) * scale + shift
        assert maps.min() < -0.1
        np.testing.assert_allclose(block(images).numpy(), np.maximum(maps, 0), atol=1e-5)


def test_a_fastnets_head_is_the_largest_of_each_map_times_weights_over_9():
    head = create_model("fastnet-half", 7, seed=0).classifier
    maps = torch.randn(2, 128, 3, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = maps.numpy().max((2, 3)) @ head[2].weight.numpy().T / 9
        np.testing.assert_allclose(head(maps).numpy(), wanted, rtol=1e-4, atol=1e-6)


def test_resnet_dropout_is_used():
    """One of the older systems takes the argument and forgets it."""
    for rate in (0.1, 0.7):
        found = {
            m.p for m in MODELS["resnet18"](dropout=rate).modules() if isinstance(m, nn.Dropout)
        }
        assert found == {rate}


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(7, 33), (3, 5, 7, 9), (64, 32, 16, 16)])
def test_dropout_drops_the_share_it_says_and_scales_the_rest(rate, shape):
    torch.manual_seed(0)
    maps = torch.ones(shape, requires_grad=True)
    seen = Dropout(rate)(maps)
    assert seen.shape == maps.shape
    survivors = 1 / (1 - rate) if rate < 1 else 0.0
    assert set(seen.unique().tolist()) <= {0.0, torch.tensor(survivors).item()}
    spread = 5 * math.sqrt(rate * (1 - rate) / maps.numel())  # five standard deviations
    assert abs((seen == 0).double().mean().item() - rate) <= spread
    seen.sum().backward()
    assert torch.equal(maps.grad, seen)  # the gradient takes the same way
    assert torch.equal(Dropout(rate).eval()(maps), maps)


def test_dropout_coins_are_independent():
    """Four elements share one random number: neither neighbours nor calls may be correlated."""
    torch.manual_seed(0)
    drop = Dropout(0.3)
    kept = drop(torch.ones(1000, 400)) != 0
    again = drop(torch.ones(1000, 400)) != 0
    for other in [again, *(kept.roll(shift, 1) for shift in (1, 2, 3, 4, 5))]:
        both = (kept & other).double().mean().item()
        assert abs(both - 0.7**2) < 0.005  # 6 standard deviations
    torch.manual_seed(0)
    assert torch.equal(drop(torch.ones(1000, 400)) != 0, kept)


def test_dropout_keeps_the_layout_and_the_type():
    maps = torch.randn(2, 8, 6, 6).to(torch.bfloat16, memory_format=torch.channels_last)
    seen = Dropout(0.5)(maps)
    assert seen.dtype == maps.dtype
    assert seen.is_contiguous(memory_format=torch.channels_last)
    sliced = torch.arange(1.0, 401).view(20, 20)[::2, 1::3]  # not dense in memory
    dropped = Dropout(0.5)(sliced)
    assert torch.equal(dropped[dropped != 0], 2 * sliced[dropped != 0])


@pytest.mark.parametrize("name", ["vgg", "conv5", "separable", "resnet18"])
def test_a_factor_on_dropout_reaches_every_layer(name):
    kinds = (nn.Dropout, nn.Dropout2d)
    own, none, part = (
        create_model(name, seed=0, dropout_factor=factor) for factor in (1.0, 0.0, 0.4)
    )
    rates = [
        [layer.p for layer in net.modules() if isinstance(layer, kinds)]
        for net in (own, none, part)
    ]
    assert rates[0] and min(rates[0]) > 0 and set(rates[1]) == {0.0}
    assert rates[2] == pytest.approx([0.4 * rate for rate in rates[0]])
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(own.eval()(images), part.eval()(images))
    assert torch.equal(none.train()(images), none(images))  # nothing is left to chance
    with pytest.raises(ValueError, match=r"dropout_factor is 3; it must be in \[0, 1\]"):
        create_model(name, dropout_factor=3)


def test_a_seed_gives_the_same_weights_and_spares_the_global_generator(monkeypatch):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    monkeypatch.setattr(torch, "manual_seed", None)  # it reseeds those of GPUs, too
    first, second, other = (create_model("compact", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    weights = [model.features[0][0][0].weight for model in (first, second, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert not torch.equal(create_model("compact").features[0][0][0].weight, weights[0])


def test_kaiming_initialization_keeps_the_signals_size():
    """Behind each kernel the mean square stays near the input's; torch's default shrinks it."""
    images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    sizes = {}
    for kind in ("kaiming", "default"):
        model = create_model("vgg", seed=0, initialization=kind).eval()
        with torch.no_grad():
            sizes[kind] = model.features(images).square().mean().item()
            assert abs(F.cross_entropy(model(images), torch.arange(64) % 10) - math.log(10)) < 0.01
    assert sizes["kaiming"] > 0.3 > 0.03 > sizes["default"]


@pytest.mark.parametrize("name", ["fastnet-half", "separable"])
def test_dirac_kernels_pass_their_first_inputs_on(name):
    model = create_model(name, seed=0, initialization="dirac")
    plain = create_model(name, seed=0)
    kinds = [nn.Conv2d, models.Whitening]
    layers, others = ([m for m in net.modules() if type(m) in kinds] for net in (model, plain))
    for layer, other in zip(layers, others, strict=True):
        kept = min(layer.weight.shape[:2])
        if isinstance(layer, models.Whitening):
            kept = 0
        elif layer.groups == 1 and layer.stride == (1, 1) and layer.padding[0] * 2 + 1 == 3:
            maps = torch.randn(2, layer.in_channels, 9, 9)
            torch.testing.assert_close(
                F.conv2d(maps, layer.weight, padding=1)[:, :kept], maps[:, :kept]
            )
        assert torch.equal(layer.weight[kept:], other.weight[kept:])  # torch's own, as before


def whitened_moments(model, inputs):
    """Second moments (24, 24) of the whitening layer's outputs, in NumPy and float64."""
    kernels = model.features[0][0].weight.detach().double().numpy().reshape(24, 12)
    windows = np.lib.stride_tricks.sliding_window_view(inputs.double().numpy(), (2, 2), (2, 3))
    patches = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 12)
    outputs = patches @ kernels.T
    return patches.T @ patches / len(patches), outputs.T @ outputs / len(outputs)


def test_whitening_makes_patches_uncorrelated_and_of_size_1():
    draws = torch.Generator().manual_seed(0)
    smooth = F.avg_pool2d(torch.randn(600, 3, 34, 34, generator=draws), 3, stride=1)
    inputs = 2 * smooth + 0.3 * torch.randn(600, 1, 32, 32, generator=draws)  # channels correlate
    model = create_model("fastnet-half", seed=0)
    models.whiten(model, inputs)
    before, after = whitened_moments(model, inputs)
    variances = np.linalg.eigvalsh(before)
    assert variances.max() > 20 * variances.min()  # there was something to do
    wanted = np.diag(variances / (variances + 5e-4))
    np.testing.assert_allclose(after[:12, :12], wanted, atol=1e-5)
    np.testing.assert_allclose(after[:12, :12], np.eye(12), atol=0.05)
    np.testing.assert_allclose(after[12:, :12], -wanted, atol=1e-5)  # both signs
    with torch.no_grad():
        layer = model.features[0][0]
        seen = (layer(inputs) - layer.bias.view(-1, 1, 1)).transpose(0, 1).flatten(1)
    moments = (seen @ seen.T / seen.shape[1]).numpy()
    np.testing.assert_allclose(moments, after, atol=1e-3)


def test_whitening_leaves_directions_without_variance_small():
    draws = torch.Generator().manual_seed(0)
    grey = torch.randn(50, 1, 32, 32, generator=draws).expand(50, 3, 32, 32)
    model = create_model("fastnet-half", seed=0)
    models.whiten(model, grey)  # eight of twelve directions are empty
    assert model.features[0][0].weight.flatten(1).norm(dim=1).max() <= 5e-4**-0.5 + 1e-3
    with pytest.raises(ValueError, match="no whitening layer; set whitening to 0"):
        models.whiten(create_model("compact"), grey)


def test_fast_networks_train_biases_of_batch_norm_and_not_its_scale():
    for norm in create_model("fastnet-half").modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.bias.requires_grad and not norm.weight.requires_grad
            assert norm.weight.eq(1).all() and (norm.eps, norm.momentum) == (1e-12, 0.4)


def test_batch_norm_keeps_single_precision_under_autocast():
    model = create_model("fastnet-half", seed=0).train()
    seen = {}
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_pre_hook(lambda layer, maps: seen.update({layer: maps[0]}))
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert len(seen) == 6
    for layer, maps in seen.items():
        assert (maps.dtype, layer.running_var.dtype) == (torch.bfloat16, torch.float32)
        variance, mean = torch.var_mean(maps.double(), dim=(0, 2, 3))
        # bf16 alone would be off by 4e-3.
        close = {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(layer.running_mean.double(), 0.4 * mean, **close)
        torch.testing.assert_close(layer.running_var.double(), 0.6 + 0.4 * variance, **close)


@pytest.mark.parametrize(("name", "smallest"), [("fastnet-half", 9), ("compact", 32)])
def test_networks_take_images_from_some_size_on(name, smallest):
    model = create_model(name).train()
    assert profile.takes(model, smallest) and not profile.takes(model, smallest - 1)
    assert model.training


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(ValueError, match=r"unknown model 'vgg16'.*resnet152"):
        create_model("vgg16")
    with pytest.raises(ValueError, match="choose one of default, kaiming, dirac"):
        create_model("vgg", initialization="xavier")


@pytest.mark.parametrize("name", ["compact", "separable", "resnet18", "fastnet"])
def test_summary_prints_all_and_leaves_the_model_alone(name, capsys):
    model = create_model(name, seed=0).train()
    before = copy.deepcopy(model.state_dict())
    random_state = torch.get_rng_state()
    profile.summary(model)
    printed = capsys.readouterr().out
    frozen = FROZEN.get(name, 0)
    assert f"Total params: {PARAMETERS[name] + frozen:,}" in printed
    assert f"\nTrainable params: {PARAMETERS[name]:,}\n" in printed
    assert f"\nNon-trainable params: {frozen:,}\n" in printed
    assert f"Mult-adds for one image: {profile.mult_adds(model):,}" in printed
    assert f"Receptive field: {FIELDS[name]} pixels" in printed
    assert "Estimated Total Size (MB)" in printed and "Output Shape" in printed
    rows = [line.split() for line in printed.splitlines() if "[-1, " in line]
    assert sum(int(row[-1].replace(",", "")) for row in rows) == profile.mult_adds(model)
    assert sum(int(row[-2].replace(",", "")) for row in rows) == PARAMETERS[name] + frozen
    assert model.training and torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_summary_rows_carry_their_own_layers_cost(capsys):
    profile.summary(create_model("compact"))
    rows = [line for line in capsys.readouterr().out.splitlines() if "[-1, " in line]
    assert rows[0].split()[0] == "Conv2d-1" and rows[0].endswith(f"{3 * 9 * 32 * 32 * 32:,}")
    assert rows[-1].split()[0] == "Linear-26" and rows[-1].endswith(" 640")


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("vgg", [(64, 16), (128, 8), (256, 4)]),
        ("conv5", [(32, 16), (128, 8), (256, 6)]),
        ("compact", [(32, 16), (64, 8), (128, 4), (128, 2)]),
        ("separable", [(32, 13), (32, 7), (64, 4), (52, 4)]),
        ("resnet18", [(64, 32), (64, 32), (128, 16), (256, 8), (512, 4)]),
        ("fastnet", [(24, 31), (64, 15), (256, 7), (256, 3)]),
    ],
)
def test_stage_shapes(name, shapes):
    expected = [(channels, size, size) for channels, size in shapes]
    assert profile.stage_shapes(create_model(name)) == expected

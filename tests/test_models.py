import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from cifar_utils import models
from cifar_utils.errors import CifarError
from cifar_utils.models import MODELS, Dropout, create_model


@pytest.mark.parametrize("name", MODELS)
def test_a_network_is_features_then_classifier_with_as_many_logits_as_classes(name):
    with torch.device("meta"):  # shapes without numbers
        model = MODELS[name](7).eval()
        maps = model.features(torch.zeros(2, 3, 32, 32))
        assert maps.ndim == 4 and model.classifier(maps).shape == (2, 7)
    assert not [m for m in model.modules() if getattr(m, "inplace", False)], "Grad-CAM keeps maps"


@pytest.mark.parametrize("name", ["vgg", "conv5", "compact", "separable", "resnet18", "fastnet"])
def test_an_untrained_network_guesses_without_preference(name):
    model, images = create_model(name, seed=0).eval(), torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        logits = model(images)
        assert torch.equal(model.classifier(model.features(images)), logits)
    assert abs(F.cross_entropy(logits, torch.arange(8)).item() - math.log(10)) < 0.1


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


def test_resnet_dropout_is_used():
    """One of the older systems takes the argument and forgets it."""
    for rate in (0.1, 0.7):
        with torch.device("meta"):
            model = MODELS["resnet18"](dropout=rate)
        assert {m.p for m in model.modules() if isinstance(m, nn.Dropout)} == {rate}


@pytest.mark.parametrize("name", ["compact", "conv5", "separable"])  # each has its own kind
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
    images = torch.randn(10, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    sizes = {}
    for kind in ("kaiming", "default"):
        model = create_model("conv5", seed=0, initialization=kind).eval()
        with torch.no_grad():
            maps = model.features(images)
            sizes[kind] = maps.square().mean().item()
            loss = F.cross_entropy(model.classifier(maps), torch.arange(10))
        assert abs(loss - math.log(10)) < 0.01
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
    smooth = F.avg_pool2d(torch.randn(600, 3, 14, 14, generator=draws), 3, stride=1)
    inputs = 2 * smooth + 0.3 * torch.randn(600, 1, 12, 12, generator=draws)  # channels correlate
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


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(ValueError, match=r"unknown model 'vgg16'.*resnet152"):
        create_model("vgg16")
    with pytest.raises(ValueError, match="choose one of default, kaiming, dirac"):
        create_model("vgg", initialization="xavier")


@pytest.mark.parametrize("kind", [np.int64, np.uint8, torch.tensor])
def test_the_number_of_classes_and_the_seed_may_be_numpys(kind):
    same = create_model("compact", 3, seed=5, dropout_factor=0.5).state_dict()
    model = create_model("compact", kind(3), seed=kind(5), dropout_factor=np.float32(0.5))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, same[name])


@pytest.mark.parametrize("odd", [-1, 2.0, "3", True, 2**70])
def test_numbers_that_make_no_network_are_refused(odd):
    """torch made one of 0 classes, and a float or a NumPy seed ended in its own TypeError."""
    if odd != 2**70:
        with pytest.raises(CifarError, match=r"num_classes is .*; it must be a whole number"):
            create_model("compact", odd)
    with pytest.raises(CifarError, match="num_classes is 0; it must be a whole number of at least"):
        create_model("compact", 0)
    with pytest.raises(CifarError, match=r"seed is .*; it must be a whole number in 0 to"):
        create_model("compact", seed=odd)
    if odd is not True:
        with pytest.raises(CifarError, match=r"dropout_factor is .*; it must be in"):
            create_model("compact", dropout_factor=odd)

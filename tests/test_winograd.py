"""Winograd's convolutions against torch's own in double precision, and where they are taken."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_utils import train, winograd
from cifar_utils.models import create_model
from cifar_utils.recipes import Recipe

needs_compiler = pytest.mark.skipif(not winograd.library(), reason="no C compiler here")


def error(found, wanted):
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


@needs_compiler
@settings(max_examples=40, deadline=None)
@given(
    images=st.integers(1, 3),
    inputs=st.integers(1, 5).map(lambda n: 16 * n),
    outputs=st.integers(1, 5).map(lambda n: 16 * n),
    height=st.integers(1, 13),
    width=st.integers(1, 13),
    seed=st.integers(0, 99),
)
def test_maps_and_both_gradients_are_those_of_a_convolution(
    images, inputs, outputs, height, width, seed
):
    draw = torch.Generator().manual_seed(seed)
    maps = torch.randn(images, inputs, height, width, generator=draw)
    kernels = torch.randn(outputs, inputs, 3, 3, generator=draw)
    found, wanted = [], []
    for results, convolve, kind in (
        (found, winograd.Winograd.apply, torch.float32),
        (wanted, lambda *both: F.conv2d(*both, padding=1), torch.float64),
    ):
        both = [tensor.to(kind).requires_grad_() for tensor in (maps, kernels)]
        made = convolve(*both)
        gradient = torch.randn(made.shape, generator=draw.manual_seed(seed))
        results += [made, *torch.autograd.grad(made, both, gradient.to(kind))]
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape and error(one, other) < 1e-4


@needs_compiler
def test_memory_in_any_order_is_read_alike():
    maps, kernels = torch.randn(2, 32, 6, 9), torch.randn(16, 32, 3, 3)
    last = {"memory_format": torch.channels_last}
    expected = winograd.Winograd.apply(maps, kernels)
    assert torch.equal(expected, winograd.Winograd.apply(maps.to(**last), kernels.to(**last)))
    mirrored = maps.flip(3).transpose(2, 3)
    assert torch.equal(winograd.Winograd.apply(mirrored, kernels),
                       winograd.Winograd.apply(mirrored.contiguous(), kernels))  # fmt: skip


@pytest.fixture
def taken(monkeypatch):
    """The shapes of the kernels that Winograd's algorithm was given."""
    kernels, real = [], winograd.Winograd.apply
    monkeypatch.setattr(
        winograd.Winograd, "apply", lambda maps, k: kernels.append(tuple(k.shape)) or real(maps, k)
    )
    return kernels


@needs_compiler
@pytest.mark.parametrize("padding", [1, (1, 1), "same"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_that_suits_goes_by_it(taken, padding, bias):
    layer, maps = torch.nn.Conv2d(64, 80, 3, padding=padding, bias=bias), torch.randn(2, 64, 8, 8)
    with winograd.convolutions(True):
        found = layer(maps)
    assert taken == [(80, 64, 3, 3)]
    assert error(found, layer.double()(maps.double())) < 1e-4
    assert layer.float()(maps) is not None and len(taken) == 1  # the context is over


@needs_compiler
@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"kernel_size": 1}, 8),
        ({"kernel_size": 5, "padding": 2}, 8),
        ({"padding": 0}, 8),
        ({"stride": 2}, 8),
        ({"dilation": 2}, 8),
        ({"groups": 2, "in_channels": 128}, 8),
        ({"padding_mode": "reflect"}, 8),
        ({"in_channels": 48}, 8),
        ({"out_channels": 72}, 8),
        ({"dtype": torch.float64}, 8),
        ({}, 5),  # fills 25 of the 64 pixels of its four tiles
    ],
)
def test_other_layers_go_the_usual_way(taken, options, size):
    options = {"in_channels": 64, "out_channels": 64, "kernel_size": 3, "padding": 1} | options
    layer = torch.nn.Conv2d(**options)
    maps = torch.randn(2, options["in_channels"], size, size, dtype=layer.weight.dtype)
    with winograd.convolutions(True):
        found = layer(maps)
    assert not taken and torch.equal(found, layer(maps))


@needs_compiler
def test_sixteen_bits_go_the_usual_way(taken):
    layer, maps = torch.nn.Conv2d(64, 64, 3, padding=1), torch.randn(2, 64, 8, 8)
    with winograd.convolutions(True), torch.autocast("cpu", torch.bfloat16):
        assert layer(maps).dtype == torch.bfloat16
    assert not taken


def test_nothing_changes_where_it_is_not_wanted_or_cannot_be_compiled(taken, monkeypatch):
    layer, maps = torch.nn.Conv2d(64, 64, 3, padding=1), torch.randn(2, 64, 8, 8)
    with winograd.convolutions(False):
        layer(maps)
    monkeypatch.setenv("CC", "no-such-compiler")
    winograd.library.cache_clear()
    try:
        with winograd.convolutions(True):
            layer(maps)
    finally:
        monkeypatch.undo()
        winograd.library.cache_clear()
    assert not taken


@needs_compiler
def test_a_recipe_can_ask_for_it(taken, painted_split):
    def trained(**changes):
        recipe = Recipe(model="fastnet", epochs=2, batch_size=8, lr=0.01, **changes)
        model = create_model("fastnet", seed=0)
        options = {"log": lambda run: None, "device": "cpu", "precision": "fp32"}
        train.fit(model, painted_split(16), None, recipe, **options)
        return torch.cat([weight.detach().flatten() for weight in model.parameters()])

    usual = trained()
    assert not taken
    assert error(trained(winograd=True), usual) < 1e-3
    assert len(set(taken)) == 3 and len(taken) == 5 * 2 * 2  # layers, epochs, steps

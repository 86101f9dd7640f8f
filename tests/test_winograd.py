"""Winograd's convolutions against torch's own in double precision, and where they are taken."""

import subprocess
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_utils import machine, train
from cifar_utils.models import create_model
from cifar_utils.recipes import Recipe
from cifar_utils.speed import winograd

needs_compiler = pytest.mark.skipif(not winograd.library(), reason="winograd.c not compiled")


def error(found, wanted):
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


@needs_compiler
@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from([torch.float32, torch.bfloat16]),
    images=st.integers(1, 3),
    inputs=st.integers(1, 5).map(lambda n: 16 * n),
    outputs=st.integers(1, 5).map(lambda n: 16 * n),
    height=st.integers(1, 13),
    width=st.integers(1, 13),
    seed=st.integers(0, 99),
)
def test_maps_and_both_gradients_are_those_of_a_convolution(
    kind, images, inputs, outputs, height, width, seed
):
    draw = torch.Generator().manual_seed(seed)
    maps = torch.randn(images, inputs, height, width, generator=draw).to(kind)
    kernels = torch.randn(outputs, inputs, 3, 3, generator=draw)
    found, wanted = [], []
    for results, convolve, tensors in (
        (found, winograd.Winograd.apply, [maps, kernels]),
        (wanted, lambda *both: F.conv2d(*both, padding=1), [maps.double(), kernels.double()]),
    ):
        both = [tensor.requires_grad_() for tensor in tensors]
        made = convolve(*both)
        gradient = torch.randn(made.shape, generator=draw.manual_seed(seed)).to(kind)
        results += [made, *torch.autograd.grad(made, both, gradient.to(made.dtype))]
    assert [tensor.dtype for tensor in found] == [kind, kind, torch.float32]
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert error(one, other) < (1e-4 if kind == torch.float32 else 0.1)


@needs_compiler
def test_rounding_to_bf16_costs_what_its_points_promise():
    """4.8 times as much for each of tiles, kernels and products; with the points of fp32, 11."""
    maps, kernels = torch.randn(4, 64, 16, 16).bfloat16(), torch.randn(64, 64, 3, 3)
    exact = F.conv2d(maps.double(), kernels.double(), padding=1)
    once = (exact.bfloat16() - exact).norm()
    found = winograd.Winograd.apply(maps, kernels)
    assert 2 < (found - exact).norm() / once / 3**0.5 < 6
    assert abs((found * exact).sum() / exact.square().sum() - 1) < 0.002  # not always towards zero


@needs_compiler
def test_memory_in_any_order_is_read_alike():
    maps, kernels = torch.randn(2, 32, 6, 9), torch.randn(16, 32, 3, 3)
    last = {"memory_format": torch.channels_last}
    expected = winograd.Winograd.apply(maps, kernels)
    assert torch.equal(expected, winograd.Winograd.apply(maps.to(**last), kernels.to(**last)))
    turned = maps.transpose(2, 3)
    assert torch.equal(winograd.Winograd.apply(turned, kernels),
                       winograd.Winograd.apply(turned.contiguous(), kernels))  # fmt: skip


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
    layer.float()(maps)
    assert len(taken) == 1  # the context is over


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
        ({"in_channels": 72}, 8),
        ({"out_channels": 72}, 8),
        ({"dtype": torch.float64}, 8),
        ({}, 5),  # fills 25 of the 64 pixels of its four tiles
    ],
)
def test_other_layers_stay_direct(taken, options, size):
    options = {"in_channels": 64, "out_channels": 64, "kernel_size": 3, "padding": 1} | options
    layer = torch.nn.Conv2d(**options)
    maps = torch.randn(2, options["in_channels"], size, size, dtype=layer.weight.dtype)
    with winograd.convolutions(True):
        found = layer(maps)
    assert not taken and torch.equal(found, layer(maps))


@needs_compiler
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_autocast_decides_on_bf16(taken, kind, bias):
    layer, maps = torch.nn.Conv2d(64, 64, 3, padding=1, bias=bias), torch.randn(2, 64, 8, 8)
    found = []
    for wanted in (True, False):
        inputs = maps.to(kind, copy=True).requires_grad_()
        with winograd.convolutions(wanted), torch.autocast("cpu", torch.bfloat16):
            made = layer(inputs)
            loss = made.float().square().sum()
            found.append([made, *torch.autograd.grad(loss, (inputs, layer.weight))])
    assert len(taken) == 1
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype and error(one.float(), other.float()) < 0.1


@needs_compiler
def test_autocast_rounds_neither_kernels_nor_their_transform():
    results = []
    for inside in (True, False):
        draw = torch.Generator().manual_seed(0)
        maps = torch.randn(2, 16, 8, 8, generator=draw)
        kernels = torch.randn(16, 16, 3, 3, generator=draw).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            made = winograd.Winograd.apply(maps, kernels)
            results.append((made, *torch.autograd.grad(made.square().sum(), kernels)))
    assert all(map(torch.equal, *results))


@needs_compiler
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_a_network_in_sixteen_bits_and_fp16_stay_direct(taken, kind):
    layer = torch.nn.Conv2d(64, 64, 3, padding=1, dtype=kind)
    maps = torch.randn(2, 64, 8, 8, dtype=kind)
    with winograd.convolutions(True):
        assert layer(maps).dtype == kind
        with torch.autocast("cpu", kind):
            assert layer(maps).dtype == kind
        with torch.autocast("cpu", torch.float16):
            assert layer.float()(maps.float()).dtype == torch.float16
    assert not taken


@needs_compiler
def test_nothing_changes_where_it_is_not_wanted(taken):
    layer, maps = torch.nn.Conv2d(64, 64, 3, padding=1), torch.randn(2, 64, 8, 8)
    with winograd.convolutions(False):
        layer(maps)
    assert not taken


@needs_compiler
def test_a_layer_refuses_the_wrong_number_of_channels_as_ever(taken):
    with winograd.convolutions(True), pytest.raises(RuntimeError, match="channels"):
        torch.nn.Conv2d(64, 64, 3, padding=1)(torch.randn(2, 80, 8, 8))
    assert not taken


@needs_compiler
@pytest.mark.parametrize("change", [{"dtype": torch.float64}, {"device": "meta"}, {"size": 40}])
def test_numbers_that_c_cannot_read_are_refused(change):
    size = change.pop("size", 32)
    maps, kernels = torch.zeros(1, size, 4, 4, **change), torch.zeros(16, size, 3, 3, **change)
    with pytest.raises(ValueError, match=r"bfloat16 on a CPU"):
        winograd.Winograd.apply(maps, kernels)


@needs_compiler
def test_no_images_and_one_image_give_maps_of_their_number():
    layer = torch.nn.Conv2d(64, 64, 3, padding=1)
    with winograd.convolutions(True):
        assert layer(torch.randn(0, 64, 8, 8)).shape == (0, 64, 8, 8)
        assert layer(torch.randn(64, 8, 8)).shape == (64, 8, 8)


@needs_compiler
@pytest.mark.parametrize("frozen", [0, 1])
def test_what_is_frozen_gets_no_gradient_and_the_other_its_own(frozen):
    tensors = [torch.randn(2, 16, 6, 6), torch.randn(32, 16, 3, 3)]
    tensors[1 - frozen].requires_grad_()
    winograd.Winograd.apply(*tensors).sum().backward()  # a gradient that is one number, expanded
    double = [tensor.detach().double() for tensor in tensors]
    double[1 - frozen].requires_grad_()
    F.conv2d(*double, padding=1).sum().backward()
    assert tensors[frozen].grad is None
    assert error(tensors[1 - frozen].grad, double[1 - frozen].grad) < 1e-4


@needs_compiler
def test_the_number_of_threads_changes_nothing():
    maps, kernels, found = torch.randn(3, 32, 9, 9), torch.randn(32, 32, 3, 3), []
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(winograd.Winograd.apply(maps, kernels))
    finally:
        torch.set_num_threads(threads)
    assert torch.allclose(*found, rtol=1e-5, atol=1e-5)  # the products may add up in another order


def no_compiler(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")


def a_compiler_that_fails(monkeypatch):
    monkeypatch.setenv("CC", "false with arguments")


def nothing_may_be_loaded(monkeypatch):
    def refuse(path):
        raise OSError("failed to map segment from shared object")

    monkeypatch.setattr(winograd.ctypes, "CDLL", refuse)


def another_system(monkeypatch):
    monkeypatch.setattr(winograd.sys, "platform", "darwin")
    monkeypatch.setattr(subprocess, "run", None)  # is not even tried


@pytest.mark.slow
@pytest.mark.parametrize(
    "spoil", [no_compiler, a_compiler_that_fails, nothing_may_be_loaded, another_system]
)
def test_where_it_cannot_be_compiled_convolutions_are_direct(taken, monkeypatch, spoil):
    layer, maps = torch.nn.Conv2d(64, 64, 3, padding=1), torch.randn(2, 64, 8, 8)
    with monkeypatch.context() as patched:
        spoil(patched)
        winograd.library.cache_clear()
        try:
            assert winograd.library() is None
            with winograd.convolutions(True):
                layer(maps)
        finally:
            winograd.library.cache_clear()
    assert not taken


def moved(split, compile=False, **changes):
    """How far each kernel of fastnet moves in four steps."""
    recipe = Recipe(model="fastnet", epochs=2, batch_size=8, lr=0.01, **changes)
    model = create_model("fastnet", seed=0)
    before = [kernel.detach().clone() for kernel in model.parameters() if kernel.dim() == 4]
    options = {"log": lambda run: None, "device": "cpu", "precision": "fp32", "compile": compile}
    train.fit(model, split, None, recipe, **options)
    after = [kernel.detach() for kernel in model.parameters() if kernel.dim() == 4]
    return [new - old for new, old in zip(after, before, strict=True)]


@needs_compiler
def test_a_recipe_can_ask_for_it(taken, painted_split):
    directly = moved(painted_split(16))
    assert not taken
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="winograd")
        otherwise = moved(painted_split(16), winograd=True)
    assert len(set(taken)) == 3 and len(taken) == 5 * 2 * 2  # layers, epochs, steps
    for found, wanted in zip(otherwise, directly, strict=True):
        assert error(found, wanted) < 0.01


@needs_compiler
def test_torch_compile_leaves_it_out(taken, painted_split, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    monkeypatch.setattr(machine, "check_compiler", lambda device: None)
    moved(painted_split(16), winograd=True, compile=True)
    assert not taken


def test_a_training_that_has_to_do_without_says_so(painted_split, monkeypatch):
    monkeypatch.setattr(machine, "library", lambda *kind: None)
    monkeypatch.setattr(winograd, "library", lambda *kind: None)
    with pytest.warns(UserWarning, match=r"winograd\.c cannot be compiled"):
        chosen = machine.Machine.pick("cpu", "fp32", winograd=True)
    assert not chosen.winograd  # so its history tells what it did

"""3×3 convolutions with a quarter of the multiplications: Winograd's algorithm, in fp32 on a CPU.

A tile of 4×4 output pixels sees a patch of 6×6 input pixels. For a pair of channels the usual way
multiplies 16 · 9 = 144 times; here 36 products do, between the patch and the kernel, when both are
transformed before and the result after:

    tile = Aᵀ [ (G kernel Gᵀ) · (Bᵀ patch B) ] A

where · multiplies number by number. Summed over the input channels, for all patches at once, that
is 36 matrix products. The transforms only add and multiply by small constants, so they pay where
many channels share them. Up to rounding the result is that of the usual way. Lavin and Gray give
the algorithm and its matrices (arXiv 1509.09308). On GPUs cuDNN takes it by itself; on CPUs torch
always takes the usual way (github.com/uxlfoundation/oneDNN/pull/3139).

The transforms are in winograd.c, for in torch's operations they take longer than they save. A C
compiler makes machine code of them when they are first needed.
"""

import ctypes
import functools
import itertools
import os
import shutil
import subprocess
import tempfile
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

# G ⊗ G (36, 9): from the nine weights of a kernel to what its products are taken with.
_G = torch.tensor([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
_G = torch.kron(_G, _G)


@functools.cache
def library():
    """winograd.c as a ctypes library, or None where there is no C compiler that can compile it."""
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None:
        return None
    source = Path(__file__).with_name("winograd.c")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "winograd.so")
        # For this very processor, which compilers call by two names, and in threads if they can.
        for native, threads in itertools.product(
            ("-march=native", "-mcpu=native"), (["-fopenmp"], [])
        ):
            command = [compiler, "-O3", native, *threads, "-shared", "-fPIC", "-o", target, source]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                return _declared(ctypes.CDLL(str(target)))
    return None


def _declared(loaded):
    pointer, flag, number = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
    loaded.maps_to_tiles.argtypes = pointer, pointer, flag, *[number] * 4, flag
    loaded.tiles_to_maps.argtypes = pointer, pointer, *[number] * 4, flag
    return loaded


def convolutions(wanted):
    """A context in which F.conv2d, so also nn.Conv2d, goes by Winograd's algorithm where it pays.

    wanted: False for a context that changes nothing, as there is also without a C compiler. It pays
    for 3×3 kernels with a border of one, stride 1 and at least 64 channels on both sides, in fp32
    on a CPU, on maps that fill their tiles of 4×4 at least by half. Used in notebook 07.
    """
    return _Convolutions() if wanted and library() else nullcontext()


class _Convolutions(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.conv2d:
            func = _conv2d
        return func(*args, **(kwargs or {}))


def _conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    def everywhere(value, wanted):
        return value in (wanted, (wanted, wanted), [wanted, wanted])

    fits = (
        weight.shape[2:] == (3, 3) and input.dim() == 4 and groups == 1
        and everywhere(stride, 1) and everywhere(dilation, 1)
        and (padding == "same" or everywhere(padding, 1))
        and input.device.type == weight.device.type == "cpu"
        and input.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    )  # fmt: skip
    if not fits or not pays(*weight.shape[:2], *input.shape[2:]):
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    maps = Winograd.apply(input, weight)
    return maps if bias is None else maps + bias[:, None, None]


def pays(outputs, inputs, height, width):
    """Whether the transforms cost less than they save: see `convolutions`."""
    filled = height * width / (16 * -(-height // 4) * -(-width // 4))
    return min(inputs, outputs) >= 64 and inputs % 16 == outputs % 16 == 0 and filled >= 0.5


class Winograd(torch.autograd.Function):
    """Maps (N, C, H, W) and kernels (K, C, 3, 3) to maps (N, K, H, W), fp32 on a CPU.

    As F.conv2d with padding 1. C and K are multiples of 16; the result is laid out channels last.
    """

    @staticmethod
    def forward(ctx, maps, kernels):
        patches = _to_tiles(maps)
        ctx.save_for_backward(patches, kernels)
        ctx.size = maps.shape[2:]
        return _to_maps(patches @ _transformed(kernels), len(maps), *ctx.size)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        patches, kernels = ctx.saved_tensors
        # Of the kernels: back through the products, then through G.
        products = patches.transpose(1, 2) @ _to_tiles(gradient, gradient=True)
        outputs, inputs = kernels.shape[:2]
        by_kernels = (_G.T @ products.view(36, -1)).view(3, 3, inputs, outputs).permute(3, 2, 0, 1)
        if not ctx.needs_input_grad[0]:
            return None, by_kernels
        # Of the maps: the same convolution, with the kernels turned around.
        turned = kernels.flip(2, 3).transpose(0, 1)
        products = _to_tiles(gradient) @ _transformed(turned)
        return _to_maps(products, len(gradient), *ctx.size), by_kernels


def _transformed(kernels):
    """G kernel Gᵀ of kernels (K, C, 3, 3), as matrices (36, C, K)."""
    outputs, inputs = kernels.shape[:2]
    return (_G @ kernels.permute(2, 3, 1, 0).reshape(9, -1)).view(36, inputs, outputs)


def _to_tiles(maps, gradient=False):
    """Bᵀ patch B of the patches of maps (N, C, H, W), or A tile Aᵀ of their tiles: (36, …, C)."""
    maps = maps.contiguous(memory_format=torch.channels_last)
    images, channels, height, width = maps.shape
    tiles = torch.empty(36, images * -(-height // 4) * -(-width // 4), channels)
    library().maps_to_tiles(
        maps.data_ptr(), tiles.data_ptr(), gradient, images, height, width, channels,
        torch.get_num_threads(),
    )  # fmt: skip
    return tiles


def _to_maps(tiles, images, height, width):
    """Aᵀ tile A of tiles (36, tiles, C), put together: maps (N, C, H, W)."""
    channels = tiles.shape[2]
    maps = torch.empty(images, channels, height, width, memory_format=torch.channels_last)
    library().tiles_to_maps(
        tiles.data_ptr(), maps.data_ptr(), images, height, width, channels,
        torch.get_num_threads(),
    )  # fmt: skip
    return maps

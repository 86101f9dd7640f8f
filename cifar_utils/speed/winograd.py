"""3×3 convolutions with a quarter of the multiplications: Winograd's algorithm, on a CPU.

A tile of 4×4 output pixels sees a patch of 6×6 input pixels. For a pair of channels a direct
convolution multiplies 16 · 9 = 144 times; here 36 products do, between the patch and the kernel,
when both are transformed before and the result after:

    tile = Aᵀ [ (G kernel Gᵀ) ⊙ (Bᵀ patch B) ] A

where ⊙ multiplies number by number. Summed over the input channels, for all patches at once, that
is 36 matrix products. The transforms only add and multiply by small constants, so they pay if many
channels share them. Up to rounding the result is that of a direct convolution. Lavin and Gray
give the algorithm and its matrices (arXiv 1509.09308). On GPUs cuDNN may choose it; on CPUs torch
asks its library, oneDNN, for direct ones (github.com/uxlfoundation/oneDNN/pull/3139).

Behind it: a tile is the product of two polynomials, which is computed from their values at the
points 0, ±a, ±b and ∞. In exact numbers any points do. With rounding they do not: the usual ones,
±1 and ±2, multiply a rounding error by about 11. In fp32 that is nothing. For bf16, whose numbers
have 8 bits, we take ±5/8 and ±3/2, which multiply it by about 5 (Barabasz and others search for
such points, arXiv 1803.10986). Rounded to bf16 are only the maps and the tiles, before and after
the products, and the transformed kernels; the transforms and all sums are in fp32.

The transforms are in winograd.c, where each is one pass over memory; of torch's operations it would
take dozens. A C compiler makes machine code of them when they are first needed: on Linux, with
OpenMP.
"""

import ctypes
import functools
import os
import shlex
import subprocess
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from cifar_utils.errors import CifarError


def _of_points(a: float, b: float) -> torch.Tensor:
    """G ⊗ G (36, 9): from the nine weights of a kernel to what its products are taken with."""
    of_a, of_b = 2 * a**2 * (a**2 - b**2), 2 * b**2 * (b**2 - a**2)
    points = (0, a**2 * b**2), (a, of_a), (-a, of_a), (b, of_b), (-b, of_b)
    rows = [[1 / scale, x / scale, x**2 / scale] for x, scale in points]
    g = torch.tensor([*rows, [0, 0, 1]], dtype=torch.float32, device="cpu")
    return torch.kron(g, g)


_G = {torch.float32: _of_points(1, 2), torch.bfloat16: _of_points(5 / 8, 3 / 2)}  # as winograd.c


@functools.cache
def library(kind: torch.dtype = torch.float32) -> ctypes.CDLL | None:
    """winograd.c as a ctypes library, or None if it cannot be compiled or opened.

    kind: of the numbers in memory, float32 or bfloat16.
    """
    if sys.platform != "linux":
        return None
    compiler = shlex.split(os.environ.get("CC") or "cc")
    source = str(Path(__file__).with_name("winograd.c"))
    options = ["-O3", "-fopenmp", "-shared", "-fPIC", source, "-o"]
    if kind == torch.bfloat16:
        options.insert(0, "-DBF16")
    for native in (["-march=native"], ["-mcpu=native"], []):  # the first for x86, then for ARM
        # No compiler, or a folder for temporary files from which nothing may be run.
        with suppress(OSError), tempfile.TemporaryDirectory() as folder:
            target = Path(folder, "winograd.so")
            command = [*compiler, *native, *options, str(target)]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                loaded = ctypes.CDLL(str(target))
                pointers, numbers = [ctypes.c_void_p] * 2, [ctypes.c_longlong] * 6
                loaded.maps_to_tiles.argtypes = [*pointers, *numbers]
                loaded.tiles_to_maps.argtypes = [*pointers, *numbers[1:]]
                return loaded
    return None


def convolutions(wanted: bool) -> AbstractContextManager:
    """A context in which F.conv2d, so also nn.Conv2d, goes by Winograd's algorithm when it pays.

    It pays for 3×3 kernels with padding 1 and stride 1, of 64 channels or more on both sides
    (multiples of 16), on maps that fill at least half of their tiles of 4×4, on a CPU in fp32 or,
    under autocast, in bf16. wanted: False for a context that changes nothing, as it is also if
    `library` gives None. Used in notebook 10.
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

    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
    fits = (
        weight.shape[2:] == (3, 3) and input.dim() == 4
        and input.shape[1] == weight.shape[1]  # not so for groups
        and everywhere(stride, 1) and everywhere(dilation, 1)
        and (padding == "same" or everywhere(padding, 1))
        and input.device.type == weight.device.type == "cpu"
        and input.dtype in (torch.float32, kind) and weight.dtype == torch.float32
        and kind in _G and library(kind)
    )  # fmt: skip
    if not fits or not pays(*weight.shape[:2], *input.shape[2:]):
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    maps = Winograd.apply(input.to(kind), weight)
    return maps if bias is None else maps + bias[:, None, None].to(kind)


def pays(outputs: int, inputs: int, height: int, width: int) -> bool:
    """Whether the transforms cost less than they save: see `convolutions`."""
    filled = height * width / (16 * -(-height // 4) * -(-width // 4))
    return min(inputs, outputs) >= 64 and inputs % 16 == outputs % 16 == 0 and filled >= 0.5


class Winograd(torch.autograd.Function):
    """Maps (N, C, H, W) and kernels (K, C, 3, 3) to maps (N, K, H, W), as F.conv2d with padding 1.

    On a CPU; kernels in fp32, maps in fp32 or bf16, as then are the products; C and K multiples of
    16. An error for others. The result is laid out channels last. For the way back the transformed
    patches are kept, in 2.25 times the memory of the input maps, or more if these do not fill their
    tiles.
    """

    @staticmethod
    @torch.autocast("cpu", enabled=False)  # it would round G and the kernels
    def forward(ctx, maps, kernels):
        patches = _to_tiles(maps)
        ctx.save_for_backward(patches, kernels)
        ctx.size = maps.shape[2:]
        return _to_maps(patches @ _transformed(kernels, maps.dtype), len(maps), *ctx.size)

    @staticmethod
    @once_differentiable
    @torch.autocast("cpu", enabled=False)
    def backward(ctx, gradient):
        patches, kernels = ctx.saved_tensors
        outputs, inputs = kernels.shape[:2]
        by_maps = by_kernels = None
        if ctx.needs_input_grad[0]:  # the same convolution, with the kernels turned around
            turned = kernels.flip(2, 3).transpose(0, 1)
            products = _to_tiles(gradient) @ _transformed(turned, gradient.dtype)
            by_maps = _to_maps(products, len(gradient), *ctx.size)
        if ctx.needs_input_grad[1]:  # back through the products, then through G
            products = patches.transpose(1, 2) @ _to_tiles(gradient, gradient=True)
            by_kernels = _G[gradient.dtype].T @ products.view(36, -1).float()
            by_kernels = by_kernels.view(3, 3, inputs, outputs).permute(3, 2, 0, 1)
        return by_maps, by_kernels


def _transformed(kernels, kind):
    """G kernel Gᵀ of kernels (K, C, 3, 3), as matrices (36, C, K) of that kind of numbers."""
    outputs, inputs = kernels.shape[:2]
    products = _G[kind] @ kernels.permute(2, 3, 1, 0).reshape(9, -1)
    return products.view(36, inputs, outputs).to(kind)


def _to_tiles(maps, gradient=False):
    """Bᵀ patch B of the patches of maps (N, C, H, W), or A tile Aᵀ of their tiles: (36, …, C)."""
    _check(maps, maps.shape[1])
    maps = maps.contiguous(memory_format=torch.channels_last)
    images, channels, height, width = maps.shape
    tiles = maps.new_empty(36, images * -(-height // 4) * -(-width // 4), channels)
    library(maps.dtype).maps_to_tiles(
        maps.data_ptr(), tiles.data_ptr(), gradient, images, height, width, channels,
        torch.get_num_threads(),
    )  # fmt: skip
    return tiles


def _to_maps(tiles, images, height, width):
    """Aᵀ tile A of tiles (36, …, C), put together: maps (N, C, H, W)."""
    channels = tiles.shape[2]
    _check(tiles, channels)
    maps = tiles.new_empty(images, height, width, channels).permute(0, 3, 1, 2)  # channels last
    library(tiles.dtype).tiles_to_maps(
        tiles.data_ptr(), maps.data_ptr(), images, height, width, channels,
        torch.get_num_threads(),
    )  # fmt: skip
    return maps


def _check(tensor, channels):
    """CifarError for what winograd.c cannot read: it sees addresses and numbers alone."""
    kind, where = tensor.dtype, tensor.device.type
    if kind not in _G or where != "cpu" or channels % 16:
        raise CifarError(
            "Winograd's convolution is for float32 or bfloat16 on a CPU, of 16, 32, … channels, "
            f"not for {channels} of {kind} on {where}"
        )

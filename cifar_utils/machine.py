"""Where to compute, in which precision, and from which seed."""

import ctypes
import os
import shutil
import sys
import time
import warnings
from contextlib import nullcontext
from importlib.util import find_spec

import numpy as np
import torch
from torch import nn

from cifar_utils.errors import CifarError, choose
from cifar_utils.speed.distributed import world_size

DEVICES = ("auto", "cuda", "mps", "cpu")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])  # (2, 14)


def pick_device(name="auto"):
    """The torch.device of that name (or the device given); "auto": CUDA, else MPS, else the CPU.

    Raises CifarError for a name that is not in DEVICES (an index such as "cuda:1" is allowed), for
    a device that this machine does not have, for a GPU that this torch cannot compute on ("auto"
    warns, and takes the CPU) and for one that several processes cannot share. Used in notebook 04.
    """
    name = asked = str(name)
    kind = name.partition(":")[0]
    choose(kind, DEVICES, "device")
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if kind == "auto":
        name = kind = next(found for found in has if has[found])
    if not has[kind]:
        there = ", ".join(found for found in has if has[found])
        raise CifarError(f"this machine has no {kind} device; it has: {there}")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise CifarError(f"{name!r} is no device; write {kind} or {kind}:0") from None
    if kind == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise CifarError(f"no {name}; this machine has {torch.cuda.device_count()} CUDA device(s)")
    if kind == "cuda" and not _has_kernels(device):
        too_old = (
            f"torch {torch.__version__} cannot compute on the {describe(device)}; on Kaggle choose "
            "GPU T4 x2, elsewhere another GPU or a torch built for this one"
        )
        if asked != "auto":
            raise CifarError(f"{too_old}; or choose cpu")
        warnings.warn(f"{too_old}. Going on with the CPU.", stacklevel=2)
        device = torch.device("cpu")
    if world_size() > 1 and (kind == "mps" or device.index is not None):
        raise CifarError(
            f"several processes cannot share {name}; choose cpu, or cuda, where each takes its own"
        )
    return device


def _has_kernels(device):
    """Whether this torch was built for the GPU: the newest are no longer built for the oldest, such
    as the P100, where the driver is fine and the first operation fails."""
    try:
        torch.ones(1, device=device)  # zeros would take no kernel, only a memset
    except RuntimeError as error:
        if "no kernel image" not in str(error):
            raise
        return False
    return True


def describe(device):
    """A device in words: the GPU's name, or the CPU with its number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU (MPS)"
    count = torch.get_num_threads()
    return f"CPU, {count} thread{'s' if count > 1 else ''}"


def layout(device):
    """How convolutions on `device` like their inputs in memory: channels last, but for MPS.

    There the gradient of batch norm in that layout was wrong in several versions of torch:
    github.com/pytorch/pytorch/issues/175189.
    """
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def check_compiler(device):
    """CifarError where torch.compile lacks what it needs: a C++ compiler on a CPU, on CUDA Triton,
    a C compiler and a GPU of 2017 or later, on MPS torch 2.8."""
    if device.type == "cpu":
        compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
        if not shutil.which(compiler):
            raise CifarError(
                f"torch.compile needs the C++ compiler {compiler}; install it, or set CXX"
            )
    if device.type == "cuda":
        if not find_spec("triton"):
            raise CifarError("torch.compile needs the package triton on a GPU; install it")
        if not os.environ.get("CC") and not shutil.which("gcc") and not shutil.which("clang"):
            raise CifarError("torch.compile needs a C compiler on a GPU; install gcc, or set CC")
        if not torch.version.hip and torch.cuda.get_device_capability(device) < (7, 0):
            raise CifarError(
                f"torch.compile needs a newer GPU than the {describe(device)}; leave it out"
            )
    if device.type == "mps" and TORCH < (2, 8):
        raise CifarError("torch.compile needs torch 2.8 or newer on Apple's GPUs; leave it out")


def wait(device):
    """Wait until a GPU has done all that it was given: it works behind the clock's back."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    if device.type == "mps":
        torch.mps.synchronize()


def keep_memory(device):
    """Let this process keep the memory that it has freed, for the next step needs as much again.

    glibc returns large buffers to Linux at once, which then hands out fresh pages, each with an
    interruption and 4 KiB of zeros. Never mapping buffers one by one (M_MMAP_MAX), never trimming
    (M_TRIM_THRESHOLD) and asking for more at a time (M_TOP_PAD) avoids that: see `man mallopt`.
    It changes the whole process, for good. Does nothing where `device` is a GPU, which keeps its
    own, nor on systems and C libraries without mallopt.
    """
    if device.type != "cpu" or sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**28)):
            mallopt(option, value)


def pick_precision(name, device):
    """ "fp32", "bf16" or "fp16" for training on `device`; "auto" takes the fastest that is safe.

    CUDA: bf16 where the GPU has it, else fp16 (with a gradient scaler). MPS: fp32. CPU: bf16 where
    a 0.3 s measurement shows it to be faster: with AVX512-BF16 or AMX it is, without them it can be
    hundreds of times slower. Raises CifarError for a name not in PRECISIONS, and for fp16 on
    another device than CUDA. Used in notebook 04.
    """
    choose(name, PRECISIONS, "precision")
    if name == "fp16" and device.type != "cuda":
        raise CifarError("fp16 needs a CUDA GPU; here choose auto, fp32 or bf16")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if _has_bf16(device) else "fp16"
    return "bf16" if device.type == "cpu" and bf16_speedup() > 1.1 else "fp32"


def keep_precision(name, device):
    """`name`, in which a run was trained so far, where `device` has it; else "auto".

    On a CPU a second measurement might come out a little differently, and the run with it: so bf16
    is given up only where it is plainly emulated.
    """
    if device.type == "cuda":
        has = name != "bf16" or _has_bf16(device)
    else:
        has = name == "fp32" or ((device.type, name) == ("cpu", "bf16") and bf16_speedup() > 0.5)
    return name if has else "auto"


def _has_bf16(device):
    """Whether a GPU computes in bf16 by itself: NVIDIA's do from Ampere on, AMD's all."""
    return bool(torch.version.hip) or torch.cuda.get_device_capability(device) >= (8, 0)


def bf16_speedup(*, seconds=0.3):
    """How many times faster than fp32 a small bf16 training step runs on this CPU (1 = as fast).

    Measured on one thread: a busy machine delays several threads that wait for each other, and not
    equally in both precisions.
    """
    # A forked generator: measuring must not move the reader's random numbers.
    with torch.random.fork_rng(devices=[]):
        layer = nn.Conv2d(64, 64, 3, padding=1).to(memory_format=torch.channels_last)
    images = torch.zeros(16, 64, 16, 16).to(memory_format=torch.channels_last)

    def step(precision):
        start = time.perf_counter()
        with autocast(torch.device("cpu"), precision):
            layer(images).float().sum().backward()
        return time.perf_counter() - start

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        deadline = time.perf_counter() + seconds
        times = [(step("fp32"), step("bf16"))]  # the first call of each also compiles its kernels
        while time.perf_counter() < deadline:  # emulated bf16 may use the time up in its first step
            times.append((step("fp32"), step("bf16")))
    finally:
        torch.set_num_threads(threads)
    fp32, bf16 = np.median(times[1:] or times, axis=0)
    return float(fp32 / bf16)


def autocast(device, precision):
    """The context of a forward pass: torch.autocast for bf16 and fp16, nothing for fp32."""
    if precision == "fp32":
        return nullcontext()
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(device.type, dtype)


def make_scaler(device, precision):
    """The gradient scaler of a training: for fp16 a real one, else one that does nothing."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def seed_from(*key):
    """One well-mixed 63-bit seed from several non-negative integers, such as (seed, epoch, batch).

    Seeds that depend on nothing but the place in the training make a resumed run, and a run with
    more workers, draw the same random numbers as any other. Zeros at a key's end change nothing:
    the order of an epoch, (seed, epoch), shares its seed with its first batch, (seed, epoch, 0).
    """
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(*key):
    """A torch.Generator on the CPU, seeded by `seed_from(*key)`."""
    return torch.Generator().manual_seed(seed_from(*key))

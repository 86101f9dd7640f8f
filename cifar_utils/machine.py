"""Where and how a network is computed: device, precision, processes, and the seeds of chance.

A Machine hides from the training loop what it need not know. The rest of this file chooses one.
"""

import functools
import time
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cifar_utils.data import normalize
from cifar_utils.errors import CifarError, choose
from cifar_utils.speed import distributed
from cifar_utils.speed.compile import check_compiler
from cifar_utils.speed.memory import keep_memory
from cifar_utils.speed.winograd import convolutions, library

Precision = Literal["fp32", "bf16", "fp16"]
Network = TypeVar("Network", bound=nn.Module)

DEVICES = ("auto", "cuda", "mps", "cpu")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Machine:
    """What a step runs on. If one process trains in fp32, each method is one plain line of torch.

    device, precision: as in `pick_device` and `pick_precision`, but chosen. winograd: compute wide
    3×3 convolutions by Winograd's algorithm, which this machine does on a CPU only. choice: why it
    was chosen, in words, if `fastest_machine` has measured that.
    """

    choice = ""

    def __init__(
        self, device: torch.device, precision: Precision = "fp32", *, winograd: bool = False
    ) -> None:
        self.device, self.precision = device, precision
        self.layout = layout(device)
        self.winograd = winograd and device.type == "cpu"
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    @classmethod
    def of(cls, model: nn.Module, precision: Precision = "fp32", *, winograd: bool = False) -> Self:
        """The machine that `model` is on already."""
        return cls(device_of(model), precision, winograd=winograd)

    @classmethod
    def pick(
        cls,
        device: str | torch.device = "auto",
        precision: str = "auto",
        *,
        winograd: bool = False,
        compile: bool = False,
        before: tuple[str, bool] | None = None,
    ) -> Self:
        """The machine that a user asks for in words, ready to train on.

        before: how a resumed run was trained so far, as its history's `way` tells. "auto"
        keeps its precision if it can, and in the same precision direct convolutions stay.
        compile: the network is to be compiled, so its convolutions will be direct ones. Warns if
        Winograd's algorithm is wanted but winograd.c cannot be compiled. Raises CifarError as
        `pick_device`, `pick_precision` and `check_compiler` do.
        """
        chosen = pick_device(device)
        keep_memory(chosen)
        if compile:
            check_compiler(chosen)
            if distributed.world_size() > 1:
                raise CifarError(
                    "torch.compile works with one process only; drop --compile or torchrun"
                )
        if before and precision == "auto":
            precision = keep_precision(before[0], chosen)
        if before and precision == before[0]:
            winograd = winograd and before[1]
        agreed = distributed.broadcast(pick_precision(precision, chosen))
        machine = cls(chosen, agreed, winograd=winograd and not compile)
        if machine.winograd and not library(_DTYPES[machine.precision]):
            warnings.warn(
                "winograd.c cannot be compiled here, which takes Linux and a C compiler: this "
                "training has direct convolutions and needs longer",
                stacklevel=3,
            )
            machine.winograd = False
        return machine

    @property
    def arithmetic(self) -> str:
        """The precision, and whether convolutions go by Winograd's algorithm, in words."""
        return f"{self.precision} with Winograd" if self.winograd else self.precision

    def __str__(self) -> str:
        several = distributed.world_size()
        return f"{several} × {describe(self.device)}" if several > 1 else describe(self.device)

    def place(self, model: Network) -> Network:
        """model.to(device), in the memory layout that is fastest there."""
        return model.to(self.device, memory_format=self.layout)  # type: ignore[call-overload]

    def share(self, model: nn.Module, *, some_rest: bool = False) -> nn.Module:
        """The network to call in training: `model`, or one that adds gradients up over processes.

        some_rest: some of its weights are frozen before the training ends.
        """
        return distributed.share(model, some_rest=some_rest)

    def take(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, float]:
        """normalize(images), labels. With several processes, each takes its share of the rows.

        Also returns the weight of this share's mean loss: 1 for a whole batch.
        """
        whole = len(labels)
        images, labels = (
            distributed.share_of(rows).to(self.device, non_blocking=self.device.type == "cuda")
            for rows in (images, labels)
        )
        weight = len(labels) / whole * distributed.world_size()  # torch averages over processes
        return normalize(images), labels, weight

    def logits(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """model(inputs), in the machine's precision; the logits themselves are float32."""
        with autocast(self.device, self.precision), convolutions(self.winograd):
            return model(inputs.contiguous(memory_format=self.layout)).float()

    def backward(self, loss: Tensor) -> None:
        """loss.backward(). In fp16 the loss is scaled up, so that small gradients count."""
        self.scaler.scale(loss).backward()

    def clip(self, model: nn.Module, optimizer: Optimizer, norm: float) -> None:
        """torch.nn.utils.clip_grad_norm_(model.parameters(), norm), if `norm` is not 0."""
        if norm:
            self.scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), norm)

    def step(self, optimizer: Optimizer) -> None:
        """optimizer.step(). In fp16 a step whose gradients overflow is left out."""
        self.scaler.step(optimizer)
        self.scaler.update()


# --- device, memory layout and precision ---------------------------------------------------


def pick_device(name: str | torch.device = "auto") -> torch.device:
    """The torch.device of that name, or the device given; "auto": CUDA, else MPS, else the CPU.

    An index such as "cuda:1" is allowed. Raises CifarError for an unknown name, for a device that
    this machine does not have, for a GPU that this torch cannot compute on ("auto" warns instead,
    and takes the CPU) and for one that several processes cannot share. Used in notebook 05.
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
        raise CifarError(f"{name!r} is not a device; write {kind} or {kind}:0") from None
    if kind == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise CifarError(f"no {name}; this machine has {torch.cuda.device_count()} CUDA device(s)")
    if kind == "cuda" and not _has_kernels(device):
        too_old = (
            f"torch {torch.__version__} cannot compute on the {describe(device)}; on Kaggle choose "
            "GPU T4 x2, elsewhere another GPU or a torch built for this one"
        )
        if asked != "auto":
            raise CifarError(f"{too_old}; or choose cpu")
        warnings.warn(f"{too_old}. Using the CPU instead.", stacklevel=2)
        device = torch.device("cpu")
    if distributed.world_size() > 1 and (kind == "mps" or device.index is not None):
        raise CifarError(
            f"several processes cannot share {name}; choose cpu, or cuda, where each takes its own"
        )
    return device


def _has_kernels(device: torch.device) -> bool:
    """Whether this torch was built for the GPU.

    The newest releases are no longer built for the oldest GPUs, such as the P100: the driver is
    fine, but the first operation fails.
    """
    try:
        torch.ones(1, device=device)  # zeros would take no kernel, only a memset
    except RuntimeError as error:
        if "no kernel image" not in str(error):
            raise
        return False
    return True


def device_of(model: nn.Module) -> torch.device:
    """Where the network's weights are; the CPU if it has none."""
    return next((tensor.device for tensor in model.parameters()), torch.device("cpu"))


def describe(device: torch.device) -> str:
    """A device in words: the GPU's name, or the CPU with its number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU (MPS)"
    count = torch.get_num_threads()
    return f"CPU, {count} thread{'s' if count > 1 else ''}"


def layout(device: torch.device) -> torch.memory_format:
    """How convolutions on `device` like their inputs in memory: channels last, except on MPS.

    With that layout MPS computed a wrong gradient of batch norm in several versions of torch:
    github.com/pytorch/pytorch/issues/175189.
    """
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def wait(device: torch.device) -> None:
    """Wait until a GPU has done all that it was given, or a clock would stop too early."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    if device.type == "mps":
        torch.mps.synchronize()


def pick_precision(name: str, device: torch.device) -> Precision:
    """ "fp32", "bf16" or "fp16" for training on `device`; "auto" takes the fastest that is safe.

    CUDA: bf16 if the GPU has it, else fp16 with a gradient scaler. MPS: fp32. CPU: bf16 if a
    measurement of 0.3 s shows it to be faster. With AVX512-BF16 or AMX it is; without them it can
    be hundreds of times slower. Raises CifarError for an unknown name, and for fp16 without CUDA.
    Used in notebook 05.
    """
    choose(name, PRECISIONS, "precision")
    if name == "fp16" and device.type != "cuda":
        raise CifarError("fp16 needs a CUDA GPU; here choose auto, fp32 or bf16")
    if name != "auto":
        return name  # type: ignore[return-value]
    if device.type == "cuda":
        return "bf16" if _has_bf16(device) else "fp16"
    return "bf16" if device.type == "cpu" and bf16_speedup() > 1.1 else "fp32"


def keep_precision(name: str, device: torch.device) -> str:
    """`name`, the precision in which a run was trained so far, if `device` has it; else "auto".

    On a CPU a second measurement might come out a little differently, and the run with it. So bf16
    is given up only if it is plainly emulated.
    """
    if device.type == "cuda":
        has = name != "bf16" or _has_bf16(device)
    else:
        has = name == "fp32" or ((device.type, name) == ("cpu", "bf16") and bf16_speedup() > 0.5)
    return name if has else "auto"


def _has_bf16(device: torch.device) -> bool:
    """Whether a GPU computes in bf16 by itself: NVIDIA's do from Ampere on, AMD's all."""
    return bool(torch.version.hip) or torch.cuda.get_device_capability(device) >= (8, 0)


@functools.cache  # so that all trainings of a process agree, and none measures again
def bf16_speedup(*, seconds: float = 0.3) -> float:
    """How many times faster than fp32 a small bf16 training step runs on this CPU (1 = as fast).

    Measured on one thread: a busy machine delays several threads that wait for each other, and not
    equally in both precisions.
    """
    # A forked generator, because measuring must not move the reader's random numbers.
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


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """The context of a forward pass: torch.autocast for bf16 and fp16, nothing for fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, _DTYPES[precision])


# --- chance ---------------------------------------------------------------------------------------


def seed_from(*key: int) -> int:
    """One well-mixed 63-bit seed from several non-negative integers, such as (seed, epoch, batch).

    Seeds that depend on nothing but the place in the training make a resumed run, and a run with
    more workers, draw the same random numbers as any other. Zeros at a key's end change nothing:
    the order of an epoch, (seed, epoch), shares its seed with its first batch, (seed, epoch, 0).
    """
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(*key: int) -> torch.Generator:
    """A torch.Generator on the CPU, seeded by `seed_from(*key)`."""
    return torch.Generator().manual_seed(seed_from(*key))

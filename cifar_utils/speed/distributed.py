"""Several processes, on one machine or on many, that train one network together.

torchrun starts them, as in `torchrun --nproc-per-node=2 -m cifar_utils train …`. Each holds the
whole network and takes its part of every batch. torch's DistributedDataParallel averages their
gradients while the backward pass still runs, so the result is that of one process with the same
batches, up to rounding. They talk through torch.distributed: gloo on CPUs, NCCL on GPUs. In a
process that is alone every function here leaves things as they are.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from cifar_utils.errors import CifarError

Value = TypeVar("Value")


@contextmanager
def together() -> Iterator[None]:
    """Inside it, this process works with the others that torchrun has started, if any.

    If there are GPUs, each process takes the one of its own number on its machine. Raises
    CifarError if there are too few, and if another process has ended: at once, or after half an
    hour if its whole machine has gone.
    """
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield
        return
    backend = "gloo"
    if torch.cuda.is_available():
        backend, number = "cpu:gloo,cuda:nccl", int(os.environ["LOCAL_RANK"])
        if number >= torch.cuda.device_count():
            raise CifarError(
                f"{torch.cuda.device_count()} GPUs are too few for --nproc-per-node of "
                f"{os.environ['LOCAL_WORLD_SIZE']}; CUDA_VISIBLE_DEVICES= hides them, for CPUs"
            )
        torch.cuda.set_device(number)
    try:
        _connect(backend)
        # At the end, the others wait for as long as the first one tests and draws.
        ends = dist.new_group(backend="gloo", timeout=timedelta(hours=12))
        yield
        # Only if all went well: a process that fails has to end at once, so that torchrun ends the
        # others, which wait for it. They leave together: on a busy machine one that was done early
        # was seen to abort at its end, and torchrun then ends the first one, too, before it has
        # written.
        dist.barrier(ends)  # type: ignore[arg-type]
        dist.destroy_process_group()
    except RuntimeError as error:
        if not _is_about_another(error):
            raise
        raise CifarError(
            "another process of this training has ended, or no longer answers; the same command "
            "with --resume goes on from the last epoch, and torchrun --max-restarts=1 runs it again"
        ) from error


def _connect(backend: str) -> None:
    """dist.init_process_group, also for processes that torchrun has started again.

    torchrun keeps the addresses at which the first ones listened, and torch 2.14 takes them for
    those of the new ones. So each attempt gets names of its own there. On several machines it stays
    as it is, because they count their attempts apart.
    """
    from torch.distributed.rendezvous import rendezvous

    if os.environ["LOCAL_WORLD_SIZE"] != os.environ["WORLD_SIZE"]:
        dist.init_process_group(backend)
        return
    store, number, count = next(rendezvous("env://"))
    store = dist.PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    dist.init_process_group(backend, store=store, rank=number, world_size=count)


def _is_about_another(error: RuntimeError) -> bool:
    """NCCL's errors are of torch's own kinds; gloo's are to be told by what they say."""
    lost = r"gloo.*(connection (closed|reset|refused)|broken pipe|timed ?out|timeout)"
    return type(error).__name__.startswith("Dist") or bool(re.search(lost, str(error), re.I | re.S))


def rank() -> int:
    """This process's number. Number 0 prints and writes."""
    return dist.get_rank() if _connected() else 0


def world_size() -> int:
    """How many processes work together."""
    return dist.get_world_size() if _connected() else 1


def _connected() -> bool:
    return dist.is_available() and dist.is_initialized()


def share_of(batch: Tensor) -> Tensor:
    """This process's rows of a tensor that all processes hold, in their order.

    The parts differ by one row at most. A part of a short batch may be empty.
    """
    return batch if world_size() == 1 else batch.tensor_split(world_size())[rank()]


def broadcast(value: Value) -> Value:
    """The first process's `value`, any object that can be pickled, in all processes."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values)
    return values[0]


@torch.no_grad()
def all_reduce(*tensors: Tensor) -> None:
    """Replace each tensor by its sum over all processes, in place.

    Every process must give tensors of the same shapes in the same order. Those of one dtype travel
    as one message, because many small ones would each cost a round trip.
    """
    if world_size() == 1:
        return
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):  # a set has no fixed order
        same = [tensor for tensor in tensors if tensor.dtype == dtype]
        message = torch.cat([tensor.flatten() for tensor in same])
        dist.all_reduce(message)
        parts = message.split([tensor.numel() for tensor in same])
        for tensor, part in zip(same, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))


def share(model: nn.Module, *, some_rest: bool = False) -> nn.Module:
    """The network to call in training, so that all processes train `model` as one.

    All start from the first one's weights. Batch norm sees the whole batch, and each gradient is
    the mean over all processes. some_rest: some weights are frozen before the training ends. Raises
    CifarError for batch norm that processes cannot share.
    """
    if world_size() == 1:
        return model
    if next(model.parameters()).device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # swaps the layers inside `model`
    else:
        norms = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
        for layer in norms:  # all of them, before one is changed
            if type(layer) not in (nn.BatchNorm2d, SharedBatchNorm2d) or not _can_be_shared(layer):
                raise CifarError(
                    "on CPUs, processes share only nn.BatchNorm2d with weights and running means; "
                    f"this network has {layer}, so train it in one process"
                )
        for layer in norms:
            layer.__class__ = SharedBatchNorm2d  # the same weights, another forward
    return DistributedDataParallel(model, find_unused_parameters=some_rest)


# --- batch norm on CPUs ---------------------------------------------------------------------------


def _can_be_shared(layer: _BatchNorm) -> bool:
    return layer.affine and layer.track_running_stats and layer.momentum is not None


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with mean and variance over the images of all processes.

    nn.SyncBatchNorm does the same, but on GPUs only.
    """

    def forward(self, maps: Tensor) -> Tensor:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        if not self.training or world_size() == 1:
            return super().forward(maps)
        values = maps.to(self.running_mean.dtype)  # autocast's 16 bits are too few for sums
        count = values.new_full((1,), values.numel() / values.shape[1])  # 0 in an empty part
        sums = _Sum.apply(torch.cat([values.sum((0, 2, 3)), count]))  # in one message
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = values - _across(mean)
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            # torch refuses a single value; to look would be to wait for the GPU in every layer.
            unbiased = variance * count / (count - 1).clamp(min=1)
            self.running_var.lerp_(unbiased, self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * _across(scale) + _across(self.bias)).to(maps.dtype)


def _across(channels):
    return channels.view(1, -1, 1, 1)


class _Sum(torch.autograd.Function):
    """The sum over all processes. All of them go on with it, so the gradients add up, too."""

    @staticmethod
    def forward(ctx, part):
        total = part.clone()
        all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient):
        total = gradient.clone()
        all_reduce(total)
        return total

"""Whether a GPU computes a training step as the CPU does, on every path that training can take.

One step of a network, forward and backward, from the same weights on the same images: once on the
CPU in fp32, once on each path. How far two right answers may differ depends on the network, because
rounding grows from layer to layer. So the tolerance is measured, too: `sensitivity`.
"""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

from cifar_utils.data import Split
from cifar_utils.errors import CifarError
from cifar_utils.machine import Machine, Precision, generator, keep_precision, wait
from cifar_utils.models import create_model
from cifar_utils.speed.compile import check_compiler, compiled

Step = tuple[Tensor, dict[str, Tensor]]  # logits (N, 10), and each weight's gradient, on the CPU

MARGIN = 4  # a path may be off by this many times what rounding alone causes
UNLIKE = 0.8  # a relative error from which on two gradients are hardly alike
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Way:
    """One path: precision, memory layout, and how the step is run.

    rounding: how much a number may change, relatively, when it is rounded. For fp32 it is 500 times
    as much, because kernels add up in different orders, some of them carelessly.
    """

    precision: Precision = "fp32"
    rounding: float = 3e-5
    layout: torch.memory_format = torch.channels_last
    tf32: bool = False  # convolutions round their factors to TF32, torch's default since Ampere
    how: str = "eager"  # or "compile", or "graph": a whole step as one CUDA graph


WAYS = {
    "fp32": Way(layout=torch.contiguous_format),
    "channels-last": Way(),
    "tf32": Way(rounding=5e-4, tf32=True),
    "bf16": Way("bf16", rounding=2e-3),
    "fp16": Way("fp16", rounding=5e-4),
    "compile": Way(how="compile"),
    "cuda-graph": Way(how="graph"),
}


def lacking(name: str, device: torch.device) -> str:
    """Why the path of that name does not exist on the device; an empty string if it does."""
    ampere = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    if name in ("fp16", "cuda-graph") and device.type != "cuda":
        return "needs a CUDA GPU"
    if name == "tf32" and (not ampere or torch.version.hip):
        return "needs an NVIDIA GPU of 2020 or later"
    if name == "bf16" and device.type != "cpu" and keep_precision("bf16", device) != "bf16":
        return "this GPU has no bf16 of its own"
    if name != "fp32" and device.type == "mps":
        return "MPS is used in fp32, without channels last"
    if name == "compile":
        try:
            check_compiler(device)
        except CifarError as error:
            return str(error)
    return ""


def compare(name: str, path: str, images: Split, device: torch.device) -> dict[str, Any]:
    """One step of the network `name` on a path of WAYS, against the CPU in fp32.

    Returns the relative errors of "logits" and "gradients" with their tolerances, and "passed".
    That of the gradients is the worst of all weights, and "weight" says whose it is; gradients
    below a hundredth of all together count as if they were as large as that. passed is None if the
    gradients are not alike, but rounding alone changes them as much: nothing can be told then.
    """
    way = WAYS[path]
    found = errors(one_step(name, images, way, device), _on_cpu(name, images))
    rounded = sensitivity(name, images, way.rounding)
    tolerances = {key: MARGIN * rounded[key] for key in ("logits", "gradients")}
    passed: bool | None = all(found[key] <= limit for key, limit in tolerances.items())
    if passed and found["gradients"] > UNLIKE:
        passed = None
    return found | {"tolerances": tolerances, "passed": passed}


@functools.lru_cache(maxsize=4)  # the paths of one network come one after the other
def sensitivity(name: str, images: Split, rounding: float) -> dict[str, Any]:
    """The errors on the CPU in fp32 if every weight is off by about `rounding` of its size."""
    found = one_step(name, images, Way(layout=torch.contiguous_format), CPU, off_by=rounding)
    return errors(found, _on_cpu(name, images))


@functools.lru_cache(maxsize=1)
def _on_cpu(name: str, images: Split) -> Step:
    return one_step(name, images, WAYS["fp32"], CPU)


def errors(found: Step, wanted: Step) -> dict[str, Any]:
    """The relative errors of logits and gradients, in the Euclidean norm."""
    logits = _ratio(found[0] - wanted[0], wanted[0].norm())
    least = 0.01 * torch.stack([gradient.norm() for gradient in wanted[1].values()]).norm()
    by_weight = {
        weight: _ratio(found[1][weight] - gradient, max(gradient.norm(), least))
        for weight, gradient in wanted[1].items()
    }
    worst = max(by_weight, key=lambda weight: by_weight[weight])
    return {"logits": logits, "gradients": by_weight[worst], "weight": worst}


def _ratio(difference: Tensor, size: Tensor) -> float:
    """An error that is no number counts as the largest there is, which JSON can hold."""
    return min(float((difference.norm() / size).nan_to_num(nan=torch.inf)), 1e30)


def one_step(
    name: str, images: Split, way: Way, device: torch.device, *, off_by: float = 0.0
) -> Step:
    """Logits and gradients of a new network without dropout, always of the same weights.

    off_by: the relative size of random changes to the weights.
    """
    model = create_model(name, len(images.classes), seed=0, dropout_factor=0.0).train()
    draws = generator(0)
    for weight in model.parameters():
        weight.data *= 1 + off_by * torch.randn(weight.shape, generator=draws)
    machine = Machine(device, way.precision)
    machine.layout = way.layout
    machine.place(model)
    optimizer = SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.1)
    inputs, labels, _ = machine.take(images.images, images.labels)

    def step(network: nn.Module) -> Any:
        optimizer.zero_grad()
        logits = machine.logits(network, inputs)
        machine.backward(F.cross_entropy(logits, labels))
        return logits

    allowed, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, way.tf32
    try:
        if way.how == "graph":
            logits = _replayed(step, model, optimizer, device)
        else:
            network = compiled(model, [step]) if way.how == "compile" else model
            logits = _with_finite_gradients(lambda: step(network), machine, optimizer)
        wait(device)
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
    gradients = {
        weight: value.grad.detach().to("cpu", copy=True)
        for weight, value in model.named_parameters() if value.grad is not None
    }  # fmt: skip
    return logits.detach().to("cpu", copy=True), gradients


def _with_finite_gradients(step: Callable[[], Tensor], machine: Machine, optimizer: SGD) -> Tensor:
    """The logits of a step whose gradients did not overflow.

    In fp16 the scaler starts too high and halves its factor after each step that it leaves out.
    """
    for _ in range(20):
        logits = step()
        machine.scaler.unscale_(optimizer)
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        if all(weight.grad.isfinite().all() for weight in weights if weight.grad is not None):
            break
        machine.scaler.update()
    return logits


def _replayed(
    step: Callable[[nn.Module], Tensor], model: nn.Module, optimizer: SGD, device: torch.device
) -> Tensor:
    """The logits of a step, the optimizer's included, recorded as a CUDA graph and replayed.

    In the order of the CUDA graphs page of torch's documentation: warm up on another stream,
    record, replay. Raises AssertionError if the replayed step moved the weights anywhere else than
    down its gradients.
    """
    first = copy.deepcopy(model.state_dict())
    with torch.cuda.device(device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step(model)
                optimizer.step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):  # which records and does not compute
            logits = step(model)
            optimizer.step()
        model.load_state_dict(first)
        graph.replay()
        wait(device)
        for name, weight in model.named_parameters():
            if weight.grad is not None:
                moved = first[name] - optimizer.param_groups[0]["lr"] * weight.grad
                torch.testing.assert_close(weight.data, moved, rtol=1e-3, atol=1e-6)
        return logits.clone()

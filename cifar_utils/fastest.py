"""Which way of computing a network is the fastest here: a few steps of each, before a training."""

import time
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar_utils.checks import check_training, twin_of, unwrapped
from cifar_utils.data import Split, normalize
from cifar_utils.machine import Machine, Precision, bf16_speedup, keep_precision
from cifar_utils.recipes import Recipe
from cifar_utils.speed.distributed import broadcast
from cifar_utils.speed.winograd import library

# By network, batch and threads: so all trainings of a process agree, and none measures again.
_measured: dict[tuple, dict[tuple[Precision, bool], float]] = {}


def fastest_machine(
    model: nn.Module, train: Split, recipe: Recipe, *,
    device: str | torch.device = "auto", precision: str = "auto", compile: bool = False,
    before: tuple[str, bool] | None = None,
) -> Machine:  # fmt: skip
    """The Machine to train on: that of `Machine.pick`, but on a CPU "auto" takes the fastest way.

    A way is a precision and, if the recipe wants Winograd's algorithm, whether to use it. Each does
    a few steps with up to 128 training images on a copy of the network, which takes a few seconds
    in all. bf16 is left out if it is emulated. Several processes take what the first one found. The
    machine's `choice` tells in one line how the ways compare.

    Nothing is measured for a precision that is asked for by name, with which Winograd's algorithm
    is used if the recipe wants it: the same command then gives the same bits.

    Args:
        compile, before: as in `Machine.pick`. A run that goes on keeps its way if it can.

    Raises CifarError as `Machine.pick` and, before it measures, `check_training` do.
    """
    machine = Machine.pick(
        device, precision, winograd=recipe.winograd, compile=compile, before=before
    )
    kept = before and keep_precision(before[0], machine.device) != "auto"
    is_open = precision == "auto" and machine.device.type == "cpu" and not (kept or compile)
    if not broadcast(is_open):
        return machine
    precisions: tuple[Precision, ...] = ("bf16", "fp32") if bf16_speedup() > 0.5 else ("fp32",)
    algorithms = (True, False) if machine.winograd and library() else (False,)
    ways = broadcast([(name, winograd) for name in precisions for winograd in algorithms])
    if len(ways) == 1:
        return Machine(machine.device, ways[0][0], winograd=ways[0][1])
    model = unwrapped(model)
    check_training(model, train, None)
    # Not fewer: Winograd's algorithm also transforms the kernels, once for all images of a batch.
    # Nor a single one, which batch norm may refuse.
    images = train.images[: max(2, min(128, recipe.batch_size))]
    learning = sum(parameter.requires_grad for parameter in model.parameters())
    key = (str(model), learning, images.shape, torch.get_num_threads(), *ways)
    if key not in _measured:
        _measured[key] = _step_times(model, normalize(images), ways)
    seconds = broadcast(_measured[key])
    ways.sort(key=seconds.__getitem__)
    machines = [Machine(machine.device, name, winograd=winograd) for name, winograd in ways]
    others = [
        f"{other.arithmetic} {seconds[way] / seconds[ways[0]]:.2f}"
        for other, way in zip(machines[1:], ways[1:], strict=True)
    ]
    machines[0].choice = f"{machines[0].arithmetic} (measured: 1.00; {'; '.join(others)})"
    return machines[0]


def _step_times(
    model: nn.Module, inputs: Tensor, ways: Iterable[tuple[Precision, bool]]
) -> dict[tuple[Precision, bool], float]:
    """Seconds of a training step on a CPU in each of these ways; the network stays as it is."""
    cpu = torch.device("cpu")
    machines = {way: Machine(cpu, way[0], winograd=way[1]) for way in ways}
    labels = torch.zeros(len(inputs), dtype=torch.int64)
    model = Machine(cpu).place(twin_of(model)).train()

    def step(machine: Machine, count: int) -> float:
        began = time.perf_counter()
        loss = F.cross_entropy(machine.logits(model, inputs[:count]), labels[:count])
        loss.backward()
        return time.perf_counter() - began

    with torch.random.fork_rng(devices=[]):  # dropout must not move the reader's random numbers
        for machine in machines.values():  # the first steps also compile kernels
            step(machine, 2)
        # Fewer images for a network so large that a step would take more than 2 s: 8 tell.
        count = round(8 * 2 / min(step(machine, 8) for machine in machines.values()))
        rounds = [
            {way: step(machine, max(8, count)) for way, machine in machines.items()}
            for _ in range(2)  # in turn, because other programs come and go
        ]
    return {way: min(times[way] for times in rounds) for way in machines}

"""torch.compile: what it needs, and a network whose code is ready before the first epoch."""

import copy
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec

import torch
from torch import nn

from cifar_utils.errors import CifarError

TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])  # (2, 14)


def check_compiler(device: torch.device) -> None:
    """Raise CifarError if torch.compile lacks what it needs.

    That is a C++ compiler on a CPU; Triton, a C compiler and a GPU of 2017 or later on CUDA; and
    torch 2.8 on Apple's GPUs.
    """
    if device.type == "cpu":
        usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
        compiler = os.environ.get("CXX") or usual
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
            name = torch.cuda.get_device_name(device)
            raise CifarError(f"torch.compile needs a newer GPU than the {name}; leave it out")
    if device.type == "mps" and TORCH < (2, 8):
        raise CifarError("torch.compile needs torch 2.8 or newer on Apple's GPUs; leave it out")


def compiled(model: nn.Module, steps: Iterable[Callable[[nn.Module], None]]) -> nn.Module:
    """`model` behind torch.compile, with the code for all of `steps` ready.

    steps: functions of the network, one for each kind of training step. The code depends on the
    number and size of the images and on which weights learn, so each is run once, and undone.
    `model` itself stays a plain network that shares its weights, to be saved and evaluated.
    """
    torch.compiler.reset()  # networks compiled before count towards the number that is kept
    network, before = torch.compile(model.train(), dynamic=False), copy.deepcopy(model.state_dict())
    try:
        for step in steps:
            step(network)  # type: ignore[arg-type]
    finally:  # also after Ctrl-C, because compiling takes long
        model.zero_grad()
        model.load_state_dict(before)
    return network  # type: ignore[return-value]

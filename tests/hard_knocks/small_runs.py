"""A training of a fifth of a second, in a forked process that can be killed at any moment."""

import json
import os
import sys
import traceback

import numpy as np
import pytorch_grad_cam  # noqa: F401 - slow to import, so before a process is forked
import torch
from painted import painted

from cifar_utils.explain import CamRecorder
from cifar_utils.models import ConvNet, average_head, conv_bn_relu, pool, stage
from cifar_utils.recipes import Recipe
from cifar_utils.runs import RunFolder
from cifar_utils.train import fit

RECIPE = Recipe("tiny", epochs=3, batch_size=16, lr=0.05, seed=5, augmentation="crop-flip")


def save_painted(folder, **counts):
    """Write that many images for each split, as `--source npy` reads them."""
    for part, count in counts.items():
        split = painted(count, seed=count)
        np.save(folder / f"{part}_data.npy", split.images.permute(0, 2, 3, 1).numpy())
        np.save(folder / f"{part}_labels.npy", split.labels.numpy())


def train(path, recipe=RECIPE, **options):
    """The lines of a notebook's cell, with a small network and heatmaps of two images."""
    train, val = painted(48, seed=48), painted(20, seed=20)
    torch.manual_seed(recipe.seed)
    first, second = stage(conv_bn_relu(3, 8), pool()), stage(conv_bn_relu(8, 8), pool())
    model = ConvNet(torch.nn.Sequential(first, second), average_head(8, 10))
    with RunFolder(path, **options) as folder:
        recorder = CamRecorder(path / "cam", val[:2])
        fit(model, train, val, recipe, log=lambda run: folder.save(run, recorder=recorder),
            resume=folder.state(recipe), device="cpu", precision="fp32")  # fmt: skip


def forked(work, *given, **options):
    """The id of a new process that does this and then ends, with status 1 if it raises."""
    sys.stdout.flush(), sys.stderr.flush()
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        torch.set_num_threads(1)  # the parent's other threads are not here
        work(*given, **options)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def status_of(process):
    """The exit status of a forked process once it has ended; that of a signal is negative."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def results(path):
    """What a finished run has left, without its clock, by file name. All files are listed."""
    held = {}
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if file.is_dir():
            continue
        if name == "history.json":
            history = json.loads(file.read_text(encoding="utf-8"))
            history.pop("digest", None)
            for row in history["epochs"]:
                del row["seconds"], row["images_per_second"]
            held[name] = history
        elif file.suffix == ".npz":
            with np.load(file) as arrays:
                held[name] = {key: arrays[key].tobytes() for key in arrays if key != "digest"}
        else:  # a checkpoint holds the clock, too
            held[name] = None if name == "checkpoint.pt" else file.read_bytes()
    return held

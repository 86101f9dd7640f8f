"""A short training whose every number is known: run as a program, it prints them as JSON."""

import hashlib
import json
import os

import torch

from cifar_utils.data import CLASSES, Split
from cifar_utils.models import build
from cifar_utils.recipes import Recipe
from cifar_utils.speed.distributed import rank, together
from cifar_utils.train import fit


def trained(*, workers=0, **changes):
    """The history's rows without their times, and a digest of the weights, of two epochs."""
    drawn = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 3, 32, 32), dtype=torch.uint8, generator=drawn)
    split = Split(images, torch.arange(60) % 10, CLASSES, torch.arange(60))
    fields = {"optimizer": "muon", "dropout_factor": 0.3, "seed": 11} | changes
    recipe = Recipe("same", epochs=2, batch_size=16, lr=0.02, **fields)
    model = build(recipe, CLASSES)
    history = fit(model, split, split[:20], recipe, workers=workers, device="cpu",
                  precision="fp32", log=lambda run: None)  # fmt: skip
    rows = [[row.epoch, row.lr, row.train_loss, row.train_accuracy, row.val_loss, row.val_accuracy]
            for row in history.epochs]  # fmt: skip
    weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
    return {"rows": rows, "weights": hashlib.sha256(weights).hexdigest()}


if __name__ == "__main__":
    with together():
        found = trained(dropout_factor=float(os.environ.get("DROPOUT", "0.3")))
        if not rank():
            print(json.dumps(found))

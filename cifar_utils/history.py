"""What happened in a training run: one row per epoch, saved as JSON."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from cifar_utils.data import source_title
from cifar_utils.errors import CifarError, shown
from cifar_utils.recipes import Recipe
from cifar_utils.sources.files import expanded
from cifar_utils.sources.sealed import built, parsed, reading, write_json


@dataclass(frozen=True)
class Epoch:
    """One epoch. Row 0 is the untrained network.

    Attributes:
        lr: the recipe's learning rate at the first step; under Muon the larger of lr and muon_lr.
        train_loss, train_accuracy: mean cross-entropy in nats without label smoothing, and a
            fraction, both measured while training, augmented and with dropout; in row 0 on up to
            5,000 plain training images.
        val_loss, val_accuracy: the same on the validation split; None if there is none.
        seconds: training alone, without evaluation.
    """

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    seconds: float
    images_per_second: float

    def __str__(self) -> str:
        val = ""
        if self.val_loss is not None:
            val = f"  val loss {self.val_loss:.4f} acc {self.val_accuracy:7.2%}"
        speed = f"  {self.seconds:6.1f} s {self.images_per_second:7.0f} img/s" if self.epoch else ""
        return (
            f"epoch {self.epoch:3d}  lr {self.lr:<8.3g} train loss {self.train_loss:.4f} "
            f"acc {self.train_accuracy:7.2%}{val}{speed}"
        )


@dataclass(frozen=True)
class History:
    """A run: its recipe, the data's source, where it ran, its epochs, its test figures.

    sha256 is that of the weights file, if the run ships with the package. earlier: the recipes of
    the epochs before recipe.epochs_before, the first one first. convolutions: "winograd" or
    "direct", as its steps were computed; empty in older histories, which do not say.
    """

    recipe: Recipe
    source: str
    epochs: tuple[Epoch, ...] = ()
    train_images: int = 0
    val_images: int = 0
    device: str = ""
    precision: str = ""
    torch: str = ""
    test: dict | None = None
    sha256: str = ""
    earlier: tuple[Recipe, ...] = ()
    convolutions: str = ""

    def with_epoch(self, epoch: Epoch) -> Self:
        return replace(self, epochs=(*self.epochs, epoch))

    def with_test(self, metrics: dict[str, Any]) -> Self:
        return replace(self, test=metrics)

    @property
    def is_finished(self) -> bool:
        """Whether all of the recipe's epochs are there."""
        return len(self.epochs) > self.recipe.epochs  # row 0 is before training

    @property
    def way(self) -> tuple[str, bool]:
        """(precision, may what goes on have Winograd's convolutions?)

        Not if they were wanted and this run had direct ones all the same.
        """
        at_first = self.precision == "fp32"  # histories did not yet name them
        by_winograd = self.convolutions == "winograd" or (not self.convolutions and at_first)
        return self.precision, by_winograd or not self.recipe.winograd

    @property
    def title(self) -> str:
        """What a plot of this run is headed with: recipe and source."""
        return f"{shown(self.recipe.name)} on {source_title(self.source)}"

    @property
    def best(self) -> Epoch | None:
        """The trained epoch with the highest validation accuracy (the first of equals), or None."""
        trained = [row for row in self.epochs if row.epoch and row.val_accuracy is not None]
        return max(trained, key=lambda row: row.val_accuracy or 0.0, default=None)

    def to_json(self) -> str:
        """One JSON object; `from_json` gives back an equal History."""
        return json.dumps(asdict(self), indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The History that `to_json` wrote, or `save`. Raises CifarError for any other text."""
        try:
            known = parsed(text)
            known["recipe"] = Recipe.from_dict(known["recipe"])
            known["epochs"] = tuple(built(Epoch, row) for row in known["epochs"])
            known["earlier"] = tuple(map(Recipe.from_dict, known.get("earlier", ())))
            history = built(cls, known)
            _check_test(history.test or {})
        except CifarError:
            raise
        except Exception as error:  # json and what follows raise many kinds
            raise CifarError(f"this is not a training history ({error})") from None
        if [row.epoch for row in history.epochs] != list(range(len(history.epochs))):
            raise CifarError("its epochs are not 0, 1, 2 and so on")
        return history

    def save(self, path: str | Path) -> None:
        """Write it as JSON, whole or not at all."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The History in a file. Raises CifarError if it is missing, damaged or not a history."""
        path = expanded(path)
        with reading(path, "training history", "restore it from a copy, or train again"):
            return cls.from_json(path.read_text(encoding="utf-8"))


def _check_test(test: dict[str, Any]) -> None:
    """Raise CifarError if a share among the test figures is not in [0, 1]."""
    shares = {name: value for name, value in test.items() if name.startswith("top")}
    shares |= test.get("per_class", {})
    for name, share in shares.items():
        number = isinstance(share, (int, float)) and not isinstance(share, bool)
        if not (share is None or (number and 0 <= share <= 1)):
            raise CifarError(f"the test accuracy {name} cannot be {share!r:.60}")

"""Heatmaps on disk: a file for each epoch of a run, which `explain.CamRecorder` writes."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cifar_utils.errors import CifarError
from cifar_utils.sources.sealed import load_arrays, reading, save_arrays

_KEPT = "heatmaps-{}.npz"


def save_heatmaps(
    folder: Path, epoch: int, heatmaps: Tensor, indices: Tensor, options: str
) -> None:
    """Keep an epoch's maps, float32 (N, 32, 32), with their images' indices and options as JSON."""
    save_arrays(
        _kept(folder, epoch), heatmaps=heatmaps.numpy(), indices=indices.numpy(),
        options=np.array(options),
    )  # fmt: skip


def first_heatmaps(folder: Path) -> tuple[np.ndarray, np.ndarray, str] | None:
    """What `load_heatmaps` returns of one of the files in `folder`, or None if there are none."""
    kept = sorted(folder.glob(_KEPT.format("*")))
    return load_heatmaps(kept[0]) if kept else None


def read_heatmaps(folder: Path | str, epochs: int) -> tuple[list[int], Tensor, np.ndarray]:
    """What a CamRecorder kept in `folder` up to epoch `epochs`.

    Returns the E epochs that are there, their maps as float32 (E, N, 32, 32), and the images'
    indices int64 (N,) in their source. Raises CifarError if there are no maps.
    """
    folder = Path(folder)
    known = [epoch for epoch in range(epochs + 1) if _kept(folder, epoch).is_file()]
    if not known:
        raise CifarError(f"there are no heatmaps in {folder}")
    kept = [load_heatmaps(_kept(folder, epoch)) for epoch in known]
    for epoch, (_, indices, _) in zip(known, kept, strict=True):
        if not np.array_equal(indices, kept[0][1]):
            raise CifarError(
                f"{_kept(folder, epoch)}: its images are not those of epoch {known[0]}; train with "
                "--cam again"
            )
    return known, torch.from_numpy(np.stack([maps for maps, _, _ in kept])), kept[0][1]


def load_heatmaps(path: Path) -> tuple[np.ndarray, np.ndarray, str]:
    """(maps, indices of their images, options as JSON) in a file of heatmaps.

    The maps are float32 (…, N, 32, 32) in [0, 1], the indices int64 (N,). Raises CifarError for any
    other file.
    """
    with reading(path, "file of heatmaps", "train with --cam again"):
        held = load_arrays(path)
        maps, indices = held.pop("heatmaps"), held.pop("indices")
        about = str(held.pop("options", "{}"))  # older files lack it
        if maps.dtype == np.uint8:  # as they ship
            maps = maps.astype(np.float32) / 255
        shape = (len(indices), 32, 32)
        right = maps.dtype == np.float32 and indices.dtype == np.int64 and indices.ndim == 1
        if held or not right or maps.shape[-3:] != shape or maps.ndim > 4:
            raise CifarError("it does not hold heatmaps of 32 by 32 pixels, one per image")
        if not ((maps >= 0) & (maps <= 1)).all():  # not so either for what is not a number
            raise CifarError("its heatmaps are not in [0, 1]")
    return maps, indices, about


def has_heatmaps(folder: Path) -> bool:
    """Whether a CamRecorder has kept anything in `folder`."""
    return any(folder.glob(_KEPT.format("*")))


def forget_heatmaps(folder: Path) -> None:
    """Delete what an earlier run's CamRecorder left in `folder`, so that two runs do not mix."""
    for old in [*folder.glob(_KEPT.format("*")), *folder.glob("cam-*.gif")]:
        old.unlink()


def _kept(folder, epoch):
    return folder / _KEPT.format(f"{epoch:03d}")

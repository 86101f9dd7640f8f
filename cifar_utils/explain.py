"""Grad-CAM and its relatives: which pixels speak for a class.

The maps come from pytorch-grad-cam. It always gets a copy of the network, because it switches to
evaluation mode and leaves gradients and hooks behind.
"""

import contextlib
import copy
import io
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cifar_utils.data import Split, normalize
from cifar_utils.errors import CifarError, choose
from cifar_utils.models import ConvNet
from cifar_utils.profile import stage_shapes
from cifar_utils.sources.files import save_arrays, write_whole

Method = Literal[
    "gradcam", "gradcam++", "hirescam", "xgradcam", "layercam",
    "eigencam", "eigengradcam", "scorecam", "ablationcam",
]  # fmt: skip
# Our names for pytorch-grad-cam's classes.
METHODS: dict[Method, str] = {
    "gradcam": "GradCAM",  # arXiv 1610.02391
    "gradcam++": "GradCAMPlusPlus",  # arXiv 1710.11063
    "hirescam": "HiResCAM",  # arXiv 2011.08891
    "xgradcam": "XGradCAM",  # arXiv 2008.02312
    "layercam": "LayerCAM",  # IEEE TIP 2021
    "eigencam": "EigenCAM",  # arXiv 2008.00299; does not depend on a class
    "eigengradcam": "EigenGradCAM",  # of maps × gradients, which depend on the class
    "scorecam": "ScoreCAM",  # arXiv 1910.01279; slow: a forward pass per channel
    "ablationcam": "AblationCAM",  # WACV 2020; slow as well
}
_KEPT = "heatmaps-{}.npz"  # what a CamRecorder keeps of an epoch


def grad_cam(
    model: ConvNet,
    images: Tensor,
    targets: Tensor,
    *,
    stage: int | Iterable[int] | None = None,
    method: Method = "gradcam",
    smooth: bool = False,
    batch_size: int = 100,
) -> Tensor:
    """Heatmaps of how much each place speaks for the target class. Used in notebook 06.

    The model is left as it was. The two eigen methods are different: they show where the maps vary
    most, whether that speaks for the class or against it.

    Args:
        images: uint8 (N, 3, 32, 32).
        targets: int64 (N,), one class per image.
        stage: An entry of model.features, counted from the end if negative, or several whose maps
            are averaged. None takes the deepest stage with maps of at least 4×4.
        method: A name of METHODS.
        smooth: Average over the image and its mirror image, each in three contrasts.

    Returns:
        float32 (N, 32, 32) in [0, 1]. Each map is stretched to this range on its own, so the
        strengths of two maps cannot be compared. If nothing in an image speaks for its class, its
        map is all zeros.

    Raises:
        CifarError: The method or the stage is unknown, or there is not one target per image.
    """
    from pytorch_grad_cam.utils.image import scale_cam_image
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    choose(method, METHODS, "method")
    if len(targets) != len(images):
        raise CifarError(f"there are {len(images)} images and {len(targets)} targets")
    if not len(images):
        return torch.zeros(0, *images.shape[2:])
    twin = copy.deepcopy(model).eval().requires_grad_(True)
    layers = [twin.features[number] for number in _stages(twin, stage)]
    device = next(twin.parameters()).device
    cam = _library_class(method)(model=twin, target_layers=layers)
    heatmaps = []
    with torch.enable_grad():
        for few, wanted in zip(images.split(batch_size), targets.split(batch_size), strict=True):
            inputs = normalize(few.to(device))
            outputs = [ClassifierOutputTarget(target) for target in wanted.tolist()]
            if method == "ablationcam":  # it divides by the logit; a negative one inverts the map
                with torch.no_grad():
                    up = 1 + 2 * twin(inputs).abs().max().item()
                outputs = [lambda logits, one=one, up=up: one(logits) + up for one in outputs]
            with contextlib.redirect_stderr(io.StringIO()):  # two methods draw a bar per image
                heatmaps.append(cam(inputs, outputs, aug_smooth=smooth))
    together = np.concatenate(heatmaps)
    # A mean of several maps no longer reaches 1.
    return torch.from_numpy(scale_cam_image(together) if smooth else together)


def _library_class(method):
    """pytorch-grad-cam's class for a method, with a fixed sign for the two eigen methods.

    The direction in which maps vary most has two ends, and the library leaves it to chance which
    end is heat. Here it is the end that reaches further from the mean (Seg-Eigen-CAM,
    doi.org/10.3390/app15137562).
    """
    import pytorch_grad_cam
    from pytorch_grad_cam.utils import svd_on_activations

    kind = getattr(pytorch_grad_cam, METHODS[method])
    if method not in ("eigencam", "eigengradcam"):
        return kind

    class Signed(kind):
        def get_cam_image(self, inputs, layer, targets, activations, grads, eigen_smooth):
            maps = activations if method == "eigencam" else grads * activations
            return svd_on_activations.get_2d_projection_with_sign_correction(maps)

    return Signed


def _stages(model, stage):
    if stage is None:
        shapes = stage_shapes(model)
        large = [number for number, (_, height, _) in enumerate(shapes) if height >= 4]
        stage = max(large, default=-1)
    chosen = [stage] if isinstance(stage, int) else list(stage)
    count = len(model.features)
    for number in chosen:
        if not -count <= number < count:
            raise CifarError(f"no stage {number}; this network has stages 0 to {count - 1}")
    return sorted({number % count for number in chosen})  # the library expects running order


def overlay(images: Tensor, heatmaps: Tensor, *, scale: int = 8) -> Tensor:
    """Images with their heatmaps laid over them, uint8 (N, 3, scale·H, scale·W).

    images: uint8 (N, 3, H, W), at least one. heatmaps: float (N, H, W) in [0, 1]. Both are on the
    CPU. Dark blue means little and yellow means much, which colour-blind readers can tell apart.
    """
    import cv2

    pixels = F.interpolate(images.float(), scale_factor=scale, mode="nearest")
    heat = F.interpolate(heatmaps[:, None], scale_factor=scale, mode="bilinear")[:, 0]
    bytes_of_heat = (255 * heat.clamp(0, 1)).byte().numpy()
    painted = np.stack([cv2.applyColorMap(one, cv2.COLORMAP_VIRIDIS) for one in bytes_of_heat])
    colors = torch.from_numpy(painted).flip(3).permute(0, 3, 1, 2)  # BGR to RGB
    return (0.45 * pixels + 0.55 * colors).round().byte()


class CamRecorder:
    """Keeps the heatmaps of a few images after every epoch of a run, then makes GIFs of them.

    split: a few images. options: those of grad_cam. Call the recorder with the Run after each
    epoch. It keeps the maps of the true classes in `folder`, one file per epoch, so that a resumed
    run loses none. Used in notebook 06.
    """

    def __init__(self, folder: Path | str, split: Split, **options: Any):
        self.folder, self.split, self.options = Path(folder), split, options

    def __call__(self, run: Any) -> None:
        """Keep the heatmaps of the Run's last epoch. Epoch 0 deletes those of an earlier run."""
        epoch = run.history.epochs[-1].epoch
        if epoch == 0:
            forget_heatmaps(self.folder)
        heatmaps = grad_cam(run.model, self.split.images, self.split.labels, **self.options)
        save_arrays(
            _kept(self.folder, epoch), heatmaps=heatmaps.numpy(), indices=self.split.indices.numpy()
        )

    def save_gifs(self, epochs: int) -> list[Path]:
        """Write folder/cam-PLACE-CLASS.gif for each image, over epochs 0 to `epochs`.

        Returns the paths of the GIFs.
        """
        known, heatmaps, _ = read_heatmaps(self.folder, epochs)
        paths: list[Path] = []
        for place, name in enumerate(self.split.names):
            paths.append(self.folder / f"cam-{place}-{name}.gif")
            save_cam_gif(paths[-1], self.split.images[place], heatmaps[:, place], epochs=known)
        return paths


def read_heatmaps(folder: Path | str, epochs: int) -> tuple[list[int], Tensor, np.ndarray]:
    """What a CamRecorder kept in `folder` up to epoch `epochs`.

    Returns the E epochs that are there, their maps as float32 (E, N, 32, 32), and the images'
    indices int64 (N,) in their source. Raises CifarError if there are no maps.
    """
    folder = Path(folder)
    known = [epoch for epoch in range(epochs + 1) if _kept(folder, epoch).is_file()]
    if not known:
        raise CifarError(f"there are no heatmaps in {folder}")
    heatmaps = []
    for epoch in known:  # one open file at a time, because systems limit their number
        try:
            with np.load(_kept(folder, epoch)) as file:
                heatmaps.append(file["heatmaps"])
                indices = file["indices"]
        except (KeyError, ValueError, EOFError, zipfile.BadZipFile):
            raise CifarError(f"{_kept(folder, epoch)} is damaged; train with --cam again") from None
    return known, torch.from_numpy(np.stack(heatmaps)), indices


def has_heatmaps(folder: Path) -> bool:
    """Whether a CamRecorder has kept anything in `folder`."""
    return any(folder.glob(_KEPT.format("*")))


def forget_heatmaps(folder: Path) -> None:
    """Delete what an earlier run's CamRecorder left in `folder`, so that two runs do not mix."""
    for old in [*folder.glob(_KEPT.format("*")), *folder.glob("cam-*.gif")]:
        old.unlink()


def _kept(folder, epoch):
    return folder / _KEPT.format(f"{epoch:03d}")


def save_cam_gif(
    path: Path | str,
    image: Tensor,
    heatmaps: Tensor,
    *,
    epochs: Iterable[int] | None = None,
    scale: int = 8,
    milliseconds: int = 500,
) -> None:
    """Write a looping GIF: the image, then one frame per heatmap with its epoch below it.

    image: uint8 (3, H, W). heatmaps: float (E, H, W). epochs: their E numbers, by default 0 to
    E - 1. Each frame is `scale` times as large as the image and has a line of text below it.
    """
    several = image.expand(len(heatmaps), *image.shape)
    original = F.interpolate(image[None].float(), scale_factor=scale, mode="nearest").byte()
    epochs = range(len(heatmaps)) if epochs is None else epochs
    texts = ["original", *(f"epoch {epoch}" if epoch else "untrained" for epoch in epochs)]
    pictures = torch.cat([original, overlay(several, heatmaps, scale=scale)])
    save_gif(path, pictures, texts, milliseconds=milliseconds)


def save_gif(
    path: Path | str, pictures: Tensor, texts: Sequence[str], *, milliseconds: int = 500
) -> None:
    """Write a looping GIF of pictures, uint8 (N, 3, H, W), each with its line of text below it.

    The first and the last frame stay three times as long as the others. Used in notebook 03.
    """
    from PIL import Image, ImageDraw

    frames = []
    for text, picture in zip(texts, pictures, strict=True):
        drawing = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
        canvas = Image.new("RGB", (drawing.width, drawing.height + 24), "white")
        canvas.paste(drawing)
        ImageDraw.Draw(canvas).text((6, drawing.height + 5), text, "black", font_size=14)
        frames.append(canvas)
    pauses = [3 * milliseconds] + [milliseconds] * (len(frames) - 2) + [3 * milliseconds]
    write_whole(
        path,
        lambda temporary: frames[0].save(
            temporary, "GIF", save_all=True, append_images=frames[1:], duration=pauses, loop=0
        ),
    )

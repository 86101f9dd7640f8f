"""Grad-CAM and its relatives: which pixels speak for a class.

The maps come from pytorch-grad-cam. It always gets a copy of the network, because it switches to
evaluation mode and leaves gradients and hooks behind.
"""

import contextlib
import copy
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cifar_utils.data import Split, normalize
from cifar_utils.errors import CifarError, choose
from cifar_utils.gifs import overlay, save_cam_gif, save_gif  # noqa: F401  # for notebooks
from cifar_utils.models import ConvNet
from cifar_utils.profile import stage_shapes
from cifar_utils.sources.files import safe_name, save_arrays

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

Stages = Literal["deepest", "second deepest", "third deepest", "two deepest"]
# How to choose from the numbers of the stages with maps of at least 4×4, the deepest last.
STAGES: dict[Stages, Callable[[Sequence[int]], Sequence[int]]] = {
    "deepest": lambda large: large[-1:],
    "second deepest": lambda large: large[-2:-1],
    "third deepest": lambda large: large[-3:-2],
    "two deepest": lambda large: large[-2:],
}

# What the command line and the README's pictures pass to grad_cam. `cifar cams` compared the
# choices on validation images, over all shipped networks (results/cams.json). Of those that leave
# no map empty and depend on the class, this one has the highest score, 0.38. Grad-CAM of the
# deepest stage has 0.26, and 20% of its maps are empty. LayerCAM of the same two stages has 0.43,
# but its maps of two classes are much alike (rank correlation 0.67): they find the object more than
# what speaks for the class. So does a blob in the middle of every image, which scores 0.40.
DEFAULTS: dict[str, Any] = {"method": "hirescam", "stage": "two deepest", "smooth": False}
_KEPT = "heatmaps-{}.npz"  # what a CamRecorder keeps of an epoch


def method_title(method: Method) -> str:
    """How a figure names a method, such as "Grad-CAM++"."""
    return METHODS[method].replace("GradCAM", "Grad-CAM").replace("PlusPlus", "++")


def grad_cam(
    model: ConvNet,
    images: Tensor,
    targets: Tensor,
    *,
    stage: int | Iterable[int] | Stages = "deepest",
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
            are averaged. A name of STAGES chooses from those with maps of at least 4×4.
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
    layers = [twin.features[number] for number in chosen_stages(twin, stage)]
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


def chosen_stages(model: ConvNet, stage: int | Iterable[int] | Stages) -> list[int]:
    """The stages that grad_cam takes, counted from 0, in order; CifarError for unknown ones."""
    count = len(model.features)
    if isinstance(stage, str):
        choose(stage, STAGES, "choice of stages")
        shapes = stage_shapes(model)
        large = [number for number, (_, height, _) in enumerate(shapes) if height >= 4]
        chosen = STAGES[stage](large) or [count - 1]
    else:
        chosen = [stage] if isinstance(stage, int) else list(stage)
    for number in chosen:
        if not -count <= number < count:
            raise CifarError(f"no stage {number}; this network has stages 0 to {count - 1}")
    return sorted({number % count for number in chosen})  # the library expects running order


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
            _kept(self.folder, epoch), heatmaps=heatmaps.numpy(),
            indices=self.split.indices.numpy(), options=np.array(self._about()),
        )  # fmt: skip

    def check(self) -> None:
        """Raise CifarError if the folder holds maps of other images or made with other options.

        Ask before a run goes on, because the maps of all its epochs become one GIF.
        """
        for path in sorted(self.folder.glob(_KEPT.format("*")))[:1]:
            with _damage_named(path), np.load(path) as file:
                same_images = np.array_equal(file["indices"], self.split.indices.numpy())
                about = str(file["options"]) if "options" in file else "{}"  # older files lack it
            if not same_images or about != self._about():
                raise CifarError(
                    f"the heatmaps in {self.folder} are of other images, or by another method; go "
                    "on with the classes and the method of the run's beginning, or without --cam"
                )

    def _about(self):
        return json.dumps(self.options, sort_keys=True, default=list)

    def save_gifs(self, epochs: int) -> list[Path]:
        """Write folder/cam-PLACE-CLASS.gif for each image, over epochs 0 to `epochs`.

        Returns the paths of the GIFs.
        """
        known, heatmaps, _ = read_heatmaps(self.folder, epochs)
        paths: list[Path] = []
        for place, name in enumerate(self.split.names):
            paths.append(self.folder / f"cam-{place}-{safe_name(name)}.gif")
            image = self.split.images[place]
            save_cam_gif(paths[-1], image, heatmaps[:, place], name=name, epochs=known)
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
        path = _kept(folder, epoch)
        with _damage_named(path), np.load(path) as file:
            heatmaps.append(file["heatmaps"])
            indices = file["indices"]
    return known, torch.from_numpy(np.stack(heatmaps)), indices


@contextlib.contextmanager
def _damage_named(path):
    try:
        yield
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile):
        raise CifarError(f"{path} is damaged; train with --cam again") from None


def has_heatmaps(folder: Path) -> bool:
    """Whether a CamRecorder has kept anything in `folder`."""
    return any(folder.glob(_KEPT.format("*")))


def forget_heatmaps(folder: Path) -> None:
    """Delete what an earlier run's CamRecorder left in `folder`, so that two runs do not mix."""
    for old in [*folder.glob(_KEPT.format("*")), *folder.glob("cam-*.gif")]:
        old.unlink()


def _kept(folder, epoch):
    return folder / _KEPT.format(f"{epoch:03d}")

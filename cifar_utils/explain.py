"""Grad-CAM and its relatives: which pixels speak for a class.

The maps come from pytorch-grad-cam. It always gets a copy of the network, because it switches to
evaluation mode and leaves gradients and hooks behind.
"""

import contextlib
import io
import json
from collections.abc import Callable, Iterable, Sequence
from operator import index
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from cifar_utils.checks import (
    check_images,
    check_labels,
    check_network,
    copied,
    failure_named,
    unwrapped,
)
from cifar_utils.data import Split, normalize
from cifar_utils.errors import CifarError, choose, whole
from cifar_utils.gifs import overlay, save_cam_gif, save_gif  # noqa: F401  # for notebooks
from cifar_utils.heatmaps import first_heatmaps, forget_heatmaps, read_heatmaps, save_heatmaps
from cifar_utils.machine import device_of
from cifar_utils.profile import stage_shapes, stages
from cifar_utils.sources.files import expanded, safe_name

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


def method_title(method: Method) -> str:
    """How a figure names a method, such as "Grad-CAM++"."""
    return METHODS[method].replace("GradCAM", "Grad-CAM").replace("PlusPlus", "++")


def grad_cam(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    stage: int | Iterable[int] | Stages = "deepest",
    layers: Sequence[nn.Module | str] | None = None,
    method: Method = "gradcam",
    smooth: bool = False,
    batch_size: int = 100,
) -> Tensor:
    """Heatmaps of how much each place speaks for the target class. Used in notebook 08.

    The model is left as it was. The two eigen methods are different: they show where the maps vary
    most, whether that speaks for the class or against it.

    Args:
        images: uint8 (N, 3, H, W).
        targets: int64 (N,), one class per image.
        stage: An entry of model.features, counted from the end if negative, or several whose maps
            are averaged. A name of STAGES chooses from those with maps of at least 4×4, or
            the last one if there are none.
        layers: Instead of a stage, layers of any network that return maps, or their names in
            model.named_modules(). Their heatmaps are averaged.
        method: A name of METHODS.
        smooth: Average over the image and its mirror image, each in three contrasts.

    Returns:
        float32 (N, H, W) in [0, 1]. Each map is stretched to this range on its own, so the
        strengths of two maps cannot be compared. If nothing in an image speaks for its class, its
        map is all zeros.

    Raises:
        CifarError: An argument has another type, shape or value, the network does not turn such
            images into logits, or a layer does not run exactly once and return maps.
    """
    from pytorch_grad_cam.utils.image import scale_cam_image
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    choose(method, METHODS, "method")
    check_images(images)
    batch_size = whole(batch_size, "batch_size", least=1)
    twin = copied(model)
    if not list(twin.parameters()):
        raise CifarError("the network has no parameters, and pytorch-grad-cam needs some")
    chosen = _named_layers(model, twin, layers) if layers is not None else [
        stages(twin)[number] for number in chosen_stages(twin, stage)
    ]  # fmt: skip
    chosen, classes = _in_running_order(twin, chosen, images)
    check_labels(targets, len(images), classes, "targets")
    if not len(images):
        return torch.zeros(0, *images.shape[2:])
    twin.requires_grad_(True)
    # The library keeps images and maps without copying them, and layers or functions in place would
    # change them. So it gets a copy, and what follows gets another. inplace=False would not reach
    # the functions, and would change a network whose shortcut is what was changed in place.
    twin.register_forward_pre_hook(lambda _, inputs: tuple(value.clone() for value in inputs))
    for layer in chosen:
        layer.register_forward_hook(lambda _, inputs, maps: maps.clone().requires_grad_())
    cam = _library_class(method)(model=twin, target_layers=chosen)
    for layer in chosen:
        layer.register_forward_hook(lambda _, inputs, maps: maps.clone())
    device = device_of(twin)
    heatmaps = []
    with torch.enable_grad(), failure_named(images):
        for few, wanted in zip(images.split(batch_size), targets.split(batch_size), strict=True):
            inputs = normalize(few.to(device))
            outputs = [ClassifierOutputTarget(target) for target in wanted.tolist()]
            if method == "ablationcam":  # it divides by the logit; a negative one inverts the map
                with torch.no_grad():
                    up = 1 + 2 * twin(inputs).abs().max().item()
                outputs = [lambda logits, one=one, up=up: one(logits) + up for one in outputs]
            with contextlib.redirect_stderr(io.StringIO()):  # two methods draw a bar per image
                heatmaps.append(cam(inputs, outputs, aug_smooth=bool(smooth)))
    together = np.concatenate(heatmaps)
    if np.isnan(together).any():
        raise CifarError("the network's maps are not all numbers; has its training diverged?")
    # A mean of several maps no longer reaches 1.
    return torch.from_numpy(scale_cam_image(together) if smooth else together)


def _named_layers(model, twin, layers):
    """The layers of the copy that are called like these layers of the network."""
    try:
        wanted = [layers] if isinstance(layers, (str, nn.Module)) else list(layers)
    except TypeError:
        raise CifarError(
            f"layers is {layers!r}; give layers of the network, or their names"
        ) from None
    own = unwrapped(model)
    names = {id(layer): name for name, layer in own.named_modules()}
    named = dict(model.named_modules()) | dict(own.named_modules())  # a wrapper's names, too
    chosen = []
    for layer in wanted:
        name = names.get(id(named.get(layer) if isinstance(layer, str) else layer))
        if name is None:
            what = f"layer called {layer!r}" if isinstance(layer, str) else "such layer"
            raise CifarError(f"the network has no {what}; its named_modules() lists what it has")
        chosen.append(twin.get_submodule(name))
    if not chosen:
        raise CifarError("layers is empty; give at least one layer of the network")
    return chosen


def _in_running_order(twin, layers, images):
    """(layers as they run, number of classes); CifarError unless each returns maps, once."""
    ran = []

    def note(layer, inputs, maps):
        if not torch.is_tensor(maps) or maps.ndim != 4:
            shape = tuple(maps.shape) if torch.is_tensor(maps) else type(maps).__name__
            raise CifarError(
                f"a {type(layer).__name__} returns {shape}, not maps (N, channels, height, width); "
                "choose another layer"
            )
        ran.append(layer)

    layers = list(dict.fromkeys(layers))
    hooks = [layer.register_forward_hook(note) for layer in layers]
    classes = check_network(twin, images)
    for hook in hooks:
        hook.remove()
    for layer in layers:
        if ran.count(layer) != 1:
            raise CifarError(
                f"a {type(layer).__name__} runs {ran.count(layer)} times per image; choose a layer "
                "that runs once"
            )
    return ran, classes


def _library_class(method):
    """pytorch-grad-cam's class for a method, with a fixed sign for the two eigen methods.

    The direction in which maps vary most has two ends, and the library leaves it to chance which
    end is heat. Here it is the end that reaches further from the mean (Seg-Eigen-CAM,
    doi.org/10.3390/app15137562).
    """
    import pytorch_grad_cam
    from pytorch_grad_cam.utils import svd_on_activations

    kind = getattr(pytorch_grad_cam, METHODS[method])

    class Kept(kind):
        def save_activation(self, module, inputs, maps):
            self.activations = maps.clone()  # a function in place may come next

    if method == "ablationcam":
        return Kept
    if method not in ("eigencam", "eigengradcam"):
        return kind

    class Signed(kind):
        def get_cam_image(self, inputs, layer, targets, activations, grads, eigen_smooth):
            maps = activations if method == "eigencam" else grads * activations
            return svd_on_activations.get_2d_projection_with_sign_correction(maps)

    return Signed


def chosen_stages(model: nn.Module, stage: int | Iterable[int] | Stages) -> list[int]:
    """The stages that grad_cam takes, counted from 0, in order; CifarError for unknown ones."""
    count = len(stages(model))
    if isinstance(stage, str):
        choose(stage, STAGES, "choice of stages")
        shapes = stage_shapes(model)
        large = [number for number, shape in enumerate(shapes) if len(shape) == 3 and shape[1] >= 4]
        chosen = STAGES[stage](large or [count - 1])
        if not chosen:
            raise CifarError(
                f"this network has no {stage} stage with maps of at least 4×4; give a number "
                f"from 0 to {count - 1}"
            )
    else:
        try:
            chosen = [index(n) for n in (stage if isinstance(stage, Iterable) else [stage])]
        except TypeError:
            chosen = []
        if not chosen:
            raise CifarError(f"stage is {stage!r}; give a number, several, or {', '.join(STAGES)}")
    for number in chosen:
        if not -count <= number < count:
            raise CifarError(f"no stage {number}; this network has stages 0 to {count - 1}")
    return sorted({number % count for number in chosen})  # the library expects running order


class CamRecorder:
    """Keeps the heatmaps of a few images after every epoch of a run, then makes GIFs of them.

    split: a few images. options: those of grad_cam. Call the recorder with the Run after each
    epoch. It keeps the maps of the true classes in `folder`, one file per epoch, so that a resumed
    run loses none. Used in notebook 08.
    """

    def __init__(self, folder: Path | str, split: Split, **options: Any):
        self.folder, self.split, self.options = expanded(folder), split, options

    def __call__(self, run: Any) -> None:
        """Keep the heatmaps of the Run's last epoch. Epoch 0 deletes those of an earlier run."""
        epoch = run.history.epochs[-1].epoch
        if epoch == 0:
            forget_heatmaps(self.folder)
        heatmaps = grad_cam(run.model, self.split.images, self.split.labels, **self.options)
        save_heatmaps(self.folder, epoch, heatmaps, self.split.indices, self._about())

    def check(self) -> None:
        """Raise CifarError if the folder holds maps of other images or made with other options.

        Ask before a run goes on, because the maps of all its epochs become one GIF.
        """
        kept = first_heatmaps(self.folder)
        if kept is None:
            return
        _, indices, about = kept
        if not np.array_equal(indices, self.split.indices.numpy()) or about != self._about():
            raise CifarError(
                f"the heatmaps in {self.folder} are of other images, or by another method; go on "
                "with the classes and the method of the run's beginning, or without --cam"
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

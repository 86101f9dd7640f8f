"""Grad-CAM and its relatives: which pixels speak for a class.

The maps come from pytorch-grad-cam, always on a copy of the network: the library switches to
evaluation mode and leaves gradients and hooks behind.
"""

import contextlib
import copy
import io
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from cifar_utils.data import normalize
from cifar_utils.errors import CifarError, choose
from cifar_utils.profile import stage_shapes
from cifar_utils.sources.files import save_arrays, write_whole

# Our names for pytorch-grad-cam's classes.
METHODS = {
    "gradcam": "GradCAM",  # arXiv 1610.02391
    "gradcam++": "GradCAMPlusPlus",  # arXiv 1710.11063
    "hirescam": "HiResCAM",  # arXiv 2011.08891
    "xgradcam": "XGradCAM",  # arXiv 2008.02312
    "layercam": "LayerCAM",  # IEEE TIP 2021
    "eigencam": "EigenCAM",  # arXiv 2008.00299; looks at no class
    "eigengradcam": "EigenGradCAM",  # of maps × gradients, which depend on the class
    "scorecam": "ScoreCAM",  # arXiv 1910.01279; a forward pass for every channel: slow
    "ablationcam": "AblationCAM",  # WACV 2020; likewise
}
_KEPT = "heatmaps-{}.npz"  # what a CamRecorder keeps of an epoch


def grad_cam(model, images, targets, *, stage=None, method="gradcam", smooth=False, batch_size=100):
    """Heatmaps, float32 (N, 32, 32) in [0, 1]: how much each place speaks for the target class.

    images: uint8 (N, 3, 32, 32). targets: int64 (N,), a class for each image. stage: which entry of
    model.features (negative ones count from the end), or several, whose maps are averaged; None
    takes the deepest whose map is at least 4×4. method: a name of METHODS. smooth: average over the
    image and its mirror image in three contrasts. Each map is stretched to [0, 1]: the strengths of
    two maps cannot be compared. An image in which nothing speaks for its class has a map of zeros.
    (The two eigen methods show where maps vary most, be it for the class or against it.) The model
    is left as it was. Raises CifarError for an unknown method or stage, and where there is not one
    target for each image. Used in notebook 06.
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
            if method == "ablationcam":  # it divides by the logit: a negative one turns the map
                with torch.no_grad():
                    up = 1 + 2 * twin(inputs).abs().max().item()
                outputs = [lambda logits, one=one, up=up: one(logits) + up for one in outputs]
            with contextlib.redirect_stderr(io.StringIO()):  # two methods draw a bar for each image
                heatmaps.append(cam(inputs, outputs, aug_smooth=smooth))
    heatmaps = np.concatenate(heatmaps)
    return torch.from_numpy(scale_cam_image(heatmaps) if smooth else heatmaps)  # a mean is lower


def _library_class(method):
    """pytorch-grad-cam's class. A direction in which maps vary most has two ends: where the library
    leaves it to chance which of them is heat, it is the one that reaches further from the mean
    (Seg-Eigen-CAM, doi.org/10.3390/app15137562)."""
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
    return sorted({number % count for number in chosen})  # the library pairs them in running order


def overlay(images, heatmaps, *, scale=8):
    """Images with their heatmaps laid over, uint8 (N, 3, scale·H, scale·W).

    images: uint8 (N, 3, H, W), one or more; heatmaps: float (N, H, W) in [0, 1]; both on the CPU.
    Dark blue is nothing, yellow is much: a map that colour-blind readers can read, too.
    """
    import cv2

    pixels = F.interpolate(images.float(), scale_factor=scale, mode="nearest")
    heat = F.interpolate(heatmaps[:, None], scale_factor=scale, mode="bilinear")[:, 0]
    heat = (255 * heat.clamp(0, 1)).byte().numpy()
    colors = [cv2.applyColorMap(one, cv2.COLORMAP_VIRIDIS)[:, :, ::-1] for one in heat]  # BGR, RGB
    colors = torch.from_numpy(np.stack(colors)).permute(0, 3, 1, 2)
    return (0.45 * pixels + 0.55 * colors).round().byte()


class CamRecorder:
    """Keeps the heatmaps of a few images after every epoch of a run, then makes GIFs of them.

    split: a Split of a few images. Call the recorder with the Run after each epoch. The maps of
    the true classes are kept in `folder`, an epoch a file, so that a resumed run loses none. Used
    in notebook 06.
    """

    def __init__(self, folder, split, **options):
        self.folder, self.split, self.options = Path(folder), split, options

    def __call__(self, run):
        epoch = run.history.epochs[-1].epoch
        if epoch == 0:
            forget_heatmaps(self.folder)
        heatmaps = grad_cam(run.model, self.split.images, self.split.labels, **self.options)
        save_arrays(
            _kept(self.folder, epoch), heatmaps=heatmaps.numpy(), indices=self.split.indices.numpy()
        )

    def save_gifs(self, epochs):
        """Write folder/cam-PLACE-CLASS.gif for each image, over epochs 0 to `epochs`; the paths."""
        known, heatmaps, _ = read_heatmaps(self.folder, epochs)
        paths = []
        for place, name in enumerate(self.split.names):
            paths.append(self.folder / f"cam-{place}-{name}.gif")
            save_cam_gif(paths[-1], self.split.images[place], heatmaps[:, place], epochs=known)
        return paths


def read_heatmaps(folder, epochs):
    """What a CamRecorder kept in `folder` up to epoch `epochs`.

    Returns (the E epochs that are there, their maps as float32 (E, N, 32, 32), the images' indices
    int64 (N,) in their source). Raises CifarError where there are none.
    """
    folder = Path(folder)
    known = [epoch for epoch in range(epochs + 1) if _kept(folder, epoch).is_file()]
    if not known:
        raise CifarError(f"there are no heatmaps in {folder}")
    heatmaps = []
    for epoch in known:  # one file open at a time: systems limit their number
        with np.load(_kept(folder, epoch)) as file:
            heatmaps.append(file["heatmaps"])
            indices = file["indices"]
    return known, torch.from_numpy(np.stack(heatmaps)), indices


def has_heatmaps(folder):
    """Whether a CamRecorder has kept anything in `folder`."""
    return any(folder.glob(_KEPT.format("*")))


def forget_heatmaps(folder):
    """Delete what an earlier run's CamRecorder left in `folder`: two runs are not to be mixed."""
    for old in [*folder.glob(_KEPT.format("*")), *folder.glob("cam-*.gif")]:
        old.unlink()


def _kept(folder, epoch):
    return folder / _KEPT.format(f"{epoch:03d}")


def save_cam_gif(path, image, heatmaps, *, epochs=None, scale=8, milliseconds=500):
    """A looping GIF: the image, then a frame for each heatmap, named by its epoch.

    image: uint8 (3, H, W). heatmaps: float (E, H, W). epochs: their E numbers, by default 0 to
    E - 1. Each frame is `scale` times as large as the image, with a line of text below it.
    """
    several = image.expand(len(heatmaps), *image.shape)
    original = F.interpolate(image[None].float(), scale_factor=scale, mode="nearest").byte()
    epochs = range(len(heatmaps)) if epochs is None else epochs
    texts = ["original", *(f"epoch {epoch}" if epoch else "untrained" for epoch in epochs)]
    pictures = torch.cat([original, overlay(several, heatmaps, scale=scale)])
    save_gif(path, pictures, texts, milliseconds=milliseconds)


def save_gif(path, pictures, texts, *, milliseconds=500):
    """A looping GIF of pictures, uint8 (N, 3, H, W), each above its line of text.

    The first and the last frame stay three times as long as the others. Used in notebook 03.
    """
    from PIL import Image, ImageDraw

    frames = []
    for text, picture in zip(texts, pictures, strict=True):
        picture = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
        canvas = Image.new("RGB", (picture.width, picture.height + 24), "white")
        canvas.paste(picture)
        ImageDraw.Draw(canvas).text((6, picture.height + 5), text, "black", font_size=14)
        frames.append(canvas)
    pauses = [3 * milliseconds] + [milliseconds] * (len(frames) - 2) + [3 * milliseconds]
    write_whole(
        path,
        lambda temporary: frames[0].save(
            temporary, "GIF", save_all=True, append_images=frames[1:], duration=pauses, loop=0
        ),
    )

"""Augmentation: a uint8 batch in, a uint8 batch out, with new random draws for each image.

The operations come first, then the published pipelines, then the table AUGMENTATIONS, which names
every policy, and `augment`, the one call for all of them. Operations on whole tensors cost a few
microseconds per image. albumentations and torchvision pipelines work image by image. To add an
augmentation, write an operation and give it a row in AUGMENTATIONS.
"""

import os
import random
from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from cifar_utils.errors import CifarError, choose, whole

if TYPE_CHECKING:
    import albumentations
    from torchvision.transforms import v2

# --- operations on a whole batch of uint8 images (N, 3, H, W) -------------------------------------


def flip(images: Tensor, generator: Generator | None = None) -> Tensor:
    """Mirror each image left to right with a probability of one half."""
    return _mirror(images, _draw(images, 2, generator).bool())


def alternating_flip(images: Tensor, *, epoch: int, indices: Tensor) -> Tensor:
    """Mirror each image in every second epoch; a fixed coin per image decides in which ones.

    So any two successive epochs show both versions of every image. Independent coins would repeat
    one version half of the time (arXiv 2404.00498). indices: int64 (N,), which images these are.
    """
    epoch = whole(epoch, "epoch")
    coins = (indices * 2654435761 % 2**32) >> 31  # Knuth's hash, so that no table is needed
    return _mirror(images, (coins + epoch) % 2 == 1)


def crop(
    images: Tensor,
    generator: Generator | None = None,
    *,
    padding: int = 4,
    mode: Literal["constant", "reflect"] = "constant",
) -> Tensor:
    """Pad each image on all sides and cut out a window of the old size at a random place.

    mode: "constant" pads with black, "reflect" mirrors the border.
    """
    height, width = images.shape[2:]
    padded = F.pad(images, (padding,) * 4, mode=mode)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (N, 3, 2p + 1, 2p + 1, H, W) view
    rows = _draw(images, 2 * padding + 1, generator)
    columns = _draw(images, 2 * padding + 1, generator)
    return windows[_range(images), :, rows, columns]


def translate(images: Tensor, generator: Generator | None = None, *, pixels: int = 2) -> Tensor:
    """Shift each image by up to `pixels` in each direction and mirror its border into the gap."""
    return crop(images, generator, padding=pixels, mode="reflect")


def cutout(images: Tensor, generator: Generator | None = None, *, size: int = 8) -> Tensor:
    """Paint a grey square over each image. Its centre is anywhere, so its edges may be cut off.

    The grey, 127, is close to the mean colour, and so to zero after normalisation
    (arXiv 1708.04552).
    """
    height, width = images.shape[2:]
    top = _draw(images, height, generator) - size // 2
    left = _draw(images, width, generator) - size // 2
    rows = _inside(torch.arange(height, device=images.device), top, size)
    columns = _inside(torch.arange(width, device=images.device), left, size)
    hole = rows[:, :, None] & columns[:, None, :]  # (N, H, W)
    return images.masked_fill(hole[:, None], 127)


def brightness_contrast(
    images: Tensor,
    generator: Generator | None = None,
    *,
    brightness: float = 0.2,
    contrast: float = 0.2,
) -> Tensor:
    """Scale each image's brightness, and its contrast around its mean grey, by random factors.

    Each image has its own two factors, drawn from [1 - strength, 1 + strength].
    """
    bright = 1 + brightness * _draw_symmetric(images, generator)
    sharp = 1 + contrast * _draw_symmetric(images, generator)
    brighter = images.float() * bright
    grey = brighter.mean(dim=(1, 2, 3), keepdim=True)
    return ((brighter - grey) * sharp + grey).round().clamp(0, 255).to(torch.uint8)


def gentle_color(images: Tensor, generator: Generator | None = None) -> Tensor:
    """Brightness and contrast in the spirit of Hiverge's speed run (github.com/hiverge).

    Theirs moves the brightness by up to 0.14 standard deviations, which is 7% of the mean.
    """
    return brightness_contrast(images, generator, brightness=0.07, contrast=0.13)


def _mirror(images, chosen):
    return torch.where(chosen.view(-1, 1, 1, 1), images.flip(3), images)


def _inside(positions, start, size):
    offsets = positions - start[:, None]  # (N, H)
    return (offsets >= 0) & (offsets < size)


def _range(images):
    return torch.arange(len(images), device=images.device)


def _draw(images, below, generator):
    """A whole number in [0, below) per image."""
    device = images.device if generator is None else generator.device
    drawn = torch.randint(below, (len(images),), generator=generator, device=device)
    return _beside(images, drawn)


def _draw_symmetric(images, generator):
    """A number in [-1, 1) per image, shaped (N, 1, 1, 1)."""
    device = images.device if generator is None else generator.device
    drawn = torch.rand(len(images), 1, 1, 1, generator=generator, device=device)
    return _beside(images, 2 * drawn - 1)


def _beside(images, drawn):
    """`drawn` on the images' device. From pinned memory a GPU fetches it while Python goes on."""
    if images.device.type == "cuda" and drawn.device.type == "cpu":
        return drawn.pin_memory().to(images.device, non_blocking=True)
    return drawn.to(images.device)


# --- published pipelines, which work on one image at a time ---------------------------------------


@cache
def albumentations_pipeline(name: str) -> "albumentations.Compose":
    """The albumentations.Compose of a policy that was published with albumentations.

    It takes and returns {"image": uint8 (32, 32, 3) array}. Raises CifarError for other names. Used
    in notebook 02.
    """
    # Otherwise the import looks for updates on the internet.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations as A
    import cv2

    mean = (125, 123, 114)
    reflect = cv2.BORDER_REFLECT_101  # the default of the releases that the authors used
    steps = {
        "separable-published": [
            A.HorizontalFlip(p=0.1),
            # This release shifts by whole pixels, rounded towards 0; the authors' did by fractions.
            A.Affine(
                translate_percent=(-0.1, 0.1),
                scale=(0.8, 1.2),
                keep_ratio=True,
                rotate=(-15, 15),
                border_mode=reflect,
                p=0.1,
            ),
            A.CoarseDropout((1, 1), (16, 16), (16, 16), fill=mean, p=0.3),
        ],
        "resnet18-published": [
            A.ToGray(p=0.2),  # the authors did this after normalising: see notebook 02
            A.PadIfNeeded(40, 40, border_mode=reflect),
            A.RandomCrop(32, 32),
            A.HorizontalFlip(p=0.5),
            A.CoarseDropout((1, 1), (8, 8), (8, 8), fill=mean, p=1),
        ],
    }
    return A.Compose(_named(name, steps), strict=True)  # strict: a wrong argument name is an error


def albumentations_policy(
    images: Tensor, generator: Generator | None = None, *, name: str
) -> Tensor:
    """Send each image through the albumentations pipeline of that name."""
    pipeline = albumentations_pipeline(name)
    seed = _seed(generator)
    # One stream of numbers for all steps. After set_random_seed each step would draw the same
    # numbers from a stream of its own, and every flipped image would turn to the same side.
    pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
    arrays = images.cpu().permute(0, 2, 3, 1).contiguous().numpy()
    changed = np.stack([pipeline(image=image)["image"] for image in arrays])
    return torch.from_numpy(changed).permute(0, 3, 1, 2).contiguous().to(images.device)


@cache
def torchvision_pipeline(name: str) -> "v2.Compose":
    """The torchvision.transforms.v2.Compose of a policy that was published with torchvision.

    It takes and returns one uint8 (3, 32, 32) tensor. If it were given a batch, torchvision would
    use the same draw for all images. Each begins as its authors' does, with floats in [0, 1] or a
    PIL image, because rounding depends on it. Raises CifarError for other names.
    """
    from torchvision.transforms import v2

    steps = {
        "conv5-published": [
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomHorizontalFlip(),
            v2.RandomRotation(10),
            v2.ColorJitter(brightness=0.5),
            v2.ToDtype(torch.uint8, scale=True),
        ],
        "compact-published": [
            v2.ToPILImage(),
            v2.RandomCrop(32, padding=4),
            v2.RandomHorizontalFlip(),
            v2.RandomRotation(5),
            v2.RandomAffine(0, shear=10, scale=(0.8, 1.2)),
            v2.ColorJitter(0.2, 0.2, 0.2),
            v2.PILToTensor(),
        ],
    }
    return v2.Compose(_named(name, steps))


def torchvision_policy(images: Tensor, generator: Generator | None = None, *, name: str) -> Tensor:
    """Send each image through the torchvision pipeline of that name."""
    pipeline = torchvision_pipeline(name)
    with torch.random.fork_rng(devices=[]):  # its transforms use only the global generator
        torch.default_generator.manual_seed(_seed(generator))
        changed = torch.stack([pipeline(image) for image in images.cpu()])
    return changed.to(images.device)


def _named(name, steps):
    choose(name, steps, "pipeline")
    return steps[name]


def _seed(generator):
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**31, (), generator=generator, device=device))


# --- policies by name -----------------------------------------------------------------------------

Operation = Callable[..., Tensor]  # (images, generator=None), but see alternating_flip
AUGMENTATIONS: dict[str, tuple[Operation, ...]] = {
    "none": (),
    "flip": (flip,),
    "crop-flip": (crop, flip),
    "crop-flip-cutout": (crop, flip, cutout),
    "translate-flip": (translate, flip),
    "crop-alternating": (crop, alternating_flip),
    "translate-alternating": (translate, alternating_flip),
    "translate-alternating-cutout": (translate, alternating_flip, cutout),
    "translate-alternating-color": (translate, alternating_flip, gentle_color),
    "crop-alternating-cutout": (crop, alternating_flip, cutout),
    "crop-flip-color": (crop, flip, brightness_contrast),
    "vgg-published": (),
    "conv5-published": (partial(torchvision_policy, name="conv5-published"),),
    "compact-published": (partial(torchvision_policy, name="compact-published"),),
    "separable-published": (partial(albumentations_policy, name="separable-published"),),
    "resnet18-published": (partial(albumentations_policy, name="resnet18-published"),),
}


def augment(
    images: Tensor,
    policy: str,
    *,
    generator: Generator | None = None,
    epoch: int = 0,
    indices: Tensor | None = None,
) -> Tensor:
    """Apply the named policy of AUGMENTATIONS to every image. Used in notebook 02.

    Args:
        images: uint8 (N, 3, 32, 32). They are left as they are.
        generator: Makes the draws reproducible. None draws from torch's own generator.
        epoch: The epoch's number, which only the alternating flip needs.
        indices: int64 (N,), the images' positions in their data set, also for the alternating
            flip. By default they are 0 to N - 1.

    Returns:
        Images of the same shape and type. If the policy has no operations, `images` itself.

    Raises:
        CifarError: The policy is unknown, or the images are not uint8.
    """
    if images.dtype != torch.uint8:
        raise CifarError(f"images are {images.dtype}; augment takes uint8 images in 0 to 255")
    for operation in operations(policy):
        if operation is alternating_flip:
            indices = _range(images) if indices is None else indices
            _check_indices(indices, len(images))
            images = alternating_flip(images, epoch=epoch, indices=indices)
        else:
            images = operation(images, generator)
    return images


def _check_indices(indices, count):
    whole_numbers = torch.is_tensor(indices) and indices.dtype == torch.int64
    if not whole_numbers or indices.shape != (count,):
        raise CifarError(f"indices must be a tensor, int64 ({count},): one number per image")


def operations(policy: str) -> tuple[Operation, ...]:
    """The operations of a policy. Raises CifarError, with the valid names, for an unknown one."""
    choose(policy, AUGMENTATIONS, "augmentation")
    return AUGMENTATIONS[policy]

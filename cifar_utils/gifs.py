"""Heatmaps laid over images, and pictures that move: a GIF of each epoch's heatmap."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cifar_utils.fonts import drawable, files_for, standard_file
from cifar_utils.sources.files import write_whole


def overlay(images: Tensor, heatmaps: Tensor, *, scale: int = 8) -> Tensor:
    """Images with their heatmaps laid over them, uint8 (N, 3, scale·H, scale·W).

    images: uint8 (N, 3, H, W), at least one. heatmaps: float (N, H, W) in [0, 1]. Both are on the
    CPU. Dark blue means little and yellow means much, which colour-blind readers can tell apart.
    """
    pixels = F.interpolate(images.float(), scale_factor=scale, mode="nearest")
    heat = F.interpolate(heatmaps[:, None], scale_factor=scale, mode="bilinear")[:, 0]
    return (0.45 * pixels + 0.55 * _painted(heat)).round().byte()


def _painted(heat):
    """Heat, float (N, H, W) in [0, 1], in the colours of the map viridis, uint8 (N, 3, H, W)."""
    import cv2

    bytes_of_heat = (255 * heat.clamp(0, 1)).byte().numpy()
    painted = np.stack([cv2.applyColorMap(one, cv2.COLORMAP_VIRIDIS) for one in bytes_of_heat])
    return torch.from_numpy(painted).flip(3).permute(0, 3, 1, 2)  # BGR to RGB


def save_cam_gif(
    path: Path | str,
    image: Tensor,
    heatmaps: Tensor,
    *,
    name: str,
    epochs: Iterable[int] | None = None,
    scale: int = 8,
    milliseconds: int = 500,
) -> None:
    """Write a looping GIF: the image, then one frame per heatmap.

    Below each frame stand a key to the colours, the class and the epoch. An empty map says that
    nothing speaks for the class.

    image: uint8 (3, H, W). heatmaps: float (E, H, W), of the class that is called `name`. epochs:
    their E numbers, by default 0 to E - 1. Each frame is `scale` times as large as the image, with
    44 pixels below it. Frames of up to 120 pixels have no room for a key, and only 24 below.
    """
    name, room = drawable(name), image.shape[2] * scale // 8 - 12  # letters, with the epoch's
    name = name if len(name) <= room else f"{name[: max(room - 1, 1)]}…"
    several = image.expand(len(heatmaps), *image.shape)
    original = F.interpolate(image[None].float(), scale_factor=scale, mode="nearest").byte()
    pictures = torch.cat([original, overlay(several, heatmaps, scale=scale)])
    for picture, heatmap in zip(pictures[1:], heatmaps, strict=True):
        if not heatmap.any():
            picture[:] = _written(picture, f"nothing speaks\nfor {name}")
    if pictures.shape[3] > 120:  # otherwise there is no room for a key
        key = _color_key(pictures.shape[3]).expand(len(pictures), -1, -1, -1)
        pictures = torch.cat([pictures, key], 2)
    epochs = range(len(heatmaps)) if epochs is None else epochs
    when = ["the image", *(f"epoch {epoch}" if epoch else "untrained" for epoch in epochs)]
    texts = [f"{name}: {one}" for one in when]
    save_gif(path, pictures, texts, milliseconds=milliseconds)


def _color_key(width):
    """A strip from "little" to "much" in the colours of heat, uint8 (3, 20, width)."""
    bar = torch.linspace(0, 1, width - 104).expand(10, -1)  # between the two words
    strip = torch.full((3, 20, width), 255, dtype=torch.uint8)
    strip[:, 8:18, 52 : width - 52] = _painted(bar[None])[0]
    strip = _drawn(strip, lambda ink: ink.text((8, 5), "little", "black", font_size=13))
    return _drawn(strip, lambda ink: ink.text((width - 44, 5), "much", "black", font_size=13))


def _written(picture, text):
    """A picture, uint8 (3, H, W), with white text that has a dark edge in its middle."""
    middle = picture.shape[2] / 2, picture.shape[1] / 2
    look = {"stroke_width": 2, "stroke_fill": "black", "anchor": "mm", "align": "center"}
    look |= _font(text, 22)
    return _drawn(picture, lambda ink: ink.multiline_text(middle, text, "white", **look))


def _font(text, size):
    """What tells Pillow a font that has the letters of a `drawable` text: its own, if that does."""
    from PIL import ImageFont

    if text.isascii():
        return {"font_size": size}
    file = next(iter(files_for(text)), standard_file())
    return {"font": ImageFont.truetype(file, size)}


def _drawn(picture, draw):
    """A copy of a picture, uint8 (3, H, W), in which `draw` has drawn with Pillow."""
    from PIL import Image, ImageDraw

    drawing = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    draw(ImageDraw.Draw(drawing))
    return torch.from_numpy(np.array(drawing)).permute(2, 0, 1)


def save_gif(
    path: Path | str, pictures: Tensor, texts: Sequence[str], *, milliseconds: int = 500
) -> None:
    """Write a looping GIF of pictures, uint8 (N, 3, H, W), each with its line of text below it.

    The first and the last frame stay three times as long as the others. Used in notebook 04.
    """
    from PIL import Image, ImageDraw

    frames = []
    for text, picture in zip(map(drawable, texts), pictures, strict=True):
        drawing = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
        canvas = Image.new("RGB", (drawing.width, drawing.height + 24), "white")
        canvas.paste(drawing)
        below = 6, drawing.height + 5
        ImageDraw.Draw(canvas).text(below, text, "black", **_font(text, 14))
        # This way to choose 256 colours keeps rare ones, such as those of a key.
        frames.append(canvas.quantize(256, Image.Quantize.MAXCOVERAGE))
    pauses = [3 * milliseconds] + [milliseconds] * (len(frames) - 2) + [3 * milliseconds]
    write_whole(
        path,
        lambda temporary: frames[0].save(
            temporary, "GIF", save_all=True, append_images=frames[1:], duration=pauses, loop=0
        ),
    )

"""Drawn pictures that stand in for CIFAR-10 if it can be neither found nor downloaded.

What this is: ten little drawings, with the names and the order of CIFAR-10's classes, each redrawn
for every image with fresh colours, pose, backdrop, clutter and noise. A convolutional network has
to learn shapes to tell them apart, so the whole course can be run on them.

What this is not: CIFAR-10. There is no photograph in it, and an accuracy on these pictures says
nothing about an accuracy on those. Anything that loads them has to say so.

Read it from top to bottom: the palettes, the ten drawings, `read`, `draw`, then what `draw` calls.
To add a class, add a row to DRAWINGS. To change a drawing, edit its lines and bump VERSION.
"""

import math
import sys
import textwrap
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from cifar_utils.errors import CifarError, shown
from cifar_utils.sources import cache

VERSION = 1  # bump it if the pictures change: caches of older ones are then made again
SIZE = 32  # pixels per side, as in CIFAR-10
SURPRISE = 0.6  # how often a colour is not the usual one, for above, below and coat each
WOBBLE = 0.12  # how far each number of a part may vary, as a share of it
NOISE = 0.15  # largest standard deviation of the noise; 1 is from black to white
CHUNK = 256  # images drawn at a time: small enough for the processor's caches

PALETTES = {  # name: hue from, to; saturation from, to; brightness from, to; all in [0, 1]
    "any": ((0.00, 1.00), (0.00, 0.70), (0.20, 0.95)),
    "sky": ((0.50, 0.64), (0.10, 0.60), (0.65, 1.00)),
    "sea": ((0.48, 0.64), (0.40, 0.80), (0.30, 0.65)),
    "grass": ((0.18, 0.38), (0.30, 0.70), (0.35, 0.75)),
    "road": ((0.00, 1.00), (0.00, 0.15), (0.30, 0.65)),
    "paint": ((0.00, 1.00), (0.10, 0.90), (0.35, 1.00)),
    "fur": ((0.04, 0.11), (0.00, 0.70), (0.20, 0.95)),
    "skin": ((0.17, 0.42), (0.40, 0.85), (0.35, 0.80)),
    "vivid": ((0.00, 1.00), (0.60, 1.00), (0.60, 1.00)),
    "dark": ((0.00, 1.00), (0.00, 0.30), (0.02, 0.18)),
    "light": ((0.00, 1.00), (0.00, 0.12), (0.85, 1.00)),
}


class Drawing(NamedTuple):
    """How one class is drawn.

    `parts` has one part per line, from back to front: a role, which gives the colour, a shape,
    which is a function at the end of this file, and the shape's numbers. These are pixels on a
    32x32 sheet with (0, 0) in its middle, x to the right and y down. What has a front looks right.
    """

    above: str  # usual palette of the backdrop above the horizon
    below: str  # and below it
    coat: str  # usual palette of the roles body, shade (a darker body) and tint (a lighter one)
    tilt: float  # largest rotation to either side, in degrees
    parts: str


DRAWINGS = {
    "airplane": Drawing("sky", "sky", "paint", 35, """
        shade polygon  4 -1  -4 -14  -8 -14  -4 -1   # far wing
        shade polygon  -9 -1  -13 -6  -15 -6  -14 -1 # far tail plane
        body  limb     -12 0  11 0  2.7              # fuselage
        tint  polygon  4 1  -4 14  -8 14  -4 1       # near wing
        tint  polygon  -9 1  -13 6  -15 6  -14 1     # near tail plane
        vivid limb     -14 0  -10 0  1               # fin
        dark  ellipse  10.5 -0.5  2 1.3              # cockpit
    """),
    "automobile": Drawing("any", "road", "paint", 10, """
        shade polygon  -10 1  -6 -7  4 -7  9 1       # cabin
        light polygon  -7.5 0  -4.5 -5.5  -1 -5.5  -1 0  # windows
        light polygon  0.5 0  0.5 -5.5  3.5 -5.5  6.5 0
        body  box      0 4  14.5 4                   # body
        vivid ellipse  13.5 2.5  1.2 1.2             # head lamp
        dark  ellipse  -8 8  3.8 3.8                 # wheels
        dark  ellipse  8 8  3.8 3.8
        light ellipse  -8 8  1.5 1.5
        light ellipse  8 8  1.5 1.5
    """),
    "bird": Drawing("sky", "grass", "any", 18, """
        shade polygon  -5 -1  -15 -5  -15 1  -6 4    # tail
        vivid limb     -1 5  -1 12  0.6              # legs
        vivid limb     3 5  3 12  0.6
        body  ellipse  -1 1  8 5.5                   # body
        body  ellipse  7 -6  4.3 4.3                 # head
        vivid polygon  10 -8  15.5 -5  10 -4         # beak
        dark  ellipse  8 -7  1 1                     # eye
        tint  ellipse  2 3  4 3                      # breast
        shade polygon  3 -2  -10 -2  -8 2  -1 4      # wing
    """),
    "cat": Drawing("any", "any", "fur", 12, """
        shade limb     5 12  13 3  1.3               # tail
        body  ellipse  0 8  6.5 7.5                  # body
        tint  ellipse  0 9  3 5                      # breast
        body  polygon  -7.5 -4  -7 -14.5  -1 -9      # pointed ears
        body  polygon  7.5 -4  7 -14.5  1 -9
        body  ellipse  0 -4  8 6.5                   # head
        light ellipse  -3.3 -5  1.7 1.7              # eyes
        light ellipse  3.3 -5  1.7 1.7
        dark  ellipse  -3.3 -5  0.8 1.5
        dark  ellipse  3.3 -5  0.8 1.5
        vivid polygon  -1.3 -2  1.3 -2  0 -0.3       # nose
        light limb     2 -1  10 -2  0.25             # whiskers
        light limb     -2 -1  -10 -2  0.25
    """),
    "deer": Drawing("sky", "grass", "fur", 10, """
        shade limb     -5 3  -6 14  0.8              # far legs
        shade limb     5 3  6 14  0.8
        dark  limb     9 -8  6 -15  0.55             # antlers
        dark  limb     7 -12  3 -13  0.5
        dark  limb     10 -8  13 -15  0.55
        dark  limb     12 -12  15 -12  0.5
        body  limb     -7 3  -8 14  0.9              # near legs
        body  limb     7 3  8 14  0.9
        body  ellipse  0 2  8.5 4                    # body
        light ellipse  -9 1  1.6 2                   # tail
        body  limb     6 1  9 -6  1.9                # neck
        body  limb     9 -7  13 -5.5  1.7            # head
        shade ellipse  7 -8.5  2 0.9                 # ear
        dark  ellipse  10 -7.5  0.7 0.7              # eye
    """),
    "dog": Drawing("any", "any", "fur", 12, """
        shade limb     5 12  12 5  1.3               # tail
        body  ellipse  0 8  6.5 7.5                  # body
        tint  ellipse  0 9  3 5                      # breast
        body  ellipse  0 -5  7 7                     # head
        shade ellipse  -7.5 -4  2.6 6.5              # floppy ears
        shade ellipse  7.5 -4  2.6 6.5
        tint  ellipse  0 -1.5  4 3.5                 # muzzle
        light ellipse  -3 -6.5  1.4 1.4              # eyes
        light ellipse  3 -6.5  1.4 1.4
        dark  ellipse  -3 -6.5  0.9 0.9
        dark  ellipse  3 -6.5  0.9 0.9
        dark  ellipse  0 -3  1.8 1.2                 # nose
        vivid limb     0 1  0 3  0.9                 # tongue
    """),
    "frog": Drawing("grass", "sea", "skin", 12, """
        shade limb     -10 11  -14 12  1             # feet
        shade limb     10 11  14 12  1
        shade ellipse  -10 6  4.5 5.5                # bent hind legs
        shade ellipse  10 6  4.5 5.5
        body  ellipse  0 4  11 7                     # body
        body  ellipse  -5.5 -4  3.6 3.6              # eyes
        body  ellipse  5.5 -4  3.6 3.6
        light ellipse  -5.5 -4.5  2.2 2.2
        light ellipse  5.5 -4.5  2.2 2.2
        dark  ellipse  -5.5 -4.5  1.1 1.1
        dark  ellipse  5.5 -4.5  1.1 1.1
        tint  ellipse  0 7  6.5 3.5                  # belly
        dark  limb     -6 2.5  6 2.5  0.5            # mouth
        body  limb     -4 8  -5 13  1                # front legs
        body  limb     4 8  5 13  1
    """),
    "horse": Drawing("sky", "grass", "fur", 10, """
        shade limb     -5 3  -6 14  1.1              # far legs
        shade limb     5 3  6 14  1.1
        dark  limb     -8 0  -14 8  1.5              # tail
        body  limb     -7 3  -8 14  1.2              # near legs
        body  limb     7 3  8 14  1.2
        body  ellipse  0 1  9 4.6                    # body
        dark  polygon  2 -3  6 -13  9 -13  7 -3      # mane
        body  polygon  4 0  8.5 -12  11 -10  9.5 2   # neck
        body  limb     10 -10  14 -6  2              # head
        body  polygon  8.5 -10  9 -15  11 -11        # ear
        dark  ellipse  11 -9.5  0.7 0.7              # eye
    """),
    "ship": Drawing("sky", "sea", "paint", 10, """
        dark  limb     6 -2  6 -14  0.5              # mast
        vivid box      -4 -8  2 4                    # funnel
        dark  box      -4 -12  2 1
        light box      -2 -1  9 3                    # decks
        light box      2 -5  5 2
        dark  limb     -9 -1  5 -1  0.5              # windows
        body  polygon  -15 2  16 1  11 11  -12 11    # hull
        shade polygon  -13 8  12.5 8  11 11  -12 11
        light limb     -13 4  13 3.5  0.4            # stripe
    """),
    "truck": Drawing("any", "road", "paint", 10, """
        dark  box      0 7  14 1.5                   # chassis
        tint  box      -4.5 -3  10.5 9               # cargo
        shade limb     -14 1  5 1  0.5               # stripe
        body  box      11 1.5  4 6                   # cab
        light polygon  9 -3  13 -3  14.5 1  9 1      # window
        vivid ellipse  14.5 5  1 1                   # head lamp
        dark  ellipse  -10 9  3.5 3.5                # wheels
        dark  ellipse  -3 9  3.5 3.5
        dark  ellipse  10 9  3.5 3.5
        light ellipse  -10 9  1.3 1.3
        light ellipse  -3 9  1.3 1.3
        light ellipse  10 9  1.3 1.3
    """),
}  # fmt: skip


def read(root: Path, *, reason: str = "source 'synthetic' was asked for") -> cache.Decoded:
    """50,000 drawings to train on and 10,000 to test with, and a notice that nobody can miss.

    The notice comes every time, because results on drawings must never pass for CIFAR-10's. It
    gives the `reason` why drawings are used.
    """
    line = "=" * 88
    text = (
        "THIS IS NOT CIFAR-10. Drawn stand-in pictures are used in its place: every accuracy below "
        "is about them and says nothing about CIFAR-10."
    )
    lines = [textwrap.fill(part, 84) for part in (text, f"Why: {shown(reason)}.")]
    notice = textwrap.indent("\n".join(lines), "  ")
    print(f"\n{line}\n{notice}\n{line}\n", file=sys.stderr, flush=True)

    def decode():
        return draw(50_000, seed=0), draw(10_000, seed=1)

    return cache.decoded(root, "synthetic", tuple(DRAWINGS), f"drawings {VERSION}", decode)


def draw(count: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw `count` labelled pictures, with shuffled classes of as equal size as possible.

    Returns images, uint8 (count, 3, 32, 32), and labels, int64 (count,) in 0..9 in the order of
    CIFAR-10's classes. The same count and seed give the same pictures. The global random state is
    neither read nor changed. Raises CifarError if `count` is negative.
    """
    if count < 0:
        raise CifarError(f"count must be 0 or more, not {count}")
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(DRAWINGS)
    labels = labels[torch.randperm(count, generator=generator)]
    images = torch.empty(count, 3, SIZE, SIZE, dtype=torch.uint8)
    for label, drawing in enumerate(DRAWINGS.values()):
        for positions in (labels == label).nonzero().flatten().split(CHUNK):
            images[positions] = draw_class(drawing, len(positions), generator)
    return images, labels


def draw_class(drawing: Drawing, n: int, generator: torch.Generator) -> Tensor:
    """Draw `n` pictures of one class, from back to front: uint8 (n, 3, 32, 32)."""

    def uniform(low: float, high: float) -> Tensor:  # one number per image, (n, 1, 1)
        return low + (high - low) * torch.rand(n, 1, 1, generator=generator)

    def colour(palette: str) -> Tensor:  # (n, 3, 1, 1)
        hue, saturation, brightness = PALETTES[palette]
        return rgb(uniform(*hue), uniform(*saturation), uniform(*brightness))

    def usual(palette: str) -> Tensor:  # not always: colour is a hint, never a proof
        return torch.where(uniform(0, 1)[..., None] < SURPRISE, colour("any"), colour(palette))

    def clutter(count: int) -> None:  # blobs and lines that belong to nothing
        for shape in ("ellipse", "limb") * count:
            numbers = [uniform(-16, 16), uniform(-16, 16)]
            if shape == "ellipse":
                numbers += [uniform(1, 5), uniform(1, 5)]
            else:
                numbers += [n0 + uniform(-12, 12) for n0 in numbers] + [uniform(0.3, 1)]
            hidden = 99 * (uniform(0, 1) < 0.4)  # pixels too far away to be seen
            paint(canvas, colour("any"), SHAPES[shape](across, down, *numbers) + hidden)

    # Backdrop: two colours that meet at a tilted horizon, from a sharp edge to a soft gradient.
    axis = torch.arange(SIZE) - (SIZE - 1) / 2
    down, across = axis[:, None], axis[None, :]
    height = down + uniform(-0.3, 0.3) * across - uniform(-4, 8)
    below = torch.sigmoid(height / uniform(0.3, 6))[:, None]
    canvas = torch.lerp(usual(drawing.above), usual(drawing.below), below)
    clutter(3)

    # Pose: find the place of every pixel on the sheet that the parts are drawn on.
    turn = uniform(-1, 1) * math.radians(drawing.tilt)
    scale, stretch = uniform(0.4, 0.95), uniform(0.85, 1.15)
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    x, y = across - uniform(-6, 6), down - uniform(-6, 6)
    x, y = x * turn.cos() + y * turn.sin(), y * turn.cos() - x * turn.sin()
    x, y = (x / stretch + uniform(-0.2, 0.2) * y) * mirror / scale, y * stretch / scale

    body = usual(drawing.coat)
    colours = {"body": body, "shade": 0.65 * body, "tint": 0.55 * body + 0.45}
    colours |= {role: colour(role) for role in ("vivid", "dark", "light")}
    for line in drawing.parts.strip().splitlines():
        role, shape, *numbers = line.split("#")[0].split()
        jittered = [float(number) * (1 + WOBBLE * uniform(-1, 1)) for number in numbers]
        distance = SHAPES[shape](x, y, *jittered)
        paint(canvas, colours[role], distance * scale)

    clutter(3)
    canvas = canvas * uniform(0.7, 1.2)[..., None] + uniform(-0.1, 0.1)[..., None]
    canvas += uniform(0.01, NOISE)[..., None] * torch.randn(canvas.shape, generator=generator)
    return (255 * canvas).round().clamp(0, 255).to(torch.uint8)


def paint(canvas: Tensor, colour: Tensor, distance: Tensor) -> None:
    """Lay a colour over the pixels inside a shape; its edge fades over one pixel."""
    canvas.lerp_(colour.expand_as(canvas), (0.5 - distance).clamp(0, 1)[:, None].expand_as(canvas))


def rgb(hue: Tensor, saturation: Tensor, brightness: Tensor) -> Tensor:
    """Turn three tensors (n, 1, 1) in [0, 1] into red, green and blue, (n, 3, 1, 1) in [0, 1]."""
    ramp = (6 * hue[:, None] + torch.tensor([0.0, 4.0, 2.0])[:, None, None]) % 6
    pure = ((ramp - 3).abs() - 1).clamp(0, 1)
    return brightness[:, None] * (1 - saturation[:, None] * (1 - pure))


# Shapes: how many pixels each point (x, y) is outside the shape, negative inside it.


def ellipse(
    x: Tensor, y: Tensor, centre_x: Tensor, centre_y: Tensor, radius_x: Tensor, radius_y: Tensor
) -> Tensor:
    ratio = torch.hypot((x - centre_x) / radius_x, (y - centre_y) / radius_y)  # 1 on the edge
    return (ratio - 1) * torch.minimum(radius_x, radius_y)


def box(
    x: Tensor,
    y: Tensor,
    centre_x: Tensor,
    centre_y: Tensor,
    half_width: Tensor,
    half_height: Tensor,
) -> Tensor:
    return torch.maximum((x - centre_x).abs() - half_width, (y - centre_y).abs() - half_height)


def limb(
    x: Tensor,
    y: Tensor,
    start_x: Tensor,
    start_y: Tensor,
    end_x: Tensor,
    end_y: Tensor,
    radius: Tensor,
) -> Tensor:
    """A thick line with round ends."""
    x, y, along_x, along_y = x - start_x, y - start_y, end_x - start_x, end_y - start_y
    share = (x * along_x + y * along_y) / (along_x**2 + along_y**2)  # 0 at the start, 1 at the end
    share = share.clamp_(0, 1)
    return torch.hypot(x - share * along_x, y - share * along_y) - radius


def polygon(x: Tensor, y: Tensor, *corners: Tensor) -> Tensor:
    """Any convex polygon, with its corners in order, either way round."""
    sides, area = [], torch.zeros(())
    for i in range(0, len(corners), 2):
        start_x, start_y, end_x, end_y = (*corners, *corners)[i : i + 4]
        along_x, along_y = end_x - start_x, end_y - start_y
        length = torch.hypot(along_x, along_y)
        across = start_y * along_x - start_x * along_y
        sides.append((x * along_y - y * along_x + across) / length)
        area = area - across  # its sign tells which way round they are
    return reduce(torch.maximum, [side * area.sign() for side in sides])


SHAPES: dict[str, Callable[..., Tensor]] = {
    "ellipse": ellipse, "box": box, "limb": limb, "polygon": polygon,
}  # fmt: skip

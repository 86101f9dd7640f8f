"""What only a notebook needs: its first cell, quick mode, a live display, time estimates, bands.

Every notebook begins with `course.setup()`. Quick mode (the environment variable
CIFAR_UTILS_QUICK=1) is known here and nowhere else: a small sample, an epoch or two, no download,
so that a whole notebook can be tried, or tested, within a minute. Its figures mean nothing.

Importing this folder takes nothing but the standard library: `setup` may have to install the rest.
"""

from cifar_utils.course.display import Watch, describe, show_gif
from cifar_utils.course.first_cell import OLDEST_TORCH, setup
from cifar_utils.course.places import ROOT, where
from cifar_utils.course.quick import (
    choose,
    duration,
    estimate,
    expect,
    is_quick,
    load,
    official_file,
    picture,
    recipe,
    scratch,
    upload,
)

__all__ = [
    "OLDEST_TORCH",
    "ROOT",
    "Watch",
    "choose",
    "describe",
    "duration",
    "estimate",
    "expect",
    "is_quick",
    "load",
    "official_file",
    "picture",
    "recipe",
    "scratch",
    "setup",
    "show_gif",
    "upload",
    "where",
]

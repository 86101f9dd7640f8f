"""What only a notebook needs. Every notebook begins with `course.setup()`.

first_cell: install what is missing, say what the notebook runs on
quick:      quick mode, and what depends on it: data, recipes, paths, expected results, estimates
display:    a training to watch, figures with alternative text, animations, folded texts
drawings:   ideas drawn from numbers (import it yourself: it needs torch)
mistakes:   the eight broken trainings of notebook 05 (import it yourself: it needs torch)
transfer:   the backbones of notebook 09 (import it yourself: it needs torch)
places:     which folder holds the clone, which service lends the machine
exercises:  checks and hints of the exercises (import it yourself: it needs torch)

Importing this folder takes only the standard library, because `setup` may have to install the rest.
"""

from cifar_utils.course.display import Watch, describe, folded, show_gif
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
    "folded",
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

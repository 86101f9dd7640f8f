"""Where a notebook runs: the clone, and the place that lends the machine."""

import os
from pathlib import Path

CLONE = Path(__file__).resolve().parents[2]
ROOT = CLONE if (CLONE / "pyproject.toml").is_file() else Path.cwd()  # installed without a clone

# Where notebooks are run: (name, what its environment variables start with, how to get a GPU).
# Kaggle first: its image is made from Colab's and may have its variables, too.
PLACES = (
    ("Kaggle", "KAGGLE_", "Settings → Accelerator → GPU T4 x2"),
    ("Colab", "COLAB_", "Runtime → Change runtime type → T4 GPU"),
    ("Gradient", "PAPERSPACE_", "stop the machine, then start it again as one with a GPU"),
)
CREDENTIALS = {"KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "KAGGLE_CONFIG_DIR",
               "PAPERSPACE_API_KEY"}  # set anywhere, to reach these places from there  # fmt: skip
ELSEWHERE = "open the clone on Colab, Kaggle or Gradient; an NVIDIA or Apple GPU is used by itself"


def where():
    """(name of the place this runs in, "" for a machine of one's own; how to get a GPU there)."""
    for name, prefix, how in PLACES:
        if any(variable.startswith(prefix) for variable in os.environ.keys() - CREDENTIALS):
            return name, how
    return "", ELSEWHERE

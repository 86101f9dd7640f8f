"""Where a notebook runs: which folder holds the clone, which service lends the machine."""

import os
from pathlib import Path

CLONE = Path(__file__).resolve().parents[2]
ROOT = CLONE if (CLONE / "pyproject.toml").is_file() else Path.cwd()  # installed without a clone

# Each service: its name, what its environment variables start with, how to get a GPU there.
# Kaggle comes first: its image is made from Colab's and may have Colab's variables, too.
PLACES = (
    ("Kaggle", "KAGGLE_", "Settings → Accelerator → GPU T4 x2"),
    ("Colab", "COLAB_", "Runtime → Change runtime type → T4 GPU"),
    ("Gradient", "PAPERSPACE_", "stop the machine, then start it again as one with a GPU"),
)
ELSEWHERE = (
    "open the clone on Colab, Kaggle or Gradient; an NVIDIA or Apple GPU is used automatically"
)
# These say nothing about the place: people set them on any machine, to reach a service from there.
CREDENTIALS = {
    "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "KAGGLE_CONFIG_DIR", "PAPERSPACE_API_KEY",
}  # fmt: skip


def where() -> tuple[str, str]:
    """The service that this runs on, and how to get a GPU there.

    The service is "Kaggle", "Colab" or "Gradient", or "" on your own machine.
    """
    for name, prefix, how in PLACES:
        if any(variable.startswith(prefix) for variable in os.environ.keys() - CREDENTIALS):
            return name, how
    return "", ELSEWHERE

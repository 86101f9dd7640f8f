"""What something was measured on, and by which code."""

import importlib.metadata
import platform
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from cifar_utils import __version__
from cifar_utils.machine import Precision, describe


def machine(device: torch.device, precision: Precision) -> dict[str, Any]:
    """What was measured on and when: device, processor, system, versions and the code's commit."""
    others = ("torchvision", "albumentations", "numpy")
    return {
        "device": describe(device),
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),  # the widest that torch found
        "threads": torch.get_num_threads(),
        "precision": precision,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: importlib.metadata.version(name) for name in others},
        "cifar_utils": __version__,
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def commit(root: Path = Path(__file__).parents[2]) -> str:
    """The commit of the checkout at `root`; the version, if it is none or if there is no git.

    "-dirty" follows if tracked files differ from it, other than the pictures that notebooks redraw.
    """
    git = ["git", "-C", str(root)]
    if (root / ".git").exists():  # an installed package may lie in the checkout of something else
        with suppress(OSError, subprocess.CalledProcessError):
            line = [*git, "rev-parse", "--short=7", "HEAD"]
            done = subprocess.run(line, capture_output=True, text=True, check=True)
            line = [*git, "diff", "--quiet", "HEAD", "--", ".", ":!images"]
            changed = subprocess.run(line, capture_output=True, check=False).returncode
            return done.stdout.strip() + "-dirty" * bool(changed)
    return __version__


def processor() -> str:
    """The CPU's name, or if the system does not tell it, its kind, such as "arm64"."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()  # Linux
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

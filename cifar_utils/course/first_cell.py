"""The first cell of every notebook: install what is missing, say what the notebook runs on.

Only the standard library is imported above the functions, because `setup` may have to install the
rest first.
"""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from cifar_utils.course.display import prepare_figures
from cifar_utils.course.places import ROOT, where
from cifar_utils.course.quick import QUICK_EPOCHS, QUICK_IMAGES, is_quick

# The modules that the course needs, and the oldest torch that will do.
NEEDED = ("torch", "torchvision", "albumentations", "torchsummary", "pytorch_grad_cam")
OLDEST_TORCH = (2, 6)
# Pip has to leave these at the versions that the service brings.
KEPT = ("torch", "torchvision", "numpy")
# The kernel may have loaded these (package: module) before the first cell runs. If pip then brings
# a newer one, the kernel has to be restarted.
LOADED = {"matplotlib": "matplotlib", "pillow": "PIL"}


def setup() -> None:
    """Install what is missing, print what this notebook runs on, and prepare its figures.

    It prints the versions, the device, the precision and, on a CPU, how to switch a GPU on. If pip
    has to run, it keeps the installed torch, torchvision and numpy. Used in every notebook.

    Raises:
        SystemExit: with one line that says what to do, if torch is too old, if something is missing
            and cannot be installed, or if the kernel has to be restarted.
    """
    install()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise torch's profiler chats on stderr
    import torch

    from cifar_utils import __version__
    from cifar_utils.machine import describe, pick_device, pick_precision

    device = pick_device()
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "torchvision")]
    python = ".".join(map(str, sys.version_info[:3]))
    print(f"cifar_utils {__version__} · Python {python} · {' · '.join(versions)}")
    print(f"{describe(device)} · {pick_precision('auto', device)}")
    if device.type == "cpu":
        place, how = where()
        print(f"No GPU here. To switch one on{place and f' in {place}'}: {how}.")
    if is_quick():
        print(
            f"Quick mode: {QUICK_IMAGES:,} images, {QUICK_EPOCHS} epochs; the numbers mean nothing."
        )
    torch.manual_seed(0)
    prepare_figures()


def install() -> None:
    """Install the clone and what it needs, unless all of it is there.

    It is not enough to find the clone's own metadata. They lie in the clone, and so outlive the
    packages on services that keep only the user's folders. Raises SystemExit as `setup` does.
    """
    if _version("cifar-utils") and not _missing():
        return
    _check_torch()
    print("Installing cifar_utils and what it needs …")
    before = {name: _version(name) for name, module in LOADED.items() if module in sys.modules}
    pip = _run_pip()
    importlib.invalidate_caches()
    missing = ", ".join(_missing())
    if missing and pip.returncode == 0:  # in a folder that did not exist when Python started
        raise SystemExit(
            f"Installed, but not visible yet: {missing}. Restart the kernel, then run this cell "
            "again."
        )
    if missing:
        lines = [line for line in pip.stderr.splitlines() if line.strip()]
        raise SystemExit(
            f"Could not install {missing}: switch the Internet on for this notebook, or run "
            f"`pip install --editable {ROOT.name}` in the folder that holds the clone, and restart "
            f"the kernel. Pip's last line: {''.join(lines[-1:])}"
        )
    replaced = ", ".join(name for name in before if before[name] != _version(name))
    if replaced:
        raise SystemExit(
            f"Newer files of {replaced} are installed, but older ones are loaded: restart the "
            "kernel, then run this cell again."
        )


def _check_torch() -> None:
    torch = _version("torch")
    if torch and tuple(map(int, torch.split(".")[:2])) < OLDEST_TORCH:
        raise SystemExit(
            f"This machine has torch {torch}, but the course needs "
            f"{'.'.join(map(str, OLDEST_TORCH))} or newer: choose a newer image, or run "
            "`pip install --upgrade torch torchvision` and restart the kernel."
        )


def _run_pip() -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text(
            "\n".join(f"{name}=={_version(name)}" for name in KEPT if _version(name))
        )
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(constraints)]
        return subprocess.run([*pip, "--editable", str(ROOT)], capture_output=True, text=True)


def _missing() -> list[str]:
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None

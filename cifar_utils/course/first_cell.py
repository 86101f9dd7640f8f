"""The first cell of every notebook: install what is missing, say what the notebook runs on.

Nothing but the standard library is imported above the functions: `setup` may have to install the
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

# What the first cell makes sure of, the oldest torch that will do, and what may be loaded before it
# (package: module), so that a newer one takes a restart.
NEEDED = ("torch", "torchvision", "albumentations", "torchsummary", "pytorch_grad_cam")
OLDEST_TORCH = (2, 6)
LOADED = {"matplotlib": "matplotlib", "pillow": "PIL"}


def setup():
    """Install what is missing, print versions, device and precision, prepare figures.

    On a CPU it says how to switch a GPU on. Torch is never touched: where pip has to be called, it
    is held to the installed versions of torch, torchvision and numpy. Raises SystemExit, with one
    line to follow, where torch is too old, where something is missing and cannot be installed, and
    where pip has replaced what the kernel had loaded.
    """
    install()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else torch's profiler chats on stderr
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
        print(f"Quick mode: {QUICK_IMAGES:,} images, {QUICK_EPOCHS} epochs; figures mean nothing.")
    torch.manual_seed(0)
    prepare_figures()


def install():
    """`pip install --editable` of the clone, where it or what it needs is not there yet."""
    if _version("cifar-utils") and not _missing():  # a clone names itself wherever it was installed
        return
    torch = _version("torch")
    if torch and tuple(map(int, torch.split(".")[:2])) < OLDEST_TORCH:
        raise SystemExit(
            f"Here is torch {torch}, and the course needs {'.'.join(map(str, OLDEST_TORCH))} or "
            "newer: choose a newer image, or run `pip install --upgrade torch torchvision` and "
            "restart the kernel."
        )
    print("Installing cifar_utils and what it needs …")
    kept = [f"{name}=={_version(name)}" for name in ("torch", "torchvision", "numpy")
            if _version(name)]  # fmt: skip
    loaded = {name: _version(name) for name, module in LOADED.items() if module in sys.modules}
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(kept))
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(constraints)]
        done = subprocess.run([*pip, "--editable", str(ROOT)], capture_output=True, text=True)
    importlib.invalidate_caches()
    if _missing() and not done.returncode:  # in a folder that was not there when Python started
        raise SystemExit(
            f"Installed, but not visible yet: {', '.join(_missing())}. Restart the kernel, then "
            "run this cell again."
        )
    if _missing():
        said = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        raise SystemExit(
            f"Could not install {', '.join(_missing())}: switch the Internet on for this notebook, "
            f"or run `pip install --editable {ROOT.name}` beside the clone, and restart the "
            f"kernel. Pip's last line: {''.join(said)}"
        )
    replaced = [name for name in loaded if loaded[name] != _version(name)]
    if replaced:
        raise SystemExit(
            f"Newer files of {', '.join(replaced)} are installed, but older ones are loaded: "
            "restart the kernel, then run this cell again."
        )


def _missing():
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None

"""What only a notebook needs: its first cell, quick mode, a live display, time estimates, bands.

Every notebook begins with `course.setup()`. Quick mode (the environment variable
CIFAR_UTILS_QUICK=1) is known here and nowhere else: a small sample, an epoch or two, no download,
so that a whole notebook can be tried, or tested, within a minute. Its figures mean nothing.

Nothing but the standard library is imported above the functions: `setup` may have to install the
rest first.
"""

import base64
import importlib.metadata
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from html import escape
from pathlib import Path

from cifar_utils import errors
from cifar_utils.errors import CifarError

CLONE = Path(__file__).resolve().parents[2]
ROOT = CLONE if (CLONE / "pyproject.toml").is_file() else Path.cwd()  # installed without a clone
QUICK_IMAGES = 1000  # of each split
QUICK_EPOCHS = 2
LONG = 300  # seconds of training after which `estimate` says how to shorten it

# What the first cell makes sure of, the oldest torch that will do, and what may be loaded before it
# (package: module), so that a newer one takes a restart.
NEEDED = ("torch", "torchvision", "albumentations", "torchsummary", "pytorch_grad_cam")
OLDEST_TORCH = (2, 6)
LOADED = {"matplotlib": "matplotlib", "pillow": "PIL"}

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

# What a full run on CIFAR-10 should give: (lowest, highest). The nearest mean is the same on every
# machine. The others are ranges, widened: over three seeds for compact, two for the gain, and three
# weight decays for the linear classifier; all on a CPU.
BANDS = {
    "nearest mean": (0.26, 0.27),
    "linear classifier": (0.38, 0.42),
    "crop-flip on 10,000 images, gain": (0.035, 0.07),
    "compact, 6 epochs": (0.835, 0.87),
}


# --- the first cell -------------------------------------------------------------------------------


def setup():
    """Install what is missing, print versions, device and precision, prepare figures.

    On a CPU it says how to switch a GPU on. Torch is never touched: where pip has to be called, it
    is held to the installed versions of torch, torchvision and numpy. Raises SystemExit, with one
    line to follow, where torch is too old, where something is missing and cannot be installed, and
    where pip has replaced what the kernel had loaded.
    """
    _install()
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
    _prepare_figures()


def where():
    """(name of the place this runs in, "" for a machine of one's own; how to get a GPU there)."""
    for name, prefix, how in PLACES:
        if any(variable.startswith(prefix) for variable in os.environ.keys() - CREDENTIALS):
            return name, how
    return "", ELSEWHERE


def _install():
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


# --- quick mode -----------------------------------------------------------------------------------


def is_quick():
    """Whether this is a quick run: the environment has CIFAR_UTILS_QUICK=1."""
    return os.environ.get("CIFAR_UTILS_QUICK", "0") not in ("", "0")


def choose(*, full, quick):
    """`full`, or in quick mode `quick`."""
    return quick if is_quick() else full


def load(*, whole=False):
    """CIFAR-10 as `data.load` gives it; in quick mode a sample, and never downloaded.

    whole=True keeps all images in quick mode, too. Where there are no files, quick mode takes the
    drawn stand-in. Used in every notebook.
    """
    from cifar_utils import data

    root = data.default_root()
    here = data.official_folder(root) is not None or (root / data.ARCHIVE).is_file()
    cifar = data.load(source="synthetic" if is_quick() and not here else "auto")
    if is_quick() and not whole:
        cifar = cifar.limit(QUICK_IMAGES)
    splits = {"training": cifar.train, "validation": cifar.val, "test": cifar.test}
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in splits.items())
    print(f"{data.source_title(cifar.source)}: {sizes} images")
    return cifar


def official_file(cifar, name):
    """(path, MD5) of "data_batch_1" or "batches.meta", for reading by hand in notebook 01.

    Where the stand-in is used there are no files: one of the same form is then written into a
    temporary folder, a batch from the images in the order of their source.
    """
    from cifar_utils import data

    if cifar.source == "cifar10":
        return data.official_folder(data.default_root()) / name, data.MD5[name]
    import hashlib
    import pickle

    import torch

    indices = torch.cat([cifar.train.indices, cifar.val.indices])
    order = indices.argsort()[:10_000]
    images = torch.cat([cifar.train.images, cifar.val.images])[order].flatten(1).numpy()
    labels = torch.cat([cifar.train.labels, cifar.val.labels])[order].tolist()
    filenames = [f"drawn_{number}.png".encode() for number in range(len(labels))]
    files = {
        "data_batch_1": {b"batch_label": b"training batch 1 of 5", b"labels": labels,
                         b"data": images, b"filenames": filenames},
        "batches.meta": {b"num_cases_per_batch": 10_000, b"num_vis": 3072,
                         b"label_names": [label.encode() for label in cifar.classes]},
    }  # fmt: skip
    content = pickle.dumps(files[name], protocol=2)
    path = Path(tempfile.mkdtemp()) / name
    path.write_bytes(content)
    return path, hashlib.md5(content).hexdigest()


def recipe(name, **changes):
    """The recipe of that name with some fields changed.

    In quick mode at most two epochs, and batches of at most 128 images: else too few steps.
    """
    from cifar_utils.recipes import get_recipe

    changed = get_recipe(name).changed(**changes)
    if is_quick():
        changed = changed.changed(
            epochs=min(changed.epochs, QUICK_EPOCHS), batch_size=min(changed.batch_size, 128)
        )
    return changed


def picture(name, source):
    """Where to save a picture: images/ of the clone for a full run on CIFAR-10, else `scratch`.

    So neither a quick run nor the stand-in replaces the pictures that the README shows; nor does
    any run where the clone cannot be written to.
    """
    final = source == "cifar10" and not is_quick()
    return ROOT / "images" / name if final and os.access(ROOT, os.W_OK) else scratch(name)


def scratch(name):
    """Where to keep a file that nobody needs tomorrow: build/notebooks/, which git ignores.

    Beside the notebook, where the clone cannot be written to.
    """
    folder = (ROOT if os.access(ROOT, os.W_OK) else Path.cwd()) / "build" / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def upload():
    """Ask the reader for a file, on Colab; its path. On a phone the dialogue offers the camera.

    Raises CifarError elsewhere, and where no file was chosen. Used in notebook 05.
    """
    if where()[0] != "Colab":
        raise CifarError(
            "only Colab can ask for a file; put yours beside the notebook and write its name"
        )
    from google.colab import files

    for name, content in files.upload().items():
        # Colab itself keeps a second file of one name under another name: so keep it ourselves.
        path = scratch(Path(name).name)
        path.write_bytes(content)
        return path
    raise CifarError("no file was chosen; run the cell again")


# --- expected bands and time ----------------------------------------------------------------------


def expect(name, value, source):
    """Print whether an accuracy lies where a full run on CIFAR-10 should bring it.

    name: a key of BANDS. In quick mode, and on other data, there is nothing to compare with.
    """
    errors.choose(name, BANDS, "band")
    lowest, highest = BANDS[name]
    band = f"{lowest:.1%} to {highest:.1%}"
    if is_quick() or source != "cifar10":
        print(f"{name}: {value:.1%} (a full run on CIFAR-10 gives {band})")
    elif lowest <= value <= highest:
        print(f"✓ {name}: {value:.1%}, within the expected {band}")
    else:
        print(f"✗ {name}: {value:.1%}, not within the expected {band}: was a cell changed?")


def estimate(recipe, train, *, steps=10):
    """Print, and return in seconds, how long `fit` will train here; on a CPU what to do about it.

    A few steps are measured, augmentation included, on a throw-away network: at least four, and at
    most for 5 seconds. They are steps of the training's end, where images have their full size.
    """
    from cifar_utils.machine import Machine
    from cifar_utils.models import build
    from cifar_utils.optim import make_optimizer
    from cifar_utils.train import AugmentedBatches, find_teacher, train_one_epoch

    machine = Machine.pick(winograd=recipe.winograd)
    model = machine.place(build(recipe, train.classes))
    optimizer = make_optimizer(model, recipe)
    batches = AugmentedBatches(train.to(machine.device), recipe, epoch=1)
    teacher = find_teacher(recipe, train.classes, machine)
    times, began = [], time.perf_counter()
    while len(times) < 4 or (len(times) < steps and time.perf_counter() - began < 5):
        start = time.perf_counter()
        batch = batches[len(times) % len(batches)]
        train_one_epoch(
            model, [batch], optimizer, recipe, machine=machine, teacher=teacher, span=(1.0, 1.0)
        )
        times.append(time.perf_counter() - start)
    step = statistics.median(times[2:])  # the first two also compile kernels and ask for memory
    seconds = step * len(batches) * recipe.epochs
    print(
        f"{recipe.model}, {recipe.epochs} epochs of {len(train):,} images: "
        f"about {duration(seconds)} of training on {machine} ({machine.precision})"
    )
    if machine.device.type == "cpu" and seconds > LONG:
        print(f"To shorten it: fewer epochs, fewer images (train[:10_000]), or a GPU: {where()[1]}")
    return seconds


def duration(seconds):
    """Seconds in words: 45 s, 3 min 20 s, 2 h 5 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


# --- live display ---------------------------------------------------------------------------------


class Watch:
    """A training to look at: curves, a table and the time left, each updated in its place.

    watch = Watch(); fit(..., log=watch, progress=watch.progress). One Watch serves any number of
    runs. What is left at the end is a plain picture and a plain table, without widgets. Used in
    notebooks 02 and 04.
    """

    def __init__(self):
        self.run = None

    def __call__(self, run):
        """What fit calls before the first epoch and after each."""
        from IPython.display import display

        self.history = run.history
        if run is not self.run:
            self.run = run
            self.began, self.first = time.perf_counter(), len(run.history.epochs)
            self.places = [display(_Text(""), display_id=True) for _ in range(3)]
        status, curves, table = self.places
        status.update(_Text(self._status(within=0.0)))
        curves.update(_curves(run.history))
        table.update(_Table(run.history))

    def progress(self, batches):
        """The batches, one by one; the line with the time left is renewed twice a second."""
        renewed = time.perf_counter()
        for number, batch in enumerate(batches):
            yield batch
            # A resumed run is first seen, and so first shown, at the end of an epoch: until then
            # this Watch knows no run, or an earlier one.
            runs = self.run and len(self.history.epochs) <= self.history.recipe.epochs
            if runs and time.perf_counter() - renewed > 0.5:
                renewed = time.perf_counter()
                self.places[0].update(_Text(self._status(within=(number + 1) / len(batches))))

    def _status(self, within):
        epochs, total = self.history.epochs, self.history.recipe.epochs
        elapsed = time.perf_counter() - self.began
        if len(epochs) > total:
            best = self.history.best
            last = epochs[-1]
            text = f"{self.history.title}: {total} epochs, {duration(elapsed)}"
            if best:
                text += f"; validation accuracy {last.val_accuracy:.2%} after the last"
                text += f", best {best.val_accuracy:.2%} after epoch {best.epoch}"
            return text
        text = f"{self.history.title}: epoch {len(epochs)} of {total}, {within:.0%}"
        done = len(epochs) - self.first + within
        if done > 0.02:
            text += f", {duration(elapsed / done * (total + 1 - self.first - done))} left"
        return text


class _Text:
    """A line for a notebook, as HTML and as plain text."""

    def __init__(self, text):
        self.text = text

    def __repr__(self):
        return self.text

    def _repr_html_(self):
        return f"<p>{self.text}</p>"


class _Table:
    """The rows of a History."""

    HEADS = ("epoch", "lr", "train loss", "train acc", "val loss", "val acc", "seconds")

    def __init__(self, history):
        self.rows = history.epochs

    def __repr__(self):
        return "\n".join(map(str, self.rows))

    def _repr_html_(self):
        lines = ["".join(f"<th>{head}</th>" for head in self.HEADS)]
        for row in self.rows:
            val = ("–", "–")
            if row.val_loss is not None:
                val = f"{row.val_loss:.4f}", f"{row.val_accuracy:.2%}"
            cells = (row.epoch, f"{row.lr:.3g}", f"{row.train_loss:.4f}",
                     f"{row.train_accuracy:.2%}", *val, f"{row.seconds:.1f}")  # fmt: skip
            lines.append("".join(f"<td>{cell}</td>" for cell in cells))
        return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _curves(history):
    from matplotlib.figure import Figure

    from cifar_utils import plots

    figure = Figure(figsize=(10, 3), layout="constrained")  # not pyplot's: it would be shown twice
    for metric, ax in zip(("loss", "accuracy"), figure.subplots(1, 2), strict=True):
        plots.plot_history(history, metric=metric, ax=ax)
        ax.set(title=metric, ylabel=None)
        ax.set_xlim(0, history.recipe.epochs)
    return figure


# --- figures that say what they show --------------------------------------------------------------


def _prepare_figures():
    """Give every figure of the notebook the course's style, and an alternative text made from the
    figure's own words."""
    try:
        from IPython import get_ipython

        png = get_ipython().display_formatter.formatters["image/png"]
    except (ImportError, AttributeError):
        return  # not in a notebook
    import matplotlib.pyplot as plt
    from IPython.core.pylabtools import print_figure
    from matplotlib.figure import Figure

    from cifar_utils.plots import STYLE

    plt.rcParams.update(STYLE)

    def draw(figure):
        data = print_figure(figure, "png", base64=True, dpi=90)
        return (data, {"alt": describe(figure)}) if data else None

    plt.switch_backend(plt.get_backend())  # registers a drawer of its own, which ours replaces
    png.for_type(Figure, draw)


def describe(figure, *, longest=400):
    """A figure in words: its title, and of each panel the title, the axes' names, the legend."""
    title = figure.get_suptitle()
    panels = []
    for ax in figure.axes:
        axes = f"{ax.get_ylabel()} against {ax.get_xlabel()}".strip()
        axes = axes if ax.get_xlabel() and ax.get_ylabel() else ax.get_xlabel() or ax.get_ylabel()
        legend = ax.get_legend()
        names = [text.get_text() for text in legend.get_texts()] if legend else []
        few = [text.get_text() for text in ax.texts] if len(ax.texts) < 10 else []
        words = [ax.get_title(), axes, ", ".join(names), ", ".join(few)]
        panels.append(": ".join(word.replace("\n", " ") for word in words if word.strip()))
    panels = [
        panel if count == 1 else f"{panel} × {count}"
        for panel, count in Counter(panel for panel in panels if panel).items()
    ]
    pictures = sum(bool(ax.images) for ax in figure.axes)
    kind = f"{pictures} pictures" if pictures > 1 else "a picture" if pictures else "a chart"
    text = "; ".join([title or kind, *panels])
    return text if len(text) <= longest else text[: longest - 1] + "…"


def show_gif(path, alt):
    """Show an animated picture file in the notebook, with its alternative text.

    As HTML: pages made of notebooks know no animated pictures among their outputs.
    """
    from IPython.display import HTML, display

    encoded = base64.b64encode(Path(path).read_bytes()).decode()
    display(HTML(f'<img src="data:image/gif;base64,{encoded}" alt="{escape(alt)}">'))

"""What the notebooks lean on: the first cell, quick mode, estimates, bands, the live display."""

import base64
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pickle
import subprocess
import sys
import time
import types
from pathlib import Path
from unittest.mock import MagicMock

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from IPython.core.formatters import DisplayFormatter

from cifar_utils import course, data, machine, models
from cifar_utils.augment import AUGMENTATIONS
from cifar_utils.course import display, first_cell, quick
from cifar_utils.errors import CifarError
from cifar_utils.plots import STYLE
from cifar_utils.recipes import get_recipe
from cifar_utils.sources import cifar10, synthetic
from cifar_utils.train import fit

ROOT = Path(__file__).parent.parent


@pytest.fixture
def quick_mode(monkeypatch):
    monkeypatch.setenv("CIFAR_UTILS_QUICK", "1")


@pytest.fixture
def full_mode(monkeypatch):
    monkeypatch.delenv("CIFAR_UTILS_QUICK", raising=False)


@pytest.fixture
def blank_stand_in(monkeypatch, tmp_path):
    """A small stand-in that is drawn at once, no files, and no network."""

    def draw(count, seed):
        count //= 5
        return torch.zeros(count, 3, 32, 32, dtype=torch.uint8), torch.arange(count) % 10

    monkeypatch.setattr(synthetic, "draw", draw)
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path))
    monkeypatch.setattr(cifar10, "download", lambda *_, **__: pytest.fail("it tried to download"))


class Clock:
    """Stands in for time.perf_counter: a reading takes `tick` seconds, and tests add their own."""

    def __init__(self):
        self.now, self.tick = 0.0, 0.1  # more than 0, or code that waits would wait for ever

    def __call__(self):
        self.now += self.tick
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


# --- the first cell -------------------------------------------------------------------------------


def test_setup_says_what_it_runs_on(full_mode, capsys):
    course.setup()
    printed = capsys.readouterr().out
    for word in (torch.__version__.partition("+")[0], "Python 3.", "cifar_utils"):
        assert word in printed
    assert machine.describe(machine.pick_device()) in printed
    assert "Quick" not in printed


@pytest.mark.parametrize(
    ("variables", "place", "word"),
    [
        ("COLAB_RELEASE_TAG", "Colab", "T4 GPU"),
        ("KAGGLE_KERNEL_RUN_TYPE", "Kaggle", "Accelerator"),
        ("PAPERSPACE_FQDN", "Gradient", "stop the machine"),
        ("KAGGLE_URL_BASE COLAB_RELEASE_TAG", "Kaggle", "Settings"),  # its image is Colab's
        ("KAGGLE_KEY KAGGLE_USERNAME COLAB_RELEASE_TAG", "Colab", "T4 GPU"),  # for its API
        ("KAGGLE_KEY PAPERSPACE_API_KEY", "", "Colab, Kaggle or Gradient"),
        ("", "", "Colab, Kaggle or Gradient"),
    ],
)
def test_each_place_says_how_to_get_a_gpu(monkeypatch, variables, place, word):
    be_at(monkeypatch, *variables.split())
    name, how = course.where()
    assert name == place and word in how


def be_at(monkeypatch, *variables):
    """Set these environment variables, and none that tells another place."""
    for known in [key for key in os.environ if key.startswith(("COLAB_", "KAGGLE_", "PAPERSPACE"))]:
        monkeypatch.delenv(known)
    for name in variables:
        monkeypatch.setenv(name, "x")


def test_on_a_cpu_setup_says_how_to_get_a_gpu(quick_mode, monkeypatch, capsys):
    be_at(monkeypatch, "COLAB_RELEASE_TAG")
    monkeypatch.setattr(machine, "pick_device", lambda name="auto": torch.device("cpu"))
    course.setup()
    lines = capsys.readouterr().out.splitlines()
    assert any("No GPU here" in line and "in Colab: Runtime" in line for line in lines)
    assert any(line.startswith("Quick mode: 500 images, 2 epochs") for line in lines)


class Packages:
    """Stands in for pip and for what it has installed: all that is really here, but for `changed`.

    changed: version by package, None for a missing one. pip: what to do when pip is called; it
    returns the exit status and what was said on stderr. calls: pip's arguments and constraints.
    """

    def __init__(self, monkeypatch):
        self.changed, self.calls = {}, []
        self.pip = lambda: (1, "ERROR: one\nERROR: no network\n")
        version, find = importlib.metadata.version, importlib.util.find_spec

        def changed_version(name):
            if self.changed.get(name, "") is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return self.changed.get(name) or version(name)

        def changed_find(name):
            return None if self.changed.get(name, "") is None else find(name)

        def run(command, **_):
            constraints = Path(command[command.index("--constraint") + 1]).read_text()
            self.calls.append((command, constraints.splitlines()))
            status, said = self.pip()
            return subprocess.CompletedProcess(command, status, stderr=said)

        monkeypatch.setattr(importlib.metadata, "version", changed_version)
        monkeypatch.setattr(importlib.util, "find_spec", changed_find)
        monkeypatch.setattr(subprocess, "run", run)

    def bring(self, **versions):
        """Let pip succeed and change these versions."""

        def pip():
            self.changed |= versions
            return 0, ""

        self.pip = pip


@pytest.fixture
def packages(monkeypatch):
    return Packages(monkeypatch)


def stopped_by_install():
    with pytest.raises(SystemExit) as stopped:
        first_cell.install()
    assert "\n" not in stopped.value.code
    return stopped.value.code


def test_an_installed_package_is_not_installed_again(packages):
    first_cell.install()
    assert packages.calls == []


def test_installing_holds_torch_where_it_is(packages):
    packages.changed["cifar-utils"] = None
    first_cell.install()  # pip fails here, but nothing is missing
    [(command, constraints)] = packages.calls
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert command[-2:] == ["--editable", str(ROOT)]
    for name in ("torch", "torchvision", "numpy"):
        assert f"{name}=={importlib.metadata.version(name)}" in constraints
        assert name not in command


def test_a_clone_that_only_names_itself_is_installed(packages):
    """Its egg-info outlives the packages that were installed with it, if only folders last."""
    packages.changed["torchsummary"] = None
    packages.bring(torchsummary="1.5.1")
    first_cell.install()
    assert len(packages.calls) == 1


def test_what_cannot_be_installed_ends_in_one_line(packages):
    packages.changed["torchsummary"] = None
    line = stopped_by_install()
    assert line.startswith("Could not install torchsummary:")
    assert line.endswith("last line: ERROR: no network")


def test_what_pip_put_where_the_kernel_does_not_look_takes_a_restart(packages):
    packages.changed["torchsummary"] = None
    packages.bring()
    assert "not visible yet: torchsummary. Restart the kernel" in stopped_by_install()


@pytest.mark.parametrize("old", ["2.1.1+cu121", "1.13.0"])
def test_a_torch_that_is_too_old_is_named_before_pip_is_asked(packages, old):
    packages.changed |= {"cifar-utils": None, "torch": old}
    line = stopped_by_install()
    assert f"torch {old}, but the course needs 2.6 or newer" in line
    assert packages.calls == []


def test_what_pip_replaced_under_the_kernel_takes_a_restart(packages):
    packages.changed["cifar-utils"] = None
    packages.bring(matplotlib="99.0")
    line = stopped_by_install()
    assert "Newer files of matplotlib are" in line and "restart the kernel" in line


def opening_cell():
    notebook = json.loads((ROOT / "notebooks" / "01_data_exploration.ipynb").read_text())
    return next("".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code")


@pytest.mark.parametrize("folder", ["clone/notebooks", "clone/notebooks/solutions", "."])
def test_the_opening_cell_finds_the_clone_around_it_and_below_it(folder, tmp_path):
    (tmp_path / "clone").symlink_to(ROOT)
    code = opening_cell() + "\nprint(course.__file__)"
    # -I leaves the current folder out of the path; -S leaves out what is installed there.
    run = [sys.executable, "-I", "-S", "-c", code.replace("course.setup()", "")]
    done = subprocess.run(run, cwd=tmp_path / folder, capture_output=True, text=True)
    found = Path(done.stdout.strip()).resolve()
    assert found == (ROOT / "cifar_utils" / "course" / "__init__.py").resolve(), done.stderr


def test_the_opening_cell_says_what_to_do_without_a_clone(tmp_path):
    code = "import sys; sys.modules['cifar_utils'] = None\n" + opening_cell()
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode and "git clone" in done.stderr and done.stderr.count("\n") == 1


# --- quick mode -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("0", False), ("", False)])
def test_quick_mode_is_an_environment_variable(monkeypatch, value, expected):
    monkeypatch.setenv("CIFAR_UTILS_QUICK", value)
    assert course.is_quick() is expected
    assert course.choose(full="whole", quick="part") == ("part" if expected else "whole")


def test_quick_mode_takes_a_balanced_sample_and_never_downloads(quick_mode, blank_stand_in, capsys):
    cifar = course.load()
    assert cifar.source == "synthetic"
    assert "stand-in" in capsys.readouterr().out
    for split in (cifar.train, cifar.val, cifar.test):
        assert len(split) == quick.QUICK_IMAGES
        assert torch.bincount(split.labels).tolist() == [quick.QUICK_IMAGES // 10] * 10
    whole = course.load(whole=True)
    assert [len(split) for split in (whole.train, whole.val, whole.test)] == [9000, 1000, 2000]


def test_quick_recipes_are_short_and_full_ones_are_as_listed(monkeypatch):
    monkeypatch.setenv("CIFAR_UTILS_QUICK", "1")
    short = course.recipe("compact", lr=0.3)
    assert short.epochs == quick.QUICK_EPOCHS and short.lr == 0.3
    assert short.batch_size == 128 < get_recipe("compact").batch_size  # else too few steps
    assert course.recipe("compact", epochs=1).epochs == 1
    monkeypatch.setenv("CIFAR_UTILS_QUICK", "0")
    assert course.recipe("compact") == get_recipe("compact")


def test_colab_is_asked_for_a_file_and_other_places_say_what_to_do(monkeypatch, tmp_path):
    be_at(monkeypatch, "KAGGLE_KERNEL_RUN_TYPE")
    with pytest.raises(ValueError, match="only Colab can ask for a file; put yours beside"):
        course.upload()
    chosen = {}  # what Colab returns: the reader's own file name, and the bytes
    files = types.SimpleNamespace(upload=lambda: chosen)
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", types.SimpleNamespace(files=files))
    with pytest.raises(ValueError, match="only Colab"):  # Kaggle's image has that module, too
        course.upload()
    be_at(monkeypatch, "COLAB_RELEASE_TAG")
    monkeypatch.setattr(quick, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="no file was chosen"):
        course.upload()
    for content in (b"first", b"second"):  # a phone calls every photograph the same
        chosen["image.jpg"] = content
        assert course.upload().read_bytes() == content


def test_only_a_full_run_on_cifar10_writes_to_images(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    kept, lost = ROOT / "images" / "a.png", ROOT / "build" / "notebooks" / "a.png"
    for mode, source, place in (
        ("0", "cifar10", kept),
        ("0", "synthetic", lost),
        ("1", "cifar10", lost),
        ("1", "synthetic", lost),
    ):
        monkeypatch.setenv("CIFAR_UTILS_QUICK", mode)
        assert course.picture("a.png", source) == place
    monkeypatch.setattr(os, "access", lambda *_: False)  # a clone that cannot be written to
    beside = tmp_path / "build" / "notebooks"
    monkeypatch.setenv("CIFAR_UTILS_QUICK", "0")
    assert course.picture("a.png", "cifar10") == beside / "a.png" and beside.is_dir()
    assert course.scratch("b") == beside / "b"


def test_the_stand_in_has_files_of_the_official_form(random_split):
    split = random_split(30)
    shuffled = split[torch.randperm(30)]
    cifar = data.Cifar(shuffled[:20], shuffled[20:], split)
    batch, meta = {}, {}
    for name, content in (("data_batch_1", batch), ("batches.meta", meta)):
        path, digest = course.official_file(cifar, name)
        assert hashlib.md5(path.read_bytes()).hexdigest() == digest
        content |= pickle.loads(path.read_bytes(), encoding="bytes")
    assert tuple(name.decode() for name in meta[b"label_names"]) == split.classes
    assert sorted(batch) == [b"batch_label", b"data", b"filenames", b"labels"]
    assert batch[b"labels"] == split.labels.tolist()
    assert np.array_equal(batch[b"data"].reshape(30, 3, 32, 32), split.images.numpy())
    with pytest.raises(CifarError, match=r"choose one of data_batch_1, batches\.meta"):
        course.official_file(cifar, "test_batch")


# --- bands and estimates --------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "sign"), [(0.40, "✓"), (0.30, "✗"), (0.50, "✗")])
def test_a_full_run_is_compared_with_its_band(monkeypatch, full_mode, capsys, value, sign):
    monkeypatch.setattr(quick, "BANDS", {"a net": (0.35, 0.45)})
    course.expect("a net", value, "cifar10")
    printed = capsys.readouterr().out
    assert printed.startswith(sign) and "35.0% to 45.0%" in printed
    course.expect("a net", value, "synthetic")
    assert not set(capsys.readouterr().out) & set("✓✗")
    with pytest.raises(ValueError, match="a net"):
        course.expect("another", value, "cifar10")


@pytest.fixture
def slow(monkeypatch, clock):
    """A function that makes augmentation and a step of the recipe take so long; the sizes seen."""
    monkeypatch.setattr(machine, "pick_device", lambda name="auto": torch.device("cpu"))

    def make(recipe, augmenting, training):
        seen, build = [], models.MODELS[recipe.model]

        class Slow(torch.nn.Module):
            def forward(self, images):
                if self.training:  # not a check beforehand
                    clock.now += training * (images.shape[2] / 32) ** 2
                    seen.append(images.shape[2])
                return images

        def slow_model(*given, **options):
            model = build(*given, **options)
            model.features.insert(0, Slow())
            return model

        def slow_augmentation(images, generator):
            clock.now += augmenting
            return images

        monkeypatch.setitem(models.MODELS, recipe.model, slow_model)
        monkeypatch.setitem(AUGMENTATIONS, recipe.augmentation, (slow_augmentation,))
        return seen

    return make


def test_an_estimate_counts_augmentation_and_each_size_of_images(slow, random_split, capsys):
    recipe = get_recipe("quick").changed(epochs=30, batch_size=8, small_size=16, small_until=0.9)
    seen = slow(recipe, augmenting=200, training=100)
    seconds = course.estimate(recipe, random_split(20))
    small, whole = 81 * (200 + 100 / 4), 9 * (200 + 100)  # of 90 steps, three an epoch
    assert seconds == pytest.approx(small + whole, rel=0.001)
    assert sorted(seen) == [16, 32]  # one step of each already took too long
    printed = capsys.readouterr().out
    assert "30 epochs of 20 images: about 5 h 49 min" in printed
    assert "To shorten it" in printed


def test_a_short_estimate_needs_no_advice(slow, random_split, capsys):
    recipe = get_recipe("compact").changed(epochs=3, batch_size=8)
    slow(recipe, augmenting=0.5, training=0)
    assert course.estimate(recipe, random_split(20)) == pytest.approx(0.5 * 3 * 3, rel=0.5)
    assert "To shorten it" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations_in_words(seconds, words):
    assert course.duration(seconds) == words


# --- live display ---------------------------------------------------------------------------------


class Place:
    """Stands in for IPython's display handle: remembers all that was shown in it."""

    def __init__(self, content):
        self.shown = [content]

    def update(self, content):
        self.shown.append(content)


@pytest.fixture
def places(monkeypatch):
    made = []

    def display(content, display_id=None):
        assert display_id
        made.append(Place(content))
        return made[-1]

    monkeypatch.setattr("IPython.display.display", display)
    return made


def test_a_watched_training_ends_as_a_picture_and_a_table(places, random_split):
    watch = course.Watch()
    recipe = get_recipe("compact").changed(epochs=3, batch_size=8)
    for _ in range(2):
        history = fit(
            linear(), random_split(16), random_split(8), recipe, log=watch,
            progress=watch.progress, device="cpu", precision="fp32",
        )  # fmt: skip
    assert len(places) == 6  # three for each run
    status, curves, table = places[3:]
    assert repr(status.shown[-1]).count("3 epochs") == 1
    assert f"{history.best.val_accuracy:.2%}" in repr(status.shown[-1])
    rows = table.shown[-1]._repr_html_()
    assert rows.count("<tr>") == 1 + 4  # heads, the untrained network, three epochs
    for row in history.epochs:
        assert f"<td>{row.train_loss:.4f}</td>" in rows and str(row) in repr(table.shown[-1])
    lines = curves.shown[-1].axes[0].lines
    assert np.allclose(lines[0].get_ydata(), [row.train_loss for row in history.epochs])


def test_a_name_is_no_html():
    text = display._Text("<b>a & b</b>")
    assert text._repr_html_() == "<p>&lt;b&gt;a &amp; b&lt;/b&gt;</p>" and str(text) == text.text


def test_a_resumed_run_is_watched_in_a_place_of_its_own(places, random_split, clock):
    clock.tick = 1  # so that the line is renewed after every batch
    recipe = get_recipe("compact").changed(epochs=3, batch_size=8)
    states = []

    def train(watch, resume=None):
        def log(run):
            watch(run)
            states.append(run.state())

        fit(linear(), random_split(16), None, recipe, log=log, progress=watch.progress,
            resume=resume, device="cpu", precision="fp32")  # fmt: skip

    watch = course.Watch()
    train(watch)
    shown = len(places[0].shown)
    train(watch, resume=states[1])
    train(course.Watch(), resume=states[1])
    assert len(places) == 9  # three for each run
    assert len(places[0].shown) == shown  # a finished run's line stays as it is
    for status in (places[3], places[6]):
        assert "3 epochs" in repr(status.shown[-1])
    told = [repr(text) for text in places[0].shown]
    for row in watch.history.epochs[1:]:  # after an epoch's last batch, before its row is there
        so_far = f"loss {row.train_loss:.4f}, acc {row.train_accuracy:6.2%}"
        assert any(f"epoch {row.epoch} of 3, 100%, {so_far}, " in text for text in told)


def linear():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))


def test_the_time_left_is_in_proportion(places, random_split, clock):
    clock.tick = 0
    watch = course.Watch()

    def log(run):
        watch(run)
        clock.now += 30.0  # each epoch takes half a minute

    recipe = get_recipe("compact").changed(epochs=4, batch_size=8)
    fit(linear(), random_split(8), None, recipe, log=log, device="cpu", precision="fp32")
    told = [repr(text) for text in places[0].shown]
    assert "epoch 3 of 4" in told[-3] and "1 min 0 s left" in told[-3]
    assert "epoch 4 of 4" in told[-2] and "30 s left" in told[-2]
    assert "left" not in told[-1] and "2 min 0 s" in told[-1]


# --- figures that say what they show --------------------------------------------------------------


def test_a_figure_is_described_by_its_own_words():
    figure, axes = plt.subplots(1, 2)
    axes[0].plot([1, 2], label="validation")
    axes[0].set(title="Accuracy", xlabel="epoch", ylabel="share")
    axes[0].legend()
    axes[1].imshow(np.zeros((2, 2)))
    axes[1].set_title("cat")
    assert course.describe(figure) == "a picture; Accuracy: share against epoch: validation; cat"
    figure.suptitle("Two panels")
    assert course.describe(figure).startswith("Two panels; Accuracy")
    assert len(course.describe(figure, longest=20)) == 20
    plt.close(figure)
    figure, axes = plt.subplots(1, 4)
    for ax, name in zip(axes, ("cat", "dog", "cat", ""), strict=True):
        ax.set_title(name)
    assert course.describe(figure) == "a chart; cat × 2; dog"
    plt.close(figure)


def test_the_figures_of_a_notebook_get_the_style_and_a_text(monkeypatch):
    shell = MagicMock(display_formatter=DisplayFormatter())
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    with plt.rc_context({"image.origin": "lower"}):
        display.prepare_figures()
        assert plt.rcParams["image.origin"] == "upper"
        figure, ax = plt.subplots()
        ax.set_title("A cat")
        shown, metadata = shell.display_formatter.format(figure)
        assert ax.title.get_fontweight() == STYLE["axes.titleweight"]
    plt.close(figure)
    assert base64.b64decode(shown["image/png"]).startswith(b"\x89PNG")
    assert metadata["image/png"] == {"alt": "a chart; A cat"}


def test_an_animation_is_embedded_with_its_text(monkeypatch, tmp_path):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    (tmp_path / "a.gif").write_bytes(b"GIF89a")
    course.show_gif(tmp_path / "a.gif", 'it grows, "slowly"')
    html = shown[0].data
    assert 'src="data:image/gif;base64,R0lGODlh"' in html
    assert 'alt="it grows, &quot;slowly&quot;"' in html


def test_a_folded_text_opens_on_a_click_and_is_plain_elsewhere(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    course.folded("layers & costs", "\n  1 < 2\n\n")
    html = shown[0]._repr_html_()
    assert html.startswith("<details><summary>layers &amp; costs</summary><pre>  1 &lt; 2</pre>")
    assert repr(shown[0]) == "layers & costs\n  1 < 2"

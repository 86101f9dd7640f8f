"""What the notebooks lean on: the first cell, quick mode, estimates, bands, the live display."""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pickle
import re
import subprocess
import sys
import time
import types
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from cifar_utils import course, data, machine, train
from cifar_utils.course import first_cell, quick
from cifar_utils.recipes import get_recipe
from cifar_utils.sources import synthetic
from cifar_utils.train import fit

ROOT = Path(__file__).parent.parent


@pytest.fixture
def quick_mode(monkeypatch):
    monkeypatch.setenv("CIFAR_UTILS_QUICK", "1")


@pytest.fixture
def full_mode(monkeypatch):
    monkeypatch.delenv("CIFAR_UTILS_QUICK", raising=False)


@pytest.fixture
def few_drawings(monkeypatch, tmp_path):
    """A small stand-in, no files, and no network."""
    draw = synthetic.draw
    monkeypatch.setattr(synthetic, "draw", lambda count, seed: draw(count // 5, seed=seed))
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path))
    monkeypatch.setattr(data.files, "download", lambda *_: pytest.fail("it tried to download"))


# --- the first cell -------------------------------------------------------------------------------


def test_setup_says_what_it_runs_on(full_mode, capsys):
    course.setup()
    printed = capsys.readouterr().out
    for word in (torch.__version__.partition("+")[0], "Python 3.", "cifar_utils"):
        assert word in printed
    assert machine.describe(machine.pick_device()) in printed
    assert "Quick" not in printed


@pytest.mark.parametrize(
    ("variable", "place", "word"),
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
def test_on_a_cpu_each_place_says_how_to_get_a_gpu(monkeypatch, capsys, variable, place, word):
    for name in ("COLAB_", "KAGGLE_", "PAPERSPACE_"):
        for known in [key for key in os.environ if key.startswith(name)]:
            monkeypatch.delenv(known)
    for name in variable.split():
        monkeypatch.setenv(name, "x")
    monkeypatch.setattr(machine, "pick_device", lambda name="auto": torch.device("cpu"))
    course.setup()
    line = next(line for line in capsys.readouterr().out.splitlines() if "GPU here" in line)
    assert place in line and word in line


def test_an_installed_package_is_not_installed_again(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was called"))
    first_cell.install()


@pytest.fixture
def not_installed(monkeypatch):
    """The package's own metadata are missing; what pip is asked for is kept instead of done."""
    version = importlib.metadata.version

    def known(name):
        if name == "cifar-utils":
            raise importlib.metadata.PackageNotFoundError
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", known)
    calls = []

    def run(command, **_):
        held = Path(command[command.index("--constraint") + 1]).read_text()
        calls.append((command, held))
        return subprocess.CompletedProcess(command, 1, stderr="ERROR: one\nERROR: no network\n")

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_installing_holds_torch_where_it_is(not_installed):
    first_cell.install()  # pip fails here, but nothing is missing
    [(command, held)] = not_installed
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert command[-2:] == ["--editable", str(ROOT)]
    for name in ("torch", "torchvision", "numpy"):
        assert f"{name}=={importlib.metadata.version(name)}" in held.splitlines()
        assert name not in command


def test_what_cannot_be_installed_ends_in_one_line(not_installed, monkeypatch):
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torchsummary" else name
    )
    with pytest.raises(SystemExit) as stopped:
        first_cell.install()
    assert "torchsummary" in stopped.value.code and "\n" not in stopped.value.code
    assert stopped.value.code.endswith("no network")


def test_what_pip_put_where_the_kernel_does_not_look_takes_a_restart(not_installed, monkeypatch):
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torchsummary" else name
    )
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0)
    )
    with pytest.raises(SystemExit, match=r"not visible yet: torchsummary. Restart the kernel"):
        first_cell.install()


def test_a_clone_that_cannot_be_written_to_keeps_its_pictures(tmp_path, monkeypatch):
    monkeypatch.delenv("CIFAR_UTILS_QUICK", raising=False)
    assert course.picture("x.png", "cifar10") == ROOT / "images" / "x.png"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    beside = tmp_path / "build" / "notebooks"
    assert course.picture("x.png", "cifar10") == beside / "x.png" and beside.is_dir()
    assert course.scratch("y") == beside / "y"


def test_a_clone_that_only_names_itself_is_installed(monkeypatch):
    """Its egg-info outlives the packages that were installed with it, where only folders last."""
    find, called = importlib.util.find_spec, []
    lost = lambda name: None if name == "torchsummary" and not called else find(name)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", lost)
    done = subprocess.CompletedProcess([], returncode=0)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: called.append(1) or done)
    first_cell.install()
    assert called


@pytest.mark.parametrize("old", ["2.1.1+cu121", "1.13.0"])
def test_a_torch_that_is_too_old_is_named_before_pip_is_asked(not_installed, monkeypatch, old):
    known = first_cell._version
    monkeypatch.setattr(
        first_cell, "_version", lambda name: old if name == "torch" else known(name)
    )
    with pytest.raises(SystemExit, match=f"torch {re.escape(old)}, .* needs 2.6 or newer"):
        first_cell.install()
    assert not_installed == []


def test_what_pip_replaced_under_the_kernel_takes_a_restart(not_installed, monkeypatch):
    known = first_cell._version
    fresh = lambda name: f"{known(name)}{'.1' if not_installed else ''}"  # noqa: E731
    monkeypatch.setattr(
        first_cell, "_version", lambda name: None if name == "cifar-utils" else fresh(name)
    )
    with pytest.raises(SystemExit, match=r"matplotlib.*restart the kernel"):
        first_cell.install()


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


def test_quick_mode_draws_a_balanced_sample_and_never_downloads(quick_mode, few_drawings, capsys):
    cifar = course.load()
    assert cifar.source == "synthetic"
    assert "stand-in" in capsys.readouterr().out
    for split in (cifar.train, cifar.val, cifar.test):
        assert len(split) == quick.QUICK_IMAGES
        assert torch.bincount(split.labels).tolist() == [quick.QUICK_IMAGES // 10] * 10


def test_whole_keeps_every_image_in_quick_mode(quick_mode, few_drawings):
    cifar = course.load(whole=True)
    assert len(cifar.train) + len(cifar.val) + len(cifar.test) == 12_000


def test_quick_recipes_are_short_and_full_ones_are_as_listed(monkeypatch):
    monkeypatch.setenv("CIFAR_UTILS_QUICK", "1")
    short = course.recipe("compact", lr=0.3)
    assert short.epochs == quick.QUICK_EPOCHS and short.lr == 0.3
    assert short.batch_size == 128 < get_recipe("compact").batch_size  # else too few steps
    assert course.recipe("compact", epochs=1).epochs == 1
    monkeypatch.setenv("CIFAR_UTILS_QUICK", "0")
    assert course.recipe("compact") == get_recipe("compact")


def test_colab_is_asked_for_a_file_and_other_places_say_what_to_do(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="only Colab can ask for a file; put yours beside"):
        course.upload()
    chosen = {}  # what Colab returns: the reader's own file name, and the bytes
    files = types.SimpleNamespace(upload=lambda: chosen)
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", types.SimpleNamespace(files=files))
    with pytest.raises(ValueError, match="only Colab"):  # Kaggle's image has that module, too
        course.upload()
    monkeypatch.setattr(quick, "where", lambda: ("Colab", ""))
    monkeypatch.setattr(quick, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="no file was chosen"):
        course.upload()
    for content in (b"first", b"second"):  # a phone calls every photograph the same
        chosen["image.jpg"] = content
        assert course.upload().read_bytes() == content


def test_only_a_full_run_on_cifar10_writes_to_images(monkeypatch, tmp_path):
    monkeypatch.setattr(quick, "ROOT", tmp_path)
    places = {}
    for mode in ("0", "1"):
        monkeypatch.setenv("CIFAR_UTILS_QUICK", mode)
        for source in ("cifar10", "synthetic"):
            places[mode, source] = course.picture("a.png", source).parent
    assert places.pop(("0", "cifar10")) == tmp_path / "images"
    assert set(places.values()) == {tmp_path / "build" / "notebooks"}


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


def test_an_estimate_is_seconds_a_step_times_steps(monkeypatch, random_split, capsys):
    ticks = iter(range(10_000))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    recipe = get_recipe("compact").changed(epochs=30, batch_size=8)
    seconds = course.estimate(recipe, random_split(20))  # three batches an epoch; a tick a step
    assert seconds == 1 * 3 * 30
    assert "1 min 30 s" in capsys.readouterr().out
    monkeypatch.setattr(machine, "pick_device", lambda name="auto": torch.device("cpu"))
    course.estimate(recipe.changed(epochs=200), random_split(20))
    assert "shorten" in capsys.readouterr().out


def test_an_estimate_counts_augmentation(monkeypatch, random_split):
    ticks, augment = iter(range(1, 10_000)), train.augment
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    monkeypatch.setattr(train, "augment", lambda *of, **how: next(ticks) and augment(*of, **how))
    recipe = get_recipe("compact").changed(epochs=30, batch_size=8)
    assert course.estimate(recipe, random_split(20)) == 2 * 3 * 30  # a tick each


def test_an_estimate_is_of_steps_on_whole_images(monkeypatch, random_split):
    seen, recipe = [], get_recipe("quick").changed(batch_size=8, small_size=16, small_until=0.9)
    resized = train.resized
    monkeypatch.setattr(train, "resized", lambda *of: seen.append(resized(*of)) or seen[-1])
    course.estimate(recipe, random_split(20))
    assert seen and {inputs.shape[2] for inputs in seen} == {32}


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
            course_model(), random_split(16), random_split(8), recipe, log=watch,
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


def test_a_resumed_run_is_watched_in_a_place_of_its_own(places, random_split, monkeypatch):
    ticks = iter(range(10_000))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))  # always renew
    recipe = get_recipe("compact").changed(epochs=3, batch_size=8)
    states = []

    def train(watch, resume=None):
        def log(run):
            watch(run)
            states.append(run.state())

        fit(course_model(), random_split(16), None, recipe, log=log, progress=watch.progress,
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


def course_model():
    from cifar_utils.models import create_model

    return create_model("compact", seed=0)


def test_the_time_left_is_in_proportion(places, random_split, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    watch = course.Watch()

    def log(run):
        watch(run)
        now[0] += 30.0  # each epoch takes half a minute

    recipe = get_recipe("compact").changed(epochs=4, batch_size=8)
    fit(course_model(), random_split(8), None, recipe, log=log, device="cpu", precision="fp32")
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


def test_an_animation_is_embedded_with_its_text(monkeypatch, tmp_path):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    (tmp_path / "a.gif").write_bytes(b"GIF89a")
    course.show_gif(tmp_path / "a.gif", 'it grows, "slowly"')
    html = shown[0].data
    assert 'src="data:image/gif;base64,R0lGODlh"' in html
    assert 'alt="it grows, &quot;slowly&quot;"' in html

"""Other machines: no home, read-only, odd names, Pythons.

A user namespace gives the commands an unknown user without a home, for whom permissions hold even
if root runs the tests. Where Linux or its settings have none, these cases are skipped.
"""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import refused
from PIL import Image

from cifar_utils.cli.main import main
from cifar_utils.models import create_model
from cifar_utils.recipes import Recipe
from cifar_utils.train import fit

REPOSITORY = Path(__file__).parents[2]
UNKNOWN = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]
NPY = ["--data", "DATA", "--source", "npy", "--device", "cpu"]
FAST = ["--epochs", "1", "--batch-size", "10", "--validation", "5", "--precision", "fp32", "-q"]

READS = {
    "recipes": ["recipes"],
    "summary": ["summary", "compact"],
    "report": ["report"],
    "data": ["data", "--root", "DATA", "--source", "npy"],
    "predict": ["predict", "IMAGE", "--weights", "compact"],
    "test": ["test", "--weights", "compact", *NPY],
    "bench": ["bench", "--quick", "--models", "compact", "--device", "cpu"],
}
WRITES = {
    "train": ["train", "--recipe", "compact", *NPY, *FAST, "--no-test"],
    "predict --cam": ["predict", "IMAGE", "--weights", "compact", "--cam"],
    "data --montage": ["data", "--root", "DATA", "--source", "npy", "--montage", "m.png"],
    "test --confusion": ["test", "--weights", "compact", *NPY, "--out", "."],
}
# They say what they found, so both are one line or nothing.
HOMELESS = {
    "no home for --out": ["train", "--recipe", "compact", *NPY, *FAST, "--out", "~/run"],
    "no such user": ["predict", "~no-such-user/x.png"],
    "no home for the data": ["data", "--source", "synthetic", "--root", "~/data"],
}

# Runs commands one after the other and prints (status, stderr) of each; argv[1] is their JSON.
RUNNER = """
import contextlib, io, json, sys, traceback
from cifar_utils.cli.main import main
found = {}
for name, arguments in json.loads(sys.argv[1]).items():
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as stopped:
            code = stopped.code
        except BaseException:
            code = traceback.format_exc()
    found[name] = code, err.getvalue()
print(json.dumps(found))
"""


def as_unknown(commands, folder, **environment):
    """(status, stderr) of every command, run by a user without name and home, in `folder`."""
    kept = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "OMP_NUM_THREADS")
    found = subprocess.run(
        [*UNKNOWN, sys.executable, "-W", "error::DeprecationWarning:cifar_utils", "-c", RUNNER,
         json.dumps(commands)],
        cwd=folder, env={name: os.environ[name] for name in kept if name in os.environ}
        | {"PYTHONPATH": str(REPOSITORY)} | environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout.splitlines()[-1]) | {"stderr": (0, found.stderr)}


def has_namespaces():
    try:
        return subprocess.run([*UNKNOWN, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


needs_namespaces = pytest.mark.skipif(not has_namespaces(), reason="no user namespaces here")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with small arrays and an image, and a function that fills in their paths."""
    folder = tmp_path_factory.mktemp("machine")
    make_data(folder / "data")
    Image.new("RGB", (40, 30), "red").save(folder / "x.png")
    known = {"DATA": str(folder / "data"), "IMAGE": str(folder / "x.png")}
    return folder, lambda words: [known.get(word, word) for word in words]


def make_data(folder):
    folder.mkdir()
    for part in ("train", "test"):
        images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
        np.save(folder / f"{part}_data.npy", images)
        np.save(folder / f"{part}_labels.npy", np.arange(20) % 10)


@pytest.fixture(scope="module")
def homeless(home):
    """What the commands say to an unknown user without a home, in a folder of its own."""
    folder, filled = home
    commands = {**READS, **WRITES, **HOMELESS}
    place = folder / "homeless"
    place.mkdir()
    return as_unknown({name: filled(words) for name, words in commands.items()}, place), place


@pytest.fixture(scope="module")
def locked(home):
    """The same if neither the folder, nor the data, nor the home can be written to."""
    folder, filled = home
    place = folder / "locked"
    place.mkdir()
    writes = (place, folder / "data", folder)
    for one in writes:
        one.chmod(0o555)
    try:
        commands = {name: filled(words) for name, words in {**READS, **WRITES}.items()}
        yield as_unknown(commands, place, HOME=str(place)), place
    finally:
        for one in reversed(writes):
            one.chmod(0o755)


@needs_namespaces
@pytest.mark.parametrize("name", [*READS, *WRITES])
def test_an_unknown_user_without_a_home_misses_nothing(name, homeless):
    found, place = homeless
    assert found[name] == [0, ""]
    assert name != "train" or (place / "runs" / "compact" / "checkpoint.pt").is_file()


@needs_namespaces
@pytest.mark.parametrize("name", HOMELESS)
def test_a_home_that_is_not_known_is_named(name, homeless):
    code, said = homeless[0][name]
    assert code == 2 and said.count("\n") == 1 and said.endswith("\n") and "~" in said


@needs_namespaces
@pytest.mark.parametrize("name", READS)
def test_what_writes_nothing_needs_nothing_to_be_writable(name, locked):
    assert locked[0][name] == [0, ""]


@needs_namespaces
@pytest.mark.parametrize("name", WRITES)
def test_what_writes_says_in_a_line_where_it_cannot(name, locked):
    found, place = locked
    code, said = found[name]
    assert code == 2 and said.count("\n") == 1 and "cannot be written to; choose another" in said
    assert not list(place.iterdir())


# --- names ----------------------------------------------------------------------------------------

LONG = "ü" * 127 + "x"  # 255 bytes, as many as a name may have
NAMES = {
    "NFC": unicodedata.normalize("NFC", "Käse"),
    "NFD": unicodedata.normalize("NFD", "Käse"),
    "Latin-1": os.fsdecode("Käse".encode("latin-1")),
    "255 bytes": LONG,
    "Chinese": "猫和狗",
    "newline": "a\nb",
    "escape": "\x1b[31mred",
    "formula": "$x_1$ & 100%",
    "leading dot": ".hidden",
    "brackets": "[a-z]*?",
    "braces": "{0}{x}",
    "quotes": "\"'`",
    "leading space": " x ",
}


@pytest.fixture(params=NAMES)
def odd(request, tmp_path):
    """A folder with such a name, or a skip if this drive has none."""
    try:
        (tmp_path / NAMES[request.param]).mkdir()
    except OSError:
        pytest.skip("this drive has no such names")
    return tmp_path / NAMES[request.param]


def test_data_in_a_folder_with_any_name(odd, capsys):
    make_data(odd / "data")
    main(["data", "--root", str(odd / "data"), "--source", "npy"])
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())
    for part in ("train", "test"):
        for label in ("cat", "dog"):
            folder = odd / "folder" / part / label
            folder.mkdir(parents=True)
            Image.new("RGB", (32, 32), "red").save(folder / "1.png")
    for _ in range(2):  # decoded, then from its cache
        main(["data", "--root", str(odd / "folder"), "--source", "folder"])
        assert "cat 1/1, dog 1/1" in capsys.readouterr().out
    assert list((odd / "folder").glob("decoded-folder-*"))


def test_an_image_and_weights_with_any_name(odd, trained, capsys, monkeypatch):
    place = odd.with_name("pictures")
    place.mkdir()
    monkeypatch.chdir(place)
    stem = odd.name if odd.name != LONG else "ü" * 120  # which leaves room for the endings
    image, weights = odd / f"{stem}.png", odd / f"{stem}.safetensors"
    Image.new("RGB", (32, 32), "red").save(image)
    shutil.copy(trained, weights)
    command = ["predict", str(image), "--cam", "--json", "--weights"]
    if not is_utf8(odd):
        assert "its path is not in UTF-8" in refused(capsys, *command, weights)
        weights = trained
    main([*command, str(weights)])
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["file"] == str(image) and Path(answer["cam"]).is_file()


def test_a_run_in_a_folder_with_any_name(odd, arrays, capsys):
    out = odd / "run"
    command = ["train", "--recipe", "compact", *arrays, *FAST, "--no-test", "--out", str(out)]
    main(command)
    main([*command, "--resume", "--epochs", "2"])
    assert len(json.loads((out / "history.json").read_text())["epochs"]) == 3
    capsys.readouterr()
    test = ["test", *arrays, "--json", "--weights"]
    if not is_utf8(odd):  # the library that reads weights takes no such names
        assert "its path is not in UTF-8" in refused(capsys, *test, out)
        out = out.rename(odd.with_name("run"))
    main([*test, str(out)])
    assert json.loads(capsys.readouterr().out)["n"] == 40


def is_utf8(path):
    return "\\udc" not in ascii(path)


# --- processes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_change_nothing_however_they_are_started(method, random_split):
    """forkserver is Python 3.14's own choice on Linux, spawn that of macOS and Windows."""
    before = multiprocessing.get_start_method(allow_none=True)
    recipe = Recipe("tiny", epochs=1, batch_size=16, augmentation="separable-published", seed=5)
    split, found = random_split(32), []
    for workers in (0, 1):
        multiprocessing.set_start_method(method, force=True)
        try:
            model = create_model("compact", seed=0)
            history = fit(model, split, None, recipe, workers=workers, device="cpu",
                          precision="fp32", log=lambda run: None)  # fmt: skip
        finally:
            multiprocessing.set_start_method(before, force=True)
        losses = [row.train_loss for row in history.epochs]
        found.append([*losses, *(p.double().sum().item() for p in model.parameters())])
    assert found[0] == found[1]


# --- Pythons --------------------------------------------------------------------------------------

PYTHONS = ["python3.11", "python3.12", "python3.13", "python3.14"]


def other_python(name):
    """Its path, also one that pyenv keeps, or a skip."""
    version = name.removeprefix("python")
    if version == f"{sys.version_info[0]}.{sys.version_info[1]}":
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for path in (shutil.which(name), *pyenv.glob(f"{version}.*/bin/python")):
        if path and subprocess.run([path, "-V"], capture_output=True, check=False).returncode == 0:
            return path
    pytest.skip(f"there is no {name} here")


@pytest.mark.parametrize("name", PYTHONS)
def test_every_file_compiles_without_a_warning(name, tmp_path):
    environment = os.environ | {"PYTHONPYCACHEPREFIX": str(tmp_path)}
    folders = [str(REPOSITORY / part) for part in ("cifar_utils", "notebooks", "tests")]
    done = subprocess.run(
        [other_python(name), "-W", "error", "-m", "compileall", "-q", *folders],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", PYTHONS)
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [(["--help"], 0, "usage: cifar"), (["train", "--help"], 0, "--weight-decay"),
     (["train", "--lr=--"], 2, "argument --lr: '--' is not a value"),
     (["train", "--learning-rate", "1"], 2, "did you mean --lr?"),
     (["trian"], 2, "did you mean train?")],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)  # fmt: skip
def test_the_command_line_needs_nothing_but_python(name, arguments, code, said, tmp_path):
    environment = os.environ | {
        "PYTHONPATH": str(REPOSITORY), "PYTHONPYCACHEPREFIX": str(tmp_path),
    }  # fmt: skip
    done = subprocess.run(
        [other_python(name), "-W", "error", "-S", "-m", "cifar_utils", *arguments],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code and said in done.stdout + done.stderr
    assert code == 0 or done.stderr.count("\n") == 1

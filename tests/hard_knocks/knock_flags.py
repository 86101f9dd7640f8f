"""Nonsense for every flag of every command.

The cases are generated from the parser, so a new flag is tried at once. Each must end in exit
status 2 and one printable line, or be taken, and no pipe or device may be waited for or replaced.
Training, networks and pictures are left out: what is tried here is all that leads to them.

Whoever runs this may be root, so no value names a file outside the test's own folders: devices are
reached through links.
"""

import os
import signal
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from cifar_utils import data
from cifar_utils.cli.main import main, make_parser
from cifar_utils.cli.options import flag_of, path, recipe_file
from cifar_utils.recipes import Recipe

PARSER = make_parser()
PARSERS = next(a for a in PARSER._actions if a.dest == "command").choices

WORDS = {
    "empty": "", "space": " ", "spaces around": " 1 ", "-1": "-1", "0": "0", "-0": "-0",
    "1e999": "1e999", "1e-999": "1e-999", "nan": "nan", "inf": "inf", "-inf": "-inf",
    "64 bits": "18446744073709551616", "400 digits": "9" * 400, "5000 digits": "9" * 5000,
    "half": "0.5", "two dashes": "--", "a flag": "--x", "a dash": "-", "a short flag": "-x",
    "three": "٣", "squared": "²", "roman": "Ⅷ", "fullwidth": "１２",
    "NUL": "a\0b", "newline": "a\nb", "escape": "\x1b[31mred\x07",
    "right to left": "\u202egnp.exe", "surrogate": "\udcff.png", "10000 letters": "x" * 10_000,
    "variable": "$HOME", "quotes": "\"'`", "True": "True", "None": "None", "[]": "[]", "1,2": "1,2",
    "0x10": "0x10", "1_000": "1_000", "1e3": "1e3", "percent": "%s%(prog)s", "braces": "{0}{x}",
}  # fmt: skip
PATHS = {  # capitals stand for what the fixture `places` makes
    "no user": "~nouser/x", "a name too long": "n" * 300, "a path too long": "d/" * 3000 + "x",
    "nowhere": "no/such/place", "upwards": "../..", "here": ".", "a folder": "FOLDER",
    "in a file": "TEXT/x", "empty file": "EMPTY.toml", "text": "TEXT", "a loop of links": "LOOP",
    "a pipe": "PIPE", "a pipe .json": "PIPE.json", "a pipe .npy": "PIPE.npy", "a socket": "SOCKET",
    "null": "NULL", "full": "FULL", "zeros": "ZERO", "zeros .json": "ZERO.json",
}  # fmt: skip
FEW = ("empty", "nan", "5000 digits", "two dashes", "a flag", "newline", "surrogate", "no user")

ARRAYS = ["--data", "ARRAYS", "--source", "npy", "--device", "cpu"]
TRAIN = ["--recipe", "compact", *ARRAYS, "--precision", "fp32", "--validation", "5"]
BASE = {
    "bench": [*TRAIN, "--epochs", "1"],
    "cams": ["--weights", "compact", "--data", "ARRAYS"],
    "data": ["--root", "ARRAYS", "--source", "npy"],
    "figures": ["cost.png", "--out", "OUT", "--data", "ARRAYS"],
    "lr-find": [*TRAIN, "--out", "OUT"],
    "predict": ["IMAGE", "--device", "cpu", "--weights", "compact", "--out", "OUT", "--cam"],
    "recipes": [],
    "report": [],
    "ship": ["RUN", "--data", "ARRAYS", "--source", "npy", "--out", "OUT"],
    "summary": ["compact"],
    "test": ["--weights", "compact", *ARRAYS],
    "train": [*TRAIN, "--out", "OUT", "-q"],
}
INSTEAD = {  # flags that go only with others than those of BASE
    ("bench", "--models"): ["--quick", "--device", "cpu"],
    ("bench", "--augmentations"): ["--quick", "--device", "cpu"],
    ("bench", "--verify"): [],
    ("bench", "--quick"): ["--device", "cpu", "--models", "compact"],
    ("train", "--config"): TRAIN[2:],
    ("lr-find", "--config"): TRAIN[2:],
}
WITH = {"teacher": "compact", "small_until": "0.5"}  # what fields need that are set, not chosen


def commands():
    """(command, action, flag or "") for all that the parser knows."""
    for command, parser in PARSERS.items():
        for action in parser._actions:
            if action.dest != "help":
                for flag in action.option_strings[-1:] or [""]:
                    yield command, action, flag


def words(command, action, flag):
    """The words before the flag: what it needs to be more than refused."""
    base = INSTEAD.get((command, flag), BASE[command])
    if not flag:  # the base has another value in its place
        return [command, *base[1:]] if base and not base[0].startswith("-") else [command, *base]
    field = {f.name: f for f in fields(Recipe)}.get(action.dest.removeprefix("recipe_"))
    if field and (needed := field.metadata["only_with"]):
        name, *values = needed
        base = [*base, flag_of(name), values[0][0] if values else WITH[name]]
    if command == "test":
        more = {"share": ["--views", "2"], "seed": ["--grid"], "method": ["--grid"],
                "stage": ["--grid"], "smooth": ["--grid"]}  # fmt: skip
        base = [*base, *more.get(action.dest, [])]
    return [command, *base]


def cases():
    """(what it is, words of the command line) of every case."""
    for command, action, flag in commands():
        tried = WORDS | (PATHS if action.type in (None, str, path, recipe_file) else {})
        if action.dest.startswith("recipe_") and command != "train":  # the same flags once more
            tried = {name: value for name, value in tried.items() if name in FEW}
        base, label = words(command, action, flag), f"{command} {flag or action.dest}"
        for name, value in tried.items():
            if action.nargs != 0:
                yield f"{label} {name}", [*base, *filter(None, [flag]), value]
            if flag and name in FEW:
                yield f"{label}={name}", [*base, f"{flag}={value}"]
        if flag:
            yield f"{label} alone", [*base, flag]
            yield f"{label} twice", [*base, flag, "0", flag, "0"]
            for odd in (flag[:-1], f"{flag}\n", f"{flag}\x1b[2J"):
                yield f"{command} {odd}", [*base, odd, "1"]
    for name, value in (WORDS | PATHS).items():
        yield f"command {name}", [value]
        yield f"--version={name}", [f"--version={value}"]


class Began(BaseException):
    """The work has begun that is too slow to be done here."""


class Hangs(BaseException):
    """No answer within its time."""


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Paths by the words that stand for them above: odd ones, and a small data set."""
    import socket

    import numpy as np
    from PIL import Image

    home = tmp_path_factory.mktemp("places")
    found = {name: home / name for name in ("FOLDER", "RUN", "ARRAYS")}
    for folder in found.values():
        folder.mkdir()
    for end in ("", ".json", ".toml", ".npy"):
        found[f"PIPE{end}"] = home / f"pipe{end}"
        os.mkfifo(found[f"PIPE{end}"])
    for name, device in (("NULL", "null"), ("ZERO", "zero"), ("FULL", "full")):
        for end in ("", ".json"):
            found[name + end] = home / (device + end)
            found[name + end].symlink_to(f"/dev/{device}")
    found["SOCKET"] = home / "socket"
    there = socket.socket(socket.AF_UNIX)
    there.bind(str(found["SOCKET"]))
    found["LOOP"] = home / "loop"
    found["LOOP"].symlink_to(found["LOOP"])
    found["EMPTY.toml"] = home / "empty.toml"
    found["EMPTY.toml"].touch()
    found["TEXT"] = home / "text.safetensors"
    found["TEXT"].write_text("no weights")
    found["IMAGE"] = home / "image.png"
    Image.new("RGB", (40, 30), "red").save(found["IMAGE"])
    for part in ("train", "test"):
        images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
        np.save(found["ARRAYS"] / f"{part}_data.npy", images)
        np.save(found["ARRAYS"] / f"{part}_labels.npy", np.arange(20) % 10)
    yield {name: str(place) for name, place in found.items()}
    there.close()


@pytest.fixture(autouse=True)
def little_memory():
    """4 GB more than now: who reads a device to its end, which never comes, is stopped soon."""
    resource = pytest.importorskip("resource")
    with Path("/proc/self/statm").open() as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + (4 << 30), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture
def nothing_slow(monkeypatch, places, tmp_path):
    """Nothing is downloaded, trained or drawn; what is loaded is small."""

    def begun(*_, **__):
        raise Began

    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path / "nowhere"))
    monkeypatch.setattr("cifar_utils.sources.cifar10.MIRRORS", ())
    small = data.READERS["npy"](Path(places["ARRAYS"]))
    monkeypatch.setattr("cifar_utils.sources.synthetic.read", lambda *_, **__: small)
    monkeypatch.setitem(data.READERS, "synthetic", lambda root: small)
    monkeypatch.setitem(data.READERS, "cifar10", lambda root: small)
    for slow in (
        "train.fit", "results.throughput.time_models", "results.throughput.time_augmentations",
        "results.bench.race", "lr_range.lr_range_test", "results.cams.measure",
        "results.figures.draw", "explain.grad_cam", "profile.summary", "plots.show_predictions",
        "plots.plot_confusion_matrix",
    ):  # fmt: skip
        monkeypatch.setattr(f"cifar_utils.{slow}", begun)
    monkeypatch.setattr("cifar_utils.machine.bf16_speedup", lambda: 1.0)
    monkeypatch.setattr("cifar_utils.cli.main.make_parser", lambda: PARSER)

    def logits(model, images, **_):
        return torch.zeros(len(images), 10)

    monkeypatch.setattr("cifar_utils.evaluate.predict", logits)


def try_it(arguments, capsys, seconds=10):
    """What went wrong, or an empty string."""

    def ring(*_):
        raise Hangs

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        main(arguments)
        return ""
    except Began:
        return ""
    except Hangs:
        return "hangs"
    except SystemExit as stopped:
        code = stopped.code
    except BaseException as error:
        return f"raises {type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if code in (0, None, 1):
        return "" if code != 1 or arguments[0] == "data" else "exit status 1"
    said = capsys.readouterr().err
    lines = said.split("\n")[:-1]
    if code != 2:
        return f"exit status {code}"
    notices = [line for line in lines[:-1] if not line.startswith("WARNING")]
    if not lines or notices or not lines[-1].isprintable() or not lines[-1].strip():
        return f"says {said!r}"
    if "MemoryError" in said:
        return "fills the memory"
    return "" if ": error: " in lines[-1] else f"says {said!r}"


def odd_files(places):
    """What lies at the paths of pipes and devices."""
    odd = ("PIPE", "SOCKET", "NULL", "FULL", "ZERO")
    there = [Path(file).lstat() for name, file in places.items() if name.startswith(odd)]
    return [(about.st_mode, about.st_ino) for about in there]


CASES = dict(cases())


@pytest.mark.parametrize("name", CASES, ids=lambda name: ascii(name)[1:-1])
def test_nonsense(name, capsys, nothing_slow, places, tmp_path, monkeypatch):
    deep = tmp_path / "a" / "b"  # so that ../.. is still inside
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    known = places | {"OUT": str(tmp_path / "out")}
    before = odd_files(places)
    wrong = try_it([known.get(word, word) for word in CASES[name]], capsys)
    assert not wrong, wrong
    assert odd_files(places) == before

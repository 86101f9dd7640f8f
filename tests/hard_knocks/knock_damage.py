"""Files of ours, damaged: one line or the same content.

KINDS are all kinds of files that the package writes and reads again, or ships. Each is damaged in
all ways of DAMAGES, and single bits are flipped all over it. Either the file is refused in one line
that begins with its name and says what to do, or what is read equals what was written.
"""

import contextlib
import hashlib
import json
import os
import pickle
import random
import signal
import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cifar_utils import checkpoints, heatmaps, history
from cifar_utils.cli.main import main
from cifar_utils.cli.options import recipe_file
from cifar_utils.errors import CifarError
from cifar_utils.machine import Machine
from cifar_utils.models import create_model
from cifar_utils.optim import make_optimizer
from cifar_utils.recipes import RECIPES
from cifar_utils.results import gpu_record, report
from cifar_utils.running import Run
from cifar_utils.runs import RunFolder
from cifar_utils.sources import cache, sealed

RECIPE = RECIPES["separable"].changed(epochs=3)
INFO = checkpoints.WeightsInfo(RECIPE, "npy", epoch=2)
ROWS = tuple(history.Epoch(n, 0.1, 2.0, 0.25, 2.1, 0.3, 1.5, 99.0) for n in range(3))
HISTORY = history.History(RECIPE, "npy", ROWS, 150, 30, "CPU", "fp32", "2.6", {"top1": 0.5})


def run():
    """A run after its first step, so that its optimizer has something to keep."""
    model = create_model("separable", seed=1).eval()
    optimizer = make_optimizer(model, RECIPE)
    model(torch.zeros(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    return Run(model, optimizer, Machine(torch.device("cpu")), HISTORY, "abc")


# --- kinds: (how to write one, how to read it as plain values and tensors) ------------------------


def write_weights(path):
    checkpoints.save_weights(path, create_model("separable", seed=1), INFO)


def read_weights(path):
    model, info = checkpoints.load_weights(path)
    return {"info": asdict(info), "tensors": dict(model.state_dict())}


def write_old_weights(path):
    write_weights(path)
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["cifar_utils"])
    del about["digest"]
    save_file(load_file(path), path, {"cifar_utils": json.dumps(about)})


def write_plain(path):
    torch.save(create_model("separable", seed=1).state_dict(), path)


def read_plain(path):
    return dict(checkpoints.load_weights(path, model="separable")[0].state_dict())


def write_checkpoint(path):
    checkpoints.save_checkpoint(path, run().state())


def write_old_checkpoint(path):
    torch.save(run().state(), path)


def write_history(path):
    HISTORY.save(path)


def write_old_history(path):
    path.write_text(HISTORY.to_json())


def read_history(path):
    return asdict(history.History.load(path))


MAPS = np.random.default_rng(0).random((3, 32, 32), dtype=np.float32)


def write_heatmaps(path):
    sealed.save_arrays(path, heatmaps=MAPS, indices=np.arange(3), options=np.array("{}"))


def write_old_heatmaps(path):
    np.savez_compressed(path, heatmaps=MAPS, indices=np.arange(3), options=np.array("{}"))


def write_race(path):
    spread = {"values": [0.5]}
    row = {"name": "quick", "recipe": RECIPES["quick"].as_dict(), "seconds": spread,
           "accuracy": spread, "accuracy_views": spread}  # fmt: skip
    images = {"source": "cifar10", "training": 50_000, "on": "test", "tested": 10_000}
    told = {"device": "CPU", "precision": "fp32", "processor": "A", "images": images}
    sealed.write_json(path, told | {"recipes": [row]})


def read_race(path):
    (race,) = report.shipped_races(path.parent).values()
    return asdict(race)


GPU = SimpleNamespace(facts=lambda: {"machine": {"device": "GPU X"}, "settings": {"seeds": 50}})


def write_gpu_record(path):
    sealed.write_json(path, gpu_record.begin(GPU, path))


def read_gpu_record(path):
    return gpu_record.begin(GPU, path)


def write_toml(path):
    path.write_text('recipe = "compact"\nlr = 0.5\nepochs = 3\n')


def read_config(path):
    try:
        found = recipe_file(str(path))
    except Exception as error:
        assert type(error).__name__ == "ArgumentTypeError", "argparse would show a traceback"
        raise CifarError(error) from None
    return {name: getattr(value, "as_dict", lambda v=value: v)() for name, value in found.items()}


def write_shipped(path):
    """A network that ships: its name is asked for, not its path."""
    checkpoints.save_weights(path, create_model("separable", seed=1), INFO)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    replace(HISTORY, sha256=digest).save(path.with_suffix(".json"))


def read_shipped(path):
    model, info = checkpoints.load_pretrained(path.stem)
    return {"info": asdict(info), "tensors": dict(model.state_dict())}


def write_shipped_history(path):
    write_shipped(path.with_suffix(".safetensors"))


KINDS = {
    "weights": ("w.safetensors", write_weights, read_weights),
    "checkpoint": ("checkpoint.pt", write_checkpoint, checkpoints.load_checkpoint),
    "history": ("history.json", write_history, read_history),
    "heatmaps": ("heatmaps-000.npz", write_heatmaps, lambda p: list(heatmaps.load_heatmaps(p))),
    "race": ("race.json", write_race, read_race),
    "GPU record": ("gpu.json", write_gpu_record, read_gpu_record),
    "config from a history": ("config.json", write_history, read_config),
    "shipped weights": ("net.safetensors", write_shipped, read_shipped),
    "shipped history": ("net.json", write_shipped_history, read_shipped),
}
# These carry no digest: what they hold can be of the right form and yet not what was written.
UNSEALED = {
    "old weights": ("w.safetensors", write_old_weights, read_weights),
    "old checkpoint": ("checkpoint.pt", write_old_checkpoint, checkpoints.load_checkpoint),
    "old history": ("history.json", write_old_history, read_history),
    "old heatmaps": ("heatmaps-000.npz", write_old_heatmaps, KINDS["heatmaps"][2]),
    "plain state dict": ("plain.pt", write_plain, read_plain),
    "config": ("config.toml", write_toml, read_config),
}
ALL = KINDS | UNSEALED


@pytest.fixture(autouse=True)
def shipped_here_and_never_for_long(tmp_path, monkeypatch):
    """Shipped networks lie in the test's folder, and a read that hangs fails."""
    monkeypatch.setattr(checkpoints, "PRETRAINED", tmp_path)

    def stop(*_):
        raise BaseException("it hangs")  # nothing may catch it

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def made(kind, folder):
    """(path, its content) of a whole file of the kind."""
    name, write, read = ALL[kind]
    path = folder / name
    write(path)
    return path, sealed.digest(read(path))


def refused(kind, path):
    """The line with which the file is refused, or None; the digest of its content, or None."""
    try:
        return None, sealed.digest(ALL[kind][2](path))
    except CifarError as error:
        line = str(error)
        assert line.isprintable() and len(line) < 1500
        assert path.name in line and "; " in line, line
        return line, None


# --- damages --------------------------------------------------------------------------------------


class Bomb:
    def __reduce__(self):
        return (open, ("boom", "w"))


def of_another_network(path):
    path.unlink()
    if path.suffix == ".safetensors":
        checkpoints.save_weights(path, create_model("conv5", seed=1), INFO)
    elif path.suffix == ".pt":
        torch.save({"model": create_model("conv5", seed=1).state_dict()}, path)
    elif path.suffix == ".npz":
        sealed.save_arrays(path, heatmaps=np.zeros((2, 8, 8), np.float32), indices=np.arange(2))
    else:
        path.write_text('{"recipe": {"model": 3}, "lr": "high"}')


def of_a_newer_version(path):
    """An unknown field, with a right digest."""
    if path.suffix == ".safetensors":
        tensors = load_file(path)
        about = asdict(INFO) | {"mood": "good"}
        about["digest"] = sealed.digest({**about, "tensors": tensors})
        save_file(tensors, path, {"cifar_utils": json.dumps(about)})
    elif path.suffix == ".pt":
        torch.save(sealed.seal(run().state() | {"mood": "good"}), path)
    elif path.suffix == ".npz":
        sealed.save_arrays(path, heatmaps=MAPS, indices=np.arange(3), mood=np.arange(2))
    else:
        recipe = {"mood": 1}
        sealed.write_json(path, json.loads(HISTORY.to_json()) | {"recipe": recipe, "mood": 1})


def with_a_digest_of_something_else(path):
    if path.suffix == ".safetensors":
        about = asdict(INFO) | {"digest": "00"}
        save_file(load_file(path), path, {"cifar_utils": json.dumps(about)})
    elif path.suffix == ".pt":
        torch.save(run().state() | {"digest": torch.zeros(3)}, path)
    elif path.suffix == ".npz":
        np.savez(path, heatmaps=MAPS, indices=np.arange(3), digest=np.zeros(99))
    else:
        path.write_text(json.dumps(json.loads(HISTORY.to_json()) | {"digest": {"a": [1]}}))


def in_place(make):
    def damage(path):
        path.unlink()
        make(path)

    return damage


def rewritten(change):
    def damage(path):
        path.write_bytes(change(path.read_bytes()))

    return damage


CUTS = (1, 7, 8, 9, 100, 0.25, 0.5, 0.9, -100, -22, -1)
DAMAGES = {
    **{f"cut at {cut}": rewritten(
        lambda whole, cut=cut: whole[: int(cut * len(whole)) if isinstance(cut, float) else cut])
       for cut in CUTS},
    "empty": rewritten(lambda whole: b""),
    "zeros": rewritten(lambda whole: bytes(len(whole))),
    "ones": rewritten(lambda whole: b"\xff" * len(whole)),
    "noise": rewritten(lambda whole: random.Random(0).randbytes(len(whole))),
    "its end is zeros": rewritten(lambda whole: whole[: len(whole) // 2].ljust(len(whole), b"\0")),
    "a block is zeros": rewritten(lambda whole: whole[:512] + bytes(512) + whole[1024:]),
    "backwards": rewritten(lambda whole: whole[::-1]),
    "a page of HTML": rewritten(lambda whole: b"<!DOCTYPE html><title>404</title>"),
    "a huge header": rewritten(lambda whole: b"\xff" * 7 + b"\x7f" + whole),
    "nested": rewritten(lambda whole: b"[" * 100_000),
    "nested in a field": rewritten(lambda whole: b'{"recipe": ' * 100_000),
    "UTF-16": rewritten(lambda whole: '{"recipe": {}}'.encode("utf-16")),
    "a list": rewritten(lambda whole: b"[1, 2]"),
    "null": rewritten(lambda whole: b"null"),
    "a large number": rewritten(lambda whole: b'{"recipe": {"lr": 1' + b"0" * 400 + b"}}"),
    "a number of 9,000 digits": rewritten(lambda whole: b"9" * 9000),
    "a pickle that opens a file": rewritten(lambda whole: pickle.dumps({"model": Bomb()}, 2)),
    "a torch file that opens a file": in_place(lambda path: torch.save({"model": Bomb()}, path)),
    "an .npz of Python objects": in_place(
        lambda path: np.savez(path.open("wb"), heatmaps=np.array([Bomb()]), indices=np.arange(1))),
    "a zip with nothing in it": in_place(lambda path: zipfile.ZipFile(path, "w").close()),
    "a folder": in_place(Path.mkdir),
    "a pipe": in_place(os.mkfifo),
    "an endless device": in_place(lambda path: path.symlink_to("/dev/zero")),
    "a link to itself": in_place(lambda path: path.symlink_to(path)),
    "a link to nothing": in_place(lambda path: path.symlink_to("nowhere")),
    "missing": Path.unlink,
    "of another network": of_another_network,
    "of a newer version": of_a_newer_version,
    "a digest of something else": with_a_digest_of_something_else,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        (kind, damage)
        for kind in ALL
        for damage in DAMAGES
        if damage != "missing" or kind not in ("race", "shipped weights")  # looked for by name
    ],
)
def test_a_damaged_file_is_refused_in_one_line(kind, damage, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    path, content = made(kind, tmp_path)
    capfd.readouterr()
    with contextlib.suppress(IsADirectoryError):
        DAMAGES[damage](path)
    line, found = refused(kind, path)
    assert line or found == content or kind in UNSEALED
    assert not Path("boom").exists(), "code from the file ran"
    printed = capfd.readouterr()
    assert not printed.out and (line is None or not printed.err)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_is_noticed_or_changes_nothing(kind, bit, tmp_path, capfd):
    path, content = made(kind, tmp_path)
    whole = path.read_bytes()
    slow = path.suffix in (".safetensors", ".pt") or kind.startswith("shipped")
    count, draw = (12, 4) if slow else (150, 30), random.Random(f"{kind} {bit}")
    places = [draw.randrange(len(whole)) for _ in range(count[0])]
    places += [draw.randrange(min(4096, len(whole))) for _ in range(count[1])]
    places += [len(whole) - 1 - draw.randrange(min(2048, len(whole))) for _ in range(count[1])]
    noticed = 0
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        line, found = refused(kind, path)
        assert line or found == content, f"bit {bit} of byte {place}: read, and other than it was"
        noticed += bool(line)
    assert noticed > len(places) / 2
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", UNSEALED)
def test_a_flipped_bit_in_a_file_without_a_digest_is_never_a_bug(kind, tmp_path):
    path, _ = made(kind, tmp_path)
    whole, draw = path.read_bytes(), random.Random(kind)
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[draw.randrange(min(len(whole), 6000))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        refused(kind, path)


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind.startswith("old")])
def test_a_file_of_an_earlier_version_holds_the_same(kind, tmp_path):
    _, old = made(kind, tmp_path)
    _, new = made(kind.removeprefix("old "), tmp_path)
    assert old == new


# --- the cache makes itself anew ------------------------------------------------------------------


def make_images():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (50, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return {"images": images, "labels": torch.arange(50)}


def flip(number):
    def change(whole):
        draw, damaged = random.Random(number), bytearray(whole)
        damaged[draw.randrange(len(whole) if number % 3 else 300)] ^= 1 << number % 8
        return bytes(damaged)

    return rewritten(change)


@pytest.mark.parametrize("damage", [*DAMAGES, *(f"flip {number}" for number in range(96))])
def test_a_damaged_cache_is_made_again(damage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "decoded.safetensors"
    cache.cached(path, "stamp", make_images)
    do = DAMAGES.get(damage) or flip(int(damage.split()[1]))
    do(path)
    wanted, calls = sealed.digest(make_images()), []

    def again():
        calls.append(1)
        return make_images()

    warned = pytest.warns(UserWarning, match="could not be cached")
    stays = damage in ("a folder", "a pipe", "an endless device")  # only a file is ever replaced
    with warned if stays else contextlib.nullcontext():
        assert sealed.digest(cache.cached(path, "stamp", again)) == wanted
    if not stays:
        made_before = len(calls)
        assert sealed.digest(cache.cached(path, "stamp", again)) == wanted
        assert len(calls) == made_before, "it was not mended"
    assert not Path("boom").exists()


# --- by the command line: one line, and nothing is altered ----------------------------------------


def folder_as_it_is(folder):
    return {
        path.name: path.read_bytes() if path.is_file() else "no file"
        for path in sorted(folder.rglob("*"))
        if path.name != ".lock"
    }


@pytest.mark.parametrize(
    "damage", [name for name in DAMAGES if name not in ("missing", "a link to nothing")]
)
def test_a_run_with_a_damaged_checkpoint_is_left_as_it_is(damage, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with RunFolder(tmp_path / "run") as folder:
        folder.save(replace(run(), classes=INFO.classes))
    DAMAGES[damage](tmp_path / "run" / "checkpoint.pt")
    before = folder_as_it_is(tmp_path / "run")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--resume", "--out", "run", "--device", "cpu"])
    line = capsys.readouterr().err
    assert stopped.value.code == 2 and line.count("\n") == 1
    assert "checkpoint.pt" in line and "; " in line
    assert folder_as_it_is(tmp_path / "run") == before


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "command",
    [
        ["test", "--weights", "./w.safetensors"],
        ["train", "--recipe", "separable", "--from", "./w.safetensors"],
        ["train", "--config", "config.json"],
    ],
    ids=["test", "from", "config"],
)
def test_a_command_refuses_a_damaged_file_in_one_line(
    command, damage, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / Path(command[-1]).name
    (write_history if path.suffix == ".json" else write_weights)(path)
    with contextlib.suppress(IsADirectoryError):
        DAMAGES[damage](path)
    monkeypatch.setattr("cifar_utils.data.load", lambda *_, **__: pytest.fail("it was accepted"))
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--device", "cpu"])
    line = capsys.readouterr().err
    assert stopped.value.code == 2 and line.count("\n") == 1 and path.name in line
    assert list(tmp_path.iterdir()) == ([path] if os.path.lexists(path) else [])

"""The authors' script in a race, by a toy of the same shape that learns nothing."""

import json
import os
import sys
import time

import numpy as np
import pytest
import torch
from cli_helpers import refused

from cifar_utils.cli.main import main
from cifar_utils.data import Cifar
from cifar_utils.errors import CifarError
from cifar_utils.results import bench
from cifar_utils.results.authors import Authors

CPU = torch.device("cpu")
TOY = """
import os, sys
with open(sys.argv[0]) as file:
    code = file.read()
import torch
from torch import nn

torch.backends.cudnn.benchmark = True
log = []

@torch.compile
def halved(tensor):
    return tensor / 2

class CifarLoader:
    def __init__(self, path, train=True, batch_size=500):
        name = "train.pt" if train else "test.pt"
        data = torch.load(os.path.join(path, name), map_location=torch.device("cuda"))
        self.images = data["images"].half().permute(0, 3, 1, 2)
        self.labels, self.batch_size = data["labels"], batch_size

    def __len__(self):
        return len(self.images) // self.batch_size

class CifarNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 10).half()

def print_training_details(variables, is_final_entry):
    raise RuntimeError("the table")

def main(run, model):
    batch_size = 20
    test_loader = CifarLoader("cifar10", train=False, batch_size=2000)
    train_loader = CifarLoader("cifar10", train=True, batch_size=batch_size)
    starter = torch.cuda.Event(enable_timing=True)
    ender = torch.cuda.Event(enable_timing=True)
    time_seconds = 0.0
    def start_timer():
        starter.record()
    def stop_timer():
        ender.record()
        torch.cuda.synchronize()
        nonlocal time_seconds
        time_seconds += 1e-3 * starter.elapsed_time(ender)
    log.append((run, train_loader, test_loader, torch.rand(1).item(), model.head.weight.dtype))
    for epoch in range(2):
        start_timer()
        spend(100)
        stop_timer()
        spend(7000)
        val_acc = 0.25 * (epoch + 1)
        print_training_details(locals(), is_final_entry=False)
    start_timer()
    spend(90000)
    tta_val_acc = 0.75
    stop_timer()
    print_training_details(locals(), is_final_entry=True)
    return tta_val_acc

if __name__ == "__main__":
    raise RuntimeError("200 trainings")
    model = CifarNet().cuda()
"""


@pytest.fixture
def toy(tmp_path):
    file = tmp_path / "airbench94_muon.py"
    file.write_text(TOY)
    return file


def quick_clock(authors, monkeypatch):
    """The script's spend(SECONDS) moves the clock on without waiting."""
    clock, passed = time.perf_counter, []
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + sum(passed))
    authors.namespace["spend"] = passed.append
    return authors


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_the_script_trains_on_our_images_by_our_clock(
    toy, painted_split, monkeypatch, precision, dtype
):
    before = sys.argv, os.getcwd(), torch.backends.cudnn.benchmark  # noqa: PTH109
    authors = quick_clock(Authors(toy, CPU, precision), monkeypatch)
    train, test = painted_split(50), painted_split(30, seed=1)
    cifar = Cifar(train, test[:0], test)
    authors.warm_up(cifar)
    row = authors.run(cifar, seed=3)
    assert row == {"seconds": pytest.approx(200, abs=5), "accuracy": 0.5, "accuracy_views": 0.75}
    (warm, few, *_), (run, images, held_out, drawn, kind) = authors.namespace["log"]
    assert (warm, run) == ("warmup", 0) and len(few.images) == 20
    assert torch.equal(images.images, train.images.to(dtype)) and images.images.dtype == dtype
    assert torch.equal(images.labels, train.labels) and kind == dtype
    assert torch.equal(held_out.images, test.images.to(dtype))
    torch.manual_seed(3)
    assert drawn == torch.rand(1).item()
    assert authors.namespace["halved"](torch.ones(1)) == 0.5
    assert (sys.argv, os.getcwd(), torch.backends.cudnn.benchmark) == before  # noqa: PTH109


def test_held_out_images_are_its_test_images(toy, painted_split, monkeypatch):
    authors = quick_clock(Authors(toy, CPU, "fp32"), monkeypatch)
    val = painted_split(10, seed=2)
    authors.run(Cifar(painted_split(20), val, painted_split(10, seed=1)), seed=0)
    assert torch.equal(authors.namespace["log"][0][2].images, val.images.float())


def test_what_is_replaced_is_told_and_nothing_else_is(toy):
    authors = Authors(toy, CPU, "bf16")
    assert authors.replaced == [
        'torch.device("cuda") by torch.device("cpu")',
        ".half() by .to(torch.bfloat16)",
        "torch.cuda.Event(enable_timing=True) by Clock()",
        "torch.cuda.synchronize() by None",
        "@torch.compile left out",
    ]
    script = TOY.partition('\nif __name__ == "__main__":')[0]
    ours, theirs = authors.script.splitlines(), script.splitlines()
    theirs.remove("@torch.compile")
    changed = [line for line, was in zip(ours, theirs, strict=True) if line != was]
    assert len(changed) == 6  # the four lines of a kind, two of them twice


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('torch.device("cuda")', '"cuda"', 'torch.device("cuda") is not in it'),
        (".half()", ".float()", ".half() is not in it"),
        ("torch.cuda.synchronize()", "pass", "torch.cuda.synchronize() is not in it"),
        ("log = []", "log = [].cuda()", "it uses cuda in a place that it did not"),
        ("@torch.compile\n", "", "@torch.compile is not in it"),
        ("    batch_size = 20", "    batch_size = 10 + 10", "does not set its batch_size"),
        ('("cifar10", train=True', '("cifar", train=True', "does not set its batch_size or load"),
        ("def main(", "def other(", "it has no main"),
        ("log = []", "log = [", "SyntaxError"),
        ("log = []", "log = 1 / 0", "ZeroDivisionError"),
        ("log = []", "log = sys.exit(3)", "SystemExit: 3"),
        ("class CifarNet(nn.Module):", "def CifarNet():", "Error"),
        ("class CifarLoader", "class Loader", "it has no CifarLoader"),
    ],
)
def test_another_file_is_refused(toy, old, new, complaint):
    assert old in TOY
    toy.write_text(TOY.replace(old, new))
    with pytest.raises(CifarError) as error:
        Authors(toy, CPU, "fp32")
    assert f"{toy} is not the airbench94_muon.py that we know: " in str(error.value)
    assert complaint in str(error.value)


def test_a_script_that_fails_in_its_training_is_told(toy, painted_split):
    toy.write_text(TOY.replace("val_acc = 0.25", "val_acc = 1 / 0"))
    authors = Authors(toy, CPU, "fp32")
    authors.namespace["spend"] = abs
    with pytest.raises(CifarError, match="it fails with ZeroDivisionError"):
        authors.run(Cifar(*[painted_split(20)] * 3), seed=0)


def test_memory_that_runs_out_is_not_the_scripts_fault(toy, painted_split):
    def spend(_):
        raise MemoryError

    authors = Authors(toy, CPU, "fp32")
    authors.namespace["spend"] = spend
    with pytest.raises(MemoryError):
        authors.run(Cifar(*[painted_split(20)] * 3), seed=0)


def test_too_few_images_for_a_batch_are_told(toy, painted_split):
    few = painted_split(19)
    with pytest.raises(CifarError, match="needs at least 20 training images"):
        Authors(toy, CPU, "fp32").warm_up(Cifar(few, few, few))


@pytest.mark.slow
def test_a_race_against_the_file_has_its_turns_and_its_ratio(toy, arrays, tmp_path, capsys):
    toy.write_text(TOY.replace("spend(", "abs("))
    file = tmp_path / "race.json"
    main(["bench", "--recipe", "separable", "--against-file", str(toy), "--repeats", "2",
          *arrays, "--limit", "30", "--epochs", "1", "--precision", "fp32",
          "--json", str(file)])  # fmt: skip
    printed, found = capsys.readouterr().out, json.loads(file.read_text())
    turns = [line.split()[0] for line in printed.splitlines() if " s  " in line]
    assert turns == ["separable", "airbench94_muon.py"] * 2
    theirs, (ours,) = found["authors"], found["recipes"]
    assert theirs["replaced"][-1] == "@torch.compile left out" and len(theirs["sha256"]) == 64
    assert "@torch.compile left out" in printed
    ratios = np.divide(ours["seconds"]["values"], theirs["seconds"]["values"])
    assert found["ratios_to_authors"]["separable"]["values"] == pytest.approx(list(ratios))
    assert "times as long as airbench94_muon.py, to " in printed
    assert theirs["accuracy_views"]["median"] == 0.75 and "mult_adds_ratios" not in found
    assert bench.ratio(ours, theirs) == found["ratios_to_authors"]["separable"]


def test_the_file_needs_a_recipe_and_has_to_be_there(capsys, arrays):
    assert "--against-file needs --recipe" in refused(capsys, "bench", "--against-file", "x.py")
    line = refused(capsys, "bench", "--recipe", "fast", "--against-file", "x.py", *arrays)
    assert "x.py: there is no such file" in line

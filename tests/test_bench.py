"""What is measured, and how it is told; the figures themselves mean nothing here."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from cli_helpers import refused
from torch.nn.modules.module import register_module_forward_pre_hook

from cifar_utils import __version__, train
from cifar_utils.cli import bench as command
from cifar_utils.cli.main import main
from cifar_utils.data import MD5, Cifar, official_folder
from cifar_utils.models import ConvNet
from cifar_utils.recipes import RECIPES, Recipe
from cifar_utils.results import bench, host, throughput

CPU = torch.device("cpu")


@pytest.fixture
def pass_time(monkeypatch):
    """A function that moves the clock on by so many seconds, without waiting."""
    clock, passed = time.perf_counter, []
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + sum(passed))
    return passed.append


def test_the_clock_leaves_the_first_call_out(pass_time):
    durations = iter((2000.0, 100.0, 300.0, 200.0))
    seconds = bench.clock(lambda: pass_time(next(durations)), CPU, times=3)
    assert seconds == pytest.approx([100, 300, 200], abs=50)
    values = [3.0, 1.0, 2.0, 9.0]
    wanted = {"median": 2.5, "mean": 3.75, "lowest": 1, "highest": 9, "values": values}
    assert bench.spread(values) == wanted


def test_the_processor_has_a_name(monkeypatch, tmp_path):
    assert host.machine(CPU, "fp32")["processor"]
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: A CPU: 3 GHz\nflags : fpu\n")
    monkeypatch.setattr(host, "Path", lambda _: tmp_path / "cpuinfo")
    assert host.processor() == "A CPU: 3 GHz"
    (tmp_path / "cpuinfo").unlink()
    monkeypatch.setattr(host.platform, "processor", lambda: "arm")
    assert host.processor() == "arm"


@pytest.mark.skipif(not shutil.which("git"), reason="there is no git here")
def test_the_commit_is_that_of_the_checkout_if_it_is_one(tmp_path):
    def git(*words):
        line = ["git", "-c", "user.name=A", "-c", "user.email=a@b.c", *words]
        return subprocess.check_output(line, cwd=tmp_path, text=True).strip()

    assert host.commit(tmp_path) == __version__
    git("init", "-q")
    assert host.commit(tmp_path) == __version__  # without a commit
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-qm", "first")
    git("tag", "v1")
    assert host.commit(tmp_path) == git("rev-parse", "--short=7", "HEAD")
    (tmp_path / "new").touch()  # nobody imports it
    assert "dirty" not in host.commit(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "file").write_text("1")
    git("add", "images")
    git("commit", "-qm", "second")
    (tmp_path / "images" / "file").write_text("2")  # as notebooks do
    assert "dirty" not in host.commit(tmp_path)
    (tmp_path / "file").write_text("2")
    assert host.commit(tmp_path) == git("rev-parse", "--short=7", "HEAD") + "-dirty"
    assert host.commit(tmp_path / "below") == __version__


def answers(model, images, *, views):
    """Logits without a network: one view is taken for class 0, several are all right."""
    right = torch.arange(len(images)) % 10 if views > 1 else torch.zeros(len(images)).long()
    return torch.nn.functional.one_hot(right, 10).float()


def test_recipes_train_in_turn_with_seeds_of_their_own(painted_split, monkeypatch):
    trained, sizes, fit = [], [], bench.fit

    def watched_fit(model, images, val, recipe, **options):
        trained.append(recipe)
        return fit(model, images, val, recipe, **options)

    def note_size(module, inputs):
        if isinstance(module, ConvNet) and module.training:
            sizes.append(inputs[0].shape[2])

    monkeypatch.setattr(bench, "fit", watched_fit)
    monkeypatch.setattr(bench, "predict", answers)
    monkeypatch.setattr(bench, "training_mult_adds", lambda *_: 1.0)  # which takes steps, too
    one = Recipe("one", epochs=1, batch_size=16, seed=5)
    other = Recipe("other", model="fastnet-half", epochs=1, batch_size=16, small_size=24,
                   small_until=0.5, views=6)  # fmt: skip
    cifar = Cifar(painted_split(64), painted_split(0), painted_split(20, seed=1))
    lines, saved = [], []
    with register_module_forward_pre_hook(note_size):
        rows = bench.race(
            [one, other], cifar, repeats=2, device=CPU, precision="fp32", log=lines.append,
            save=saved.append,
        )  # fmt: skip
    assert saved[1] == rows  # after each turn, all so far
    for before, row in zip(saved[0], rows, strict=True):
        assert before["seconds"]["values"] == row["seconds"]["values"][:1]
    turns = [(recipe.name, recipe.seed) for recipe in trained]
    warm_up = [("one", 5), ("other", 0)]
    assert turns == [*warm_up, ("one", 5), ("other", 0), ("one", 6), ("other", 1)]
    # A warm-up of three steps each, on every size of image, and then an epoch of four steps.
    assert sizes[:14] == [32, 32, 32, 24, 24, 32, 32, 32, 32, 32, 24, 24, 32, 32]
    assert len(lines) == 4 and "one" in lines[2] and "100.00%" in lines[3]
    for row, recipe, accuracy in zip(rows, (one, other), (0.1, 1.0), strict=True):
        assert row["name"] == recipe.name and Recipe(**row["recipe"]) == recipe
        assert len(row["seconds"]["values"]) == 2 and 0 < row["seconds"]["lowest"] < 60
        assert row["augmentation_share"]["lowest"] > 0 and row["compile_seconds"]["highest"] == 0
        assert row["accuracy"]["median"] == pytest.approx(0.1)
        assert row["accuracy_views"]["median"] == pytest.approx(accuracy)


@pytest.mark.parametrize("held_out", [True, False])
def test_a_race_is_judged_on_images_that_nobody_learned_from(painted_split, monkeypatch, held_out):
    seen = []
    monkeypatch.setattr(
        bench, "predict",
        lambda model, images, views: seen.append((images, views)) or answers(0, images, views=1),
    )  # fmt: skip
    part = painted_split(20, seed=2)
    cifar = Cifar(painted_split(16), part if held_out else part[:0], painted_split(20, seed=1))
    recipe = Recipe(epochs=1, batch_size=16, views=6)
    bench.race([recipe], cifar, repeats=1, device=CPU, precision="fp32", log=lambda _: None)
    wanted = cifar.val if held_out else cifar.test
    assert {views for _, views in seen} == {1, 6}
    assert all(torch.equal(images, wanted.images) for images, _ in seen)


def test_times_have_the_units_that_their_columns_say(monkeypatch):
    monkeypatch.setattr(throughput, "clock", lambda work, device, *, times: [0.5])
    policy, none = throughput.time_augmentations(["flip", "none"], CPU, images=500)
    assert policy["microseconds"]["median"] == pytest.approx(1000)
    assert policy["images_per_second"] == pytest.approx(1000) and none["images_per_second"] is None
    (model,) = throughput.time_models(["compact"], CPU, ["fp32"], images=100)
    assert model["training"]["median"] == model["inference"]["median"] == pytest.approx(5)


def test_predict_is_timed_against_a_plain_loop_of_the_same_network(monkeypatch):
    """A slower loop is what predict would beat: 4 seconds over its 2 are 200%."""
    logits, seconds = {}, {"training": 9.0, "inference": 2.0, "plain": 4.0}

    def clock(work, device, *, times):
        what = list(seconds)[len(logits)]
        logits[what] = work()
        return [seconds[what]]

    monkeypatch.setattr(throughput, "clock", clock)
    (row,) = throughput.time_models(["fastnet-half"], CPU, ["bf16"], images=16)
    assert row["plain_share"] == 2
    assert torch.equal(logits["plain"].float(), logits["inference"])
    assert logits["plain"].dtype == torch.bfloat16 and logits["plain"].is_inference()


def test_loading_is_timed_without_and_with_decoded_images(tmp_path, monkeypatch, pass_time):
    """By a reader that is slow until it finds what it has left behind."""
    for name in (*MD5, "large"):
        (tmp_path / name).write_text(name)
    before = sorted(tmp_path.iterdir())

    def load(root, *, source):
        assert source == "cifar10" and official_folder(Path(root)) == Path(root)
        assert not (Path(root) / "large").exists()  # it is not one of the official files
        kept = Path(root) / "decoded"
        pass_time(300.0 if kept.exists() else 2000.0)
        kept.touch()

    monkeypatch.setattr(throughput, "load", load)
    first, again = throughput.time_loading(tmp_path, times=2)
    assert first["seconds"]["values"] == pytest.approx([2000], abs=50)
    assert again["seconds"]["values"] == pytest.approx([300, 300], abs=50)
    assert sorted(tmp_path.iterdir()) == before


def test_loading_is_timed_only_where_there_are_files(nothing_from_outside, capsys, monkeypatch):
    main(["bench", "--loading", "--precision", "fp32", "--json", "none.json"])
    assert "loading is not timed: " in capsys.readouterr().out
    assert (
        not {"loading", "models", "augmentations"}
        & json.loads(Path("none.json").read_text()).keys()
    )


def test_whitening_is_on_the_clock_and_evaluation_is_not(painted_split, monkeypatch, pass_time):
    def slowed(work, seconds):
        return lambda *given: pass_time(seconds) or work(*given)

    monkeypatch.setattr(bench, "prepare", slowed(bench.prepare, 1000.0))
    monkeypatch.setattr(train, "evaluate", slowed(train.evaluate, 5000.0))
    recipe = RECIPES["quick"].changed(epochs=1, batch_size=32, winograd=False)
    began = time.perf_counter()
    _, seconds = bench._train(recipe, painted_split(32), CPU, "fp32")
    assert seconds == pytest.approx(1000, abs=500)
    assert time.perf_counter() - began > 6000  # it did evaluate


def test_the_tables_show_medians_and_the_file_holds_everything(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["bench", "--quick", "--device", "cpu", "--precision", "bf16", "--json", "out/bench.json",
          "--models", "fastnet-half", "--augmentations", "flip", "translate-flip"])  # fmt: skip
    printed = capsys.readouterr().out
    found = json.loads(Path("out/bench.json").read_text())
    assert found["torch"] == torch.__version__ and found["device"].startswith("CPU")
    assert torchvision.__version__.startswith(found["torchvision"])
    assert found["numpy"] == np.__version__
    assert f"; torch {torch.__version__}; " in printed and found["albumentations"][0] == "2"
    assert f"in bf16 is {found['bf16_speedup']:.2g} times as fast as in fp32" in printed
    assert [row["name"] for row in found["augmentations"]] == ["flip", "translate-flip"]
    rows = [(row["name"], row["precision"]) for row in found["models"]]
    assert rows == [("fastnet-half", "fp32"), ("fastnet-half", "bf16")]
    for row in found["models"]:
        for what in ("training", "inference"):
            assert 0 < row[what]["lowest"] <= row[what]["median"] <= row[what]["highest"]
            assert f"{row[what]['median']:.3f} ({row[what]['lowest']:.3f} to " in printed
    single, half = (row["training"]["median"] for row in found["models"])
    assert [row["training_ratio"] for row in found["models"]] == [1, half / single]


def test_one_table_alone_is_all_of_that_kind(capsys, monkeypatch):
    monkeypatch.setattr(
        throughput, "time_augmentations", lambda *_, **__: pytest.fail("not asked for")
    )
    asked = []
    monkeypatch.setattr(
        throughput, "time_models", lambda names, *_, **__: asked.extend(names) or []
    )
    main(["bench", "--models", "--precision", "fp32"])
    assert "resnet152" in asked and "fastnet" in asked


def test_a_race_has_no_use_for_the_schedule_plateau(capsys):
    said = refused(capsys, "bench", "--recipe", "compact", "--schedule", "plateau")
    assert "compact has the schedule plateau, but a race evaluates at its end only" in said


def test_a_race_needs_recipes_of_different_names(capsys):
    for names in (["fast", "fast"], ["fast", "--against", "fast"]):
        assert "different names" in refused(capsys, "bench", "--recipe", *names)


def test_a_race_is_told_with_its_ratio(painted_split, capsys, monkeypatch, tmp_path):
    rows = [
        {"name": name, "seconds": bench.spread(seconds), "augmentation_share": bench.spread([0.1]),
         "accuracy": bench.spread([0.9]), "accuracy_views": bench.spread(views),
         "compile_seconds": bench.spread([7.0]), "mult_adds": mult_adds}
        for name, seconds, views, mult_adds in (
            ("fast", [3.0, 3.0, 8.0], [0.91], 15.0),
            ("quick", [1.0, 1.5, 4.0], [0.9, 0.89, 0.925], 5.0),
            ("airbench94", [4.0, 6.0, 8.0], [0.92], 20.0),
        )
    ]  # fmt: skip
    raced, few = [], painted_split(10)
    monkeypatch.setattr(command, "load", lambda options: Cifar(few, few, few))
    monkeypatch.setattr(bench, "race", lambda recipes, *_, **__: raced.extend(recipes) or rows)
    main(["bench", "--recipe", "fast", "quick", "--against", "airbench94", "--lr", "0.5",
          "--seed", "3", "--precision", "fp32", "--compile",
          "--json", str(tmp_path / "race.json")])  # fmt: skip
    printed = capsys.readouterr().out
    told = "fast takes 0.75 (0.50 to 1.00) times as long as airbench94, with 0.75 times its"
    assert f"{told} multiply-adds, to 91.00% against 92.00% on average" in printed
    assert "quick takes 0.25 (0.25 to 0.50) times as long" in printed
    assert "with 0.25 times its multiply-adds, to 90.50%" in printed
    assert "7.0 (7.0 to 7.0)" in printed
    assert "accuracy on the validation images of memory" in printed
    assert "3.0 (3.0 to 8.0)" in printed and "91.00% (91.00% to 91.00%)" in printed
    found = json.loads((tmp_path / "race.json").read_text())
    assert found["images"] == {"source": "memory", "training": 10, "on": "validation", "tested": 10}
    assert found["ratios"]["fast"]["values"] == [0.75, 0.5, 1.0] and found["recipes"] == rows
    assert found["mult_adds_ratios"] == {"fast": 0.75, "quick": 0.25}
    assert "seeds from 3 on" in printed
    changed = [RECIPES[name].changed(lr=0.5, seed=3) for name in ("fast", "quick")]
    assert raced == [*changed, RECIPES["airbench94"].changed(seed=3)]

"""What is measured, and how it is told; the figures themselves mean nothing here."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from cifar_utils import train
from cifar_utils.cli import bench as command
from cifar_utils.cli.main import main
from cifar_utils.data import Cifar
from cifar_utils.recipes import RECIPES, Recipe
from cifar_utils.results import bench

CPU = torch.device("cpu")


def test_the_clock_leaves_the_first_call_out():
    pauses = iter((0.2, 0.01, 0.03, 0.02))
    seconds = bench.clock(lambda: time.sleep(next(pauses)), CPU, times=3)
    assert len(seconds) == 3 and max(seconds) < 0.2
    assert seconds[0] >= 0.01 and seconds[1] >= 0.03 and seconds[2] >= 0.02
    values = [3.0, 1.0, 2.0, 9.0]
    wanted = {"median": 2.5, "mean": 3.75, "lowest": 1, "highest": 9, "values": values}
    assert bench.spread(values) == wanted


def test_the_processor_has_a_name(monkeypatch, tmp_path):
    assert bench.machine(CPU, "fp32")["processor"]
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: A CPU: 3 GHz\nflags : fpu\n")
    monkeypatch.setattr(bench, "Path", lambda _: tmp_path / "cpuinfo")
    assert bench.processor() == "A CPU: 3 GHz"
    (tmp_path / "cpuinfo").unlink()
    monkeypatch.setattr(bench.platform, "processor", lambda: "arm")
    assert bench.processor() == "arm"


def test_recipes_train_in_turn_with_seeds_of_their_own(painted_split, monkeypatch):
    trained, train = [], bench._train
    monkeypatch.setattr(
        bench, "_train", lambda recipe, *rest: trained.append(recipe) or train(recipe, *rest)
    )
    one = Recipe("one", epochs=1, batch_size=32, seed=5)
    other = RECIPES["quick"].changed(epochs=1, batch_size=32)
    cifar = Cifar(painted_split(64), painted_split(0), painted_split(20, seed=1))
    lines = []
    rows = bench.race(
        [one, other], cifar, repeats=2, device=CPU, precision="fp32", log=lines.append
    )
    turns = [(recipe.name, recipe.seed) for recipe in trained]
    warm_up = [("one", 5), ("quick", 0)]
    assert turns == [*warm_up, ("one", 5), ("quick", 0), ("one", 6), ("quick", 1)]
    assert len(lines) == 4 and [row["name"] for row in rows] == ["one", "quick"]
    for row in rows:
        assert len(row["seconds"]["values"]) == 2 and 0 < row["seconds"]["lowest"] < 60
        assert row["augmentation_share"]["lowest"] > 0 and row["compile_seconds"]["highest"] == 0
        assert 0 <= row["accuracy"]["median"] <= 1
    assert rows[0]["accuracy_views"] == rows[0]["accuracy"]  # one view
    assert Recipe(**rows[1]["recipe"]) == other


@pytest.mark.parametrize("held_out", [True, False])
def test_a_race_is_judged_on_images_that_nobody_learned_from(painted_split, monkeypatch, held_out):
    seen = []
    monkeypatch.setattr(
        bench, "predict",
        lambda model, images, views: seen.append((images, views)) or torch.zeros(len(images), 10),
    )  # fmt: skip
    part = painted_split(20, seed=2)
    cifar = Cifar(painted_split(32), part if held_out else part[:0], painted_split(20, seed=1))
    recipe = Recipe(epochs=1, batch_size=32, views=6)
    bench.race([recipe], cifar, repeats=1, device=CPU, precision="fp32", log=lambda _: None)
    wanted = cifar.val if held_out else cifar.test
    assert {views for _, views in seen} == {1, 6}
    assert all(torch.equal(images, wanted.images) for images, _ in seen)


def test_times_have_the_units_that_their_columns_say(monkeypatch):
    monkeypatch.setattr(bench, "clock", lambda work, device, *, times: [0.5])
    (policy,) = bench.time_augmentations(["none"], CPU, images=500)
    assert policy["microseconds"]["median"] == pytest.approx(1000)
    (model,) = bench.time_models(["compact"], CPU, ["fp32"], images=100)
    assert model["training"]["median"] == model["inference"]["median"] == pytest.approx(5)


def test_whitening_is_on_the_clock_and_evaluation_is_not(painted_split, monkeypatch):
    whiten, evaluate = bench.prepare, bench.fit.__globals__["evaluate"]
    slow = {"whiten": 0.3, "evaluate": 5.0}

    def slow_whiten(*arguments):
        time.sleep(slow["whiten"])
        whiten(*arguments)

    def slow_evaluate(*arguments):
        time.sleep(slow["evaluate"] / 10)
        return evaluate(*arguments)

    monkeypatch.setattr(bench, "prepare", slow_whiten)
    monkeypatch.setitem(bench.fit.__globals__, "evaluate", slow_evaluate)
    recipe = RECIPES["quick"].changed(epochs=1, batch_size=32)
    began = time.perf_counter()
    _, seconds = bench._train(recipe, painted_split(32), CPU, "fp32")
    assert 0.3 <= seconds <= time.perf_counter() - began - 1.0  # two evaluations, of half a second


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
    monkeypatch.setattr(bench, "time_augmentations", lambda *_, **__: pytest.fail("not asked for"))
    asked = []
    monkeypatch.setattr(bench, "time_models", lambda names, *_, **__: asked.extend(names) or [])
    main(["bench", "--models", "--precision", "fp32"])
    assert "resnet152" in asked and "fastnet" in asked


def test_the_warm_up_before_a_race_has_steps_of_every_size(painted_split, monkeypatch):
    seen, resized = [], train.resized
    monkeypatch.setattr(train, "resized", lambda *of: seen.append(resized(*of)) or seen[-1])
    recipe = RECIPES["quick"].changed(epochs=1, batch_size=16, small_size=24)
    cifar = Cifar(painted_split(48), painted_split(0), painted_split(20, seed=1))
    bench.race([recipe], cifar, repeats=1, device=CPU, precision="fp32", log=str)
    assert [inputs.shape[2] for inputs in seen[:3]] == [24, 24, 32]


def test_a_race_is_told_with_its_ratio(painted_split, capsys, monkeypatch, tmp_path):
    rows = [
        {"name": name, "seconds": bench.spread(seconds), "augmentation_share": bench.spread([0.1]),
         "accuracy": bench.spread([0.9]), "accuracy_views": bench.spread(views),
         "compile_seconds": bench.spread([7.0])}
        for name, seconds, views in (("fast", [3.0, 3.0, 8.0], [0.91]),
                                     ("quick", [1.0, 1.5, 4.0], [0.9, 0.89, 0.925]),
                                     ("airbench94", [4.0, 6.0, 8.0], [0.92]))
    ]  # fmt: skip
    raced, few = [], painted_split(10)
    monkeypatch.setattr(command, "load", lambda options: Cifar(few, few, few))
    monkeypatch.setattr(bench, "race", lambda recipes, *_, **__: raced.extend(recipes) or rows)
    main(["bench", "--recipe", "fast", "quick", "--against", "airbench94", "--lr", "0.5",
          "--seed", "3", "--precision", "fp32", "--compile",
          "--json", str(tmp_path / "race.json")])  # fmt: skip
    printed = capsys.readouterr().out
    told = "fast takes 0.75 (0.50 to 1.00) times as long as airbench94, to 91.00% against 92.00%"
    assert f"{told} on average" in printed and "7.0 (7.0 to 7.0)" in printed
    assert "quick takes 0.25 (0.25 to 0.50) times as long as airbench94, to 90.50%" in printed
    assert "accuracy on the validation images of memory" in printed
    assert "3.0 (3.0 to 8.0)" in printed and "91.00% (91.00% to 91.00%)" in printed
    found = json.loads((tmp_path / "race.json").read_text())
    assert found["images"] == {"source": "memory", "training": 10, "on": "validation", "tested": 10}
    assert found["ratios"]["fast"]["values"] == [0.75, 0.5, 1.0] and found["recipes"] == rows
    assert "seeds from 3 on" in printed
    changed = [RECIPES[name].changed(lr=0.5, seed=3) for name in ("fast", "quick")]
    assert raced == [*changed, RECIPES["airbench94"].changed(seed=3)]

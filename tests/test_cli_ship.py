"""`cifar ship` and `cifar report`, through main(): what comes with the package."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_helpers import FAST, FINAL, refused
from safetensors.torch import load_file

from cifar_utils import checkpoints
from cifar_utils.cli.main import main
from cifar_utils.history import History
from cifar_utils.results import board, report, ship

pytestmark = pytest.mark.usefixtures("nothing_from_outside")


@pytest.mark.slow
def test_ship_puts_the_first_seeds_weights_and_every_history_among_the_shipped(
    arrays, capsys, monkeypatch, tmp_path
):
    for seed in ("0", "1"):
        final = ["train", "--recipe", "compact", *FINAL, *arrays, "--out", seed, "--seed", seed]
        main([*final, "-q"])
    ship = ["ship", "0", "1", "--out", "shipped", *arrays[:4]]
    main(ship)
    assert "half precision" in capsys.readouterr().out
    names = {"compact.json", "compact.safetensors", "compact-seed1.json"}
    assert {path.name for path in Path("shipped").iterdir()} == names
    run, shipped = History.load("0/history.json"), History.load("shipped/compact.json")
    assert shipped == replace(run, sha256=shipped.sha256) and shipped.sha256
    assert History.load("shipped/compact-seed1.json") == History.load("1/history.json")
    monkeypatch.setattr(checkpoints, "PRETRAINED", tmp_path / "shipped")
    model, info = checkpoints.load_pretrained("compact")
    whole, _ = checkpoints.load_weights("0")
    for ours, theirs in zip(model.state_dict().values(), whole.state_dict().values(), strict=True):
        half = theirs.half().float() if theirs.is_floating_point() else theirs
        assert torch.equal(ours, half)
    assert info.recipe == run.recipe and info.source == "npy"
    assert "add --overwrite to replace it" in refused(capsys, *ship)
    Path("shipped/compact.json").unlink()
    assert "compact.safetensors already exists" in refused(capsys, *ship)
    main([*ship, "--overwrite"])


@pytest.mark.slow
def test_ship_takes_runs_that_held_images_out_under_their_own_name_and_their_heatmaps(arrays):
    main(["train", "--recipe", "compact", *FAST, *arrays, "--out", "run", "--cam", "--no-test"])
    main(["ship", "run", "--out", "shipped", *arrays[:4]])
    names = {"compact-val.json", "compact-val.safetensors", "compact-val-cam.npz"}
    assert {path.name for path in Path("shipped").iterdir()} == names
    shipped = np.load("shipped/compact-val-cam.npz")
    assert shipped["heatmaps"].shape == (3, 5, 32, 32) and shipped["heatmaps"].dtype == np.uint8
    for epoch, bytes_ in enumerate(shipped["heatmaps"]):
        kept = np.load(f"run/cam/heatmaps-{epoch:03}.npz")
        assert np.abs(bytes_ / 255 - kept["heatmaps"]).max() <= 0.5 / 255 + 1e-6
        assert np.array_equal(shipped["indices"], kept["indices"])


@pytest.mark.slow
def test_ship_keeps_single_precision_where_half_changes_the_answers(arrays, capsys):
    """All rows of the last layer moved by 100: half precision cannot tell them apart any more."""
    main(["train", "--recipe", "compact", *FINAL, "--epochs", "6", *arrays, "--out", "run", "-q"])
    model, info = checkpoints.load_weights("run")
    with torch.no_grad():
        model.classifier[-1].weight.add_(100)
    checkpoints.save_weights("run/weights.safetensors", model, info)
    main(["ship", "run", "--out", "shipped", *arrays[:4]])
    assert "single precision" in capsys.readouterr().out
    kept = load_file("shipped/compact.safetensors")
    assert {value.dtype for value in kept.values()} == {torch.float32, torch.int64}


@pytest.mark.slow
def test_ship_leaves_weights_out_that_do_not_fit(arrays, capsys, monkeypatch):
    monkeypatch.setattr(ship, "LIMIT", 1e5)
    main(["train", "--recipe", "compact", *FINAL, *arrays, "--out", "run", "-q"])
    main(["ship", "run", "--out", "shipped", *arrays[:4]])
    assert "1 MB are more than the limit leaves" in capsys.readouterr().out
    assert [path.name for path in Path("shipped").iterdir()] == ["compact.json"]
    assert not History.load("shipped/compact.json").sha256


@pytest.mark.slow
def test_ship_refuses_before_it_writes_anything(arrays, capsys):
    main(["train", "--recipe", "compact", *FINAL, *arrays, "--out", "good", "-q"])
    good = History.load("good/history.json")
    bad = {
        "not finished": replace(good, epochs=good.epochs[:-1]),
        "was not tested": replace(good, test=None),
        "held images out and was tested": replace(good, train_images=120, val_images=30),
        "without --limit": replace(good, train_images=30),
        "is on synthetic, the data is npy": replace(good, source="synthetic"),
    }
    for words, history in bad.items():
        history.save("bad/history.json")
        line = refused(capsys, "ship", "good", "bad", "--out", "shipped", *arrays[:4])
        assert words in line and not Path("shipped").exists()
    shutil.copytree("good", "holed")
    Path("holed/cam").mkdir()
    maps = np.zeros((5, 32, 32), np.float32)
    np.savez("holed/cam/heatmaps-001.npz", heatmaps=maps, indices=np.arange(5))
    line = refused(capsys, "ship", "good", "holed", "--out", "shipped", *arrays[:4])
    assert "holed/cam lacks epochs" in line and not Path("shipped").exists()
    shutil.copytree("good", "twin")
    line = refused(capsys, "ship", "good", "twin", "--out", "shipped", *arrays[:4])
    assert "two of the runs would ship under one name" in line
    assert "not of a recipe that `cifar recipes` lists" in refused(
        capsys, "ship", "good", *arrays[:4]
    )


@pytest.mark.slow
def test_report_prints_the_tables_and_writes_each_between_its_marks(capsys):
    main(["report"])
    tables = (
        report.table(report.shipped_results()),
        board.table(),
        report.published_table(),
    )
    assert capsys.readouterr().out == "\n\n".join(tables) + "\n"
    page, marks = Path("page.md"), [report.marks(name) for name in report.TABLES]
    old = "".join(f"before\n{start}\nold\n{end}\n" for start, end in marks)
    new = "".join(
        f"before\n{start}\n{table}\n{end}\n"
        for (start, end), table in zip(marks, tables, strict=True)
    )
    page.write_text(f"{old}after\n", encoding="utf-8")
    for answer in ("up to date now", "as it was"):
        main(["report", "--write", "page.md"])
        assert answer in capsys.readouterr().out
        assert page.read_text(encoding="utf-8") == f"{new}after\n"
    page.write_text("no marks")
    assert "lacks the lines" in refused(capsys, "report", "--write", "page.md")
    assert page.read_text() == "no marks"
    assert "none.md does not exist" in refused(capsys, "report", "--write", "none.md")

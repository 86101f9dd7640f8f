"""What `cifar cams` measures, and that the default follows from what it has measured."""

import json
from pathlib import Path

import pytest
import torch
from cli_helpers import refused
from scipy.stats import spearmanr
from torch import nn

from cifar_utils import checkpoints, data, explain
from cifar_utils.cli.main import main
from cifar_utils.models import ConvNet
from cifar_utils.results import cams

MEASURED = json.loads((Path(cams.__file__).parent / "cams.json").read_text(encoding="utf-8"))


class Corner(nn.Module):
    """Class 0 if the corner of 8 × 8 pixels is bright, else class 1; blind to all other pixels."""

    def forward(self, maps):
        bright = maps[:, :, :8, :8].mean((1, 2, 3))
        return torch.stack([bright, -bright], 1)


def test_faithful_maps_heat_what_the_answer_hangs_on():
    model = ConvNet(nn.Sequential(nn.Conv2d(3, 3, 1)), Corner())
    with torch.no_grad():
        model.features[0].weight.copy_(torch.eye(3)[:, :, None, None])
    images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    images[:, :, :8, :8] = 255  # the corner is a sixteenth of the image
    targets, maps = torch.zeros(4, dtype=torch.long), torch.zeros(4, 32, 32)
    maps[0, :8, :8] = 1  # heats what counts
    maps[1] = 1 - maps[0]  # heats all the rest
    maps[2, 24:, 24:] = 1  # heats something else
    right, wrong, other, nothing = cams.faithfulness(model, images, targets, maps).tolist()
    assert right > 0.1 and wrong == pytest.approx(-right) and abs(other) < right
    assert nothing == pytest.approx(cams.faithfulness(model, images, targets, 0 * maps)[3].item())


def test_rank_correlation_is_spearmans(random_split):
    first, second = torch.rand(2, 5, 6, 6).round(decimals=1)  # with ties
    second[4] = 0.5
    got = cams.rank_correlation(first, second)
    for place in range(4):
        wanted = spearmanr(first[place].flatten(), second[place].flatten()).statistic
        assert got[place].item() == pytest.approx(wanted)
    assert got[4].isnan()


@pytest.mark.slow
def test_rows_hold_what_the_maps_of_their_options_say(painted_split):
    (model, _), split = checkpoints.load_pretrained("compact-val"), painted_split(40)
    rows = cams.measure(model, split, count=10)
    few = split[data.stratified(split.labels, 10)]
    said = model(data.normalize(few.images)).argmax(1)
    row = next(row for row in rows if (row["method"], row["stage"]) == ("gradcam", "two deepest"))
    maps = explain.grad_cam(model, few.images, said, stage=[1, 2])
    assert row["empty"] == sum(not heat.any() for heat in maps) / 10
    wanted = cams.faithfulness(model, few.images, said, maps).mean().item()
    assert abs(wanted) > 0.01 and row["score"] == pytest.approx(wanted, abs=1e-4)
    assert len(rows) == 5 * (4 + 1) + 1  # five methods, four choices of stages, one of them twice
    assert rows[-1]["method"] == "blob in the middle"
    assert cams.mean_rows([rows, rows]) == rows


def test_the_mean_leaves_out_what_could_not_be_measured():
    one = {"method": "gradcam", "empty": 0.5, "score": 0.2, "alike": None}
    other = {"method": "gradcam", "empty": 0.1, "score": 0.4, "alike": -0.5}
    (mean,) = cams.mean_rows([[one], [other]])
    assert mean == {"method": "gradcam", "empty": 0.3, "score": 0.3, "alike": -0.5}
    assert cams.mean_rows([[one]])[0]["alike"] is None


def test_the_default_is_the_best_that_depends_on_the_class_and_leaves_no_map_empty():
    assert len(MEASURED["networks"]) == 8 and MEASURED["source"] == "cifar10"
    means = cams.mean_rows([network["rows"] for network in MEASURED["networks"].values()])
    for row, mean in zip(MEASURED["mean"], means, strict=True):
        # Since Python 3.12, sum() rounds less, which may turn the last digit.
        assert row == mean | {
            key: pytest.approx(mean[key], abs=1.1e-4)
            for key in ("empty", "score", "alike")
            if mean[key] is not None
        }
    able = [row for row in MEASURED["mean"] if row["empty"] == 0 and row["alike"] < 0.5]
    best = max(able, key=lambda row: row["score"])
    assert {key: best[key] for key in explain.DEFAULTS} == explain.DEFAULTS


def test_what_the_reason_of_the_default_says_was_measured():
    source = Path(explain.__file__).read_text(encoding="utf-8")
    (reason,) = [part for part in source.split("\n\n") if "DEFAULTS: dict" in part]
    for options in (
        explain.DEFAULTS,
        {"method": "gradcam", "stage": "deepest", "smooth": False},
        {"method": "layercam", "stage": "two deepest", "smooth": False},
    ):
        row = next(row for row in MEASURED["mean"] if options.items() <= row.items())
        assert f"{row['score']:.2f}" in reason
        assert row["empty"] == 0 or f"{row['empty']:.0%} of its maps are empty" in reason
    assert f"rank correlation {row['alike']:.2f}" in reason
    blob = MEASURED["mean"][-1]
    assert blob["method"] == "blob in the middle" and f"scores {blob['score']:.2f}" in reason


def test_unknown_networks_and_folders_are_refused_before_anything_is_measured(capsys, monkeypatch):
    monkeypatch.setattr(data, "load", lambda *_, **__: pytest.fail("the data was loaded"))
    line = refused(capsys, "cams", "--weights", "lenet")
    assert "unknown network 'lenet'; choose one of compact" in line
    assert "is a folder; choose a file" in refused(capsys, "cams", "--json", ".")


@pytest.mark.slow
def test_the_command_writes_its_rows_and_says_which_network_saw_the_images(
    painted_split, capsys, monkeypatch, tmp_path
):
    split = painted_split(20)
    monkeypatch.setattr(data, "load", lambda *_, **__: data.Cifar(split[:0], split, split[:0]))
    names = ["compact", "compact-val"]
    main(["cams", "--weights", *names, "--count", "2", "--json", str(tmp_path / "a.json")])
    printed = capsys.readouterr().out
    assert "compact, which was trained on the images" in printed
    assert "compact-val, which never saw the images" in printed and "mean of 2" in printed
    written = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert written["networks"]["compact-val"]["held_out"] and written["validation_images"] == 2
    assert list(written["networks"]) == names and len(written["mean"]) == 26

"""`cifar test` and `cifar predict`, through main(): what trained weights are good for."""

import json
import os
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from cli_helpers import refused
from PIL import Image
from sklearn.metrics import confusion_matrix

from cifar_utils import checkpoints, data, evaluate, explain, plots
from cifar_utils.cli.main import main
from cifar_utils.models import create_model
from cifar_utils.recipes import RECIPES

pytestmark = pytest.mark.usefixtures("nothing_from_outside")


def test_pictures_need_no_backend_of_a_notebook_s(trained, monkeypatch, tmp_path):
    monkeypatch.setenv("MPLBACKEND", "module://of_another_environment")
    name = r"cost$5_{and$6.png"  # two $ are no formula
    Image.new("RGB", (32, 32), "red").save(tmp_path / name)
    main(["predict", name, "--weights", trained, "--cam"])
    assert os.environ["MPLBACKEND"] == "Agg" and (tmp_path / r"cost$5_{and$6-cam.png").exists()


def test_test_json_is_one_object(arrays, trained, capsys):
    main(["test", "--weights", trained, *arrays, "--json", "--confusion"])
    figures = json.loads(capsys.readouterr().out)
    assert 0 <= figures["top1"] <= figures["top3"] <= figures["top5"] <= 1
    assert figures["n"] == 40 and figures["source"] == "npy" and figures["loss"] > 0
    assert list(figures["per_class"]) == list(data.CLASSES)
    matrix = np.array(figures["confusion"])
    assert matrix.trace() / matrix.sum() == figures["top1"]


@pytest.mark.slow
def test_test_prints_and_draws(arrays, trained, capsys):
    main(["test", "--weights", trained, *arrays, "--confusion", "--grid", "--out", "pictures"])
    printed = capsys.readouterr().out
    assert "rows true" in printed and "top3" in printed and "airplane" in printed
    drawn = {path.stem for path in Path("pictures").glob("*.png")}
    assert drawn == {"confusion", "per-class", "predictions", "mistakes", "mistakes-cam", "hits",
                     "hits-cam"}  # fmt: skip


def test_test_prints_the_shares_of_each_true_class(arrays, trained, capsys, monkeypatch):
    said = np.array([0, 0, 1, 2] * 10)  # whatever the image is
    logits = torch.from_numpy(np.eye(10)[said] * 5 + np.arange(10) * 0.1).float()
    monkeypatch.setattr(evaluate, "predict", lambda *_, **__: logits)
    labels = np.arange(40) % 10
    main(["test", "--weights", trained, *arrays, "--confusion"])
    lines = capsys.readouterr().out.splitlines()
    ranked = np.argsort(-logits.numpy(), axis=1)
    for name, k in (("top1", 1), ("top3", 3), ("top5", 5)):
        share = np.mean([label in row[:k] for label, row in zip(labels, ranked, strict=True)])
        (line,) = (line for line in lines if line.split()[:1] == [name])
        assert line.split()[1] == f"{share:.2%}"
    assert lines[-1] == "--out DIR also draws it, as DIR/confusion.png"
    table = confusion_matrix(labels, said, labels=range(10), normalize="true")
    rows = {line.split()[0]: line.split()[1:] for line in lines[-11:-1]}
    assert list(rows) == list(data.CLASSES)
    assert np.allclose(
        [[float(cell) for cell in row] for row in rows.values()], 100 * table, atol=0.06
    )


@pytest.mark.parametrize("seed", [None, 0, 7])
def test_the_grid_shows_the_first_images_or_a_random_sample(arrays, trained, monkeypatch, seed):
    shown = []

    def spy(images, labels, logits, *, classes, title):
        shown.append((images, labels, logits, title))

    own = np.load(Path(arrays[1]) / "test_data.npy")
    own = np.concatenate([own, 255 - own])  # 80 images, no two alike
    np.save(Path(arrays[1]) / "test_data.npy", own)
    np.save(Path(arrays[1]) / "test_labels.npy", np.arange(80) % 10)
    answers = torch.randn(80, 10)
    monkeypatch.setattr(evaluate, "predict", lambda *_, **__: answers)
    monkeypatch.setattr(plots, "show_predictions", spy)
    monkeypatch.setattr(plots, "show_mistakes", lambda *_, **__: None)
    monkeypatch.setattr(plots, "show_hits", lambda *_, **__: None)
    monkeypatch.setattr(plots, "save", lambda *_: None)
    grid = ["test", "--weights", trained, *arrays, "--grid", "--out", "pictures"]
    for _ in range(2):
        main(grid if seed is None else [*grid, "--seed", str(seed)])
    (images, labels, logits, title), again = shown
    assert torch.equal(images, again[0])  # the same seed, the same sample
    places = [
        next(n for n in range(80) if np.array_equal(own[n], image)) for image in
        images.permute(0, 2, 3, 1).numpy()
    ]  # fmt: skip
    assert len(set(places)) == 40 and (places == list(range(40))) == (seed is None)
    assert torch.equal(labels, torch.tensor(places) % 10) and torch.equal(logits, answers[places])
    which = "the first test images" if seed is None else f"40 random test images (seed {seed})"
    assert title.endswith(which)


def awkward_images(folder):
    """Twenty files of the kinds that people have; each can be read."""
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 4), dtype=np.uint8)
    colour = Image.fromarray(noise[..., :3])
    clear_palette = colour.convert("P")
    clear_palette.info["transparency"] = 3
    made = {
        "grey.png": colour.convert("L"),
        "rgba.png": Image.fromarray(noise),
        "palette.png": colour.convert("P"),
        "clear-palette.png": clear_palette,
        "cmyk.jpg": colour.convert("CMYK"),
        "sixteen.png": Image.fromarray(noise[..., 0].astype(np.uint16) * 257),
        "float.tiff": Image.fromarray(noise[..., 0].astype(np.float32) / 255),
        "one-bit.png": colour.convert("1"),
        "grey-alpha.png": colour.convert("LA"),
        "lab.tiff": colour.convert("LAB"),
        "one-pixel.png": colour.resize((1, 1)),
        "thin.png": colour.resize((400, 3)),
        "large.jpg": colour.resize((1500, 900)),
        "spaces and ü.webp": colour,
        "picture.bmp": colour,
        "picture.ppm": colour,
        "no-ending": colour,
        "wrong-ending.jpg": colour,
        "animated.gif": colour.convert("P"),
    }
    kinds = {"no-ending": "JPEG", "wrong-ending.jpg": "PNG"}
    for name, image in made.items():
        image.save(folder / name, kinds.get(name))
    rotated = colour.getexif()
    rotated[0x0112] = 6
    colour.save(folder / "rotated.jpg", exif=rotated)
    return [str(folder / name) for name in [*made, "rotated.jpg"]]


def test_predict_takes_awkward_images_and_its_probabilities_sum_to_1(tmp_path, trained, capsys):
    paths = awkward_images(tmp_path)
    main(["predict", *paths, "--weights", trained, "--json"])
    answers = json.loads(capsys.readouterr().out)
    assert len(paths) == 20 and [answer["file"] for answer in answers] == paths
    for answer in answers:
        assert list(answer["probabilities"]) == list(data.CLASSES)
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-9)


def test_predict_prints_the_likeliest_and_names_no_two_pictures_alike(tmp_path, trained, capsys):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (64, 64), (folder == "a" and "red") or "blue").save(
            tmp_path / folder / "x.png"
        )
    main(["predict", "a/x.png", "b/x.png", "--weights", trained, "--cam", "--out", "cams"])
    printed = capsys.readouterr().out
    assert "a/x.png" in printed and "%" in printed and "cams/x-2-cam.png" in printed
    assert len(list(Path("cams").glob("*.png"))) == 2


def test_predict_names_the_class_of_each_picture(tmp_path, capsys):
    torch.manual_seed(0)
    model = create_model("compact", seed=0)
    model.classifier[-1].bias.data = torch.randn(10)
    info = checkpoints.WeightsInfo(RECIPES["compact"], "cifar10")
    checkpoints.save_weights("w.safetensors", model, info)
    colours = {"a.png": (250, 10, 10), "b.png": (10, 10, 250)}
    for name, colour in colours.items():
        Image.new("RGB", (32, 32), colour).save(name)
    mean, std = (np.array(values)[:, None, None] for values in (data.MEAN, data.STD))
    pixels = [np.array(c)[:, None, None] * np.ones((1, 32, 32)) / 255 for c in colours.values()]
    inputs = torch.from_numpy(np.stack([(p - mean) / std for p in pixels])).float()
    with torch.no_grad():
        wanted = model.eval()(inputs).softmax(1).numpy()
    main(["predict", *colours, "--weights", "w.safetensors", "--json", "--device", "cpu"])
    for answer, row, name in zip(json.loads(capsys.readouterr().out), wanted, colours, strict=True):
        assert answer["file"] == name
        assert answer["probabilities"] == pytest.approx(
            dict(zip(data.CLASSES, row.tolist(), strict=True)), abs=1e-5
        )
    main(["predict", "b.png", "--weights", "w.safetensors", "--device", "cpu"])
    lines = capsys.readouterr().out.splitlines()[1:]
    order = np.argsort(-wanted[1])[:5]
    assert [line.split()[0] for line in lines] == [data.CLASSES[place] for place in order]


def test_predict_writes_over_none_of_its_images(trained):
    for name in ("a.png", "a-cam.png"):
        Image.new("RGB", (8, 8), "red").save(name)
    before = Path("a-cam.png").read_bytes()
    main(["predict", "a.png", "a-cam.png", "--weights", trained, "--cam", "--out", "."])
    assert Path("a-cam.png").read_bytes() == before
    assert Path("a-2-cam.png").is_file() and Path("a-cam-cam.png").is_file()


def test_a_picture_that_fails_costs_no_result(arrays, trained, capsys, monkeypatch):
    def fail(*_, **__):
        raise ValueError("")

    Image.new("RGB", (8, 8), "red").save("a.png")
    monkeypatch.setattr(plots, "show_explanation", fail)
    monkeypatch.setattr(plots, "plot_confusion_matrix", fail)
    monkeypatch.setattr(plots, "plot_lr_range", fail)
    for command, printed in (
        (["predict", "a.png", "--weights", trained, "--cam"], "%  "),
        (["test", "--weights", trained, *arrays, "--out", "cams"], "written: cams/per-class.png"),
        (["lr-find", *arrays, "--steps", "10", "--batch-size", "9"], "falls fastest at lr"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(command)
        said = capsys.readouterr()
        assert stopped.value.code == 1 and printed in said.out
        assert said.err.splitlines()[-1].endswith("png could not be drawn: ValueError")
    with pytest.raises(SystemExit):
        main(["predict", "a.png", "--weights", trained, "--cam", "--json"])
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["cam"] is None and len(answer["probabilities"]) == 10


def test_names_from_files_are_printed_on_one_line_and_kept_in_json(trained, capsys):
    model, info = checkpoints.load_weights(trained)
    classes = ("a\nb", "\x1b[2J", "\udce9", "../x", *info.classes[4:])
    info = replace(info, source="\x1b]0;title\x07", classes=classes)
    checkpoints.save_weights(Path("own.safetensors"), model, info)
    Image.new("RGB", (32, 32)).save("x\ty\x1b.png")
    predict = ["predict", "x\ty\x1b.png", "--weights", "own.safetensors"]
    main([*predict, "--cam", "--out", "cams"])
    said = capsys.readouterr()
    assert all(letter.isprintable() or letter == "\n" for letter in said.out + said.err)
    assert [path.name for path in Path("cams").iterdir()] == ["x_y_-cam.png"]
    main([*predict, "--json"])
    (answer,) = json.loads(capsys.readouterr().out)
    assert tuple(answer["probabilities"]) == classes and answer["file"] == "x\ty\x1b.png"


def test_weights_may_name_a_source_that_the_package_does_not_know(trained, capsys):
    model, info = checkpoints.load_weights(trained)
    checkpoints.save_weights(Path("own.safetensors"), model, replace(info, source="my scans"))
    Image.new("RGB", (32, 32)).save("x.png")
    main(["predict", "x.png", "--weights", "own.safetensors", "--cam", "--out", "cams"])
    assert "These weights were trained on my scans." in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--method", "xgradcam", "--stage", "1", "-2", "--smooth"]])
def test_the_heatmaps_of_both_commands_are_those_that_the_flags_ask_for(
    arrays, trained, monkeypatch, flags
):
    asked, headings = [], []

    def grad_cam(model, images, targets, **options):
        asked.append(options)
        return torch.zeros(len(images), 32, 32)

    monkeypatch.setattr(explain, "grad_cam", grad_cam)
    monkeypatch.setattr(plots, "save", lambda figure, path: headings.extend(words(figure)))
    Image.new("RGB", (32, 32), "red").save("a.png")
    main(["predict", "a.png", "--weights", trained, "--cam", *flags])
    main(["test", "--weights", trained, *arrays, "--grid", *flags])
    wanted = explain.DEFAULTS
    if flags:
        wanted = {"method": "xgradcam", "stage": [1, -2], "smooth": True}
    assert asked == [wanted] * 3
    named = explain.method_title(wanted["method"])
    assert sum(f"{named}: what speaks for" in heading for heading in headings) == 1
    assert sum(f"with {named} of the predicted class" in heading for heading in headings) == 2


def words(figure):
    """The heading of a figure and of its panels; the figure is closed."""
    plt.close(figure)
    return [figure.get_suptitle(), *(ax.get_title() for ax in figure.axes)]


def test_flags_of_heatmaps_are_checked_before_anything_is_done(arrays, trained, capsys):
    test = ["test", "--weights", trained, *arrays]
    predict = ["predict", "nowhere.png", "--weights", trained]
    train = ["train", "--recipe", "compact", *arrays]
    for command, needs in ((test, "--grid"), (predict, "--cam"), (train, "--cam")):
        for flags in (["--method", "gradcam"], ["--stage", "0"], ["--smooth"]):
            assert f"{flags[0]} needs {needs}" in refused(capsys, *command, *flags)
        line = refused(capsys, *command, needs, "--method", "lime")
        assert "unknown method 'lime'; choose one of gradcam, gradcam++, hirescam" in line
        line = refused(capsys, *command, needs, "--stage", "4")
        assert "no stage 4; this network has stages 0 to 3" in line
    assert not list(Path().glob("runs/**/*.safetensors"))


@pytest.mark.parametrize("command", ["test", "predict", "train"])
def test_the_help_names_the_method_that_is_the_default(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert f"lists the right ones (default: {explain.DEFAULTS['method']})" in told
    assert f"(default: the {explain.DEFAULTS['stage']} with maps of at least 4 by 4)" in told
    assert explain.DEFAULTS["smooth"] is False

"""The command line, as its user meets it: in this process, through main()."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from sklearn.metrics import confusion_matrix

from cifar_utils import checkpoints, data, evaluate, train
from cifar_utils.cli import summary
from cifar_utils.cli.main import COMMANDS, main, make_parser
from cifar_utils.errors import CifarError
from cifar_utils.history import History
from cifar_utils.models import create_model
from cifar_utils.recipes import RECIPES
from cifar_utils.results import bench, report, ship


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch, tmp_path):
    monkeypatch.setattr(data, "MIRRORS", ())
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path / "nowhere"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def arrays(tmp_path, painted_split):
    """A small data set of source "npy": 300 training and 40 test images."""
    root = tmp_path / "arrays"
    root.mkdir()
    for part, count, seed in (("train", 300, 0), ("test", 40, 1)):
        split = painted_split(count, seed)
        np.save(root / f"{part}_data.npy", split.images.permute(0, 2, 3, 1).numpy())
        np.save(root / f"{part}_labels.npy", split.labels.numpy())
    return ["--data", str(root), "--source", "npy", "--device", "cpu"]


@pytest.fixture
def trained(tmp_path):
    """Weights of a fresh `compact`: enough for every command that needs some."""
    info = checkpoints.WeightsInfo(RECIPES["compact"], "npy")
    checkpoints.save_weights(tmp_path / "w.safetensors", create_model("compact", seed=0), info)
    return str(tmp_path / "w.safetensors")


def refused(capsys, *arguments):
    """The one line in which a command refuses its arguments."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    lines = printed.rsplit("=" * 88, 1)[-1].strip().splitlines()  # below a stand-in notice, if any
    assert len(lines) == 1, printed
    return lines[0]


FAST = ["--epochs", "2", "--batch-size", "50", "--precision", "fp32", "--validation", "60"]


def test_train_writes_what_it_promises_and_tests_once(arrays, tmp_path, capsys):
    main(["train", "--recipe", "compact", *FAST, *arrays, "--out", "run"])
    printed = capsys.readouterr().out
    assert printed.count("\nepoch ") == 3 and printed.count("\ntest: ") == 1
    history = History.load("run/history.json")
    assert [row.epoch for row in history.epochs] == [0, 1, 2] and history.source == "npy"
    assert history.train_images == 240 and history.val_images == 60 and history.test["n"] == 40
    model, info = checkpoints.load_weights("run")
    assert info.recipe == history.recipe and info.source == "npy" and info.epoch == 2
    state = checkpoints.load_checkpoint("run/checkpoint.pt")
    for key, value in model.state_dict().items():
        assert torch.equal(state["model"][key], value)
    with Image.open("run/curves.png") as picture:
        assert picture.width > 800


def test_the_time_to_compile_is_told_once_and_before_the_epochs(arrays, capsys, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    monkeypatch.setenv("CXX", sys.executable)  # so that there is a compiler
    main(["train", "--recipe", "compact", *FAST, *arrays, "--out", "run", "--compile"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["compiled", "epoch", "epoch", "epoch"]


def test_every_recipe_field_is_a_flag(arrays, capsys):
    main(["train", "--recipe", "compact", *FAST, *arrays, "--out", "run", "-q", "--lr", "0.01",
          "--optimizer", "adamw", "--no-decay-biases", "--label-smoothing", "0.1", "--seed", "7",
          "--augmentation", "flip", "--momentum", "0.8"])  # fmt: skip
    recipe = History.load("run/history.json").recipe
    assert recipe == RECIPES["compact"].changed(
        epochs=2, batch_size=50, lr=0.01, optimizer="adamw", decay_biases=False,
        label_smoothing=0.1, seed=7, augmentation="flip", momentum=0.8,
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert printed.startswith("test: ") and printed.count("\n") == 1


def test_a_run_can_teach_another_but_not_itself(arrays, capsys, monkeypatch):
    run = ["train", "--recipe", "compact", *FAST, *arrays, "-q", "--teacher", "teacher"]
    main([*run[:-2], "--out", "teacher"])
    main([*run, "--teacher-share", "0.9", "--temperature", "4", "--out", "student"])
    recipe = History.load("student/history.json").recipe
    assert (recipe.teacher, recipe.teacher_share, recipe.temperature) == ("teacher", 0.9, 4.0)
    before = (Path("teacher") / "weights.safetensors").read_bytes()
    monkeypatch.setenv("HOME", str(Path.cwd()))
    for path in ("teacher", "./teacher/weights.safetensors", "~/teacher"):
        again = [*run, "--teacher", path, "--out", "teacher", "--overwrite"]
        assert "cannot be the teacher" in refused(capsys, *again)
    assert (Path("teacher") / "weights.safetensors").read_bytes() == before


def test_a_run_in_a_folder_called_as_a_shipped_teacher_is_resumed(arrays):
    run = ["train", "--recipe", "compact", *FAST, *arrays, "-q", "--out", "separable"]
    run += ["--teacher", "separable", "--dropout-factor", "0"]
    main(run)
    main([*run, "--resume"])


def test_a_recipe_with_views_is_tested_with_one_and_with_all(arrays, capsys, monkeypatch):
    asked, predict = [], evaluate.predict

    def spy(model, images, **options):
        asked.append(options.get("views", 1))
        return predict(model, images, **options)

    monkeypatch.setattr(evaluate, "predict", spy)
    main(["train", "--recipe", "quick", *FAST, "--epochs", "1", *arrays, "--out", "run", "-q"])
    test = History.load("run/history.json").test
    assert asked == [1, 6] and 0 <= test["top1"] <= 1
    assert f"({test['top1_views']:.2%} with 6 views)" in capsys.readouterr().out
    main(["test", "--weights", "run", *arrays, "--views", "6", "--json"])
    assert json.loads(capsys.readouterr().out)["top1"] == test["top1_views"]


def test_a_finished_or_present_run_is_never_lost(arrays, capsys):
    run = ["train", "--recipe", "compact", *FAST, *arrays, "--out", "run", "-q"]
    main(run)
    line = refused(capsys, *run)
    assert "--resume" in line and "--overwrite" in line
    before = (Path("run") / "weights.safetensors").read_bytes()
    main([*run, "--resume"])  # nothing is left to do: the same weights, the test figures again
    assert (Path("run") / "weights.safetensors").read_bytes() == before
    assert "lr 0.1, not 0.3" in refused(capsys, *run, "--resume", "--lr", "0.3")
    less = [word if word != "60" else "50" for word in run]
    assert "--validation" in refused(capsys, *less, "--resume")
    main([*run, "--overwrite", "--lr", "0.02"])
    assert History.load("run/history.json").recipe.lr == 0.02
    Path("run/checkpoint.pt").unlink()
    assert "--overwrite" in refused(capsys, *run)
    assert "without checkpoint.pt" in refused(capsys, *run, "--resume")
    assert "without checkpoint.pt" in refused(capsys, "train", "--resume", "--out", "run")


def test_two_trainings_never_write_into_one_folder(arrays, capsys, monkeypatch):
    run = ["train", "--recipe", "compact", *FAST, *arrays, "--out", "run", "-q"]
    main(run)
    before = History.load("run/history.json")
    with FileLock("run/.lock"):
        for how in ("--resume", "--overwrite"):
            assert "another training writes to run right now" in refused(capsys, *run, how)
    assert History.load("run/history.json") == before
    main([*run, "--overwrite"])  # nobody holds it any more

    for error in (NotImplementedError, OSError):  # a drive that knows no locks

        def unknown(*_, error=error, **__):
            raise error

        monkeypatch.setattr(FileLock, "acquire", unknown)
        main([*run, "--overwrite"])


def test_what_ctrl_c_says_is_so(arrays, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    run = ["train", "--recipe", "compact", *FAST, *arrays, "--out", "run", "-q", "--no-test"]
    main(run)
    for place, said in (
        ("start", "no checkpoint has been saved yet"),
        ("train_one_epoch", "same command with --resume goes on from run"),
    ):
        with monkeypatch.context() as stopping, pytest.raises(SystemExit) as stopped:
            stopping.setattr(train, place, interrupt)
            main([*run, "--overwrite"])
        assert stopped.value.code == 130 and said in capsys.readouterr().err
    main([*run, "--resume"])
    assert len(History.load("run/history.json").epochs) == 3


def test_an_epoch_is_saved_before_it_is_told(arrays, monkeypatch):
    """For whom it is told to may have gone, as head goes when it has seen enough."""
    run = ["train", "--recipe", "compact", *FAST, *arrays, "--out", "run"]
    told = []

    def tell(self):
        told.append(len(History.load("run/history.json").epochs) == len(self.history.epochs))
        return "an epoch"

    monkeypatch.setattr(train.Run, "__str__", tell)
    main(run)
    assert told == [True] * 3


def test_lines_come_at_once_and_a_reader_who_leaves_ends_the_command():
    """A pipe that nobody reads to its end, with Python's own buffering."""
    code = "import sys; from cifar_utils.cli.main import main; main(sys.argv[1:])"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    read, write = os.pipe()
    command = subprocess.Popen([sys.executable, "-c", code, "recipes"], stdout=write,
                               stderr=subprocess.PIPE, env=environment)  # fmt: skip
    os.close(read)
    os.close(write)
    assert command.communicate()[1] == b"" and command.returncode == 141
    late = "print('told'); import os; os._exit(0)"  # ends without emptying any buffer
    code = f"import sys\nfrom cifar_utils.cli import main as m\n\ndef run(_):\n    {late}\n"
    code += "m.recipes.run = run\nm.main(['recipes'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert done.stdout == b"told\n"


def test_pictures_need_no_backend_of_a_notebook_s(trained, monkeypatch, tmp_path):
    monkeypatch.setenv("MPLBACKEND", "module://of_another_environment")
    name = r"cost$5_{and$6.png"  # two $ are no formula
    Image.new("RGB", (32, 32), "red").save(tmp_path / name)
    main(["predict", name, "--weights", trained, "--cam"])
    assert os.environ["MPLBACKEND"] == "Agg" and (tmp_path / r"cost$5_{and$6-cam.png").exists()


def test_a_new_run_leaves_no_heatmaps_of_the_old_one(arrays, capsys, monkeypatch):
    def refuse(*_):
        raise CifarError("no such thing")

    run = ["train", "--recipe", "compact", *FAST, *arrays, "--out", "run", "-q", "--no-test"]
    main([*run, "--cam"])
    Path("run/cam/mine.png").touch()
    main([*run, "--resume"])
    assert len(list(Path("run/cam").iterdir())) == 3 + 5 + 1
    main([*run, "--overwrite"])
    assert [path.name for path in Path("run/cam").iterdir()] == ["mine.png"]
    main([*run, "--overwrite", "--cam"])
    kept = sorted(Path("run/cam").iterdir())
    with monkeypatch.context() as refusing:
        refusing.setattr(train, "start", refuse)
        assert "no such thing" in refused(capsys, *run, "--overwrite")
    assert sorted(Path("run/cam").iterdir()) == kept  # a refused run takes nothing away
    main([*run, "--overwrite"])
    main(["ship", "run", "--out", "shipped", *arrays[:4]])
    assert not Path("shipped/compact-val-cam.npz").exists()


def test_resume_alone_takes_the_recipe_from_the_run(arrays, capsys):
    main(["train", "--recipe", "compact", *FAST, *arrays, "--out", "run", "-q"])
    main(["train", "--resume", "--out", "run", "--validation", "60", *arrays, "-q"])
    assert History.load("run/history.json").recipe.batch_size == 50
    assert "no checkpoint in other" in refused(capsys, "train", "--resume", "--out", "other")


@pytest.mark.parametrize("kept", ["best.safetensors", "cam/heatmaps-003.npz"])
def test_what_an_older_run_left_is_not_replaced_unasked(arrays, capsys, kept):
    file = Path("run", kept)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"mine")
    assert "holds a run already" in refused(
        capsys, "train", "--recipe", "compact", *FAST, *arrays, "--out", "run", "--cam"
    )
    assert file.read_bytes() == b"mine"


def test_the_best_weights_are_those_of_the_best_epoch(arrays, monkeypatch):
    validation = iter([(2.0, 0.1), (2.0, 0.5), (2.0, 0.3)])

    def told(model, split, precision):
        return (2.3, 0.1) if len(split) == 240 else next(validation)

    run = ["train", "--recipe", "compact", *FAST, *arrays, "--out", "run", "-q", "--no-test"]
    with monkeypatch.context() as patched:
        patched.setattr(train, "evaluate", told)
        main(run)
    best, info = checkpoints.load_weights("run/best.safetensors")
    last, _ = checkpoints.load_weights("run")
    assert info.epoch == 1
    assert not torch.equal(best.features[0][0][0].weight, last.features[0][0][0].weight)
    without = [word if word != "60" else "0" for word in run]
    main([*without, "--overwrite"])
    assert not Path("run/best.safetensors").exists()  # it was another run's


def test_a_folder_of_other_classes_goes_all_the_way(tmp_path, capsys):
    colours = {"plum": (120, 0, 120), "leaf": (0, 150, 0), "sand": (200, 180, 120)}
    for part, count in (("train", 12), ("test", 4)):
        for name, colour in colours.items():
            (tmp_path / "own" / part / name).mkdir(parents=True)
            for number in range(count):
                picture = Image.new("RGB", (32, 32), colour)
                picture.save(tmp_path / "own" / part / name / f"{number}.png")
    own = ["--data", "own", "--source", "folder"]
    run = ["train", "--recipe", "compact", "--epochs", "1", "--batch-size", "12", "--device", "cpu"]
    main([*run, "--precision", "fp32", "--validation", "0", *own, "--out", "run", "-q"])
    model, info = checkpoints.load_weights("run")
    assert info.classes == ("leaf", "plum", "sand")
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    capsys.readouterr()
    main(["test", "--weights", "run", *own, "--device", "cpu", "--json"])
    assert list(json.loads(capsys.readouterr().out)["per_class"]) == ["leaf", "plum", "sand"]
    main(["predict", "own/test/leaf/0.png", "--weights", "run", "--json"])
    (answer,) = json.loads(capsys.readouterr().out)
    assert list(answer["probabilities"]) == ["leaf", "plum", "sand"]
    (tmp_path / "own" / "train" / "leaf").rename(tmp_path / "own" / "train" / "moss")
    (tmp_path / "own" / "test" / "leaf").rename(tmp_path / "own" / "test" / "moss")
    with pytest.raises(SystemExit, match="2"):
        main(["test", "--weights", "run", *own])
    said = "the weights know leaf, plum, sand; the data has moss, plum, sand"
    assert said in capsys.readouterr().err


def test_a_full_disk_is_one_line(arrays, capsys, monkeypatch):
    run = ["train", "--recipe", "compact", *FAST, *arrays, "--out", "run", "-q"]
    for where, name, error in (
        ("safetensors.torch", "save_file", SafetensorError("I/O error: No space left on device")),
        ("torch", "save", RuntimeError("PytorchStreamWriter failed writing file\nmore")),
    ):
        with monkeypatch.context() as patched:

            def full(*_, error=error, **__):
                raise error

            patched.setattr(f"{where}.{name}", full)
            line = refused(capsys, *run, "--overwrite")
        assert "cannot be written: " in line and str(error).splitlines()[0] in line


def test_a_home_folder_may_be_written_where_no_shell_expands_it(arrays, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(Path(arrays[1]).parent))
    main(["data", "--data=~/arrays", "--source", "npy"])
    assert f"root        {arrays[1]}" in capsys.readouterr().out
    assert "there are no weights at" in refused(capsys, "test", "--weights=~/none.safetensors")
    main(["data", "--data=~/arrays", "--source", "npy", "--montage=~/m.png"])
    assert Path(arrays[1]).with_name("m.png").is_file() and not Path("~").exists()


def test_data_that_is_only_drawn_is_no_success(capsys, monkeypatch, painted_split):
    drawn = replace(painted_split(20), source="synthetic")
    monkeypatch.setattr(data, "load", lambda *_, **__: data.Cifar(drawn, drawn[:0], drawn))
    with pytest.raises(SystemExit, match="1"):
        main(["data"])
    assert "not CIFAR-10" in capsys.readouterr().out
    main(["data", "--source", "synthetic"])  # as asked for


@pytest.mark.parametrize(
    ("module", "name", "command", "wanted"),
    [
        (train, "fit", ["train", "--recipe", "compact", "--workers", "3"], {"workers": 3}),
        (
            evaluate,
            "predict",
            ["test", "--weights", "w.safetensors", "--views", "2", "--share", "0.5",
             "--batch-size", "7"],
            {"views": 2, "share": 0.5, "batch_size": 7},
        ),
        (
            train,
            "lr_range_test",
            ["lr-find", "--lowest", "0.2", "--highest", "3", "--steps", "11"],
            {"lowest": 0.2, "highest": 3.0, "steps": 11},
        ),
        (bench, "race", ["bench", "--recipe", "compact", "--repeats", "4"], {"repeats": 4}),
    ],
)  # fmt: skip
def test_flags_reach_what_they_are_for(arrays, trained, monkeypatch, module, name, command, wanted):
    class Reached(Exception):
        """The call is all that this test is about."""

    given = {}

    def spy(*_, **options):
        given.update(options)
        raise Reached

    monkeypatch.setattr(module, name, spy)
    with pytest.raises(Reached):
        main([*command, *arrays])
    assert {key: given[key] for key in wanted} == wanted


def test_limit_makes_every_split_small(arrays):
    main(["train", "--recipe", "conv5", *FAST, *arrays, "--limit", "30", "--out", "run", "-q"])
    history = History.load("run/history.json")
    assert (history.train_images, history.val_images, history.test["n"]) == (30, 30, 30)


def test_a_run_that_only_helps_to_choose_leaves_the_test_images_alone(arrays, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "metrics", None)
    main(["train", "--recipe", "compact", *FAST, *arrays, "--out", "run", "--no-test"])
    assert "test: " not in capsys.readouterr().out
    assert History.load("run/history.json").test is None and Path("run/curves.png").exists()


FINAL = [word if word != "60" else "0" for word in FAST]


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
    assert "compact.safetensors is there already" in refused(capsys, *ship)
    main([*ship, "--overwrite"])


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


def test_ship_leaves_weights_out_that_do_not_fit(arrays, capsys, monkeypatch):
    monkeypatch.setattr(ship, "LIMIT", 1e5)
    main(["train", "--recipe", "compact", *FINAL, *arrays, "--out", "run", "-q"])
    main(["ship", "run", "--out", "shipped", *arrays[:4]])
    assert "1 MB are more than the limit leaves" in capsys.readouterr().out
    assert [path.name for path in Path("shipped").iterdir()] == ["compact.json"]
    assert not History.load("shipped/compact.json").sha256


def test_ship_refuses_before_it_writes_anything(arrays, capsys):
    main(["train", "--recipe", "compact", *FINAL, *arrays, "--out", "good", "-q"])
    good = History.load("good/history.json")
    bad = {
        "not finished": replace(good, epochs=good.epochs[:-1]),
        "was not tested": replace(good, test=None),
        "held images out and was tested": replace(good, train_images=240, val_images=60),
        "without --limit": replace(good, train_images=30),
        "is on synthetic, the data is npy": replace(good, source="synthetic"),
    }
    for words, history in bad.items():
        history.save("bad/history.json")
        line = refused(capsys, "ship", "good", "bad", "--out", "shipped", *arrays[:4])
        assert words in line and not Path("shipped").exists()
    shutil.copytree("good", "holed")
    Path("holed/cam").mkdir()
    np.savez("holed/cam/heatmaps-001.npz", heatmaps=np.zeros((5, 32, 32)), indices=np.arange(5))
    line = refused(capsys, "ship", "good", "holed", "--out", "shipped", *arrays[:4])
    assert "holed/cam lacks epochs" in line and not Path("shipped").exists()
    shutil.copytree("good", "twin")
    line = refused(capsys, "ship", "good", "twin", "--out", "shipped", *arrays[:4])
    assert "two of the runs would ship under one name" in line
    assert "not of a recipe that `cifar recipes` lists" in refused(
        capsys, "ship", "good", *arrays[:4]
    )


def test_report_prints_the_table_and_writes_it_between_its_marks(capsys):
    main(["report"])
    results, races = (
        report.table(report.shipped_results()),
        report.race_table(report.shipped_races()),
    )
    assert capsys.readouterr().out == f"{results}\n\n{races}\n"
    page, (start, end), (from_here, to_here) = Path("page.md"), *map(report.marks, report.TABLES)
    page.write_text(f"before\n{start}\nold\n{end}\nbetween\n{from_here}\n{to_here}after\n")
    for answer in ("up to date now", "as it was"):
        main(["report", "--write", "page.md"])
        assert answer in capsys.readouterr().out
        assert page.read_text() == (
            f"before\n{start}\n{results}\n{end}\nbetween\n{from_here}\n{races}\n{to_here}after\n"
        )
    page.write_text("no marks")
    assert "lacks the lines" in refused(capsys, "report", "--write", "page.md")
    assert page.read_text() == "no marks"
    assert "none.md" in refused(capsys, "report", "--write", "none.md")


def test_cam_makes_a_gif_a_class(arrays, capsys):
    main(["train", "--recipe", "compact", *FAST, *arrays, "--out", "run", "--cam"])
    gifs = sorted(Path("run/cam").glob("*.gif"))
    assert len(gifs) == 5 and "cam-0-airplane.gif" in capsys.readouterr().out
    with Image.open(gifs[0]) as gif:
        assert gif.n_frames == 4  # the original, untrained, two epochs


def test_test_json_is_one_object(arrays, trained, capsys):
    main(["test", "--weights", trained, *arrays, "--json", "--confusion"])
    figures = json.loads(capsys.readouterr().out)
    assert 0 <= figures["top1"] <= figures["top3"] <= figures["top5"] <= 1
    assert figures["n"] == 40 and figures["source"] == "npy" and figures["loss"] > 0
    assert list(figures["per_class"]) == list(data.CLASSES)
    matrix = np.array(figures["confusion"])
    assert matrix.trace() / matrix.sum() == figures["top1"]


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
    table = confusion_matrix(labels, said, labels=range(10), normalize="true")
    rows = {line.split()[0]: line.split()[1:] for line in lines[-10:]}
    assert list(rows) == list(data.CLASSES)
    assert np.allclose(
        [[float(cell) for cell in row] for row in rows.values()], 100 * table, atol=0.06
    )


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


def test_weights_may_name_a_source_that_the_package_does_not_know(trained, capsys):
    model, info = checkpoints.load_weights(trained)
    checkpoints.save_weights(Path("own.safetensors"), model, replace(info, source="my scans"))
    Image.new("RGB", (32, 32)).save("x.png")
    main(["predict", "x.png", "--weights", "own.safetensors", "--cam", "--out", "cams"])
    assert "These weights were trained on my scans." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["test", "--weights", "compact"], "DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        (["predict", "x.png"], "CUDA out of memory. Tried to allocate 2 GiB\nMore lines"),
        (["train", "--recipe", "compact"], "CUDA out of memory. Tried to allocate 2 GiB"),
        (["lr-find"], "CUDA out of memory. Tried to allocate 2 GiB"),
        (["bench"], "CUDA out of memory. Tried to allocate 2 GiB"),
        (["bench", "--recipe", "compact"], "CUDA out of memory. Tried to allocate 2 GiB"),
    ],
)
def test_too_little_memory_is_one_line_with_the_flag_that_helps(monkeypatch, capsys, command, said):
    def run(options):
        raise RuntimeError(said)

    modules = {module.__name__.rpartition(".")[2]: module for module in COMMANDS}
    monkeypatch.setattr(modules[command[0].replace("-", "_")], "run", run)
    with pytest.raises(SystemExit, match="2"):
        main(command)
    shown = capsys.readouterr().err
    assert said.splitlines()[0] in shown and shown.count("\n") == 1
    has_flag = command[0] in ("test", "train", "lr-find") or "--recipe" in command
    assert ("smaller --batch-size" in shown) == has_flag


@pytest.mark.parametrize(
    "error",
    [
        ValueError("zip() argument 2 is shorter than argument 1"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        KeyError("out of memory"),
    ],
)
def test_a_bug_shows_its_traceback_and_where_to_report_it(monkeypatch, error):
    def run(options):
        raise error

    monkeypatch.setattr(summary, "run", run)
    with pytest.raises(type(error)) as raised:
        main(["summary", "vgg"])
    assert raised.value is error
    (note,) = error.__notes__
    assert (
        note.startswith("This is a bug in cifar_utils; please report it at ") and "\n" not in note
    )


@pytest.mark.parametrize("error", [MemoryError(), OSError("the disk\nis full"), CifarError("no")])
def test_what_a_user_can_mend_is_one_line_unless_its_traceback_is_asked_for(
    monkeypatch, capsys, error
):
    def run(options):
        raise error

    monkeypatch.setattr(summary, "run", run)
    said = (str(error) or "MemoryError").splitlines()[0]
    assert refused(capsys, "summary", "vgg") == f"cifar summary: error: {said}"
    monkeypatch.setenv("CIFAR_UTILS_TRACEBACK", "1")
    with pytest.raises(type(error)) as raised:
        main(["summary", "vgg"])
    assert not hasattr(raised.value, "__notes__")


def test_data_describes_what_it_finds(arrays, capsys):
    main(["data", "--root", arrays[1], "--source", "npy", "--montage", "m.png"])
    printed = capsys.readouterr().out
    assert "npy" in printed and "300" in printed and "40" in printed and "airplane 30/4" in printed
    pixels = np.load(Path(arrays[1]) / "train_data.npy") / 255
    for name, values in (("mean", pixels.mean((0, 1, 2))), ("std", pixels.std((0, 1, 2)))):
        assert f"{name:<12}" + " ".join(f"{value:.4f}" for value in values) in printed
    with Image.open("m.png") as sheet:
        assert sheet.size == (1024, 320)
    for kind in ("data", "labels"):  # test images alone
        (Path(arrays[1]) / f"test_{kind}.npy").rename(f"fog_{kind}.npy")
    line = refused(
        capsys, "data", "--root", "fog_data.npy", "--source", "npy", "--montage", "m.png"
    )
    assert "no training images for --montage" in line


def test_data_names_every_class_of_a_folder(tmp_path, capsys):
    for number in range(12):
        for part in ("train", "test")[: 2 if number < 11 else 1]:  # the last has no test images
            folder = tmp_path / "pictures" / part / f"class{number:02d}"
            folder.mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(folder / "1.png")
    main(["data", "--root", "pictures", "--source", "folder"])
    assert "class10 1/1, class11 1/0\n" in capsys.readouterr().out


def test_summary_and_recipes(capsys):
    main(["summary", "separable"])
    assert "199,810" in capsys.readouterr().out
    main(["recipes"])
    lines = capsys.readouterr().out.splitlines()
    assert set(RECIPES) <= {line.split(" ")[0] for line in lines}
    reached = report.shipped_results() | report.shipped_races()
    for name, result in reached.items():  # in the line below the recipe's own
        (place,) = (number for number, line in enumerate(lines) if line.startswith(f"{name} "))
        assert lines[place + 1].strip() == f"reached {result}"


def test_lr_find_draws_and_suggests(arrays, capsys):
    main(["lr-find", *arrays, "--precision", "fp32", "--steps", "30", "--batch-size", "20"])
    assert "falls fastest at lr" in capsys.readouterr().out
    assert Path("lr-range.png").exists()


@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_has_help_with_an_example(module, capsys):
    command = module.__name__.rpartition(".")[2].replace("_", "-")
    printed = help_of(command, capsys)
    assert f"Example: cifar {command}" in printed
    example = printed.partition("Example: cifar ")[2]
    assert make_parser().parse_args(shlex.split(example)).run is module.run


def help_of(command, capsys):
    """What its --help prints, with single spaces and no line breaks."""
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", ["train", "bench"])
def test_help_tells_the_range_the_choices_and_the_needs_of_a_recipe_field(command, capsys):
    told = help_of(command, capsys)
    for words in (
        "--epochs N passes over the training images; at least 1",
        "--optimizer NAME optimizer: sgd, adam, adamw or muon",
        "--beta2 X Adam's second beta; in [0, 1); only if --optimizer is adam or adamw",
        "--small-size N side of the smaller images, in pixels; in [8, 32]; only if --small-until "
        "is set",
        "--views N views per image in the final test: 1, 2 or 6",
    ):
        assert words in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "--recipe is missing; choose one of vgg"),
        (["train", "--recipe", "lenet"], "choose one of vgg"),
        (["train", "--recipe", "compact", "--epochs", "0"], "epochs is 0; it must be at least 1"),
        (["train", "--recipe", "compact", "--epochs", "x"], "invalid int value: 'x'"),
        (["train", "--recipe", "compact", "--model", "x"], "choose one of vgg, conv5"),
        (["train", "--recipe", "compact", "--optimizer", "x"], "choose one of sgd, adam"),
        (["train", "--recipe", "compact", "--schedule", "x"], "choose one of constant"),
        (["train", "--recipe", "compact", "--augmentation", "x"], "choose one of none, flip"),
        (["train", "--recipe", "compact", "--teacher", "x"], "one of the shipped networks: comp"),
        (
            ["train", "--recipe", "compact", "--initialization", "x"],
            "choose one of default, kaiming, dirac",
        ),
        (["train", "--recipe", "compact", "--device", "x"], "choose one of auto, cuda, mps, cpu"),
        (["train", "--recipe", "compact", "--precision", "x"], "choose one of auto, fp32"),
        (["train", "--recipe", "compact", "--source", "x"], "choose one of auto, cifar10"),
        (["train", "--recipe", "compact", "--source", "cifar10"], "choose source 'synthetic'"),
        (["train", "--recipe", "compact", "--source", "folder"], "train/<class>/*.png"),
        (["train", "--recipe", "compact", "--source", "npy"], "NAME.npy"),
        (["train", "--recipe", "compact", "--limit", "0"], "at least 1"),
        (["train", "--recipe", "compact", "--workers", "-1"], "whole number"),
        (["train", "--recipe", "compact", "-q", "-v"], "not allowed with"),
        (["train", "--recipe", "compact", "--learning-rate", "1"], "unrecognized arguments"),
        (["test", "--weights", "nowhere.safetensors"], "there are no weights at"),
        (["test", "--weights", "lenet"], "shipped networks"),
        (["test"], "required: --weights"),
        (["test", "--weights", "compact", "--share", "0.3"], "--share needs --views"),
        (["predict", "nowhere.png"], "there is no file nowhere.png"),
        (["predict"], "required: IMAGE"),
        (["data", "--source", "x"], "choose one of auto"),
        (["bench", "--recipe", "lenet"], "choose one of vgg"),
        (["bench", "--recipe", "fast", "--against", "lenet"], "choose one of vgg"),
        (["bench", "--models", "lenet"], "choose one of vgg"),
        (["bench", "--augmentations", "flap"], "choose one of none, flip"),
        (["bench", "--against", "fast"], "--against needs --recipe"),
        (["bench", "--batch-size", "2"], "--batch-size needs --recipe"),
        (["bench", "--repeats", "2"], "--repeats needs --recipe"),
        (["bench", "--validation", "0"], "--validation needs --recipe"),
        (["bench", "--compile"], "--compile needs --recipe"),
        (["bench", "--source", "npy"], "--source needs --recipe"),
        (["bench", "--data", "x"], "--data needs --recipe"),
        (["train", "--resume"], "--resume needs to know the run; give --out, or --recipe"),
        (["train", "--recipe", "compact", "--temperature", "2"], "without teacher"),
        (["train", "--recipe", "compact", "--small-size", "24"], "without small_until"),
        (["train", "--recipe", "compact", "--beta2", "0.9"], "without optimizer adam or adamw"),
        (["train", "--recipe", "compact", "--step-every", "0.5"], "without schedule step"),
        (["train", "--recipe", "fast", "--peak", "0.5"], "without schedule one-cycle"),
        (["train", "--recipe", "compact", "--no-nesterov"], "without optimizer sgd"),
        (["lr-find", "--schedule", "cosine"], "unrecognized arguments: --schedule cosine"),
        (["lr-find", "--small-until", "0.5"], "unrecognized arguments: --small-until 0.5"),
        (
            ["lr-find", "--optimizer", "sgd", "--muon-lr", "0.1"],
            "muon_lr does nothing without optimizer muon",
        ),
        (["test", "--weights", "compact", "--views", "6", "--share", "2"], "must be in [0, 1]"),
        (["bench", "--recipe", "fast", "--quick"], "--epochs and --limit shorten"),
        (["bench", "--recipe", "fast", "--models"], "--models does not go with --recipe"),
        (["summary", "lenet"], "choose one of vgg"),
        (["dance"], "choose from"),
        ([], "required: COMMAND"),
    ],
)
def test_a_mistake_ends_in_one_line_that_names_the_choices(arguments, message, capsys, trained):
    if arguments[:1] == ["predict"]:
        arguments = [*arguments, "--weights", trained]
    assert message in refused(capsys, *arguments)


def test_a_mistake_in_a_path_is_told_before_the_data_is_loaded(capsys, trained, monkeypatch):
    monkeypatch.setattr(data, "load", lambda *_, **__: pytest.fail("the data was loaded"))
    refused(capsys, "test", "--weights", "nowhere.safetensors")
    refused(capsys, "train", "--recipe", "compact", "--device", "x")
    refused(capsys, "train", "--recipe", "compact", "--precision", "x")
    refused(capsys, "train", "--recipe", "compact", "--initialization", "x")
    refused(capsys, "train", "--recipe", "compact", "--teacher", "x")
    line = refused(capsys, "train", "--recipe", "compact", "--whitening", "0.1")
    assert "no whitening layer" in line
    small = ["--small-size", "20", "--small-until", "0.5"]
    line = refused(capsys, "train", "--recipe", "compact", *small)
    assert "compact takes no images of 20 pixels" in line
    monkeypatch.setenv("CXX", "no-such-compiler")
    line = refused(capsys, "train", "--recipe", "compact", "--compile", "--device", "cpu")
    assert "C++ compiler no-such-compiler" in line


def test_bench_measures_nothing_before_it_knows_the_recipes(capsys, monkeypatch):
    monkeypatch.setattr(bench, "machine", lambda *_: pytest.fail("it measured"))
    for names in (["lenet"], ["fast", "--against", "lenet"], ["compact", "--whitening", "0.1"]):
        refused(capsys, "bench", "--recipe", *names)


def test_a_folder_that_cannot_be_written_to_is_told_before_any_work(capsys, trained, monkeypatch):
    monkeypatch.setattr(data, "load", lambda *_, **__: pytest.fail("the data was loaded"))
    Path("file").touch()
    for out in ("file", "file/below"):
        for command in (["train", "--recipe", "compact"], ["test", "--weights", trained],
                        ["predict", "x.png", "--cam", "--weights", trained],
                        ["lr-find"]):  # fmt: skip
            assert "is a file; choose another folder" in refused(capsys, *command, "--out", out)
    line = refused(capsys, "bench", "--json", "file/bench.json")
    assert "file is a file; choose another file with --json" in line
    assert "is a folder; choose a file" in refused(capsys, "bench", "--json", ".")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "cannot be written" in refused(capsys, "train", "--recipe", "compact", "--out", "new")


def test_what_writes_nothing_works_in_a_folder_that_cannot_be_written_to(
    arrays, capsys, trained, monkeypatch
):
    Image.new("RGB", (32, 32)).save("x.png")
    monkeypatch.setattr(os, "access", lambda *_: False)
    main(["predict", "x.png", "--weights", trained])
    main(["test", "--weights", trained, *arrays])
    capsys.readouterr()
    for command in (["predict", "x.png", "--cam"], ["test", "--grid", *arrays]):
        assert "cannot be written" in refused(capsys, *command, "--weights", trained)


def test_a_damaged_checkpoint_is_refused(capsys, arrays):
    Path("run").mkdir()
    Path("run/checkpoint.pt").write_text("junk")
    line = refused(capsys, "train", "--recipe", "compact", *arrays, "--resume", "--out", "run")
    assert "damaged" in line
    torch.save(create_model("compact").state_dict(), "run/checkpoint.pt")
    line = refused(capsys, "train", "--recipe", "compact", *arrays, "--resume", "--out", "run")
    assert "run/checkpoint.pt is no checkpoint of a run" in line


def test_the_module_runs_as_a_program_and_needs_no_whole_output():
    command = [sys.executable, "-m", "cifar_utils"]
    result = subprocess.run([*command, "recipes"], capture_output=True, text=True)
    assert result.returncode == 0 and "compact-published" in result.stdout
    result = subprocess.run([*command, "summary", "nothing"], capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.count("\n") == 1

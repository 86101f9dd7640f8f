"""`cifar train`, through main(): what a run writes, keeps and refuses."""

import errno
import io
import json
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_helpers import FAST, refused
from filelock import FileLock
from PIL import Image
from safetensors import SafetensorError

from cifar_utils import checkpoints, data, estimate, evaluate, explain, train
from cifar_utils.cli.main import main, make_parser
from cifar_utils.cli.options import checked_recipe, named_recipe
from cifar_utils.errors import CifarError
from cifar_utils.history import History
from cifar_utils.machine import Machine
from cifar_utils.models import create_model
from cifar_utils.recipes import RECIPES

pytestmark = pytest.mark.usefixtures("nothing_from_outside")


@pytest.mark.slow
def test_train_writes_what_it_promises_and_tests_once(arrays, tmp_path, capsys):
    main(["train", "--recipe", "compact", *FAST, *arrays, "--out", "run"])
    printed = capsys.readouterr().out
    assert printed.count("\nepoch ") == 3 and printed.count("\ntest: ") == 1
    history = History.load("run/history.json")
    assert [row.epoch for row in history.epochs] == [0, 1, 2] and history.source == "npy"
    assert history.train_images == 120 and history.val_images == 30 and history.test["n"] == 40
    model, info = checkpoints.load_weights("run")
    assert info.recipe == history.recipe and info.source == "npy" and info.epoch == 2
    state = checkpoints.load_checkpoint("run/checkpoint.pt")
    for key, value in model.state_dict().items():
        assert torch.equal(state["model"][key], value)
    with Image.open("run/curves.png") as picture:
        assert picture.width > 800


class Terminal(io.StringIO):
    """Stands in for stderr. Its width is unknown, so tqdm draws bars of ten characters."""

    def isatty(self):
        return True


@pytest.mark.slow
def test_the_bar_of_an_epoch_fits_on_a_line(arrays, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    run = ["train", "--recipe", "compact", *FAST, *arrays, "--overwrite", "--out", "run"]
    main(run)
    shown = sys.stderr.getvalue().split("\r")
    pattern = r"epoch [12]/2 +\d+%\|.{10}\| [\d:?]+ left, loss \d\.\d{4}, acc [\d ]\d\.\d\d%"
    assert any(re.fullmatch(pattern, line.rstrip()) for line in shown)
    assert max(map(len, shown)) < 65 and not shown[-1].strip()  # nothing stays
    monkeypatch.setattr(sys, "stderr", Terminal())
    main([*run, "-q"])
    assert sys.stderr.getvalue() == ""


@pytest.mark.slow
def test_the_time_is_told_first_and_changes_nothing(arrays, capsys):
    """In 2 times 60 steps of a network with dropout."""
    run = ["train", "--recipe", "compact", *FAST, *arrays, "--no-test"]
    run += ["--dropout-factor", "1", "--batch-size", "2", "--lr", "0.01", "--muon-lr", "0.01"]
    main([*run, "--out", "quiet", "-q"])
    assert capsys.readouterr().out == ""
    main([*run, "--out", "told"])
    lines = capsys.readouterr().out.splitlines()
    seconds = r"(\d\.\d s|\d+ s|\d+ min \d+ s)"
    where = re.escape(str(Machine(torch.device("cpu"))))
    wanted = rf"about {seconds} of training per epoch, {seconds} in all, on {where} \(fp32\)"
    assert re.fullmatch(wanted, lines[1]) and lines[2].startswith("epoch   0")
    assert "of training per epoch" not in "\n".join(lines[2:])
    for name in ("weights.safetensors", "best.safetensors"):
        assert Path("quiet", name).read_bytes() == Path("told", name).read_bytes()


@pytest.mark.slow
def test_the_time_is_that_of_the_epochs_to_come(arrays, capsys, monkeypatch):
    monkeypatch.setattr(estimate, "step_seconds", lambda *_, done, **__: 0.1 if done < 0.25 else 5)
    run = ["train", "--recipe", "quick", *FAST, *arrays, "--out", "run", "--no-test"]
    run += ["--epochs", "4", "--batch-size", "3", "--small-until", "0.25"]  # 40 steps an epoch
    with monkeypatch.context() as stopping, pytest.raises(SystemExit):
        stopping.setattr(train, "train_one_epoch", interrupt_after(1))
        main(run)
    assert "about 4.0 s to 3 min 20 s of training per epoch, 10 min 4 s in all, on" in (
        capsys.readouterr().out
    )
    with monkeypatch.context() as stopping, pytest.raises(SystemExit):
        stopping.setattr(train, "train_one_epoch", interrupt_after(0))
        main([*run, "--resume"])
    assert "about 3 min 20 s of training per epoch, 10 min 0 s for the rest, on" in (
        capsys.readouterr().out
    )
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    monkeypatch.setenv("CXX", sys.executable)  # so that there is a compiler
    with monkeypatch.context() as stopping, pytest.raises(SystemExit):
        stopping.setattr(train, "train_one_epoch", interrupt_after(0))
        main([*run, "--overwrite", "--compile"])
    assert "the time is not estimated with --compile" in capsys.readouterr().out


def interrupt_after(epochs):
    """A train_one_epoch that is stopped by Ctrl-C in a later epoch than these."""
    whole, seen = train.train_one_epoch, []

    def train_one_epoch(*given, **options):
        seen.append(1)
        if len(seen) > epochs:
            raise KeyboardInterrupt
        return whole(*given, **options)

    return train_one_epoch


@pytest.mark.slow
def test_the_time_to_compile_is_told_once_and_before_the_epochs(arrays, capsys, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    monkeypatch.setenv("CXX", sys.executable)  # so that there is a compiler
    main(["train", "--recipe", "compact", *FAST, *arrays, "--out", "run", "--compile"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["compiled", "epoch", "epoch", "epoch"]


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_run_in_a_folder_called_as_a_shipped_teacher_is_resumed(arrays):
    run = ["train", "--recipe", "compact", *FAST, *arrays, "-q", "--out", "separable"]
    run += ["--teacher", "separable", "--dropout-factor", "0"]
    main(run)
    main([*run, "--resume"])


@pytest.mark.slow
def test_a_recipe_with_views_is_tested_with_one_and_with_all(arrays, capsys, monkeypatch):
    asked, predict = [], evaluate.predict

    def spy(model, images, **options):
        if len(images) == 40:  # the test images; validation has 30
            asked.append(options.get("views", 1))
        return predict(model, images, **options)

    monkeypatch.setattr(evaluate, "predict", spy)
    main(["train", "--recipe", "quick", *FAST, "--epochs", "1", *arrays, "--out", "run", "-q"])
    test = History.load("run/history.json").test
    assert asked == [1, 6] and 0 <= test["top1"] <= 1
    assert f"({test['top1_views']:.2%} with 6 views)" in capsys.readouterr().out
    main(["test", "--weights", "run", *arrays, "--views", "6", "--json"])
    assert json.loads(capsys.readouterr().out)["top1"] == test["top1_views"]


@pytest.mark.slow
def test_a_finished_or_present_run_is_never_lost(arrays, capsys):
    run = ["train", "--recipe", "compact", *FAST, *arrays, "--out", "run", "-q"]
    main(run)
    line = refused(capsys, *run)
    assert "--resume" in line and "--overwrite" in line
    before = (Path("run") / "weights.safetensors").read_bytes()
    main([*run, "--resume"])  # nothing is left to do: the same weights, the test figures again
    assert (Path("run") / "weights.safetensors").read_bytes() == before
    assert "lr 0.1, not 0.3" in refused(capsys, *run, "--resume", "--lr", "0.3")
    less = [word if word != "30" else "25" for word in run]
    assert "--validation" in refused(capsys, *less, "--resume")
    main([*run, "--overwrite", "--lr", "0.02"])
    assert History.load("run/history.json").recipe.lr == 0.02
    Path("run/checkpoint.pt").unlink()
    assert "--overwrite" in refused(capsys, *run)
    assert "without checkpoint.pt" in refused(capsys, *run, "--resume")
    assert "without checkpoint.pt" in refused(capsys, "train", "--resume", "--out", "run")


@pytest.mark.slow
def test_two_trainings_never_write_into_one_folder(arrays, capsys, monkeypatch):
    run = ["train", "--recipe", "compact", *FAST, *arrays, "--out", "run", "-q"]
    main(run)
    before = History.load("run/history.json")
    with FileLock("run/.lock"):
        for how in ("--resume", "--overwrite"):
            assert "another training is writing to run now" in refused(capsys, *run, how)
    assert History.load("run/history.json") == before
    main([*run, "--overwrite"])  # nobody holds it any more

    for error in (NotImplementedError, OSError):  # a drive that knows no locks

        def unknown(*_, error=error, **__):
            raise error

        monkeypatch.setattr(FileLock, "acquire", unknown)
        main([*run, "--overwrite"])


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("name, status", [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_that_ends_programs_is_as_good_as_ctrl_c(
    arrays, capsys, monkeypatch, name, status
):
    number = getattr(signal, name, None)
    if number is None or sys.platform == "win32":
        pytest.skip("Windows ends a program at once")
    run = ["train", "--recipe", "compact", *FAST, *arrays, "--out", "run", "-q", "--no-test"]
    before = signal.signal(number, signal.SIG_DFL)  # nohup ignores SIGHUP, and that would stay so
    with monkeypatch.context() as stopping, pytest.raises(SystemExit) as stopped:
        stopping.setattr(train, "train_one_epoch", lambda *_, **__: signal.raise_signal(number))
        main(run)
    assert stopped.value.code == status
    assert "stopped; the same command with --resume goes on from run" in capsys.readouterr().err
    assert signal.getsignal(number) is signal.SIG_DFL
    signal.signal(number, before)
    main([*run, "--resume"])
    assert len(History.load("run/history.json").epochs) == 3


def test_a_signal_that_is_ignored_stays_so(monkeypatch):
    """`nohup cifar train …` outlives its terminal."""
    if not hasattr(signal, "SIGHUP"):
        pytest.skip("Windows has no SIGHUP")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr("cifar_utils.cli.recipes.run", lambda _: None)
        main(["recipes"])
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        monkeypatch.setattr(
            "cifar_utils.cli.train.run", lambda _: signal.raise_signal(signal.SIGHUP)
        )
        main(["train", "--recipe", "compact"])
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
def test_a_training_that_diverges_keeps_its_last_good_epoch_and_says_what_helps(
    arrays, capsys, monkeypatch
):
    run = ["train", "--recipe", "compact", *FAST, *arrays, "--out", "run", "-q", "--no-test"]
    whole, seen = train.train_one_epoch, []

    def second_diverges(*given, **options):
        seen.append(whole(*given, **options))
        return (float("nan"), 0.1) if len(seen) == 2 else seen[-1]

    with monkeypatch.context() as diverging:
        diverging.setattr(train, "train_one_epoch", second_diverges)
        line = refused(capsys, *run)
    assert "diverged in epoch 2" in line and line.count("diverged") == 1
    assert "start anew with --overwrite or another --out" in line
    assert "(run holds the last good epoch)" in line
    assert len(History.load("run/history.json").epochs) == 2
    assert checkpoints.load_weights("run")[1].epoch == 1
    line = refused(capsys, *run, "--resume", "--lr", "0.01")
    assert "resuming keeps its recipe; for another, start anew" in line
    main([*run, "--overwrite", "--lr", "0.01"])


@pytest.mark.slow
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


def test_a_reader_who_leaves_is_no_full_disk(arrays, monkeypatch):
    """And gets the exit status of a program that a closed pipe has ended."""

    def leave(self):
        raise BrokenPipeError

    monkeypatch.setattr(train.Run, "__str__", leave)
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--recipe", "compact", *FAST, *arrays, "--out", "run"])
    assert stopped.value.code == 141


@pytest.mark.slow
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


@pytest.mark.slow
def test_resume_alone_takes_the_recipe_from_the_run(arrays, capsys):
    main(["train", "--recipe", "compact", *FAST, *arrays, "--out", "run", "-q"])
    main(["train", "--resume", "--out", "run", "--validation", "30", *arrays, "-q"])
    assert History.load("run/history.json").recipe.batch_size == 50
    assert "no checkpoint in other" in refused(capsys, "train", "--resume", "--out", "other")


@pytest.mark.slow
def test_resume_alone_takes_flags_that_the_runs_own_recipe_reads(arrays, capsys):
    adam = ["--optimizer", "adam", "--lr", "0.001"]
    main(["train", "--recipe", "compact", *FAST, *adam, *arrays, "--out", "run", "-q"])
    resume = ["train", "--resume", "--out", "run", "--validation", "30", *arrays, "-q"]
    main([*resume, "--beta2", "0.999"])
    assert "beta2 0.999, not 0.9" in refused(capsys, *resume, "--beta2", "0.9")


@pytest.mark.slow
def test_a_finished_run_goes_on_if_more_epochs_are_asked_for(arrays, capsys):
    run = ["train", "--recipe", "compact", *FAST, *arrays, "--out", "run", "-q", "--resume"]
    main(run)
    loud = [word for word in run if word != "-q"]
    main([*loud, "--epochs", "3", "--lr", "0.02"])
    assert "run goes on after epoch 2" in capsys.readouterr().out
    history = History.load("run/history.json")
    assert (history.recipe.epochs, history.recipe.epochs_before) == (3, 2)
    assert [recipe.lr for recipe in (*history.earlier, history.recipe)] == [0.1, 0.02]
    assert [row.epoch for row in history.epochs] == [0, 1, 2, 3]
    main([*run, "--epochs", "3", "--lr", "0.02"])  # the same again: nothing is left to do
    assert History.load("run/history.json").epochs == history.epochs
    main(["train", "--resume", "--out", "run", "--validation", "30", *arrays, "-q",
          "--epochs", "4"])  # fmt: skip
    assert len(History.load("run/history.json").earlier) == 2
    assert "from its own weights; leave out --from" in refused(
        capsys, *run, "--epochs", "5", "--from", "compact"
    )


@pytest.mark.slow
def test_a_training_starts_from_trained_weights(arrays, capsys):
    run = ["train", "--recipe", "compact", *FAST, *arrays, "-q"]
    main([*run, "--out", "first"])
    main([*run, "--out", "second", "--from", "first", "--lr", "0.001", "--muon-lr", "0.001"])
    before, after = (History.load(f"{name}/history.json") for name in ("first", "second"))
    assert after.recipe.start_from == "first"
    untrained, trained = after.epochs[0], before.epochs[-1]
    assert untrained.val_loss == pytest.approx(trained.val_loss, rel=1e-6)
    assert "a training cannot start from it" in refused(
        capsys, *run, "--out", "second", "--overwrite", "--from", "second"
    )


@pytest.mark.slow
def test_a_file_of_recipe_fields_is_read_and_flags_win(arrays, capsys):
    some = ["--batch-size", "50", "--precision", "fp32", "--validation", "30", *arrays, "-q"]
    main(["recipes", "quick"])
    Path("quick.toml").write_text(capsys.readouterr().out)
    Path("mine.json").write_text('{"recipe": "quick", "epochs": 1, "lr": 0.3, "name": "mine"}')
    main(["train", "--config", "mine.json", *some, "--lr", "0.2"])
    made = History.load("runs/mine/history.json").recipe
    assert made == RECIPES["quick"].changed(name="mine", epochs=1, lr=0.2, batch_size=50)
    main(["train", "--config", "quick.toml", *some, "--epochs", "1", "--out", "whole"])
    whole = History.load("whole/history.json").recipe
    assert whole == RECIPES["quick"].changed(epochs=1, batch_size=50)
    assert Path("quick.toml").read_text().splitlines()[:2] == ['recipe = "quick"', 'name = "quick"']
    main(["train", "--config", "whole/history.json", *some, "--out", "again"])
    assert History.load("again/history.json").recipe == whole
    assert "give one" in refused(
        capsys, "train", "--config", "whole/history.json", "--recipe", "compact"
    )
    Path("other.toml").write_text('recipe = "compact"')
    assert "started with name 'quick', not 'compact'" in refused(
        capsys, "train", "--config", "other.toml", "--resume", "--out", "again", *some
    )
    for text, complaint in (("lrr = 1", "bad.toml: unknown recipe field 'lrr'"),
                            ("lr = 'a'", "bad.toml: lr is 'a'; it must be of type float"),
                            ("epochs_before = 3", "unknown recipe field 'epochs_before'"),
                            ("lr", "bad.toml: it is damaged, or not a file of recipe fields"),
                            ("", "bad.toml: it is empty; `cifar recipes NAME`")):  # fmt: skip
        Path("bad.toml").write_text(text)
        assert complaint in refused(capsys, "train", "--config", "bad.toml", *some)
    assert "nowhere.json: there is no such file of recipe fields as JSON" in refused(
        capsys, "train", "--config", "nowhere.json"
    )
    Path("lr.toml").write_text("lr = 0.05")
    assert "--recipe is missing" in refused(capsys, "train", "--config", "lr.toml")


def test_the_history_of_any_run_is_a_recipe_for_another():
    """One whose recipe has fields that it never reads, an old one, and one that was continued."""
    sgd = RECIPES["vgg"].changed(model="conv5", optimizer="sgd")
    old = {"vector_rate": 64.0, "decay_vectors": False, "warmup": 0.0, **RECIPES["fast"].as_dict()}
    for name in ("bias_lr_factor", "decay_biases", "epochs_before", "start_from", "patience"):
        del old[name]
    later = RECIPES["compact"].changed(epochs=60, epochs_before=40)
    for values, wanted in (
        (sgd.as_dict(), sgd),
        (old, RECIPES["fast"].changed(bias_lr_factor=64.0, decay_biases=False)),
        (later.as_dict(), RECIPES["compact"].changed(epochs=60)),
    ):
        Path("history.json").write_text(json.dumps({"recipe": values, "epochs": []}))
        options = make_parser().parse_args(["train", "--config", "history.json", "--lr", "0.5"])
        options.recipe = named_recipe(options)
        assert checked_recipe(options, options.recipe) == wanted.changed(lr=0.5)


@pytest.mark.parametrize("kept", ["best.safetensors", "cam/heatmaps-003.npz"])
def test_what_an_older_run_left_is_not_replaced_unasked(arrays, capsys, kept):
    file = Path("run", kept)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"mine")
    assert "holds a run already" in refused(
        capsys, "train", "--recipe", "compact", *FAST, *arrays, "--out", "run", "--cam"
    )
    assert file.read_bytes() == b"mine"


@pytest.mark.slow
def test_the_best_weights_are_those_of_the_best_epoch(arrays, monkeypatch):
    validation = iter([(2.0, 0.1), (2.0, 0.5), (2.0, 0.3)])

    def told(model, split, precision):
        return (2.3, 0.1) if len(split) == 120 else next(validation)

    run = ["train", "--recipe", "compact", *FAST, *arrays, "--out", "run", "-q", "--no-test"]
    with monkeypatch.context() as patched:
        patched.setattr(train, "evaluate", told)
        main(run)
    best, info = checkpoints.load_weights("run/best.safetensors")
    last, _ = checkpoints.load_weights("run")
    assert info.epoch == 1
    assert not torch.equal(best.features[0][0][0].weight, last.features[0][0][0].weight)
    without = [word if word != "30" else "0" for word in run]
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
    printed = capsys.readouterr().out
    assert "top-3" not in printed and "top-5" not in printed  # 100% for any network
    main(["test", "--weights", "run", *own, "--device", "cpu"])
    assert "top1" in (printed := capsys.readouterr().out)
    assert "top3" not in printed and "top5" not in printed
    with pytest.raises(SystemExit, match="2"):
        main(["test", "--weights", "run/checkpoint.pt", *own])
    assert "it is a run's checkpoint; give the run's folder, run\n" in capsys.readouterr().err
    main([*run, "--validation", "2", *own, "--out", "few", "-q", "--no-test", "--cam"])
    notice = capsys.readouterr().err
    assert "no heatmaps of " in notice and ": the 2 validation images show none" in notice
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
    said = "the weights were trained on the classes leaf, plum, sand; the data has moss, plum, sand"
    assert said in capsys.readouterr().err


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    arrays, capsys, monkeypatch
):
    run = ["train", "--recipe", "compact", *FAST, *arrays, "--out", "run", "-q", "--no-test"]
    for where, name, error in (
        ("safetensors.torch", "save_file", SafetensorError("x: No space (os error 28)")),
        ("torch", "save", RuntimeError("PytorchStreamWriter failed writing file\nmore")),
    ):
        with monkeypatch.context() as patched:

            def full(*_, error=error, **__):
                raise error

            patched.setattr(f"{where}.{name}", full)
            line = refused(capsys, *run)
        assert " cannot be written: " in line and "no checkpoint has been saved yet" in line
    whole, seen = torch.save, []

    def full_later(*given):
        seen.append(given)
        if len(seen) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(*given)

    with monkeypatch.context() as patched:
        patched.setattr("torch.save", full_later)
        line = refused(capsys, *run)
    assert line.endswith(
        "run/checkpoint.pt cannot be written: No space left on device; free some space; the same "
        "command with --resume goes on from run"
    )
    main([*run, "--resume"])
    assert len(History.load("run/history.json").epochs) == 3


def test_limit_makes_every_split_small(arrays):
    main(["train", "--recipe", "conv5", *FAST, *arrays, "--limit", "20", "--out", "run", "-q"])
    history = History.load("run/history.json")
    assert (history.train_images, history.val_images, history.test["n"]) == (20, 20, 20)


@pytest.mark.slow
def test_a_run_that_only_helps_to_choose_leaves_the_test_images_alone(arrays, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "metrics", None)
    main(["train", "--recipe", "compact", *FAST, *arrays, "--out", "run", "--no-test"])
    assert "test: " not in capsys.readouterr().out
    assert History.load("run/history.json").test is None and Path("run/curves.png").exists()


@pytest.mark.slow
def test_cam_makes_a_gif_a_class(arrays, capsys):
    main(["train", "--recipe", "compact", *FAST, *arrays, "--out", "run", "--cam"])
    gifs = sorted(Path("run/cam").glob("*.gif"))
    assert len(gifs) == 5 and "cam-0-airplane.gif" in capsys.readouterr().out
    with Image.open(gifs[0]) as gif:
        assert gif.n_frames == 4  # the original, untrained, two epochs


@pytest.mark.slow
def test_a_drawing_that_fails_costs_a_picture_and_no_result(arrays, capsys, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("latex was not able\nto process")

    run = ["train", "--recipe", "compact", *FAST, *arrays, "--out", "run", "--cam", "-q"]
    with monkeypatch.context() as failing, pytest.raises(SystemExit) as stopped:
        failing.setattr("cifar_utils.plots.show_history", fail)
        failing.setattr("cifar_utils.explain.save_cam_gif", fail)
        main(run)
    assert stopped.value.code == 1 and History.load("run/history.json").test["n"] == 40
    said = capsys.readouterr()
    assert said.out.startswith("test: ") and said.err.splitlines() == [
        f"run/{name} could not be drawn: latex was not able\\nto process; the same command with "
        "--resume draws it again"
        for name in ("curves.png", "cam")
    ]
    main([*run, "--resume"])
    assert Path("run/curves.png").is_file() and len(list(Path("run/cam").glob("*.gif"))) == 5


@pytest.mark.slow
def test_heatmaps_that_fail_end_no_training_that_has_begun(arrays, capsys, monkeypatch):
    real, calls = explain.grad_cam, []

    def fail_later(*arguments, **options):
        calls.append(arguments)
        if len(calls) > worked:
            raise RuntimeError("no map")
        return real(*arguments, **options)

    run = ["train", "--recipe", "compact", *FAST, *arrays, "--cam", "-q", "--no-test", "--out"]
    monkeypatch.setattr(explain, "grad_cam", fail_later)
    worked = 2  # one of them before the training begins
    with pytest.raises(SystemExit) as stopped:
        main([*run, "run"])
    assert stopped.value.code == 1 and len(History.load("run/history.json").epochs) == 3
    assert capsys.readouterr().err == "no heatmaps from epoch 1 on: no map\n"
    assert len(calls) == 3  # and is not tried again
    calls.clear()
    worked = 0
    with pytest.raises(RuntimeError, match="no map"):  # before anything was learned or replaced
        main([*run, "run", "--overwrite"])
    assert len(History.load("run/history.json").epochs) == 3


@pytest.mark.slow
def test_cam_takes_classes_in_any_order_and_a_resumed_run_keeps_to_them(arrays, capsys):
    run = ["train", "--recipe", "compact", *FAST, *arrays, "--out", "run", "-q", "--no-test"]
    main([*run, "--cam", "ship", "bird"])
    with Image.open("run/cam/cam-0-ship.gif") as gif, Image.open("run/cam/cam-1-bird.gif") as other:
        assert gif.n_frames == other.n_frames == 4
    val = data.load("arrays", source="npy", validation=30).val
    kept = np.load("run/cam/heatmaps-001.npz")
    assert val.labels[np.isin(val.indices, kept["indices"])].sort().values.tolist() == [2, 8]
    model, _ = checkpoints.load_weights("run")
    ship, bird = (val[val.labels == label][:1] for label in (8, 2))
    last = np.load("run/cam/heatmaps-002.npz")["heatmaps"]
    for place, one in enumerate((ship, bird)):
        maps = explain.grad_cam(model, one.images, one.labels, **explain.DEFAULTS)
        assert np.allclose(last[place], maps[0], atol=1e-3)
    main([*run, "--resume", "--cam", "ship", "bird"])
    for other in (["--cam"], ["--cam", "ship", "bird", "--smooth"]):
        assert "of other images, or by another method" in refused(capsys, *run, "--resume", *other)
    main([*run, "--resume"])


def test_an_unknown_class_is_told_before_training_begins(arrays, capsys, monkeypatch):
    monkeypatch.setattr(train, "start", lambda *_, **__: pytest.fail("it trains"))
    run = ["train", "--recipe", "compact", *FAST, *arrays, "--out", "run", "--cam"]
    line = refused(capsys, *run, "ship", "zebra")
    assert "unknown class 'zebra'; choose one of airplane, automobile, bird" in line


def test_a_damaged_checkpoint_is_refused(capsys, arrays):
    Path("run").mkdir()
    Path("run/checkpoint.pt").write_text("junk")
    line = refused(capsys, "train", "--recipe", "compact", *arrays, "--resume", "--out", "run")
    assert "damaged" in line
    torch.save(create_model("compact").state_dict(), "run/checkpoint.pt")
    line = refused(capsys, "train", "--recipe", "compact", *arrays, "--resume", "--out", "run")
    assert "run/checkpoint.pt: it is not the checkpoint of a run; start the run anew" in line

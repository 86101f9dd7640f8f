"""A run's folder, as a notebook uses it; tests/test_cli_train.py uses it by the command line."""

import copy
import math
import sys
import threading
from contextlib import nullcontext

import pytest
import torch

from cifar_utils import runs
from cifar_utils.errors import CifarError
from cifar_utils.history import History
from cifar_utils.machine import Machine
from cifar_utils.models import build
from cifar_utils.recipes import Recipe
from cifar_utils.runs import RunFolder
from cifar_utils.sources.sealed import digest
from cifar_utils.train import fit, start

RECIPE = Recipe("tiny", model="conv5", epochs=3, batch_size=16, lr=0.05, seed=5)


def train(path, split, recipe=RECIPE, stop_after=None, **options):
    """The lines of a notebook's cell. The kernel is interrupted after the epoch `stop_after`."""
    model = build(recipe, split.classes)

    def log(run):
        folder.save(run)
        if run.history.epochs[-1].epoch == stop_after:
            raise KeyboardInterrupt

    with RunFolder(path, **options) as folder:
        state = folder.state(recipe)
        folder.check_data(split, split[:0])
        fit(model, split, None, recipe, log=log, resume=state, device="cpu", precision="fp32")
    return model


@pytest.mark.slow
def test_the_same_lines_again_go_on_to_the_same_bytes(tmp_path, painted_split):
    split = painted_split(48)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", split, stop_after=1)
    assert RunFolder(tmp_path / "run").recipe() == RECIPE
    resumed, whole = train(tmp_path / "run", split), train(tmp_path / "whole", split)
    for one, other in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("run", "whole")]
    assert weights[0] == weights[1]


def test_a_run_is_neither_mixed_nor_lost(tmp_path, painted_split):
    path, split = tmp_path / "run", painted_split(32)
    train(path, split)
    before = (path / "weights.safetensors").read_bytes()
    for other, options, complaint in (
        (split, {"recipe": RECIPE.changed(lr=0.1)}, "started with lr 0.05, not 0.1"),
        (split, {"resume": False}, "holds a run already"),
        (split[:16], {}, "with 32 training and 0 validation images, not on memory with 16 and 0"),
    ):
        with pytest.raises(CifarError, match=complaint):
            train(path, other, **options)
    assert (path / "weights.safetensors").read_bytes() == before
    train(path, split, RECIPE.changed(seed=6), overwrite=True)  # no resume=False is needed
    assert (path / "weights.safetensors").read_bytes() != before


def test_a_folder_without_its_checkpoint_is_not_taken_for_a_new_one(tmp_path, painted_split):
    train(tmp_path, painted_split(32))
    (tmp_path / "checkpoint.pt").unlink()
    with pytest.raises(CifarError, match=r"holds a run without checkpoint\.pt"):
        train(tmp_path, painted_split(32))
    (tmp_path / "checkpoint.pt").write_bytes(b"cut short")
    with pytest.raises(CifarError, match="damaged, or not a checkpoint"):
        train(tmp_path, painted_split(32))


@pytest.mark.parametrize("step", ["save_weights", "save_checkpoint"])
def test_a_run_that_is_killed_in_its_first_save_begins_anew(
    tmp_path, painted_split, monkeypatch, step
):
    """In a new folder, and in that of a run that it replaces, of which nothing stays."""
    split, path = painted_split(32), tmp_path / "replaced"
    train(path, split, RECIPE.changed(seed=6))
    (path / "curves.png").touch()
    whole = train(tmp_path / "whole", split)
    for folder, options in ((tmp_path / "new", {}), (path, {"resume": False, "overwrite": True})):
        with monkeypatch.context() as killing, pytest.raises(KeyboardInterrupt):
            killing.setattr(runs, step, interrupt)
            train(folder, split, **options)
        resumed = train(folder, split)
        for one, other in zip(resumed.parameters(), whole.parameters(), strict=True):
            assert torch.equal(one, other)
        left = {file.name for file in folder.iterdir()} - {".lock"}
        assert left == {"checkpoint.pt", "history.json", "weights.safetensors"}


def interrupt(*_):
    raise KeyboardInterrupt


def test_the_second_training_into_a_folder_is_refused_before_it_begins(tmp_path):
    """Also in a folder that is not there yet, in another thread, and by another name."""
    path, refused = tmp_path / "run", []

    def second(name):
        try:
            with RunFolder(name, overwrite=True):
                pytest.fail("it begins")
        except CifarError as error:
            refused.append(str(error))

    with RunFolder(path):
        other = threading.Thread(target=second, args=(path,))
        other.start(), other.join()
        second(path)
        if sys.platform != "win32":  # where a link takes more rights
            (tmp_path / "link").symlink_to(path)
            second(tmp_path / "link")
            second(tmp_path / "link" / ".." / "run")
    assert refused and all("another training is writing to" in said for said in refused)
    with RunFolder(path):
        pass


def test_a_run_that_never_begins_leaves_no_folder_and_no_other_files(tmp_path, painted_split):
    with pytest.raises(CifarError, match="batch"), RunFolder(tmp_path / "new" / "run"):
        raise CifarError("the batch is wrong")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "own").mkdir()
    with RunFolder(tmp_path / "own" / "run"):
        (tmp_path / "own" / "run" / "notes.txt").touch()
    assert (tmp_path / "own" / "run" / "notes.txt").exists()


def test_what_is_not_a_folder_is_no_place_for_a_run(tmp_path):
    (tmp_path / "file").write_bytes(b"kept")
    (tmp_path / "link").symlink_to("nothing")
    for place in ("file", "file/run", "link", "link/run"):
        with pytest.raises(CifarError, match="is not a folder; choose another one"):
            RunFolder(tmp_path / place).__enter__()
    assert (tmp_path / "file").read_bytes() == b"kept"


def test_a_training_removes_what_killed_ones_left_half_written(tmp_path, painted_split):
    for name in (".cifar-0123.tmp", "cam/.cifar-4567.tmp", "mine.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    train(tmp_path, painted_split(32))
    assert not list((tmp_path / "cam").iterdir()) and (tmp_path / "mine.tmp").exists()
    assert not list(tmp_path.glob(".cifar*"))


def test_a_folder_may_be_used_twice_and_fit_without_its_state_replaces_nothing(
    tmp_path, painted_split
):
    folder, split = RunFolder(tmp_path / "run"), painted_split(32)
    plain = {"device": "cpu", "precision": "fp32"}
    for _ in range(2):
        with folder:
            state = folder.state(RECIPE)
            fit(build(RECIPE, split.classes), split, None, RECIPE, log=folder.save, resume=state,
                **plain)  # fmt: skip
    assert state is not None and len(History.load(tmp_path / "run" / "history.json").epochs) == 4
    for again in (RunFolder(folder.path), RunFolder(folder.path, resume=False)):
        with again, pytest.raises(CifarError, match="holds a run"):
            fit(build(RECIPE, split.classes), split, None, RECIPE, log=again.save, **plain)
    assert len(History.load(tmp_path / "run" / "history.json").epochs) == 4


@pytest.mark.slow
def test_a_finished_run_goes_on_under_a_recipe_that_says_so(tmp_path, painted_split):
    """At a constant rate, 2 + 1 epochs are three; and a cosine begins anew after the first two."""
    split = painted_split(48)
    straight = RECIPE.changed(schedule="constant")
    whole = train(tmp_path / "whole", split, straight)
    train(tmp_path / "run", split, straight.changed(epochs=2))
    resumed = train(tmp_path / "run", split, straight.changed(epochs_before=2))
    for one, other in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)
    longer = straight.changed(epochs=7, epochs_before=3, lr=0.2, schedule="cosine")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", split, longer, stop_after=5)
    train(tmp_path / "run", split, longer)
    history = History.load(tmp_path / "run" / "history.json")
    assert [recipe.epochs for recipe in history.earlier] == [2, 3] and history.is_finished
    rates = [0.2 * (1 + math.cos(math.pi * done)) / 2 for done in (0, 0.25, 0.5, 0.75)]
    assert [row.lr for row in history.epochs[4:]] == pytest.approx(rates)
    train(tmp_path / "at once", split, straight)
    train(tmp_path / "at once", split, longer)
    weights = [
        (tmp_path / name / "weights.safetensors").read_bytes() for name in ("run", "at once")
    ]
    assert weights[0] == weights[1]


def test_momentum_goes_on_with_the_same_optimizer_only(tmp_path, painted_split):
    split = painted_split(32)
    train(tmp_path, split)
    state = RunFolder(tmp_path).state(RECIPE)
    for optimizer, kept in (("sgd", True), ("adam", False)):
        recipe = RECIPE.changed(epochs=4, epochs_before=3, optimizer=optimizer, lr=0.001)
        machine = Machine.pick("cpu", "fp32")
        run = start(build(recipe, split.classes), split, None, recipe, machine, state)
        assert bool(run.optimizer.state) == kept
        assert {group["initial_lr"] for group in run.optimizer.param_groups} == {0.001}


def test_what_does_not_follow_a_run_is_refused(tmp_path, painted_split):
    split = painted_split(32)
    after = RECIPE.changed(epochs=5, epochs_before=3)
    with pytest.raises(CifarError, match="goes on after 3 epochs; give the state"):
        train(tmp_path / "none", split, after)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", split, stop_after=1)
    for recipe in (after, RECIPE.changed(epochs=4)):  # the run has not finished
        assert RunFolder(tmp_path / "run").continuing(recipe).epochs_before == 0
        with pytest.raises(CifarError, match="started with epochs 3, not"):
            train(tmp_path / "run", split, recipe)
    train(tmp_path / "run", split)
    assert RunFolder(tmp_path / "run").continuing(RECIPE.changed(epochs=5)) == after
    for recipe, complaint in (
        (after.changed(epochs_before=2), "started with epochs 3, not 5; .*ask for more epochs"),
        (after.changed(model="compact"), "started with model 'conv5', not 'compact'"),
    ):
        with pytest.raises(CifarError, match=complaint):
            train(tmp_path / "run", split, recipe)


def test_a_state_that_does_not_fit_leaves_network_and_optimizer_as_they_were(
    tmp_path, painted_split
):
    split = painted_split(32)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, split, stop_after=1)
    whole = RunFolder(tmp_path).state(RECIPE)
    model = build(RECIPE, split.classes)
    run = start(model, split, None, RECIPE, Machine.pick("cpu", "fp32"))
    before = digest(run.state())
    *_, bias = whole["model"]
    for change, complaint in (
        (lambda state: state["model"].pop(bias), f"{bias} is missing"),
        (lambda state: state["model"].update(x=torch.ones(1)), "x is unknown to it"),
        (
            lambda state: state["model"].update({bias: torch.ones(3)}),
            rf"{bias} has the shape \(3,\), not \(10,\)",
        ),
        (
            lambda state: state["model"].update({bias: torch.ones(10).int()}),
            f"{bias} is torch.int32, not torch.float32",
        ),
        (lambda state: state["optimizer"]["param_groups"].pop(), "other groups of parameters"),
        (lambda state: state["optimizer"]["param_groups"][0].update(lr="high"), "lr cannot be"),
        (
            lambda state: state["optimizer"]["state"][0].update(momentum_buffer=torch.ones(3, 4)),
            r"momentum_buffer has the shape \(3, 4\)",
        ),
    ):
        state = copy.deepcopy(whole)
        change(state)
        with pytest.raises(CifarError, match=f"the checkpoint.*{complaint}"):
            run.load_state(state)
        assert digest(run.state()) == before
    run.load_state(whole)
    assert digest(run.state()) != before


def test_a_checkpoint_of_the_wrong_form_is_refused_by_name(tmp_path, painted_split):
    path = tmp_path / "checkpoint.pt"
    train(tmp_path, painted_split(32))
    whole = torch.load(path)
    assert whole.pop("digest") == digest(whole)
    first, *_ = whole["model"]
    for change, complaint in (
        ({}, ""),  # as an earlier version wrote it
        ({"mood": 1}, "unknown entry 'mood'; a newer cifar_utils may know it"),
        ({"history": "{}"}, "not a training history"),
        ({"history": 3}, "not a training history"),
        ({"images": 3}, "not the checkpoint of a run"),
        ({"scaler": {"scale": 1.0}}, "not the checkpoint of a run"),
        ({"optimizer": {"state": {}, "param_groups": [3]}}, "damaged, or not a checkpoint"),
        ({"optimizer": []}, "damaged, or not a checkpoint"),
        ({"model": {first: torch.tensor(math.nan)}}, f"its model {first} holds numbers that are"),
        ({"digest": "0"}, "it has changed since it was written .*; start the run anew"),
    ):
        torch.save(whole | change, path)
        with pytest.raises(CifarError, match=complaint) if complaint else nullcontext():
            RunFolder(tmp_path).state(RECIPE)

import copy
import hashlib
import json
import os
import pickle
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cifar_utils import checkpoints, data
from cifar_utils.checkpoints import WeightsInfo
from cifar_utils.data import CLASSES
from cifar_utils.errors import CifarError
from cifar_utils.evaluate import accuracy, predict
from cifar_utils.history import History
from cifar_utils.models import MODELS, build, create_model
from cifar_utils.recipes import RECIPES

INFO = WeightsInfo(RECIPES["compact"], "synthetic", epoch=3)


@pytest.mark.parametrize("name", ["compact", "separable", "resnet18"])
def test_weights_come_back_equal_with_recipe_and_source(tmp_path, name):
    model = create_model(name, seed=1).to(memory_format=torch.channels_last).train()
    info = WeightsInfo(RECIPES[name], "cifar10", epoch=7)
    checkpoints.save_weights(tmp_path / "deep" / "w.safetensors", model, info)
    loaded, found = checkpoints.load_weights(tmp_path / "deep" / "w.safetensors")
    assert found == info and not loaded.training
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
    with safe_open(tmp_path / "deep" / "w.safetensors", framework="pt") as file:
        inside = json.loads(file.metadata()["cifar_utils"])
    assert inside["recipe"]["name"] == name and inside["source"] == "cifar10"


@pytest.mark.parametrize("wrap", [partial(torch.compile, backend="eager"), torch.nn.DataParallel])
def test_a_wrapped_network_is_written_under_plain_names(tmp_path, wrap):
    model = create_model("compact", seed=1)
    checkpoints.save_weights(tmp_path / "plain.safetensors", model, INFO)
    wrapped = torch.nn.DataParallel(wrap(model))
    checkpoints.save_weights(tmp_path / "wrapped.safetensors", wrapped, INFO)
    plain, other = ((tmp_path / f"{n}.safetensors").read_bytes() for n in ("plain", "wrapped"))
    assert plain == other
    save_file(wrapped.state_dict(), tmp_path / "names.safetensors")  # as others would write it
    loaded, _ = checkpoints.load_weights(tmp_path / "names.safetensors", model="compact")
    assert all(torch.equal(v, model.state_dict()[n]) for n, v in loaded.state_dict().items())


def test_equal_weights_give_equal_bytes(tmp_path):
    for name, memory in (("a", torch.channels_last), ("b", torch.contiguous_format)):
        model = create_model("compact", seed=1).to(memory_format=memory)
        checkpoints.save_weights(tmp_path / name, model, INFO)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_half_precision_files_load_as_float32(tmp_path):
    model = create_model("compact", seed=1)
    checkpoints.save_weights(tmp_path / "w.safetensors", model.half(), INFO)
    loaded, _ = checkpoints.load_weights(tmp_path / "w.safetensors")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_a_runs_folder_stands_for_its_weights(tmp_path):
    checkpoints.save_weights(tmp_path / "weights.safetensors", create_model("compact"), INFO)
    assert checkpoints.find_weights(str(tmp_path))[1] == INFO


def test_other_class_counts_come_back(tmp_path):
    info = WeightsInfo(RECIPES["compact"], "folder", ("ant", "bee"))
    checkpoints.save_weights(tmp_path / "w.safetensors", create_model("compact", 2), info)
    model, found = checkpoints.load_weights(tmp_path / "w.safetensors")
    assert found.classes == ("ant", "bee") and model.classifier[-1].out_features == 2


def test_files_that_are_no_weights_are_refused_in_one_line(tmp_path):
    (tmp_path / "noise.safetensors").write_bytes(b"\x00" * 40)
    (tmp_path / "empty.safetensors").touch()
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    checkpoints.save_weights(tmp_path / "cut.safetensors", create_model("compact"), INFO)
    whole = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-100])
    wrong = WeightsInfo(RECIPES["vgg"], "cifar10")
    checkpoints.save_weights(tmp_path / "wrong.safetensors", create_model("compact"), wrong)
    for name, message in {"noise": "damaged, or not a weights file", "empty": "it is empty",
                          "other": "does not name its network", "cut": "damaged, or not a weights",
                          "wrong": "does not fit its own recipe",
                          "missing": "there is no such weights file; choose"}.items():  # fmt: skip
        with pytest.raises(ValueError, match=message) as caught:
            checkpoints.load_weights(tmp_path / f"{name}.safetensors")
        assert "\n" not in str(caught.value)


def test_loaded_networks_keep_their_recipes_dropout_and_spare_the_global_generator(tmp_path):
    recipe = RECIPES["compact"].changed(dropout_factor=0.5)
    model = build(recipe, CLASSES)
    checkpoints.save_weights(tmp_path / "w.safetensors", model, WeightsInfo(recipe, "cifar10"))
    before = torch.get_rng_state()
    loaded, _ = checkpoints.load_weights(tmp_path / "w.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    rates = [[layer.p for layer in network.modules() if isinstance(layer, torch.nn.Dropout)]
             for network in (model, loaded, create_model("compact"))]  # fmt: skip
    assert rates[0] == rates[1] != rates[2]


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_checkpoint_runs_no_code(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(pickle.dumps({"model": Bomb(tmp_path / "boom")}, 2))
    with pytest.raises(ValueError, match="damaged, or not a checkpoint"):
        checkpoints.load_checkpoint(tmp_path / "checkpoint.pt")
    torch.save({"model": Bomb(tmp_path / "boom")}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="damaged, or not a checkpoint"):
        checkpoints.load_checkpoint(tmp_path / "checkpoint.pt")
    assert not (tmp_path / "boom").exists()


def about(**changes):
    known = {"recipe": {}, "source": "x", "classes": list(CLASSES), "epoch": 1}
    return json.dumps(known | changes)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("not json", "damaged, or not a weights file"),
        ("[]", "damaged, or not a weights file"),
        ('{"recipe": {}}', "damaged, or not a weights file"),
        (about(recipe="compact"), "damaged, or not a weights file"),
        (about(recipe={"model": "alexnet"}), "unknown model 'alexnet'; choose one of vgg"),
        (about(recipe={"mood": 1}), "unknown recipe field 'mood'; a newer cifar_utils may know it"),
        (about(mood=1), "unknown field 'mood'; a newer cifar_utils may know it"),
        (about(source=3), "source cannot be 3; choose another file"),
        (about(epoch="3"), "epoch cannot be '3'; choose another file"),
        (about(classes=[1, 2]), r"classes cannot be \[1, 2\]"),
        (about(classes="abc"), "classes cannot be 'abc'"),
        (about(classes=["cat", "cat"]), r"classes cannot be \['cat', 'cat'\]"),
        (about(classes=[]), r"classes cannot be \[\]"),
        (about(digest="0"), r"has changed since it was written \(its digest differs\); choose"),
        (about(), "it does not fit its own recipe: features.0.0.0.weight is missing; choose"),
    ],
)
def test_weights_that_say_nonsense_about_themselves_are_refused(tmp_path, text, complaint):
    save_file({"weight": torch.zeros(1)}, tmp_path / "w.safetensors", {"cifar_utils": text})
    with pytest.raises(CifarError, match=rf"w\.safetensors: .*{complaint}") as refused:
        checkpoints.load_weights(tmp_path / "w.safetensors")
    assert str(refused.value).isprintable()
    with pytest.raises(CifarError):
        checkpoints.load_weights(tmp_path / "w.safetensors", model="compact")


def test_one_flipped_bit_is_noticed_and_files_without_a_digest_still_load(tmp_path):
    path = tmp_path / "w.safetensors"
    checkpoints.save_weights(path, create_model("compact", seed=1), INFO)
    with safe_open(path, framework="pt") as file:
        said = json.loads(file.metadata()["cifar_utils"])
    whole = path.read_bytes()
    for place in (-1, -1000, -500_000, whole.index(b'epoch\\": 3') + 9):
        damaged = bytearray(whole)
        damaged[place] ^= 4  # the epoch becomes 7
        path.write_bytes(damaged)
        with pytest.raises(CifarError, match=r"w\.safetensors: it has changed since .*; choose"):
            checkpoints.load_weights(path)
    del said["digest"]
    for values, complaint in ((load_file(path), ""), ({"x": torch.zeros(1)}, "does not fit")):
        save_file(values, path, {"cifar_utils": json.dumps(said)})
        with pytest.raises(CifarError, match=complaint) if complaint else nullcontext():
            assert checkpoints.load_weights(path)[1] == INFO


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, bad):
    model = create_model("compact", seed=1)
    torch.save(model.state_dict(), tmp_path / "plain.pt")
    checkpoints.load_weights(tmp_path / "plain.pt", model="compact")
    with torch.no_grad():
        model.classifier[-1].bias[3] = bad
    torch.save(model.state_dict(), tmp_path / "plain.pt")
    checkpoints.save_weights(tmp_path / "w.safetensors", model, INFO)
    for name in ("plain.pt", "w.safetensors"):
        with pytest.raises(
            CifarError, match=r"layer classifier\.\d\.bias holds numbers that are not"
        ):
            checkpoints.load_weights(tmp_path / name, model="compact")


@pytest.mark.parametrize("name", ["conv5", "compact", "separable"])
def test_plain_state_dicts_load_by_name_or_in_order(tmp_path, name, capsys):
    """Those of other code, too: here under names that torch's containers would give them."""
    model = create_model(name, seed=1).eval()
    images = torch.randn(2, 3, 32, 32)
    held = model.state_dict()
    foreign = {f"layer.{i}": value for i, value in enumerate(held.values())}
    *_, head, _ = foreign  # as a 1×1 convolution, which two of the five systems end with
    foreign[head] = foreign[head][:, :, None, None]
    forms = {
        "plain.pt": held,
        "wrapped.pth": {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in held.items()}},
        "checkpoint": {"net": {f"_orig_mod.{k}": v for k, v in held.items()}},
        "foreign.pt": foreign,
    }
    for file, form in forms.items():
        torch.save(form, tmp_path / file)
        loaded, info = checkpoints.load_weights(tmp_path / file, model=name)
        assert torch.equal(loaded(images), model(images)) and not loaded.training
        assert info.source == "unknown data" and info.classes == CLASSES
        assert ("order of its tensors" in capsys.readouterr().err) == (file == "foreign.pt")
    save_file(held, tmp_path / "plain.safetensors")
    loaded, _ = checkpoints.load_weights(tmp_path / "plain.safetensors", model=name)
    assert torch.equal(loaded(images), model(images))


def test_plain_files_that_do_not_fit_are_refused_in_one_line(tmp_path):
    model = create_model("compact", seed=1)
    torch.save(model.state_dict(), tmp_path / "plain.pt")
    torch.save(model, tmp_path / "whole.pt")
    torch.save({"model": Bomb(tmp_path / "boom")}, tmp_path / "bomb.pt")
    torch.save({}, tmp_path / "empty.pt")
    torch.save({0: torch.zeros(3)}, tmp_path / "numbers.pt")
    checkpoints.save_weights(tmp_path / "named.safetensors", model, INFO)
    for file, name, message in (
        ("plain.pt", "", "does not name its network; cifar test and predict take it with --model"),
        ("plain.pt", "conv5", "plain.pt: it does not fit conv5: it holds 41 tensors, conv5 has 18"),
        ("plain.pt", "lenet", "unknown model 'lenet'"),
        ("whole.pt", "compact", "holds no plain state dict"),
        ("bomb.pt", "compact", "holds no plain state dict"),
        ("empty.pt", "compact", "holds no plain state dict"),
        ("numbers.pt", "compact", "holds no plain state dict"),
        ("named.safetensors", "conv5", "holds weights of compact, not of conv5"),
        ("compact", "a/best.safetensors", "unknown model 'a/best.safetensors'; choose one of vgg"),
    ):
        with pytest.raises(CifarError, match=message) as caught:
            where = file if file == "compact" else tmp_path / file
            checkpoints.find_weights(where, model=name)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "boom").exists()


def test_weights_to_start_from_bring_all_but_a_head_for_other_classes(tmp_path, capsys):
    trained = create_model("compact", seed=1)
    torch.save(trained.state_dict(), tmp_path / "plain.pt")
    checkpoints.save_weights(tmp_path / "w.safetensors", trained, INFO)
    for file, classes, new in (
        ("w.safetensors", CLASSES, False),
        ("plain.pt", "abcdefghij", False),
        ("w.safetensors", "abcdefghij", True),
        ("plain.pt", "abc", True),
    ):
        recipe = RECIPES["compact"].changed(start_from=str(tmp_path / file))
        model = build(recipe, classes)
        first = copy.deepcopy(model.state_dict())
        checkpoints.start_from(model, recipe, classes)
        for name, value in model.state_dict().items():
            head = new and name.startswith("classifier.6.")
            assert torch.equal(value, (first if head else trained.state_dict())[name])
        assert ("the last layer starts anew" in capsys.readouterr().err) == new
    with pytest.raises(CifarError, match="holds weights of compact, not of conv5"):
        checkpoints.start_from(
            create_model("conv5"),
            recipe.changed(model="conv5", start_from=str(tmp_path / "w.safetensors")),
            CLASSES,
        )


def test_weights_for_another_network_than_the_recipe_says_are_one_line_and_change_nothing():
    model = create_model("conv5", seed=0)
    before = [weight.clone() for weight in model.state_dict().values()]
    recipe = RECIPES["compact"].changed(start_from="compact")
    with pytest.raises(CifarError, match="compact does not fit the network: "):
        checkpoints.start_from(model, recipe, CLASSES)
    assert all(map(torch.equal, before, model.state_dict().values()))


def test_a_failed_write_leaves_the_old_file(tmp_path):
    state = {"model": {"x": torch.ones(2)}, "scaler": {}, "precision": "fp32",
             "optimizer": {"state": {}, "param_groups": [{"params": [0], "lr": 0.1}]},
             "history": History(INFO.recipe, "npy").to_json()}  # fmt: skip
    checkpoints.save_checkpoint(tmp_path / "checkpoint.pt", state)
    with pytest.raises(TypeError, match="function has no digest"):
        checkpoints.save_checkpoint(tmp_path / "checkpoint.pt", {"epoch": lambda: 2})
    found = checkpoints.load_checkpoint(tmp_path / "checkpoint.pt")
    assert torch.equal(found["model"].pop("x"), state["model"].pop("x")) and found == state
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_pretrained_weights_are_checked_against_their_hash(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "PRETRAINED", tmp_path)
    path = tmp_path / "compact.safetensors"
    checkpoints.save_weights(path, create_model("compact"), INFO)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    History(INFO.recipe, "synthetic", sha256=digest).save(path.with_suffix(".json"))
    assert checkpoints.find_weights("compact")[1] == INFO
    monkeypatch.chdir(tmp_path)
    Path("compact").mkdir()  # a run of that name does not hide what ships, and has its own path
    assert checkpoints.find_weights("compact")[1] == INFO
    with pytest.raises(
        ValueError, match=r"compact.weights\.safetensors: there is no such weights file"
    ):
        checkpoints.find_weights("./compact")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="SHA-256"):
        checkpoints.load_pretrained("compact")
    with pytest.raises(ValueError, match=r"shipped networks: compact"):
        checkpoints.find_weights("alexnet")
    with pytest.raises(ValueError, match="unknown network 'vgg'; choose one of compact"):
        checkpoints.load_pretrained("vgg")


@pytest.mark.parametrize("name", checkpoints.pretrained_names())
def test_shipped_weights_load_and_say_what_they_are(name):
    model, info = checkpoints.load_pretrained(name)
    assert info.source == "cifar10" and info.recipe.model in MODELS
    assert load_file(checkpoints.PRETRAINED / f"{name}.safetensors").keys() == (
        model.state_dict().keys()
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["compact", "separable"])  # all of them would take minutes
def test_shipped_weights_reach_the_accuracy_that_their_history_tells(name):
    root = os.environ.get("CIFAR10_ROOT")
    if not root or data.official_folder(Path(root)) is None:
        pytest.skip("$CIFAR10_ROOT holds no official files")
    model, _ = checkpoints.load_pretrained(name)
    test = data.load(source="cifar10", validation=0).test
    reached = accuracy(predict(model, test.images), test.labels)
    told = History.load(checkpoints.PRETRAINED / f"{name}.json").test["top1"]
    assert reached == pytest.approx(told, abs=1e-3)


def test_a_path_that_is_not_in_utf8_is_named_as_such(tmp_path, trained):
    """The file is whole: only the library that opens it knows no such names."""
    path = tmp_path / os.fsdecode(b"K\xe4se.safetensors")
    try:
        path.write_bytes(Path(trained).read_bytes())
    except OSError:
        pytest.skip("this drive has no such names")
    with pytest.raises(CifarError, match="its path is not in UTF-8"):
        checkpoints.load_weights(path)

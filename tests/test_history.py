import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifar_utils.data import SOURCE_TITLES
from cifar_utils.errors import CifarError
from cifar_utils.history import Epoch, History
from cifar_utils.recipes import RECIPES, Recipe

number = st.floats(0, allow_infinity=False)
share = st.floats(0, 1)
epoch = st.builds(
    Epoch,
    epoch=st.just(0), lr=number, train_loss=number, train_accuracy=share,
    val_loss=st.none() | number, val_accuracy=st.none() | share, seconds=number,
    images_per_second=number,
)  # fmt: skip
histories = st.builds(
    History,
    recipe=st.sampled_from(list(RECIPES.values())),
    source=st.sampled_from(list(SOURCE_TITLES)),
    epochs=st.lists(epoch, max_size=5).map(
        lambda rows: tuple(replace(row, epoch=number) for number, row in enumerate(rows))
    ),
    train_images=st.integers(0, 50_000),
    device=st.text(max_size=9),
    test=st.none() | st.fixed_dictionaries({"top1": share, "per_class": st.just({"cat": None})}),
)


def rows(*accuracies):
    return tuple(
        Epoch(n, 0.1, 1.0, 0.5, value, value, 2.0, 9.0) for n, value in enumerate(accuracies)
    )


@given(histories)
def test_a_history_survives_json(tmp_path_factory, history):
    assert History.from_json(history.to_json()) == history
    path = tmp_path_factory.getbasetemp() / "history.json"
    history.save(path)
    assert History.load(path) == history


def test_the_file_is_one_object_with_recipe_source_and_epochs(tmp_path):
    history = History(Recipe(), "synthetic", rows(0.1, 0.4))
    history.save(tmp_path / "new" / "history.json")
    plain = json.loads((tmp_path / "new" / "history.json").read_text())
    assert plain["recipe"]["batch_size"] == 128 and plain["source"] == "synthetic"
    assert [row["val_accuracy"] for row in plain["epochs"]] == [0.1, 0.4]
    assert History.load(tmp_path / "new" / "history.json") == history


def test_best_is_the_first_of_the_highest_trained_epochs():
    assert History(Recipe(), "cifar10", rows(0.9, 0.4, 0.6, 0.6, 0.5)).best.epoch == 2
    assert History(Recipe(), "cifar10", rows(0.9)).best is None
    assert History(Recipe(), "cifar10", rows(0.9, None, None)).best is None


def test_a_run_on_the_stand_in_says_so_in_its_title():
    assert "not CIFAR-10" in History(Recipe("x"), "synthetic").title
    assert History(Recipe("x"), "cifar10").title == "x on CIFAR-10"


def test_a_row_reads_as_one_line():
    line = str(rows(0.1, 0.4567)[1])
    assert "45.67%" in line and "\n" not in line and "None" not in str(rows(0.1, None)[1])


def test_text_that_is_no_history_is_refused(tmp_path):
    for text in ("{}", "[]", "nonsense", '{"recipe": {"lr": 0}, "source": "x", "epochs": []}'):
        with pytest.raises(ValueError):
            History.from_json(text)
    with pytest.raises(ValueError, match="there is no such training history; restore it"):
        History.load(tmp_path / "history.json")
    (tmp_path / "history.json").write_text('{"recipe": ')  # cut short
    with pytest.raises(
        ValueError, match=r"history\.json: this is not a training history .*; restore it"
    ):
        History.load(tmp_path / "history.json")


def test_a_history_that_was_edited_says_so_and_loads_without_its_digest(tmp_path):
    path = tmp_path / "history.json"
    History(Recipe(), "synthetic", rows(0.1, 0.4)).save(path)
    path.write_text(path.read_text().replace("0.4", "0.5"))
    with pytest.raises(CifarError, match=r'has changed .* delete its line "digest"\); restore it'):
        History.load(path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if '"digest"' not in line))
    assert History.load(path).epochs[1].val_accuracy == 0.5


EPOCH = {"epoch": 0, "lr": 0.1, "train_loss": 2.0, "train_accuracy": 0.1, "val_loss": None,
         "val_accuracy": None, "seconds": 0, "images_per_second": 0}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"epochs": [EPOCH | {"epoch": "0"}]}, "epoch cannot be '0'"),
        ({"epochs": [EPOCH | {"epoch": True}]}, "epoch cannot be True"),
        ({"epochs": [EPOCH | {"train_accuracy": 7}]}, "train_accuracy cannot be 7"),
        ({"epochs": [EPOCH | {"train_loss": float("nan")}]}, "train_loss cannot be nan"),
        ({"epochs": [EPOCH | {"lr": -1}]}, "lr cannot be -1"),
        ({"epochs": [EPOCH | {"mood": 1}]}, "unknown field 'mood'; a newer cifar_utils may know"),
        ({"epochs": [EPOCH, EPOCH]}, "its epochs are not 0, 1, 2"),
        ({"epochs": 3}, "not a training history"),
        ({"source": ["x"]}, r"source cannot be \['x'\]"),
        ({"test": "good"}, "test cannot be 'good'"),
        ({"test": {"top1": 90}}, "the test accuracy top1 cannot be 90"),
        ({"test": {"top1": 0.9, "per_class": {"cat": "x"}}}, "test accuracy cat cannot be 'x'"),
        ({"recipe": None}, "not a training history"),
        ({"recipe": {"lr": 10**400}}, "lr is inf; it must be finite"),
        ({"earlier": [{"lrr": 1}]}, "unknown recipe field 'lrr'; did you mean lr"),
        ({"mood": "\x1b[2J"}, "unknown field 'mood'; a newer cifar_utils may know it"),
    ],
)
def test_a_history_of_the_wrong_form_is_refused(change, complaint):
    plain = {"recipe": {}, "source": "x", "epochs": [EPOCH], "test": {"top1": 0.9}}
    assert History.from_json(json.dumps(plain)).test == {"top1": 0.9}
    with pytest.raises(CifarError, match=complaint) as refused:
        History.from_json(json.dumps(plain | change))
    assert str(refused.value).isprintable()

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifar_utils.data import SOURCE_TITLES
from cifar_utils.history import Epoch, History
from cifar_utils.recipes import RECIPES, Recipe

number = st.floats(allow_nan=False, allow_infinity=False)
epoch = st.builds(
    Epoch,
    epoch=st.integers(0, 1000), lr=number, train_loss=number, train_accuracy=number,
    val_loss=st.none() | number, val_accuracy=st.none() | number, seconds=number,
    images_per_second=number,
)  # fmt: skip
histories = st.builds(
    History,
    recipe=st.sampled_from(list(RECIPES.values())),
    source=st.sampled_from(list(SOURCE_TITLES)),
    epochs=st.lists(epoch, max_size=5).map(tuple),
    train_images=st.integers(0, 50_000),
    device=st.text(max_size=9),
    test=st.none() | st.fixed_dictionaries({"top1": number, "per_class": st.just({"cat": None})}),
)


def rows(*accuracies):
    return tuple(
        Epoch(n, 0.1, 1.0, 0.5, value, value, 2.0, 9.0) for n, value in enumerate(accuracies)
    )


@given(histories)
def test_a_history_survives_json(history):
    assert History.from_json(history.to_json()) == history


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
    with pytest.raises(ValueError, match="there is no history at"):
        History.load(tmp_path / "history.json")
    (tmp_path / "history.json").write_text('{"recipe": ')  # cut short
    with pytest.raises(ValueError, match=r"history.json: this is not a training history"):
        History.load(tmp_path / "history.json")

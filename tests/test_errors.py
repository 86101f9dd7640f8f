"""What an error says: on one line, and which of the valid names was probably meant."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cifar_utils.augment import AUGMENTATIONS
from cifar_utils.errors import CifarError, choose, nearest, plain, shown, whole
from cifar_utils.machine import DEVICES
from cifar_utils.models import MODELS
from cifar_utils.recipes import RECIPES

NAMES = [*RECIPES, *MODELS, *AUGMENTATIONS]


@pytest.mark.parametrize(
    ("typed", "choices", "meant"),
    [
        ("compcat", RECIPES, "compact"),
        ("resnet", RECIPES, "resnet18"),  # the first of the shortest
        ("compact_publ", RECIPES, "compact-published"),
        ("compact", ["compact-val", "compact"], "compact"),
        ("gpu", DEVICES, None),  # not the cpu
        ("co", RECIPES, None),
        ("", RECIPES, None),
        ("lenet", [], None),
    ],
)
def test_what_was_meant_is_what_begins_so_or_is_spelt_so(typed, choices, meant):
    assert nearest(typed, choices) == meant


@given(st.sampled_from(NAMES), st.data())
def test_one_slip_of_a_finger_still_finds_a_long_name(name, data):
    """A letter left out or doubled, or two that changed places."""
    place = data.draw(st.integers(0, len(name) - 2))
    before, one, two, after = name[:place], name[place], name[place + 1], name[place + 2 :]
    typed = data.draw(
        st.sampled_from([before + two + after, before + one + one + two + after,
                         before + two + one + after])
    )  # fmt: skip
    others = [other for other in NAMES if other[0] != name[0] and abs(len(other) - len(name)) > 1]
    if len(name) > 4:
        assert nearest(typed.upper().replace("-", "_"), [*others, name]) == name


def test_the_choices_may_be_numbers():
    choose(6, (1, 2, 6), "views")
    with pytest.raises(CifarError, match=r"^unknown views 26; choose one of 1, 2, 6$"):
        choose(26, (1, 2, 6), "views")


@given(st.text())
def test_foreign_text_is_one_line_that_can_be_printed_and_read_back(text):
    line = shown(text)
    assert line.isprintable()
    assert len(line.splitlines()) <= 1
    assert str(CifarError(text)) == line
    if "\\" not in text:  # a backslash is printable, so it stays as it is
        assert line.encode("latin-1", "backslashreplace").decode("unicode_escape") == text


def test_ordinary_names_are_shown_as_they_are():
    for name in ("airplane", "schräg", "日本語", "e\u0301", "two words", "a_b$c", "<b>"):
        assert shown(name) == name


@pytest.mark.parametrize("three", [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3)])
def test_a_whole_number_may_be_numpys_or_torchs(three):
    assert whole(three, "count") == 3 and type(whole(three, "count")) is int


@pytest.mark.parametrize(
    "odd", [3.0, np.float64(3), True, np.True_, "3", None, float("nan"), -1, 10, [3], np.array([3])]
)
def test_what_is_not_a_whole_number_in_the_range_is_refused(odd):
    with pytest.raises(CifarError, match=r"count is .*; it must be a whole number in 0 to 9"):
        whole(odd, "count", most=9)


def test_plain_values_are_pythons():
    for value, kind in ((np.float32(0.5), float), (np.bool_(True), bool), (np.str_("a"), str)):
        assert type(plain(value)) is kind
    for other in ("a", None, [1], np.arange(3)):
        assert plain(other) is other

"""Names with anything in them: one printable line."""

import pytest

from cifar_utils.errors import CifarError, choose

NASTY = ["a\nb", "\x1b[2J", "\x1b]0;title\x07", "\u202egnp.exe", "\ud800", "\x00", "\r", "\x9b31m"]


@pytest.mark.parametrize("name", NASTY, ids=ascii)
def test_a_name_that_is_refused(name):
    with pytest.raises(CifarError) as refused:
        choose(name, ["compact"], name)
    assert str(refused.value).isprintable()

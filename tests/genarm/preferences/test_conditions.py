"""COLUMN=VALUE as a command line writes it."""

import pytest

from genarm.errors import InvalidArgumentError
from genarm.preferences.rows import conditions


def test_a_condition_is_split_at_its_first_equals_sign():
    assert conditions(["objective=art", "note=a=b", "split="]) == {"objective": "art", "note": "a=b", "split": ""}
    assert conditions([]) == {}


@pytest.mark.parametrize("text", ["objective", "=art", ""])
def test_what_is_no_condition_is_refused(text):
    with pytest.raises(InvalidArgumentError, match="write COLUMN=VALUE"):
        conditions([text])


def test_a_column_has_one_value():
    with pytest.raises(InvalidArgumentError, match="'a' twice"):
        conditions(["a=1", "b=1", "a=2"])

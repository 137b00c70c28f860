"""Random lives of a store: a short one, and one of two minutes. `make soak MINUTES=n` runs longer ones."""

import pytest

from .soak import live


@pytest.mark.long
def test_a_short_life_agrees_with_a_dictionary_and_leaves_nothing_behind(tmp_path):
    done = live(tmp_path, seed=3, steps=25, largest=600)
    assert done["steps"]["add"] >= 3


@pytest.mark.torture
def test_two_minutes_of_lives(tmp_path):
    done = live(tmp_path, seed=1, seconds=120)
    assert done["steps"]["killed"] and done["steps"]["fault"]

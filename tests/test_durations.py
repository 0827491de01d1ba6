"""The fast selection of the tests names tests that exist, and keeps some of each module."""

import json

from support.durations import FILE, functions


def test_every_name_is_that_of_a_test():
    stale = json.loads(FILE.read_text()).keys() - functions()
    assert not stale, "tests were renamed: measure again, or rename them in tests/durations.json"

"""No check accepts a solution with one thing changed, unless it computes the same."""

import pytest
from mutants import EQUIVALENT, EXERCISES, mutants_of, try_mutants, without_parentheses

AT_MOST = 100


@pytest.mark.parametrize("name", EXERCISES)
def test_mutants_are_rejected(name):
    """Some solutions have a thousand: `python tests/course/mutants.py` tries all of them."""
    tried, equivalent, wrong = try_mutants(name, AT_MOST)
    assert wrong == []
    assert tried >= 19
    lines = [without_parentheses(m.line) for m in mutants_of(EXERCISES[name].solution)]
    known = {without_parentheses(line) for line in EQUIVALENT.get(name, {})}
    assert known <= set(lines), "an entry of EQUIVALENT is no mutant any more"
    if tried == len(lines):
        assert len(equivalent) == len(known), "an entry of EQUIVALENT is rejected now"
    else:
        assert len(equivalent) <= len(known)

"""No check accepts a solution with one thing changed, unless it computes the same."""

import pytest
from mutants import EQUIVALENT, EXERCISES, mutants_of, try_mutants

AT_MOST = 100


@pytest.mark.parametrize("name", EXERCISES)
def test_mutants_are_rejected(name):
    """Some solutions have a thousand: `python tests/course/mutants.py` tries all of them."""
    tried, equivalent, wrong = try_mutants(name, AT_MOST)
    assert wrong == []
    assert tried >= 19
    known = len(EQUIVALENT.get(name, {}))
    if tried == len(list(mutants_of(EXERCISES[name].solution))):
        assert len(equivalent) == known, "an entry of EQUIVALENT is no mutant any more"
    else:
        assert len(equivalent) <= known

"""No check accepts a solution with one thing changed, unless it computes the same."""

import pytest
from mutants import EQUIVALENT, EXERCISES, try_mutants


@pytest.mark.parametrize("name", EXERCISES)
def test_mutants_are_rejected(name):
    tried, equivalent, wrong = try_mutants(name)
    assert wrong == []
    assert tried >= 19
    assert len(equivalent) == len(EQUIVALENT.get(name, {})), (
        "an entry of EQUIVALENT is no mutant any more"
    )

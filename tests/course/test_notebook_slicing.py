"""The slicer that shortens a lesson to what its exercises need."""

from notebook_slicing import needed_cells


def test_what_an_answer_needs_and_what_depends_on_it():
    cells = [
        "import torch\nfrom somewhere import checks, plot",  # 0: needed by 2 and 6
        "guess = None",
        "torch.manual_seed(0)\nx = torch.rand(3)",  # 2: needed by 6
        "plot(x)",
        "x[0] = 1",  # 4: changes x
        "def my_double(x):\n    raise NotImplementedError",  # 5
        "checks.double(my_double)\nmine = my_double(x)",  # 6
        "y = x + 1\nplot(y)",
        "plot(mine)",  # 8: depends on the answer
        "x.sort()",  # too late to matter
        "print(2 * guess)",
    ]
    assert needed_cells(cells) == [0, 2, 4, 5, 6, 8]


def test_a_seed_counts_where_only_the_module_is_named():
    cells = ["import torch", "torch.manual_seed(3)", "torch.relu(0)", "my_x = torch.rand(2)"]
    assert needed_cells(cells) == [0, 1, 3]


def test_a_change_by_a_method_counts():
    cells = ["model = 1", "model.eval()", "other.eval()", "my_f(model)"]
    assert needed_cells(cells) == [0, 1, 3]


def test_a_change_in_place_needs_the_value_before():
    cells = ["found = {}", "other = {}", "found |= my_f()"]
    assert needed_cells(cells) == [0, 2]


def test_names_that_are_given_anew_no_longer_depend_on_an_answer():
    answer = "def my_f(x):\n    y = x\n    return y"
    cells = [answer, "z = my_f(1)", "y = 2", "z = 3", "print(y, z)"]
    assert needed_cells(cells) == [0, 1]

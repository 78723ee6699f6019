"""Whether a detector was trained for the categories of a data set: labels alone do not tell."""

from collections.abc import Mapping


def describe_difference(trained: Mapping[int, str], data: Mapping[int, str]) -> str:
    """Say which category of a data set a detector was not trained for.

    Args:
        trained: {label: name} of the detector, which may have more categories than the data.
        data: {label: name} of the data set.

    Returns:
        A clause about the lowest such label; empty if there is none.
    """
    unknown = sorted(label for label, name in data.items() if trained.get(label) != name)
    if not unknown:
        return ""
    label = unknown[0]
    instead = f": its category {label} is {trained[label]}" if label in trained else ""
    names = ", ".join(list(trained.values())[:10]) + (", ..." if len(trained) > 10 else "")
    return (
        f"the data set has the category {label} ({data[label]}), which this detector was not "
        f"trained for{instead}; it knows {len(trained)}: {names}"
    )

"""The exercise of lesson 14 about threads: which ways of sharing the work write to one place?"""

from ddetr_edu.course.choice import Choice

WORDS = {
    "none": "no two threads ever write the same number",
    "output": "two threads may write the same number of the output",
    "value": "two threads may write the same number of value",
    "grad_value": "two threads may write the same number of the gradient of value",
    "grad_locations": "two threads may write the same number of the gradient of the locations",
}
BACKWARD = "the backward pass computes no output, but three gradients"
FORWARD = "the forward pass writes no gradient"
VALUE = "value is read only, in both passes"

conflicts = Choice(
    name="conflicts",
    solution={
        "forward, by queries": "none",
        "forward, by points": "output",
        "forward, by channels": "none",
        "backward, by queries": "grad_value",
        "backward, by heads": "none",
        "backward, by levels": "none",
        "backward, by channels": "grad_locations",
    },
    words=WORDS,
    against={
        ("forward, by queries", "value"): VALUE,
        ("forward, by queries", "output"): "which numbers of the output belong to a query?",
        ("forward, by queries", "grad_value"): FORWARD,
        ("forward, by queries", "grad_locations"): FORWARD,
        ("forward, by points", "value"): VALUE,
        ("forward, by points", "none"): "how many points go into one sum?",
        ("forward, by points", "grad_value"): FORWARD,
        ("forward, by points", "grad_locations"): FORWARD,
        ("forward, by channels", "value"): VALUE,
        ("forward, by channels", "output"): "does a number of the output have two channels?",
        ("forward, by channels", "grad_value"): FORWARD,
        ("forward, by channels", "grad_locations"): FORWARD,
        ("backward, by queries", "value"): VALUE,
        ("backward, by queries", "none"): "may two queries sample close to the same pixel?",
        ("backward, by queries", "output"): BACKWARD,
        ("backward, by queries", "grad_locations"): (
            "a location belongs to one query, and so does its gradient"
        ),
        ("backward, by heads", "value"): VALUE,
        ("backward, by heads", "output"): BACKWARD,
        ("backward, by heads", "grad_value"): (
            "which channels of a token does a head read, and which does another head?"
        ),
        ("backward, by heads", "grad_locations"): (
            "a location belongs to one head, and so does its gradient"
        ),
        ("backward, by levels", "value"): VALUE,
        ("backward, by levels", "output"): BACKWARD,
        ("backward, by levels", "grad_value"): "does a point on one level read tokens of another?",
        ("backward, by levels", "grad_locations"): (
            "a location lies on one level; the locations have an axis L"
        ),
        ("backward, by channels", "value"): VALUE,
        ("backward, by channels", "none"): (
            "one of the gradients is a sum over the channels: which one has no axis D?"
        ),
        ("backward, by channels", "output"): BACKWARD,
        ("backward, by channels", "grad_value"): (
            "value has an axis D, so each channel of its gradient has a thread of its own"
        ),
    },
)

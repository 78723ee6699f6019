"""The exercise of lesson 16 about five profiles: which change would gain most?

Whoever is about to do it should not read on: the answers are computed below.
"""

from collections.abc import Callable
from dataclasses import replace

from ddetr_edu.course.choice import Choice
from ddetr_edu.course.step_profiles import BANDWIDTH, CALL, PEAK, PROFILES, Kind, Profile

PRODUCTS = ("convolutions", "linear layers")
BATCH = 8  # of the change "larger batch"
LEAST = Kind(12, 3.9, 0.55, 0)  # sampling of one image by a kernel of one pass; its time is unknown
Kinds = dict[str, Kind]


def precision(profile: Profile) -> str:
    """What the convolutions were computed in: no other can be faster than the peak of fp32."""
    kind = profile.kinds["convolutions"]
    in_fp32 = 1000 * kind.gflop / kind.milliseconds <= PEAK["fp32"]
    return "fp32" if in_fp32 else "bf16"


def limit(name: str, kind: Kind, dtype: str) -> float:
    """The least milliseconds for some calls: of launching, computing and moving, the longest.

    Args:
        name: Of the kind of operation.
        kind: What it has to do.
        dtype: "fp32" or "bf16", of the products.

    Returns:
        Milliseconds.
    """
    peak = PEAK[dtype] if name in PRODUCTS else PEAK["fp32"]
    return 1000 * max(kind.calls * CALL, kind.gflop / peak, kind.gigabytes / BANDWIDTH)


def scaled(kind: Kind, calls: float = 1, gflop: float = 1, gigabytes: float = 1) -> Kind:
    """A kind of operation with more or less to do.

    Args:
        kind: What it has to do now.
        calls: The factor of the calls.
        gflop: The factor of the FLOPs.
        gigabytes: The factor of the bytes.

    Returns:
        What it would have to do.
    """
    return replace(
        kind,
        calls=max(1, round(kind.calls * calls)),
        gflop=kind.gflop * gflop,
        gigabytes=kind.gigabytes * gigabytes,
    )


def _bf16(profile: Profile) -> Kinds:
    if precision(profile) == "bf16":
        return profile.kinds
    return {
        name: scaled(kind, gigabytes=0.5) if name in PRODUCTS else kind
        for name, kind in profile.kinds.items()
    }


def _attention_kernel(profile: Profile) -> Kinds:
    least = replace(
        LEAST, gflop=LEAST.gflop * profile.images, gigabytes=LEAST.gigabytes * profile.images
    )
    now = profile.kinds["sampling"]
    better = limit("sampling", least, "fp32") < limit("sampling", now, "fp32")
    return {**profile.kinds, "sampling": least if better else now}


def _change_of(name: str, **factors: float) -> Callable[[Profile], Kinds]:
    return lambda profile: {**profile.kinds, name: scaled(profile.kinds[name], **factors)}


def _larger_batch(profile: Profile) -> Kinds:
    more = BATCH / profile.images
    return {name: scaled(k, gflop=more, gigabytes=more) for name, k in profile.kinds.items()}


CHANGES: dict[str, Callable[[Profile], Kinds]] = {  # what there would be to do after a change
    "bf16": _bf16,
    "attention kernel": _attention_kernel,
    "fusion": _change_of("norms and additions", calls=1 / 3, gigabytes=1 / 3),
    "larger batch": _larger_batch,
    "more workers": lambda profile: profile.kinds,
    "smaller backbone": _change_of("convolutions", calls=0.5, gflop=0.5, gigabytes=0.5),
    "checkpointing": lambda profile: profile.kinds,
}


def gain(profile: Profile, change: str) -> float:
    """How many times as many images a second a detector computes after a change.

    The measured time of each kind of operation changes as its limit does.

    Args:
        profile: As measured.
        change: One of `CHANGES`.

    Returns:
        The speed-up of the whole.
    """
    before = precision(profile)
    after = "bf16" if change == "bf16" else before
    images = BATCH if change == "larger batch" else profile.images
    computing = sum(kind.milliseconds for kind in profile.kinds.values())
    waiting = (profile.step - computing) / profile.images * images  # for the images, which take
    if change == "more workers":  # as long to load, whatever becomes of them
        waiting = 0
    total = waiting + sum(
        profile.kinds[name].milliseconds
        * limit(name, kind, after)
        / limit(name, profile.kinds[name], before)
        for name, kind in CHANGES[change](profile).items()
    )
    return profile.step / total * images / profile.images


WORDS = {
    "bf16": "compute convolutions and linear layers in bf16",
    "attention kernel": "sample and add up in one pass",
    "fusion": "join norms and additions that follow each other, as torch.compile does",
    "larger batch": f"compute {BATCH} images together",
    "more workers": "load images in further processes, while the model computes",
    "smaller backbone": "take a backbone with half as many layers",
    "checkpointing": "keep fewer activations, and compute them again in the backward pass",
}
LOOK = {  # where to look
    "A": "add up its four times, and compare the sum with the step",
    "B": "work out the three limits of each row: which of them is near the measured time?",
    "C": "compare its rows with those of A, which computes the same model: what differs by far?",
    "D": "work out which limit each row has; what can lift that of its two longest rows?",
    "E": "work out how many GFLOP/s its convolutions attain, and compare them with both peaks",
}


def best_change(profile: Profile) -> str:
    """The change that gains most."""
    return max(CHANGES, key=lambda change: gain(profile, change))


SOLUTION = {detector: best_change(profile) for detector, profile in PROFILES.items()}


def _against(detector: str, change: str) -> str:
    if change == "checkpointing":
        return f"it saves memory in training, and never time; {LOOK[detector]}"
    gained = gain(PROFILES[detector], change)
    what = (
        "would gain nothing here" if gained < 1.005 else f"would make it {gained:.2f} times as fast"
    )
    return f"it {what}, and another change gains more; {LOOK[detector]}"


bottlenecks = Choice(
    "bottlenecks",
    SOLUTION,
    WORDS,
    {
        (detector, change): _against(detector, change)
        for detector in PROFILES
        for change in CHANGES
        if change != SOLUTION[detector]
    },
)

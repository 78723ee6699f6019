"""A claim, the trial that measures it, and the verdict that follows from the numbers.

A trial is an ordinary function. It runs an implementation, compares what comes out with what the
claim says, and returns a verdict with the numbers in it. The implementation is an argument, the
library's unless another is given: a trial that says the same of every implementation tests nothing.
"""

import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

HOLDS, CONDITION, WRONG = "holds", "condition", "wrong"
WORDS = (HOLDS, CONDITION, WRONG)  # "condition": it holds with a condition that it does not name
WIDTH = 76  # of what is printed


class Verdict(NamedTuple):
    """What a trial found."""

    word: str  # one of WORDS
    because: str  # a sentence or two with the numbers that were measured


@dataclass(frozen=True)
class Claim:
    """A statement that circulates, and what decides whether it is true."""

    number: int
    statement: str
    trial: Callable[..., Verdict]


def decide(holds: bool, because: str, on_condition: bool = False) -> Verdict:
    """Turn what was measured into a verdict.

    Args:
        holds: Whether the claim is right as it is stated.
        because: The numbers, in a sentence that is true whatever the verdict.
        on_condition: Whether it is right under a condition that it does not state.

    Returns:
        The verdict.
    """
    return Verdict(HOLDS if holds else CONDITION if on_condition else WRONG, because)


def agrees(stated: str, measured: float) -> bool:
    """Whether a number that somebody has written down is the measured one, rounded as written.

    Args:
        stated: Such as "27.0" or "19,891", with as many digits as the writer vouches for.
        measured: What it should be.

    Returns:
        True if rounding the measured number to as many decimals gives the stated one.
    """
    stated = stated.replace(",", "")
    _, _, decimals = stated.partition(".")
    return round(measured, len(decimals)) == float(stated)


def list_claims(claims: Iterable[Claim]) -> None:
    """Print claims with their numbers.

    Args:
        claims: In the order to print.
    """
    for claim in claims:
        print(_indented(f"{claim.number:2}  {claim.statement}"))


def try_claims(claims: Iterable[Claim]) -> dict[int, Verdict]:
    """Put claims on trial.

    Args:
        claims: In any order.

    Returns:
        The verdict on each, by the claim's number.
    """
    return {claim.number: claim.trial() for claim in claims}


def list_verdicts(verdicts: Mapping[int, Verdict], votes: Mapping[int, str | None]) -> None:
    """Print verdicts with their reasons and, where somebody has voted, the vote.

    Args:
        verdicts: By the claim's number.
        votes: Likewise, a word or None.
    """
    for number, (word, because) in verdicts.items():
        vote = read_vote(votes.get(number))
        yours = f" (your vote: {vote})" if vote else ""
        print(_indented(f"{number:2}  {word.upper()}{yours}. {because}"))


def count_right(verdicts: Mapping[int, Verdict], votes: Mapping[int, str | None]) -> str:
    """Say how many votes agree with the verdicts.

    Args:
        verdicts: By the claim's number.
        votes: Likewise, a word or None.

    Returns:
        Such as "7 of 8 votes agree with the verdict".
    """
    given = {n: vote for n in verdicts if (vote := read_vote(votes.get(n)))}
    if not given:
        return f"no votes on these {len(verdicts)} claims"
    right = sum(vote == verdicts[n].word for n, vote in given.items())
    return f"{right} of {len(given)} votes agree with the verdict"


def read_vote(vote: str | None) -> str | None:
    """Read a vote, in any case and as short as one letter.

    Args:
        vote: What was written, or None.

    Returns:
        One of WORDS, or None for no vote.

    Raises:
        ValueError: If it is no word that a verdict can have.
    """
    if vote is None:
        return None
    short = vote.strip().lower()
    chosen = [word for word in WORDS if short and word.startswith(short)]
    if not chosen:
        raise ValueError(f'"{vote}" is no vote; write one of {", ".join(WORDS)}')
    return chosen[0]


def _indented(text: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent="    ")

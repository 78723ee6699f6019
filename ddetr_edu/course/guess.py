"""A learner's guess beside what was measured."""

from ddetr_edu.course.feedback import format_number


def compare_guess(guess: object, measured: float | str | bool, unit: str = "") -> None:
    """Print a guess and the measured value side by side; without a guess, the value alone.

    Args:
        guess: A number or a word, or None if nothing was guessed.
        measured: What is right.
        unit: What follows a number, with its space if it has one: " pixels", "%", " times".
    """
    right = f"measured: {_written(measured, unit)}"
    if guess is None:
        print(f"{right}   (you made no guess)")
        return
    print(f"your guess: {_written(guess, unit)}   {right}   {_verdict(guess, measured)}")


def _written(value: object, unit: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return (
            f"{format_number(float(value), 3) if isinstance(value, float) else f'{value:,}'}{unit}"
        )
    return str(value)


def _verdict(guess: object, measured: object) -> str:
    """How near a guess is, in a few words."""
    if isinstance(guess, (int, float)) and isinstance(measured, (int, float)):
        if guess == measured:
            return "exactly right"
        if abs(guess - measured) <= 0.05 * abs(measured):
            return "very near"
        if guess * measured > 0 and not isinstance(measured, bool):
            ratio = max(guess / measured, measured / guess)
            return f"a factor of {format_number(float(ratio), 2)} apart"
        return "not the same"
    same = str(guess).strip().lower() == str(measured).strip().lower()
    return "exactly right" if same else "not the same"

"""Generate docs/results.md from the files in benchmarks/results/.

uv run python benchmarks/results_page.py
"""

import argparse
from pathlib import Path

import results_speed
import results_training

PAGE = Path(__file__).parents[1] / "docs" / "results.md"


def page() -> str:
    """The whole page."""
    introduction = (
        "Every figure on this page was written by a program of this repository, which is named\n"
        "beside it; none was written by hand."
    )
    sections = (
        results_training.from_scratch,
        results_training.ablation,
        results_training.ingredients,
        results_training.comparison,
        results_speed.training_speed,
        results_speed.attention_on_a_gpu,
        results_speed.training_on_a_gpu,
        results_speed.inference,
        results_speed.other_models,
        results_speed.resume,
        results_training.own_images,
    )
    parts = ["# Results", introduction, *(section() for section in sections)]
    return "\n\n".join(filter(None, parts)) + "\n"


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    PAGE.write_text(page())


if __name__ == "__main__":
    main()

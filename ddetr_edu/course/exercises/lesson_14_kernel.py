"""The ★★★ exercise of lesson 14: the loops of a C++ kernel, put into a better order.

An answer is a function that returns C++. It is compiled with numbers that note each read, so that
it is judged by what it computes and by the order in which it reads, and never by the clock.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ddetr_edu.attention.locations import SpatialShapes
from ddetr_edu.course.answers import describe
from ddetr_edu.course.check_result import CheckResult
from ddetr_edu.course.compiled_step import StepError, compiled_program, run_step, unavailable_reason
from ddetr_edu.course.exercise import UNTOUCHED, Cases, Exercise, Outcome
from ddetr_edu.course.exercises.lesson_14_mistakes import MISTAKES
from ddetr_edu.course.feedback import describe_error, is_untouched
from ddetr_edu.course.read_order import count_jumps

READS_PER_JUMP = 8  # at least; rows of 32 channels, each read to its end, have 32
MOST = 0.99  # of the reads that are needed; rounding may put a corner just outside its level
LOCATION_READS = 4  # at most, of each number; once is enough


def my_kernel():
    """() -> C++ that defines attend, reads rows in order and computes the geometry only once"""
    return r"""
#include "ladder.h"

void attend(const Sizes& s, const Number* value, const Number* locations, const Number* weights,
            float* output) {
  const int step = s.heads * s.channels;  // from a token to the next
  for (int n = 0; n < s.images; ++n)
    for (int q = 0; q < s.queries; ++q)
      for (int m = 0; m < s.heads; ++m) {
        const int row = (n * s.queries + q) * s.heads + m;
        float* sum = output + row * s.channels;
        for (int c = 0; c < s.channels; ++c) sum[c] = 0;
        for (int l = 0; l < s.levels; ++l) {
          const int height = s.height[l], width = s.width[l];
          const Number* map = value + (n * s.tokens + s.start[l]) * step + m * s.channels;
          for (int p = 0; p < s.points; ++p) {
            const int point = (row * s.levels + l) * s.points + p;
            const float x = locations[2 * point] * width - 0.5f;
            const float y = locations[2 * point + 1] * height - 0.5f;
            const int left = int(std::floor(x)), top = int(std::floor(y));
            const float weight = weights[point];
            for (int j = 0; j < 2; ++j)
              for (int i = 0; i < 2; ++i) {
                if (top + j < 0 || top + j >= height) continue;
                if (left + i < 0 || left + i >= width) continue;
                const float weight_x = i ? x - left : 1 - (x - left);
                const float weight_y = j ? y - top : 1 - (y - top);
                const float coef = weight * weight_x * weight_y;
                const Number* corner = map + ((top + j) * width + left + i) * step;
                for (int c = 0; c < s.channels; ++c) sum[c] += coef * corner[c];
              }
          }
        }
      }
}
"""


class KernelExercise(Exercise):
    """An exercise whose answer is a text of C++."""

    def check(self, answer: Callable) -> CheckResult:
        """Compile an answer, compare what it computes, and count how it reads.

        Args:
            answer: The learner's function, without arguments; it returns the text.

        Returns:
            Whether the answer passed, and a message for the learner. Without a compiler nothing is
            checked, and the message says so.
        """
        if not callable(answer):
            return CheckResult(
                False, "not yet: pass your function itself: checks.kernel(my_kernel)"
            )
        try:
            source = answer()
        except Exception as error:  # whatever it is, the learner should see it explained
            if is_untouched(answer, error):
                return CheckResult(False, UNTOUCHED, attempted=False)
            return CheckResult(False, f"not yet: {describe_error(answer, error)}")
        if not isinstance(source, str):
            missing = ": is a `return` missing?" if source is None else ""
            wanted = f"a text with C++ was expected{missing}"
            return CheckResult(
                False, f"not yet: your function returned {describe(source)}; {wanted}"
            )
        if problem := unavailable_reason():
            return CheckResult(
                False,
                f"not checked: this exercise needs a C++ compiler ({problem}); you may go on "
                "without it",
                attempted=False,
            )
        try:
            compiled_program(source, counting=True)
        except StepError as error:
            return CheckResult(False, f"not yet: {error}")
        result = super().check(answer)
        if not result.passed:
            return result
        problem, counted = judge_reads(source, self.cases())
        if problem:
            return CheckResult(
                False, f"not yet: {result.message.removeprefix('passed: ')}, {problem}"
            )
        return CheckResult(True, f"{result.message}; {counted}")

    def accepts(self, answer: Callable) -> bool:
        """Whether a function is a right answer.

        Args:
            answer: As of `check`.

        Returns:
            Whether it passes.
        """
        return self.check(answer).passed

    def _run(self, function: Callable, arguments: tuple) -> Tensor:
        """The output of the kernel that a function returns."""
        return run_step(function(), arguments, counting=True).output

    def _try(self, answer: Callable, arguments: tuple) -> Outcome:
        """Run an answer on one case."""
        try:
            result = self._run(answer, arguments)
        except StepError as error:
            return Outcome(None, str(error), type(error))
        return self._compare(result, arguments)

    def _describe_input(self, arguments: tuple) -> str:
        """The sizes of a case; its numbers would be too many."""
        return describe_sizes(arguments)

    def _how_to_try(self, case: str) -> str:
        """The code with which a learner runs a kernel on a case."""
        return f'run_step(my_{self.name}(), checks.{self.name}.cases()["{case}"]).output'


def describe_sizes(arguments: tuple) -> str:
    """The sizes of a case.

    Args:
        arguments: value, spatial shapes, locations and weights.

    Returns:
        One line.
    """
    value, shapes, locations, _ = arguments
    n_images, n_tokens, n_heads, channels = value.shape
    n_queries, n_points = locations.shape[1], locations.shape[4]
    return (
        f"N = {n_images}, S = {n_tokens}, M = {n_heads}, D = {channels}, Lq = {n_queries}, "
        f"levels {shapes}, P = {n_points}"
    )


def judge_reads(source: str, cases: Cases) -> tuple[str, str]:
    """Whether a right kernel reads rows in order, and each location only once or a few times.

    Args:
        source: Its C++.
        cases: Of which the last is counted: it has many channels.

    Returns:
        What is not good enough, empty if nothing is; and what was counted.
    """
    arguments = list(cases.values())[-1]
    ran = run_step(source, arguments, counting=True)
    value, shapes, locations, _ = arguments
    needed = corners_inside(shapes, locations) * value.shape[3]
    reads, jumps = len(ran.value_reads), count_jumps(ran.value_reads)
    each = ran.location_reads / locations.numel()
    times = "once" if each == 1 else f"{each:.3g} times"
    counted = f"of {reads:,} reads of value, {jumps:,} jump; each location is read {times}"
    if reads < MOST * needed:
        return f"but only {reads:,} of {needed:,} reads were seen; read value[i], nothing else", ""
    if reads > 2 * needed:
        return f"but value is read {reads:,} times, where {needed:,} are enough", ""
    if jumps * READS_PER_JUMP > reads:
        return (
            f"but not in order: of {reads:,} reads of value, {jumps:,} jump: their left neighbour "
            f"was not among the 8 reads before; at most one in {READS_PER_JUMP} should jump"
        ), ""
    if each > LOCATION_READS:
        return (
            f"and in order; but each location is read {times}: its geometry does not "
            "depend on the channel, so compute it before the loop over channels"
        ), ""
    return "", counted


def corners_inside(shapes: SpatialShapes, locations: Tensor) -> int:
    """How many corners of all sampling points lie inside their level.

    Args:
        shapes: (H, W) of each level.
        locations: (N, Lq, M, L, P, 2).

    Returns:
        The number.
    """
    count = 0
    for level, (height, width) in enumerate(shapes):
        x, y = (locations[:, :, :, level] * torch.tensor([width, height]) - 0.5).floor().unbind(-1)
        for row in (y, y + 1):
            for column in (x, x + 1):
                inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
                count += int(inside.sum())
    return count


def _inputs() -> Cases:
    sizes = {  # N, M, D, Lq, P, levels, how far beyond the border locations lie
        "one point inside the map": ((1, 1, 2, 1, 1), [(3, 5)], -0.2),
        "several points inside the map": ((1, 1, 3, 4, 2), [(5, 4)], -0.2),
        "points around the border": ((1, 1, 1, 7, 9), [(2, 3)], 0.3),
        "points far outside": ((1, 1, 4, 5, 6), [(4, 3)], 3.0),
        "two heads": ((1, 2, 5, 3, 4), [(3, 2)], 0.1),
        "three levels": ((1, 2, 3, 6, 2), [(5, 7), (3, 4), (2, 1)], 0.1),
        "two images": ((2, 1, 6, 2, 3), [(3, 5), (1, 2)], 0.1),
        "levels of one pixel": ((2, 3, 2, 5, 4), [(1, 1), (1, 1)], 0.4),
        "levels of one row and of one column": ((3, 2, 1, 4, 5), [(1, 7), (5, 1)], 0.2),
        "prime sizes": ((2, 5, 7, 11, 3), [(11, 13), (5, 7)], 0.1),
        "eight heads of 32 channels": ((2, 8, 32, 13, 4), [(6, 9), (3, 5), (2, 3), (1, 2)], 0.1),
    }
    generator = torch.Generator().manual_seed(14)
    cases: Cases = {}
    for name, ((n, m, d, lq, p), shapes, margin) in sizes.items():
        n_tokens = sum(height * width for height, width in shapes)
        points = (n, lq, m, len(shapes), p)
        value = torch.randn(n, n_tokens, m, d, generator=generator)
        locations = torch.rand(*points, 2, generator=generator) * (1 + 2 * margin) - margin
        weights = torch.rand(points, generator=generator)
        cases[name] = value, shapes, locations, weights
    return cases


def kernel_with(*changes: tuple[str, str]) -> Callable[[], str]:
    """The right kernel with some pieces replaced.

    Args:
        changes: Each a piece, and what stands in its place.

    Returns:
        A function like `my_kernel`.
    """

    def source() -> str:
        text = my_kernel()
        for old, new in changes:
            text = text.replace(old, new)
        return text

    return source


kernel = KernelExercise(
    my_kernel, _inputs, {what: kernel_with(*changes) for what, changes in MISTAKES.items()}
)

"""Lesson 16: its counts, its exercises in other styles, and its five profiles."""

import math
import re

import numpy as np
import pytest
import torch
from notebook_reading import LESSONS, read, text

from ddetr_edu import MSDeformAttn
from ddetr_edu.analysis.flops import count_flops
from ddetr_edu.attention import ms_deform_attn
from ddetr_edu.course import checks, solutions
from ddetr_edu.course.exercises import lesson_16_bottlenecks as bottlenecks
from ddetr_edu.course.step_profiles import BANDWIDTH, CALL, PEAK, PROFILES

(LESSON,) = [path for path in LESSONS if path.stem.startswith("16")]


def test_convolutions_have_the_flops_that_torch_counts():
    for shape, out_channels, kernel, stride in checks.conv_flops.cases().values():
        with torch.device("meta"):
            layer = torch.nn.Conv2d(shape[1], out_channels, kernel, stride, kernel // 2)
            image = torch.empty(shape)
        counted = count_flops(lambda layer=layer, image=image: layer(image))
        assert counted == solutions.conv_flops(shape, out_channels, kernel, stride)


def test_attention_has_the_flops_and_bytes_that_are_counted():
    for n, s, lq, m, l, p, d in checks.attention_flops.cases().values():
        if s < l:
            continue  # every level has a token at least
        shapes = [(1, s - l + 1), *[(1, 1)] * (l - 1)]
        with torch.device("meta"):
            module = MSDeformAttn(m * d, m, l, p)
            query, value = torch.empty(n, lq, m * d), torch.empty(n, s, m * d)
            reference = torch.empty(n, lq, l, 2)
            tensors = (
                torch.empty(n, s, m, d),
                torch.empty(n, lq, m, l, p, 2),
                torch.empty(n, lq, m, l, p),
            )
        layers, sampling, moved = solutions.attention_flops(n, s, lq, m, l, p, d)
        whole = count_flops(lambda: module(query, reference, value, shapes))  # noqa: B023
        assert whole == layers + sampling
        result = ms_deform_attn(tensors[0], shapes, *tensors[1:])
        assert moved == sum(tensor.nbytes for tensor in (*tensors, result))
        alone = count_flops(lambda: ms_deform_attn(tensors[0], shapes, *tensors[1:]))  # noqa: B023
        assert alone == sampling


@pytest.mark.parametrize(("dtype", "bits"), [(torch.bfloat16, 8), (torch.float16, 11)])
def test_rounding_to_bits_is_what_torch_does(dtype, bits):
    x = 300 * torch.rand(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1
    assert torch.equal(solutions.round_bits(x, bits), x.to(dtype).double())
    halves = torch.arange(1, 600, dtype=torch.float64) / 2  # many of them are ties
    assert torch.equal(solutions.round_bits(halves, bits), halves.to(dtype).double())


def test_right_answers_in_other_styles():
    def conv_by_shapes(shape, out_channels, kernel, stride):
        with torch.device("meta"):
            layer = torch.nn.Conv2d(shape[1], out_channels, kernel, stride, kernel // 2)
            result = layer(torch.empty(shape))
        return 2 * result.numel() * layer.weight[0].numel()

    def attention_by_loops(n, s, lq, m, l, p, d):
        layers = {"value": (s, m * d), "offsets": (lq, m * l * p * 2), "out": (lq, m * d)}
        layers["weights"] = (lq, m * l * p)
        linear = sum(n * rows * m * d * columns * 2 for rows, columns in layers.values())
        points = np.prod([n, lq, m, l, p])
        tensors = ((n, s, m, d), (n, lq, m, l, p, 2), (n, lq, m, l, p), (n, lq, m * d))
        return np.array([linear, points * 8 * d, sum(4 * math.prod(t) for t in tensors)])

    def speed_up_by_lists(seconds, factors):
        pairs = zip(seconds.tolist(), factors.tolist(), strict=True)
        return sum(seconds.tolist()) / sum(t / f for t, f in pairs)

    def rounded_by_loops(x, bits):
        found = []
        for number in x.tolist():
            if number == 0:
                found.append(0.0)
                continue
            step = 2.0 ** (math.floor(math.log2(abs(number))) + 1 - bits)
            found.append(round(number / step) * step)  # Python's round takes the even one, too
        return found

    def rounded_by_numpy(x, bits):
        mantissa, exponent = np.frexp(x.numpy())
        return np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits)

    for exercise, answer in [
        (checks.conv_flops, conv_by_shapes),
        (checks.attention_flops, attention_by_loops),
        (checks.speed_up, speed_up_by_lists),
        (checks.round_bits, rounded_by_loops),
        (checks.round_bits, rounded_by_numpy),
    ]:
        result = exercise.check(answer)
        assert result.passed, result.message


# The five profiles.


def test_each_profile_has_one_change_that_gains_most_by_far():
    assert len(set(bottlenecks.SOLUTION.values())) == len(PROFILES)
    for detector, profile in PROFILES.items():
        gains = {change: bottlenecks.gain(profile, change) for change in bottlenecks.CHANGES}
        first, second = sorted(gains.values(), reverse=True)[:2]
        assert first > 1.25 * second
        assert gains[bottlenecks.SOLUTION[detector]] == first


def test_measured_times_are_a_little_longer_than_their_limits():
    for profile in PROFILES.values():
        dtype = bottlenecks.precision(profile)
        for name, kind in profile.kinds.items():
            limit = bottlenecks.limit(name, kind, dtype)
            assert 0.75 * kind.milliseconds < limit < 0.95 * kind.milliseconds
        assert sum(kind.milliseconds for kind in profile.kinds.values()) < profile.step


def test_a_gain_can_be_worked_out_by_hand():
    profile = PROFILES["D"]
    times = torch.tensor([kind.milliseconds for kind in profile.kinds.values()])
    waiting = profile.step - times.sum()
    seconds = torch.cat([times, waiting[None]])
    factors = torch.tensor([2.0, 2.0, 1.0, 1.0, 1.0])  # all other limits are below half of these
    by_hand = solutions.speed_up(seconds, factors).item()
    assert bottlenecks.gain(profile, "bf16") == pytest.approx(by_hand, rel=1e-5)


def test_the_solution_states_the_gains_that_are_computed():
    prose = text(read(LESSON))
    rows = re.findall(
        r"^\| ([A-E]) \|.*\| ([\w ]+): ([\d.]+) times \| ([\w ]+): ([\d.]+) ", prose, re.M
    )
    assert len(rows) == len(PROFILES)
    for detector, first, gain, second, second_gain in rows:
        gains = {c: bottlenecks.gain(PROFILES[detector], c) for c in bottlenecks.CHANGES}
        best, next_best = sorted(gains, key=gains.get, reverse=True)[:2]
        assert (first, second) == (best, next_best)
        assert (gain, second_gain) == (f"{gains[best]:.2f}", f"{gains[next_best]:.2f}")


def test_the_text_states_the_machine_and_what_was_measured():
    prose = text(read(LESSON))
    assert f"{PEAK['fp32']:,} GFLOP/s in fp32 and {PEAK['bf16']:,} GFLOP/s in bf16" in prose
    assert f"up to {BANDWIDTH} GB/s, and needs {CALL * 1e6:.0f} microseconds" in prose
    a, b, e = (PROFILES[name] for name in "ABE")
    assert f"{sum(k.milliseconds for k in a.kinds.values()):.1f} of {a.step:.0f} ms" in prose
    calls = sum(kind.calls for kind in b.kinds.values())
    assert f"{calls} calls of 10 µs are {calls * CALL * 1000:.1f} of {b.step} ms" in prose
    convolutions = e.kinds["convolutions"]
    assert f"{1000 * convolutions.gflop / convolutions.milliseconds:,.0f} GFLOP/s" in prose


def test_a_wrong_word_is_answered_with_a_reason():
    for detector, right in bottlenecks.SOLUTION.items():
        for word in bottlenecks.WORDS:
            if word != right:
                passed, message, _ = checks.bottlenecks.check({detector: word})
                assert not passed
                assert f'{detector}: "{word}" is not it: ' in message
                reason = bottlenecks.bottlenecks.against[detector, word]
                assert right not in reason.split(";")[0]
    assert checks.bottlenecks.check(bottlenecks.SOLUTION).passed

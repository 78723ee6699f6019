"""The sections of docs/results.md about speed, on CPUs and GPUs, and about resuming."""

import statistics

from gpu_tables import CEILINGS, ceilings_table, gpu_table
from readme_table import machine_and_date
from results_tables import load, protocol, result_file, table


def training_speed() -> str:
    results = load("training_speed")
    rows = [
        [
            f"`{preset}`",
            " x ".join(map(str, case["batch_shape"])),
            case["steps_per_second"]["ours"],
            case["steps_per_second"]["theirs"],
            f"**{case['ratio']}x**",
            f"{case['max_difference']:.0e}",
        ]
        for preset, case in results["cases"].items()
    ]
    return f"""## Training speed compared with Hugging Face's

{table(["", "batch", "our steps/s", "their steps/s", "ratio", "largest difference"], rows)}

Whole training steps, in fp32 or with both sides under autocast to bf16. The two models have the
same configuration and parameters, get the same images and take turns. The difference is that of any
score or coordinate, in fp32. transformers {results["transformers"]}; {machine_and_date(results)}.
`python benchmarks/training_speed.py`

![Time of a training step, by phase](../benchmarks/results/training_speed.png)"""


def attention_on_a_gpu() -> str:
    results = load("gpu")
    found = results["ceilings"]
    errors = [
        [name, *(f"{error:.1e}" for error in of_type.values())]
        for name, of_type in results["errors"].items()
    ]
    header = ["", "output", "gradient of value", "gradient of locations", "gradient of weights"]
    sanitizers = ", ".join(f"{tool}: {said}" for tool, said in results["sanitizers"].items())
    return f"""## The attention on a GPU

{gpu_table(results, ("encoder", "decoder"), ("fp32", "bf16", "fp16"))}

Before it was timed, each implementation was compared with the definition in 64 bits on the same
input; those marked as inaccurate have an error above a few roundings of their type. Memory is the
most that a forward and a backward pass need at a time, beyond the inputs.

The largest relative errors of our kernel in the cases of `gpu.py --check`, whose shapes are odd and
whose points lie partly outside the image:

{table(header, errors)}

compute-sanitizer on these cases: {sanitizers}.

How long our kernel takes, and which share of that it would take if the GPU did nothing but
{", ".join(CEILINGS.values())}: copying every input and output once at
{found["copy_TB_s"]:.2f} TB/s, gathering the rows of four pixels for each point from the L1 cache at
{found["gather_TB_s"]:.1f} TB/s, and adding these rows to the gradient at {found["adds_G_s"]:.0f}
billion additions a second, all measured in the same run. A share above 100 % of adding is possible
because the kernel adds up what belongs to one pixel before it writes to memory, and a share above
100 % of copying because the inputs of the decoder stay in the L2 cache.

{ceilings_table(results)}"""


def training_on_a_gpu() -> str:
    results = load("gpu_training")
    large, small = results["r50"], results["tiny"][-1]
    fastest = {
        precision: large["cases"][f"ours, CUDA kernel, {precision}"]["median_ms"]
        for precision in ("fp32", "bf16")
    }
    rows = [
        [
            name,
            case["steps_per_second"],
            f"{case['min_ms']:.0f} to {case['max_ms']:.0f}",
            case["peak_GiB"],
            f"{case['median_ms'] / fastest[name.split(', ')[-1]]:.2f}x",
        ]
        for name, case in large["cases"].items()
    ]
    header = ["", "steps/s", "ms a step", "memory, GiB", "time compared with ours"]
    shape = " x ".join(map(str, large["batch_shape"]))
    machine = large["machine"]
    dates = " and ".join(sorted({machine["date"], small["machine"]["date"]}))
    about = f"{machine['device']}, torch {machine['torch'].split('+')[0]}, {dates}"
    return f"""## Training on a GPU

{table(header, rows)}

`{large["preset"]}`, whole training steps on one batch of {shape} that is in the
GPU's memory. "Theirs" is Hugging Face's model with the same parameters, once as it comes with
transformers {machine["transformers"]}, and once with the official code's CUDA kernel for its
attention, which computes in fp32 also under autocast. The sides take turns. Matrix products of fp32
are computed in fp32; convolutions may use TF32.

{protocol([1])}: `{small["preset"]}` from scratch, by
`ddetr train --data shapes --preset {small["preset"]} --precision {small["precision"]}
--minutes {small["minutes"]:g}`: {small["steps"]} steps, AP {100 * small["test"]["AP"]:.1f} on the
{small["test_scenes"]} held-out test scenes. {100 * small["waiting_for_data"]:.0f} % of the time was
spent waiting for data; one batch repeated, without a loader, gave
{small["steps_per_second_on_one_batch"]:.1f} steps per second instead of
{small["steps_per_second"]:.1f}.
{about}. `python benchmarks/gpu_training.py`"""


def inference() -> str:
    results = load("inference")
    parts = ["## Inference on one image"]
    for name, case in results["cases"].items():
        rows = [
            [
                side,
                f"{1000 * statistics.median(row['seconds']):.0f}",
                f"{1000 * min(row['seconds']):.0f} to {1000 * max(row['seconds']):.0f}",
                f"{row['time_of_ours']:.2f}x",
                f"{row['difference']:.0e}",
                row["peak_megabytes"],
            ]
            for side, row in case["sides"].items()
        ]
        header = ["", "ms", "range", "time compared with ours, fp32", "difference", "memory, MB"]
        parts.append(f"`{name}`, {' x '.join(map(str, case['size']))} px:\n\n{table(header, rows)}")
    versions = f"onnxruntime {results['onnxruntime']}, transformers {results['transformers']}"
    parts.append(
        f"""The sides have the same parameters and take turns in one process. Times are medians over
the turns; a time compared with ours is the median of the ratios of each turn. "difference" is how
far the scores and the box of a query, all from 0 to 1, are at most from those of the nearest query
of ours in fp32. The memory is the peak of a process that only loads the model and runs it once.
{versions}; {machine_and_date(results)}. `python benchmarks/inference.py`"""
    )
    return "\n\n".join(parts)


def other_models() -> str:
    """Nothing while nothing has been measured."""
    if not result_file("other_models.json").exists():
        return ""
    results = load("other_models")
    rows = [
        [
            name,
            " x ".join(map(str, row["size"])),
            *(f"{statistics.median(row['seconds'][side]):.2f}" for side in ("theirs", "ours")),
            f"**{row['ratio']:.2f}x**",
            f"{row['largest_difference']:.0e}",
        ]
        for name, row in results["models"].items()
    ]
    header = ["", "image", "seconds", "with `dd.accelerate`", "ratio", "largest difference"]
    return f"""## Other people's models with our operation

{table(header, rows)}

Models of transformers {results["transformers"]} with random parameters, in fp32, on one image,
with our operation and with their own in turns. Seconds are medians over the turns. The ratio is the
median of the ratios of each turn, which can differ from that of the medians. The difference is that
of any answer, as a share of the largest. In Mask2Former a query attends where its mask was positive
in the layer before: where that is almost 0, rounding decides. {machine_and_date(results)}.
`python benchmarks/other_models.py`"""


def resume() -> str:
    results = load("resume")
    rows = [
        [kind, len(kills), sum(kill["same"] for kill in kills)]
        for kind, kills in results.items()
        if kind != "machine"
    ]
    return f"""## Resuming after SIGKILL

{table(["", "runs killed and resumed", "identical parameters, bit for bit"], rows)}

Each run was killed at a random time, resumed with `--resume`, and compared with an uninterrupted
run. {machine_and_date(results)}. `python benchmarks/resume.py`"""

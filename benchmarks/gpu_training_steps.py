"""The training steps of benchmarks/gpu_training.py: ours and Hugging Face's take turns on a GPU."""

import argparse
import functools
import gc
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ddetr_edu.attention import MSDeformAttn
from ddetr_edu.losses.criterion import detection_losses
from ddetr_edu.models.config import ResizeConfig
from ddetr_edu.training.config import RECIPES
from ddetr_edu.training.optim import build_optimizer


def on_gpu(device: str | torch.device) -> bool:
    """Whether a device is an NVIDIA GPU."""
    return torch.device(device).type == "cuda"


def synchronize(device: str | torch.device) -> None:
    """Wait until the device has done everything that it was told to do."""
    if on_gpu(device):
        torch.cuda.synchronize(device)


class Side:
    """A model that is trained in one precision, with one implementation of its attention.

    Args:
        model: The model, already on its device.
        compute_loss: `our_loss` or `their_loss`.
        optimizer: Of the model's parameters.
        precision: "fp32" or "bf16".
        select: Called before each step, to choose the implementation.
    """

    def __init__(
        self,
        model: nn.Module,
        compute_loss: Callable,
        optimizer: torch.optim.Optimizer,
        precision: str,
        select: Callable[[], None],
    ):
        self.model, self.compute_loss, self.optimizer = model, compute_loss, optimizer
        self.bf16, self.select = precision == "bf16", select
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.device = self.parameters[0].device.type
        self.seconds: list[float] = []
        self.warm_seconds = 0.0  # of the last step of the warm-up
        self.peak_bytes: int | None = None

    def step(self, batch: tuple) -> float:
        """Update the parameters once, and return the seconds that it took."""
        self.select()
        synchronize(self.device)
        started = time.perf_counter()
        self.optimizer.zero_grad()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            loss = self.compute_loss(self.model, *batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, RECIPES["official"].max_grad_norm)
        self.optimizer.step()
        synchronize(self.device)
        seconds = time.perf_counter() - started
        assert torch.isfinite(loss), f"the loss is {loss.item()}"
        return seconds

    def warm_up(self, batch: tuple, steps: int, bytes_before: int) -> None:
        """Make steps that are not timed, and find the most memory that one takes.

        Args:
            batch: The batch.
            steps: How many.
            bytes_before: What was allocated before the model was on the GPU.
        """
        for _ in range(max(steps, 1)):
            if on_gpu(self.device):
                torch.cuda.reset_peak_memory_stats()
            self.warm_seconds = self.step(batch)
        if on_gpu(self.device):
            self.peak_bytes = torch.cuda.max_memory_allocated() - bytes_before
        self.optimizer.zero_grad()  # frees the gradients: the other sides need the memory

    def timed_step(self, batch: tuple) -> None:
        """Make a step and keep its time."""
        self.seconds.append(self.step(batch))
        self.optimizer.zero_grad()

    def summary(self) -> dict:
        """The entry of the results' JSON."""
        return {
            "steps_per_second": round(1 / statistics.median(self.seconds), 3),
            "peak_GiB": None if self.peak_bytes is None else round(self.peak_bytes / 2**30, 2),
            "median_ms": round(1000 * statistics.median(self.seconds), 1),
            "min_ms": round(1000 * min(self.seconds), 1),
            "max_ms": round(1000 * max(self.seconds), 1),
            "seconds": [round(seconds, 4) for seconds in self.seconds],
        }


def our_loss(model: nn.Module, images: Tensor, mask: Tensor, targets: list[dict]) -> Tensor:
    """The sum of all our losses, which are computed in fp32 as in `ddetr train`."""
    predictions = model(images, mask)
    with torch.autocast(images.device.type, enabled=False):
        return torch.stack(list(detection_losses(predictions, targets).values())).sum()


def their_loss(model: nn.Module, images: Tensor, mask: Tensor, targets: list[dict]) -> Tensor:
    """The same for theirs, whose forward pass computes them."""
    labels = [{"class_labels": t["labels"], "boxes": t["boxes"]} for t in targets]
    return model(pixel_values=images, pixel_mask=(~mask).long(), labels=labels).loss


def select_backend(model: nn.Module, backend: str) -> None:
    """Let the attention modules of our model run on one backend."""
    for module in model.modules():
        if isinstance(module, MSDeformAttn):
            module.backend = backend


def select_kernel(model: nn.Module, kernel: Callable | None) -> None:
    """Let the attention modules of their model run on a kernel, or, with None, as they come."""

    def forward(value, shapes, levels, starts, locations, weights, im2col_step):
        assert kernel is not None
        levels = [(int(height), int(width)) for height, width in levels]
        # The official kernel has no 16 bits.
        arguments = (tensor.float().contiguous() for tensor in (value, locations, weights))
        value_fp32, locations, weights = arguments
        return kernel(value_fp32, levels, locations, weights).to(value.dtype)

    for module in model.modules():
        if type(module).__name__ == "MultiScaleDeformableAttention":
            module.__dict__.pop("forward", None)
            if kernel is not None:
                module.forward = forward


def official_kernel() -> Callable | None:
    """The official CUDA kernel, with the arguments of `ms_deform_attn`; None if it is missing."""
    try:
        from gpu_peers import official

        return official()["official"].call
    except Exception as error:  # it is compiled here and now, if its source is here
        print(f"no official kernel: {type(error).__name__}: {error}", flush=True)
        return None


@torch.no_grad()
def differences(ours: nn.Module, theirs: nn.Module, batch: tuple) -> dict[str, float]:
    """How much the outputs of two equal models differ, in evaluation mode and without TF32.

    Two proposals whose scores are equal but for rounding may come in another order, and so do the
    queries that start from them: hence also the share of the queries that differ.

    Args:
        ours: Our model.
        theirs: Hugging Face's.
        batch: The batch.

    Returns:
        The largest and the median difference of a query's scores and coordinates, and the share of
        the queries with a difference above 0.001.
    """
    images, mask, _ = batch
    allowed, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    try:
        a = ours.eval()(images, mask)
        b = theirs.eval()(pixel_values=images, pixel_mask=(~mask).long())
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
    outputs = torch.cat([a.scores() - b.logits.sigmoid(), a.boxes - b.pred_boxes], dim=-1)
    queries = outputs.abs().amax(-1).flatten()
    return {
        "largest": queries.max().item(),
        "median": queries.median().item(),
        "above_0.001": (queries > 1e-3).float().mean().item(),
    }


def attempt(key: str, failed: dict[str, str], work: Callable[[], None]) -> bool:
    """Do optional work. If it fails, say so, keep the message in `failed`, and return False."""
    try:
        work()
    except Exception as error:
        failed[key] = f"{type(error).__name__}: {error}"[:300]
        print(f"{key} failed: {failed[key]}", flush=True)
    else:
        return True
    gc.collect()  # what an error keeps alive
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False


def build_sides(options: argparse.Namespace, failed: dict[str, str]) -> tuple[dict, tuple, dict]:
    """Both models on the device in every precision and with every attention, warmed up.

    Args:
        options: The arguments of the command line.
        failed: Receives what did not run.

    Returns:
        The sides by name, the batch, and entries of the results' JSON about them.
    """
    from equal_models import equal_models  # needs transformers and timm

    device = options.device
    size = ResizeConfig(*options.size)
    ours, theirs, (images, mask, targets) = equal_models(options.preset, options.images, size)
    targets = [{name: tensor.to(device) for name, tensor in t.items()} for t in targets]
    batch = images.to(device), mask.to(device), targets
    about = {
        "preset": options.preset,
        "batch_shape": list(images.shape),
        "objects": sum(len(target["labels"]) for target in targets),
        "differences": {},
    }
    attentions = {
        "ours, CUDA kernel": (select_backend, "cuda"),
        "ours, grid_sample": (select_backend, "grid_sample"),
        "theirs, grid_sample": (select_kernel, None),
    }
    if not on_gpu(device):
        attentions["ours, C++ kernel"] = (select_backend, "auto")
        del attentions["ours, CUDA kernel"]
    if (kernel := official_kernel()) is not None:
        attentions["theirs, official kernel"] = (select_kernel, kernel)
    models = {"ours": (ours, our_loss), "theirs": (theirs, their_loss)}

    def compare(name: str) -> None:
        select, what = attentions[name]
        select(theirs, what)
        about["differences"][name] = differences(ours, theirs, batch)

    ours.to(device), theirs.to(device)
    for name in attentions:
        if name.startswith("theirs"):
            attempt(f"comparison with {name}", failed, functools.partial(compare, name))
    theirs.cpu()
    sides: dict[str, Side] = {}
    for owner, (model, compute_loss) in models.items():
        bytes_before = 0
        if on_gpu(device):
            bytes_before = torch.cuda.memory_allocated()
            if owner == "ours":  # which is there already
                bytes_before -= sum(p.nbytes for p in [*model.parameters(), *model.buffers()])
        model.to(device).train()
        optimizer = build_optimizer(model, RECIPES["official"])
        for name, (select, what) in attentions.items():
            for precision in options.precisions:
                if not name.startswith(owner):
                    continue
                chosen = functools.partial(select, model, what)
                side = Side(model, compute_loss, optimizer, precision, chosen)
                warm_up = functools.partial(side.warm_up, batch, options.warm_up, bytes_before)
                if attempt(f"{name}, {precision}", failed, warm_up):
                    sides[f"{name}, {precision}"] = side
                    print(f"{name}, {precision}: {side.warm_seconds:.3f} s a step", flush=True)
    return sides, batch, about


def measure_r50(options: argparse.Namespace, save: Callable[[dict], None]) -> None:
    """Time the steps of all sides, which take turns.

    Args:
        options: The arguments of the command line.
        save: Called with the entry of the results' JSON, after each round.
    """
    started = time.monotonic()
    failed: dict[str, str] = {}
    sides, batch, about = build_sides(options, failed)
    for turn in range(options.rounds):
        if turn and time.monotonic() - started > options.seconds:
            print(f"out of time after {turn} rounds", flush=True)
            break
        for name, side in list(sides.items()):
            if not attempt(name, failed, functools.partial(side.timed_step, batch)):
                del sides[name]
        cases = {name: side.summary() for name, side in sides.items()}
        save({**about, "failed": failed, "allocation_retries": retries(options), "cases": cases})
    print(f"{options.preset}, batch {about['batch_shape']}, {about['objects']} objects")
    for name, difference in about["differences"].items():
        numbers = ", ".join(f"{what} {number:.1e}" for what, number in difference.items())
        print(f"differences of queries, {name} and ours: {numbers}")
    print(f"{'':34} steps/s   median ms (min to max)   peak GiB")
    for name, case in cases.items():
        print(
            f"{name:34} {case['steps_per_second']:7.2f}   {case['median_ms']:9.1f} "
            f"({case['min_ms']:.1f} to {case['max_ms']:.1f})   {case['peak_GiB']}"
        )


def retries(options: argparse.Namespace) -> int | None:
    """How often memory was short, so that a step waited for the allocator. It should be 0."""
    if not on_gpu(options.device):
        return None
    return torch.cuda.memory_stats().get("num_alloc_retries", 0)

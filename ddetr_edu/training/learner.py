"""One training step, and everything that changes by it."""

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from ddetr_edu.detector import to_floats
from ddetr_edu.training import distributed
from ddetr_edu.training.detector import Detector
from ddetr_edu.training.optim import OptimConfig, build_optimizer, set_rate

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
SHOWN = ("loss_label", "loss_l1", "loss_giou")  # of the last layer, for the log


class NonFiniteLoss(ValueError):
    """The loss or its gradient is infinite or NaN; going on would destroy the weights."""


class Learner:
    """A detector and what it learns by: optimiser, loss scale, average of the weights.

    optim:     filled, see OptimConfig
    precision: "fp32", or "bf16" or "fp16" for the model's forward pass; losses are always fp32
    ema:       also keep a moving average of the weights, that forgets 1 - ema of itself each step
    """

    def __init__(
        self,
        detector: Detector,
        optim: OptimConfig,
        precision: str = "fp32",
        ema: float | None = None,
    ):
        # Convolutions are faster where the channels of a pixel lie side by side.
        self.detector, self.optim = detector.to(memory_format=torch.channels_last), optim
        self.device = next(detector.parameters()).device
        self.parallel = distributed.started()
        # It averages the gradients of all processes as they are computed.
        self.model = DistributedDataParallel(detector) if self.parallel else detector
        self.optimizer = build_optimizer(detector, optim)
        self.autocast = AUTOCAST.get(precision)
        # Small gradients would be 0 in fp16: the loss is scaled up first, the gradients down again.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self.average = None
        if ema is not None:
            self.average = AveragedModel(detector, avg_fn=moving_average(ema), use_buffers=True)

    @property
    def result(self) -> Detector:
        """The detector to evaluate and to keep: the average if there is one."""
        return self.detector if self.average is None else self.average.module

    def step(
        self, batches: list[tuple[list[Tensor], list[dict]]], step: int, progress: float
    ) -> dict[str, float]:
        """Gradients of one or more batches, clipped, and one update of the weights.

        Whether pictures come in one batch, in several, or shared out over several processes, the
        gradient is the same (where no batch norm looks at its batch): each loss is a sum over
        pictures, and is divided by the number of objects in *all* of them.

        batches:  (images, targets) as the data sets give them, images uint8 (3, H, W)
        step:     its number, from 1
        progress: how much of the run is over, from 0 to 1
        Returns: the losses, the factor on the learning rates and the gradient's norm.
        Raises: NonFiniteLoss, naming the pictures, before any weight is touched.
        """
        rate = set_rate(self.optimizer, step, progress, self.optim)
        counts = [sum(len(target["labels"]) for target in targets) for _, targets in batches]
        (everywhere,) = distributed.total([sum(counts)], self.device)
        # Processes are averaged, so each divides by the average number; at least 1, as officially.
        n_objects = max(everywhere / distributed.world_size(), 1)

        self.optimizer.zero_grad()
        sums = dict.fromkeys(("loss", *SHOWN), 0.0)
        for number, ((images, targets), count) in enumerate(zip(batches, counts, strict=True)):
            wait = self.parallel and number + 1 < len(batches)  # exchange gradients once a step
            with self.model.no_sync() if wait else nullcontext():
                losses = self.losses(images, targets)
                # Each was divided by the objects of its own batch, at least 1.
                share = max(count, 1) / n_objects
                loss = share * sum(losses.values())
                self.scaler.scale(loss).backward()
            sums["loss"] += loss.item()
            for name in SHOWN:
                sums[name] += share * losses[name].item()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.detector.parameters(), self.optim.clip).item()
        summed = distributed.total(list(sums.values()), self.device)
        values = {k: v / distributed.world_size() for k, v in zip(sums, summed, strict=True)}
        self._check(values["loss"], norm, batches, step)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.detector)
        return {**values, "rate": rate, "gradient_norm": norm}

    def losses(self, images: list[Tensor], targets: list[dict]) -> dict[str, Tensor]:
        """The detector's losses on one batch, its forward pass in the precision asked for."""
        images = [to_floats(image.to(self.device, non_blocking=True)) for image in images]
        wanted = [
            {name: target[name].as_subclass(Tensor).to(self.device) for name in ("boxes", "labels")}
            for target in targets
        ]
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            return self.model(images, wanted)

    def state(self) -> dict:
        """What it takes to go on exactly here, besides the weights of `result`."""
        state = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        if self.detector.denoising is not None:
            state["denoising"] = self.detector.denoising.state_dict()
        if self.average is not None:
            state["weights"] = self.detector.model.state_dict()
            state["n_averaged"] = int(self.average.n_averaged)
        return state

    def restore(self, model: dict, state: dict) -> None:
        """Go back to where `state` was taken; model: the weights of `result` then."""
        self.result.model.load_state_dict(model)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.detector.denoising is not None:
            self.detector.denoising.load_state_dict(state["denoising"])
        if self.average is not None:
            self.detector.model.load_state_dict(state["weights"])
            self.average.n_averaged.fill_(state["n_averaged"])

    def _check(self, loss: float, norm: float, batches: list, step: int) -> None:
        # An overflow in fp16 is no accident: the scaler skips the step and lowers its scale.
        overflow = self.scaler.is_enabled() and self.scaler.get_scale() > 1
        if math.isfinite(loss) and (math.isfinite(norm) or overflow):
            return
        pictures = [target["image_id"] for _, targets in batches for target in targets]
        ids = ", ".join(map(str, distributed.gathered(pictures)))
        raise NonFiniteLoss(
            f"at step {step} the loss is {loss:g} and its gradient {norm:g} long, on the pictures "
            f"with ids {ids}; checkpoints already written are kept: lower --optim.lr, or look at "
            "those pictures"
        )


def moving_average(decay: float):
    """How the average of the weights moves, for torch's AveragedModel.

    In the first steps it forgets faster, so that it soon leaves the random weights behind.
    """

    def move(average: Tensor, weight: Tensor, n_averaged: Tensor) -> Tensor:
        if not average.is_floating_point():
            return weight  # a batch norm's count
        n = n_averaged.item()
        return average.lerp(weight, 1 - min(decay, (1 + n) / (10 + n)))

    return move

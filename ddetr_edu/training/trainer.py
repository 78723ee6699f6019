"""`Trainer`: a detector with its optimiser, loss scale and moving average, to save and restore."""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from ddetr_edu import distributed
from ddetr_edu.detector import Detector
from ddetr_edu.models.autocast import autocast, choose_precision
from ddetr_edu.models.preprocessing import to_floats
from ddetr_edu.training.config import FilledOptimConfig
from ddetr_edu.training.freezing import BackboneFreezing
from ddetr_edu.training.optim import build_optimizer


class NonFiniteLoss(ValueError):
    """The loss or its gradient is infinite or NaN; another step would destroy the parameters."""


class Trainer:
    """The state of a training: detector, optimiser, gradient scaler, moving average.

    `train_step` in loop.py makes a step with it.

    Args:
        detector: The detector to train, already on its device.
        optim: The optimiser's settings.
        precision: Of the model's forward pass, one of `Precision`; losses are always fp32.
        ema: The decay of a moving average of the parameters, or None.
        frozen_steps: For how many steps the backbone is frozen; math.inf for all.

    Raises:
        ValueError: For another precision, or one that the device lacks.
    """

    def __init__(
        self,
        detector: Detector,
        optim: FilledOptimConfig,
        precision: str = "fp32",
        ema: float | None = None,
        frozen_steps: float = 0,
    ):
        # Convolutions are faster with the channels of a pixel side by side, on GPUs and CPUs.
        self.detector, self.optim = detector.to(memory_format=torch.channels_last), optim
        self.device = next(detector.parameters()).device
        self.precision = choose_precision(precision, self.device)
        self.optimizer = build_optimizer(detector, optim)  # also of what is only frozen at first
        self.freezing = BackboneFreezing(detector.model.backbone, frozen_steps)
        self.freezing.apply(step=1)
        self.model = self._average_gradients()
        # Small gradients would be 0 in fp16: the loss is scaled up first, the gradients down again.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.average: AveragedModel | None = None
        if ema is not None:
            self.average = AveragedModel(detector, avg_fn=moving_average(ema), use_buffers=True)

    def _average_gradients(self) -> nn.Module:
        """The detector; of several processes, in a module that averages their gradients."""
        if not distributed.is_initialized():
            return self.detector
        return DistributedDataParallel(self.detector)

    def freeze(self, step: int) -> None:
        """Freeze or unfreeze the backbone for a step. Every process must call this.

        Args:
            step: The step about to be made, from 1.
        """
        if self.freezing.apply(step):
            self.model = self._average_gradients()  # which learns once which gradients there are

    @property
    def result(self) -> Detector:
        """The detector to evaluate and to keep: the moving average if there is one."""
        if self.average is None:
            return self.detector
        assert isinstance(self.average.module, Detector)
        return self.average.module

    def losses(
        self, images: list[Tensor], targets: list[dict], num_boxes: float, num_images: float
    ) -> dict[str, Tensor]:
        """The forward pass of one batch, in the precision of the run, and its losses.

        Args:
            images: uint8 (3, H, W) each, as data sets give them.
            targets: For each image "boxes" (T, 4) xyxy in pixels and "labels" (T,).
            num_boxes: The number of objects that the losses are divided by.
            num_images: The number of images that those objects are in.

        Returns:
            The losses of `Detector.forward`.
        """
        images = [to_floats(image.to(self.device, non_blocking=True)) for image in images]
        targets = [
            {name: target[name].as_subclass(Tensor).to(self.device) for name in ("boxes", "labels")}
            for target in targets
        ]
        with autocast(self.precision, self.device):
            return self.model(images, targets, num_boxes, num_images)

    def no_sync(self) -> AbstractContextManager:
        """A context in which processes do not exchange gradients: they do so once a step."""
        if isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return nullcontext()

    def check_finite(self, loss: float, grad_norm: float, batches: list, step: int) -> None:
        """Raise if the loss or the gradient is not finite. Every process must call this.

        Args:
            loss: Of the step.
            grad_norm: The norm of its gradient.
            batches: Its batches, for the message.
            step: Its number, for the message.

        Raises:
            NonFiniteLoss: Naming the images, before any parameter is changed.
        """
        # An overflow in fp16 is expected: the scaler skips the step and lowers its scale.
        overflow = self.scaler.is_enabled() and self.scaler.get_scale() > 1
        if math.isfinite(loss) and (math.isfinite(grad_norm) or overflow):
            return
        images = [target["image_id"] for _, targets in batches for target in targets]
        ids = ", ".join(map(str, distributed.all_gather(images)))
        raise NonFiniteLoss(
            f"at step {step} the loss is {loss:g} and the gradient norm {grad_norm:g}, on the "
            f"images with ids {ids}; checkpoints already written are kept: lower --optim.lr, or "
            "check those images"
        )

    def state(self) -> dict:
        """What it takes to resume exactly here, besides the parameters of `result`.

        Returns:
            State dicts and plain values, by name.
        """
        state: dict[str, Any] = {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        if self.detector.denoising is not None:
            state["denoising"] = self.detector.denoising.state_dict()
        if self.average is not None:
            state["parameters"] = self.detector.model.state_dict()
            state["n_averaged"] = int(self.average.n_averaged)
        return state

    def restore(self, model: dict, state: dict) -> None:
        """Restore what `state` returned.

        Args:
            model: The state dict of `result.model` at that moment.
            state: What `state()` returned.
        """
        self.result.model.load_state_dict(model)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.detector.denoising is not None:
            self.detector.denoising.load_state_dict(state["denoising"])
        if self.average is not None:
            self.detector.model.load_state_dict(state["parameters"])
            self.average.n_averaged.fill_(state["n_averaged"])


def moving_average(decay: float):
    """The update of the moving average, for torch's AveragedModel.

    In the first steps it decays faster, so that it soon leaves the random parameters behind.

    Args:
        decay: The decay that it approaches.

    Returns:
        A function of the average, the parameter and the number of updates so far.
    """

    def update(average: Tensor, parameter: Tensor, n_averaged: Tensor) -> Tensor:
        if not average.is_floating_point():
            return parameter  # a batch norm's count
        n = n_averaged.item()
        return average.lerp(parameter, 1 - min(decay, (1 + n) / (10 + n)))

    return update

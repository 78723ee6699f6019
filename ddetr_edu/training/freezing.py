"""A backbone that is frozen during the first steps of a run, or during all of it."""

from torch import nn


class BackboneFreezing:
    """Keeps a backbone as it is during the first steps: its parameters and its norms' statistics.

    Whether it is frozen depends on the number of the step alone, so that a resumed run goes on
    exactly as it would have.

    Args:
        backbone: Of the model to train, in training mode.
        steps: For how many steps it is frozen; math.inf for all.
    """

    def __init__(self, backbone: nn.Module, steps: float):
        self.backbone, self.steps = backbone, steps
        # Others, such as the stem of a ResNet, are never trained.
        self.parameters = [p for p in backbone.parameters() if p.requires_grad]
        self.is_frozen = False

    def apply(self, step: int) -> bool:
        """Freeze or unfreeze the backbone for a step.

        Args:
            step: The step about to be made, from 1.

        Returns:
            Whether other parameters are trained than before.
        """
        was_frozen, self.is_frozen = self.is_frozen, step <= self.steps
        if self.is_frozen:
            self.backbone.eval()  # in every step, because an evaluation in between undoes it
        elif was_frozen:
            self.backbone.train()
        if self.is_frozen == was_frozen:
            return False
        for parameter in self.parameters:
            parameter.requires_grad_(not self.is_frozen)
        return True

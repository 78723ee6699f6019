"""The memory that training keeps from the forward pass until the backward pass, by parts.

Autograd hands every tensor that it saves to a hook, which adds up their sizes. That is exact, the
same on every machine, and possible on the device "meta". The peak that an operating system reports
is another number: it also contains the parameters, the state of the optimiser, and what is alive
for a moment only.
"""

from collections.abc import Callable, Mapping

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ddetr_edu.analysis.attention_cost import id_of
from ddetr_edu.analysis.parts import share_out


class SavedBytes:
    """Counts the bytes that autograd saves; use it as a context manager around a forward pass.

    Tensors that share their memory count once. The model's parameters and buffers, which are there
    anyway, do not count.

    Args:
        model: The model that runs.
    """

    def __init__(self, model: nn.Module):
        self.total = 0
        self._known = {id_of(tensor) for tensor in [*model.parameters(), *model.buffers()]}
        self._storages: list = []  # kept alive, so that none gets the identity of an earlier one
        self._hooks = saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def __enter__(self) -> "SavedBytes":
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> Tensor:
        if id_of(tensor) not in self._known:
            self._known.add(id_of(tensor))
            self._storages.append(tensor.untyped_storage())
            self.total += tensor.untyped_storage().nbytes()
        return tensor


def saved_by_part(
    model: nn.Module, parts: Mapping[nn.Module, str], run: Callable[[], object]
) -> dict[str, float]:
    """Count the bytes that each part of a model keeps for the backward pass.

    Args:
        model: The model, in training mode.
        parts: {module: part}, such as `main_parts(model)`.
        run: A forward pass of the model.

    Returns:
        {part: bytes}. A tensor belongs to the part that saves it first.
    """
    with SavedBytes(model) as saved:
        return share_out(parts, run, lambda: saved.total)

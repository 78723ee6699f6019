"""`capture`: record what every attention of a model did, without changing the model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from inspect import signature

import torch
from torch import Tensor, nn

from ddetr_edu.attention.locations import SpatialShapes
from ddetr_edu.attention.module import MSDeformAttn

Layers = str | int | Sequence[str | int]


@dataclass
class AttentionRecord:
    """What one deformable attention did in one forward pass. Tensors are detached."""

    name: str  # where the attention sits in the model, e.g. "decoder.layers.2.cross_attn"
    spatial_shapes: SpatialShapes
    reference_points: Tensor  # (N, Lq, L, 2 or 4)
    offsets: Tensor  # (N, Lq, M, L, P, 2), in pixels of the level
    locations: Tensor  # (N, Lq, M, L, P, 2), fractions of the level
    weights: Tensor  # (N, Lq, M, L, P)


@contextmanager
def capture(
    model: nn.Module,
    layers: Layers | None = None,
    queries: Sequence[int] | Tensor | None = None,
    records: list[AttentionRecord] | None = None,
) -> Iterator[list[AttentionRecord]]:
    """Record every MSDeformAttn that runs inside the `with` block, in the order they run.

        with capture(model, "decoder*") as records:
            model(images, padding_mask)

    A record of the r50 model's encoder takes some 50 MB per image: choose layers or queries where
    that is too much; only what is chosen is computed and kept. When activation checkpointing runs
    an attention again in the backward pass, it is not recorded again. The hooks are removed when
    the block ends, also after an exception.

    Args:
        model: A module that contains attentions.
        layers: The attentions to record: a name with * and ?, an index (from 0 in the model's
            order; -1 is the last), or several of these; None: all.
        queries: Indices on the query axis, which is Lq in the decoder and S in the encoder; the
            axis of the records then holds these, in this order; None: all.
        records: The list to fill; a new one if None.

    Yields:
        The list of records.

    Raises:
        ValueError: If there is no MSDeformAttn, or none that was chosen; inside the block, when
            the model runs, if it has no such query.
    """
    names = {module: name for name, module in choose_attentions(model, layers)}
    queries = query_numbers(queries)
    records = [] if records is None else records

    def record(module, args, kwargs, output):
        if being_recomputed():
            return
        arguments = signature(module.forward).bind(*args, **kwargs).arguments
        spatial_shapes = arguments["spatial_shapes"]
        query, reference_points = (
            pick_queries(arguments[name].detach(), queries, names[module])
            for name in ("query", "reference_points")
        )
        with torch.no_grad():
            sampling = module.sampling_locations_and_weights(
                query, reference_points, spatial_shapes
            )
        records.append(AttentionRecord(names[module], spatial_shapes, reference_points, *sampling))

    handles = [module.register_forward_hook(record, with_kwargs=True) for module in names]
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()


def choose_attentions(model: nn.Module, layers: Layers | None) -> list[tuple[str, MSDeformAttn]]:
    """The attentions of a model with their names, in its order: all, or the chosen ones.

    Args:
        model: A module that contains attentions.
        layers: As in `capture`.

    Returns:
        (name, attention) of each.

    Raises:
        ValueError: If there is no MSDeformAttn, or none that was chosen.
    """
    attentions = [
        (name, module) for name, module in model.named_modules() if isinstance(module, MSDeformAttn)
    ]
    if not attentions:
        raise ValueError(
            f"{type(model).__name__} contains no MSDeformAttn, so there is nothing to capture"
        )
    if layers is None:
        return attentions
    if isinstance(layers, Sequence) and not layers:
        raise ValueError("layers is empty, which chooses no attention; leave it out to choose all")
    selected: set[int] = set()
    for layer in [layers] if isinstance(layers, (str, int)) else layers:
        if isinstance(layer, str):
            matching = {i for i, (name, _) in enumerate(attentions) if fnmatch(name, layer)}
        elif -len(attentions) <= layer < len(attentions):
            matching = {layer % len(attentions)}
        else:
            matching = set()
        if not matching:
            raise ValueError(
                f"layer {layer!r} is none of the {len(attentions)} attentions of this "
                f"{type(model).__name__}: {', '.join(name for name, _ in attentions)}"
            )
        selected.update(matching)
    return [attentions[i] for i in sorted(selected)]


def query_numbers(queries: Sequence[int] | Tensor | None) -> Tensor | None:
    """A choice of queries as a tensor of integers.

    Args:
        queries: As in `capture`.

    Returns:
        (n,) int64, or None for all queries.

    Raises:
        ValueError: If it is not a list of numbers from 0.
    """
    if queries is None:
        return None
    numbers = torch.as_tensor(queries)
    if (
        numbers.dim() != 1
        or not len(numbers)
        or numbers.is_floating_point()
        or numbers.dtype == torch.bool
        or (numbers < 0).any()
    ):
        raise ValueError(
            f"queries is {queries!r}; it takes a list of query numbers from 0, or None for all"
        )
    return numbers.long()


def pick_queries(values: Tensor, queries: Tensor | None, where: str) -> Tensor:
    """Select queries of a tensor.

    Args:
        values: (N, Lq, ...).
        queries: (n,) int64 from `query_numbers`, or None for all.
        where: The name of the attention, for the error message.

    Returns:
        (N, n, ...), or values itself for all queries.

    Raises:
        ValueError: If there are not that many queries.
    """
    if queries is None:
        return values
    if queries.max() >= values.shape[1]:
        raise ValueError(
            f"query {queries.max()} was to be captured, but {where} has {values.shape[1]} queries; "
            "choose smaller numbers, or other layers"
        )
    return values[:, queries.to(values.device)]


def being_recomputed() -> bool:
    """Whether a backward pass is running: a forward pass within it is a recomputation."""
    return torch._C._current_graph_task_id() != -1

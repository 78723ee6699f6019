"""`capture`: look at what every attention of a model did, without changing the model."""

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

    A record of the r50 model's encoder holds some 50 MB for each picture: choose layers or queries
    where that is too much. Only what is chosen is computed and kept. What activation checkpointing
    computes again in the backward pass is not recorded again. The hooks are removed when the block
    ends, also by an exception.

    layers:  the attentions to record: a name with * and ?, a number (from 0 in the model's order;
        -1 is the last), or several of these; None: all
    queries: numbers on the query axis, which is Lq in the decoder and S in the encoder; the
        records' axis then holds these, in this order; None: all
    records: the list to fill; a new one when not given
    Raises: ValueError if there is no MSDeformAttn, or none that was chosen; inside the block, when
        the model runs, if it has no such query.
    """
    names = {module: name for name, module in choose_attentions(model, layers)}
    queries = query_numbers(queries)
    records = [] if records is None else records

    def remember(module, args, kwargs, output):
        if being_recomputed():
            return
        given = signature(module.forward).bind(*args, **kwargs).arguments
        spatial_shapes = given["spatial_shapes"]
        query, reference_points = (
            pick_queries(given[name].detach(), queries, names[module])
            for name in ("query", "reference_points")
        )
        with torch.no_grad():
            seen = module.look(query, reference_points, spatial_shapes)
        records.append(AttentionRecord(names[module], spatial_shapes, reference_points, *seen))

    handles = [module.register_forward_hook(remember, with_kwargs=True) for module in names]
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()


def choose_attentions(model: nn.Module, layers: Layers | None) -> list[tuple[str, MSDeformAttn]]:
    """The attentions of a model with their names, in its order: all, or those that were chosen.

    Raises: ValueError as `capture` does.
    """
    attentions = [(n, m) for n, m in model.named_modules() if isinstance(m, MSDeformAttn)]
    if not attentions:
        raise ValueError(
            f"{type(model).__name__} contains no MSDeformAttn, so there is nothing to capture"
        )
    if layers is None:
        return attentions
    if isinstance(layers, Sequence) and not layers:
        raise ValueError("layers is empty, which chooses no attention; leave it out to choose all")
    chosen = set()
    for layer in [layers] if isinstance(layers, (str, int)) else layers:
        if isinstance(layer, str):
            matching = {i for i, (name, _) in enumerate(attentions) if fnmatch(name, layer)}
        else:
            matching = (
                {layer % len(attentions)} if -len(attentions) <= layer < len(attentions) else ()
            )
        if not matching:
            raise ValueError(
                f"layer {layer!r} is none of the {len(attentions)} attentions of this "
                f"{type(model).__name__}: {', '.join(name for name, _ in attentions)}"
            )
        chosen.update(matching)
    return [attentions[i] for i in sorted(chosen)]


def query_numbers(queries: Sequence[int] | Tensor | None) -> Tensor | None:
    """A choice of queries as whole numbers (n,). Raises: ValueError for anything else."""
    if queries is None:
        return None
    numbers = torch.as_tensor(queries)
    if numbers.dim() != 1 or not len(numbers) or numbers.is_floating_point() or (
        numbers.dtype == torch.bool or (numbers < 0).any()
    ):  # fmt: skip
        raise ValueError(
            f"queries is {queries!r}; it takes a list of query numbers from 0, or None for all"
        )
    return numbers.long()


def pick_queries(values: Tensor, queries: Tensor | None, where: str) -> Tensor:
    """The chosen queries of values (N, Lq, ...). Raises: ValueError for one that is not there."""
    if queries is None:
        return values
    if queries.max() >= values.shape[1]:
        raise ValueError(
            f"query {queries.max()} was to be captured, but {where} has {values.shape[1]} queries; "
            "choose smaller numbers, or other layers"
        )
    return values[:, queries.to(values.device)]


def being_recomputed() -> bool:
    """Whether a backward pass is running: what computes forward in it does so a second time."""
    return torch._C._current_graph_task_id() != -1

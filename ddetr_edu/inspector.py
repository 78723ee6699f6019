"""One picture under a detector, to be walked through in a page or in a notebook.

Here the model runs; `viz` draws the plain arrays that it leaves.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_convert

from ddetr_edu.attention import MSDeformAttn, capture, ms_deform_attn
from ddetr_edu.attention.locations import SpatialShapes
from ddetr_edu.detector import DETR, make_batch
from ddetr_edu.detector.queries import ProposedQueries, Queries
from ddetr_edu.training import Detector, load_picture
from ddetr_edu.training.detector import Picture
from ddetr_edu.viz.inspector import DecoderLook, inspector_data, pack_look, write_page
from ddetr_edu.viz.points import plot_sampling_points


class Exploration:
    """A picture as a detector's decoder meets it. The decoder can be asked again and again.

    picture: anything `load_picture` takes
    Raises: ValueError if the model is a DETR, which has no sampling points, or for a picture that
        cannot be used.
    """

    @torch.no_grad()
    def __init__(self, detector: Detector, picture: Picture):
        if isinstance(detector.model, DETR):
            raise ValueError(
                "a DETR has no sampling points: each query looks at every token; explore a "
                "Deformable DETR instead"
            )
        self.detector = detector.eval()
        self.model = detector.model
        self.picture = load_picture(picture)  # (3, H, W)
        self.title = Path(picture).name if isinstance(picture, (str, Path)) else "a picture"
        entered = []
        hook = self.model.decoder.register_forward_pre_hook(
            lambda _, inputs: entered.append(inputs)
        )
        try:
            device = next(self.model.parameters()).device
            self.model(*make_batch([self.picture.to(device)], detector.size))
        finally:
            hook.remove()
        ((self.queries, *self.surroundings),) = entered

    @property
    def spatial_shapes(self) -> SpatialShapes:
        return self.surroundings[1]

    @property
    def names(self) -> list[str]:
        """The name of each class output."""
        return list(self.detector.categories.values())

    @torch.no_grad()
    def look(self, queries: Queries | None = None) -> DecoderLook:
        """What the decoder does with its queries, or with others.

        One picture has no padding: fractions of a level are fractions of the picture.
        """
        memory, spatial_shapes, _, padding_mask, _ = self.surroundings
        layers = self.model.decoder.layers
        with capture(self.model.decoder) as records:
            answers = self.model.decoder(
                self.queries if queries is None else queries, *self.surroundings
            )
        lengths = [
            value_lengths(layer.cross_attn, memory, spatial_shapes, record.locations)
            for layer, record in zip(layers, records, strict=True)
        ]
        references = [record.reference_points[..., 0, :] for record in records]  # (1, Lq, 2 or 4)
        scores, classes = torch.cat([logits for logits, _ in answers]).sigmoid().max(-1)
        return DecoderLook(*(
            part.float().cpu().numpy() if part.is_floating_point() else part.cpu().numpy()
            for part in (
                torch.cat([torch.nn.functional.pad(r, (0, 4 - r.shape[-1])) for r in references]),
                torch.cat([boxes for _, boxes in answers]),
                scores,
                classes,
                torch.cat([record.locations for record in records]),
                torch.cat([record.weights for record in records]),
                torch.cat(lengths),
            )
        ))  # fmt: skip

    def page_data(self, look: DecoderLook) -> dict:
        """What the page shows of it, see `inspector_data`."""
        return inspector_data(self.picture, look, self.spatial_shapes, self.names, self.title)

    @torch.no_grad()
    def moved(self, query: int, x: float, y: float) -> DecoderLook:
        """What one query does if it starts at (x, y), a fraction of the picture; Lq = 1.

        A box keeps its size. With two stages the query's content and position are made from where
        it starts, so they change, too. All other queries start where they did, and hear of it.
        """
        references = self.queries.reference_points.clone()
        references[0, query, :2] = references.new_tensor([x, y])
        if isinstance(self.model.queries, ProposedQueries):
            queries = self.model.queries.starting_at(references, self.queries.content)
        else:
            queries = self.queries._replace(reference_points=references)
        return self.look(queries).of([query])


def value_lengths(
    attention: MSDeformAttn, memory: Tensor, spatial_shapes: SpatialShapes, locations: Tensor
) -> Tensor:
    """How long the value vector is that each point reads, before its weight.

    memory (N, S, C), without padding; locations (N, Lq, M, L, P, 2) -> (N, Lq, M, L, P)
    """
    n_images, n_queries, n_heads, _, n_points, _ = locations.shape
    value = attention.value_proj(memory).unflatten(-1, (n_heads, -1))  # (N, S, M, D)
    lengths = []
    for level, of_level in enumerate(value.split([h * w for h, w in spatial_shapes], dim=1)):
        # Each point as a query of its own, with the whole weight: what it reads, unmixed.
        points = locations[:, :, :, level].transpose(2, 3).flatten(1, 2)  # (N, Lq*P, M, 2)
        points = points[:, :, :, None, None]  # (N, Lq*P, M, 1, 1, 2)
        one = points.new_ones(points.shape[:-1])
        read = ms_deform_attn(of_level, [spatial_shapes[level]], points, one)  # (N, Lq*P, M*D)
        length = read.view(n_images, n_queries, n_points, n_heads, -1).norm(dim=-1)
        lengths.append(length.transpose(2, 3))  # (N, Lq, M, P)
    return torch.stack(lengths, dim=3)


def write_inspector(path: str | Path, detector: Detector, picture: Picture) -> dict:
    """Write one self-contained page in which query, layer, level and head are chosen by mouse.

        dd.write_inspector("out.html", dd.load("checkpoint.pt"), "street.jpg")

    Returns: what the page holds, see `inspector_data`.
    Raises: as `Exploration`.
    """
    seen = Exploration(detector, picture)
    data = seen.page_data(seen.look())
    write_page(path, data)
    return data


def explore(detector: Detector, picture: Picture):
    """In a notebook: choose an object, drag where its query starts, see its points and weights.

        dd.explore(detector, "street.jpg")

    The figure of the best detection is shown first, for readers of a notebook that is not running.

    Returns: the widget, to be shown by the notebook.
    Raises: as `Exploration`; ValueError if anywidget is not installed.
    """
    from IPython.display import display

    from ddetr_edu.viz.widget import inspector_widget

    seen = Exploration(detector, picture)
    look = seen.look()
    data = seen.page_data(look)
    figure, _ = plot_query(seen, look, data["queries"][0])
    widget = inspector_widget(data, lambda *place: pack_look(seen.moved(*place)))
    display(figure)
    return widget


def plot_query(seen: Exploration, look: DecoderLook, query: int):
    """The sampling points of a query in the last layer, as `plot_sampling_points` draws them."""
    _, height, width = seen.picture.shape
    scale = np.array([width, height, width, height])
    box = box_convert(torch.from_numpy(look.boxes[-1, query]), "cxcywh", "xyxy").numpy() * scale
    name, score = seen.names[look.classes[-1, query]], look.scores[-1, query]
    return plot_sampling_points(
        seen.picture, look.references[-1, query], look.locations[-1, query],
        look.weights[-1, query], spatial_shapes=seen.spatial_shapes, box=box,
        title=f"query {query}, decoder layer {len(look.weights) - 1}: {name} {score:.2f}",
    )  # fmt: skip

"""A trace to be explored: in a page for the browser, or in a notebook, where queries can be moved.

Here the numbers are gathered; `viz` shows the plain arrays.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ddetr_edu.analysis.trace import DetectionTrace, trace
from ddetr_edu.attention import MSDeformAttn, ms_deform_attn
from ddetr_edu.attention.locations import SpatialShapes
from ddetr_edu.detector import Detector
from ddetr_edu.models.capture import Captured
from ddetr_edu.models.preprocessing import ImageInput
from ddetr_edu.models.queries import ProposedQueries, Queries
from ddetr_edu.viz.inspector_page import DecoderTrace, inspector_data, pack_trace, write_page


class InspectorSession:
    """A detector's decoder at work on the image of a trace; it can run again from other queries.

    Attributes:
        trace: The trace.
        queries: The queries that entered the decoder, with N = 1.
        decoder_trace: What the decoder did with them.

    Args:
        trace: A trace with all attentions of the decoder; those of the encoder are not needed.

    Raises:
        ValueError: If an attention of the decoder was not recorded.
    """

    def __init__(self, trace: DetectionTrace):
        recorded, n_layers = len(trace.part("decoder")), len(trace.model.decoder.layers)
        if recorded < n_layers:
            raise ValueError(
                f"{recorded} of the {n_layers} decoder layers were recorded; trace all of them, "
                'as with layers="decoder*"'
            )
        self.trace = trace
        self.queries: Queries = trace.decoder_inputs["queries"]
        self.decoder_trace = self._decoder_trace(trace.records)

    @property
    def spatial_shapes(self) -> SpatialShapes:
        """(H, W) of each level."""
        return self.trace.decoder_inputs["spatial_shapes"]

    @property
    def names(self) -> list[str]:
        """The name of each class output."""
        return list(self.trace.detector.categories.values())

    def page_data(self) -> dict:
        """The data of the inspector page.

        Returns:
            As `inspector_data`.
        """
        return inspector_data(
            self.trace.image,
            self.decoder_trace,
            self.spatial_shapes,
            self.names,
            self.trace.image_name,
        )

    def write(self, path: str | Path) -> dict:
        """Write the inspector page, one self-contained file.

        Args:
            path: The file, usually with the ending .html.

        Returns:
            The data that the page holds, as `inspector_data`.
        """
        data = self.page_data()
        write_page(path, data)
        return data

    @torch.no_grad()
    def move_query(self, query: int, x: float, y: float) -> DecoderTrace:
        """Run the decoder again with one query starting at another point.

        A box keeps its size. In a two-stage model the content and position of a query are made
        from its initial box, so they change, too. All other queries start where they did, but
        attend to the moved one.

        Args:
            query: The number of the query.
            x: Its initial reference point, as a fraction of the image's width.
            y: The same, as a fraction of the height.

        Returns:
            The trace of this query alone; Lq = 1.
        """
        references = self.queries.reference_points.clone()
        references[0, query, :2] = references.new_tensor([x, y])
        module = self.trace.model.queries
        if isinstance(module, ProposedQueries):
            queries = module.from_boxes(references, self.queries.content)
        else:
            queries = self.queries._replace(reference_points=references)
        return self._decoder_trace(self.trace.rerun_decoder(queries)).select([query])

    @torch.no_grad()
    def _decoder_trace(self, records: Captured) -> DecoderTrace:
        """The decoder's part of some records, as arrays.

        A single image has no padding: fractions of a level are fractions of the image.
        """
        (decoder,) = records.decoder
        attentions = [record for record in records if record.name.startswith("decoder")]
        memory = self.trace.decoder_inputs["memory"]
        norms = []
        for layer, record in zip(self.trace.model.decoder.layers, attentions, strict=True):
            attention = layer.cross_attn
            assert isinstance(attention, MSDeformAttn)
            norms.append(value_norms(attention, memory, self.spatial_shapes, record.locations))
        scores, classes = torch.cat(decoder.logits).sigmoid().max(-1)
        return DecoderTrace(
            references=as_floats([F.pad(r, (0, 4 - r.shape[-1])) for r in decoder.references]),
            boxes=as_floats(decoder.boxes),
            scores=as_floats([scores]),
            classes=classes.cpu().numpy(),
            locations=as_floats([record.locations for record in attentions]),
            weights=as_floats([record.weights for record in attentions]),
            value_norms=as_floats(norms),
        )


def as_floats(layers: list[Tensor]) -> np.ndarray:
    """Join tensors (1, Lq, ...) of each layer into one array (layers, Lq, ...)."""
    return torch.cat(layers).float().cpu().numpy()


def value_norms(
    attention: MSDeformAttn, memory: Tensor, spatial_shapes: SpatialShapes, locations: Tensor
) -> Tensor:
    """Measure the norm of the value vector that each point samples, before its attention weight.

    Args:
        attention: The attention that samples.
        memory: (N, S, C), without padding.
        spatial_shapes: (H, W) of each level.
        locations: (N, Lq, M, L, P, 2), fractions of the level.

    Returns:
        (N, Lq, M, L, P).
    """
    n_images, n_queries, n_heads, _, n_points, _ = locations.shape
    value = attention.value_proj(memory).unflatten(-1, (n_heads, -1))  # (N, S, M, D)
    norms = []
    for level, of_level in enumerate(value.split([h * w for h, w in spatial_shapes], dim=1)):
        # Each point as a query of its own, with a weight of 1: what it samples, unmixed.
        points = locations[:, :, :, level].transpose(2, 3).flatten(1, 2)  # (N, Lq*P, M, 2)
        points = points[:, :, :, None, None]  # (N, Lq*P, M, 1, 1, 2)
        ones = points.new_ones(points.shape[:-1])
        sampled = ms_deform_attn(of_level, [spatial_shapes[level]], points, ones)  # (N, Lq*P, M*D)
        norm = sampled.view(n_images, n_queries, n_points, n_heads, -1).norm(dim=-1)
        norms.append(norm.transpose(2, 3))  # (N, Lq, M, P)
    return torch.stack(norms, dim=3)


def write_inspector(path: str | Path, detector: Detector, image: ImageInput) -> dict:
    """Write one self-contained page in which query, layer, level and head are chosen by mouse.

        dd.write_inspector("out.html", dd.load("checkpoint.pt"), "street.jpg")

    Args:
        path: The file to write.
        detector: The detector, whose model is a Deformable DETR.
        image: Anything that `load_image` takes.

    Returns:
        The data that the page holds, as `inspector_data`.

    Raises:
        ValueError: As `trace`.
        TypeError: As `trace`.
    """
    return InspectorSession(trace(detector, image, layers="decoder*")).write(path)


def explore(detector: Detector, image: ImageInput):
    """Show the inspector in a notebook, where the initial reference of a query can be dragged.

        dd.explore(detector, "street.jpg")

    A figure of the query that it opens on, the largest detection, is shown first, for readers of a
    notebook that is not running.

    Args:
        detector: The detector, whose model is a Deformable DETR.
        image: Anything that `load_image` takes.

    Returns:
        The widget, which the notebook shows.

    Raises:
        ValueError: If anywidget is not installed, and as `trace`.
        TypeError: As `trace`.
    """
    from IPython.display import display

    from ddetr_edu.viz.widget import inspector_widget

    session = InspectorSession(trace(detector, image, layers="decoder*"))
    data = session.page_data()
    widget = inspector_widget(data, lambda query, x, y: pack_trace(session.move_query(query, x, y)))
    figure, _ = session.trace.sampling_points(data["queries"][data["first"]])
    display(figure)
    return widget

"""`trace`: run a detector on one image and keep what happened; each method draws a part of it.

    trace = dd.trace(detector, "street.jpg")
    figure, data = trace.layers()                    # how the best query found its object
    figure, data = trace.attention_heatmap(query=7)  # what another query attended to

The drawing itself is in `viz`, on plain arrays; here those arrays are picked.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ddetr_edu import viz
from ddetr_edu.analysis.matching_trace import MatchingTrace, trace_matching
from ddetr_edu.analysis.recording import Recording, head_norms, plural, record, short_name
from ddetr_edu.attention import initial_offsets
from ddetr_edu.attention.capture import Layers
from ddetr_edu.detector import Detector
from ddetr_edu.models.preprocessing import ImageInput
from ddetr_edu.viz.fonts import category_text

Drawn = tuple[viz.NotebookFigure, dict | list]


def trace(
    detector: Detector, image: ImageInput, threshold: float = 0.5, layers: Layers | None = None
) -> "DetectionTrace":
    """Detect the objects of one image, and record every attention, box and proposal on the way.

    An r50 model on an image of 800 x 1066 leaves some 350 MB of records, nearly all of them from
    its encoder. The detector is put into evaluation mode.

    Args:
        detector: The detector, whose model is a Deformable DETR.
        image: Anything that `load_image` takes.
        threshold: Figures of all detections leave out those with a lower score, but never the
            best one.
        layers: The attentions to record, as `capture` takes them: "decoder*" leaves out the
            encoder.

    Returns:
        The trace.

    Raises:
        ValueError: For a DETR, which has no sampling points, and as `Detector.predict` does.
        TypeError: As `Detector.predict` does.
    """
    return DetectionTrace(**vars(record(detector, image, threshold, layers)))


@dataclass
class DetectionTrace(Recording):
    """One image, and everything that a detector did with it, to be drawn.

    Each figure is a method, which returns (figure, data). Fractions of a level are fractions of
    the image. A `query` is the number of a decoder query, from 0 to Lq - 1, and None stands for
    that of the best detection; a `layer` is the number of a decoder layer, from 0, and -1 is the
    last. A number that does not exist raises a ValueError that names it, as does a figure of the
    matching if `target` is not set.
    """

    target: dict[str, Tensor] | None = None  # the ground truth, if known: "boxes" and "labels"

    # Figures of all detections

    def boxes(self) -> Drawn:
        """Draw the detections at or above the threshold, at least the best one.

        Returns:
            As `viz.plot_boxes`.
        """
        boxes, labels, scores = (
            self.detections[name][self.kept()] for name in ("boxes", "labels", "scores")
        )
        return viz.plot_boxes(
            self.image,
            boxes,
            labels,
            scores,
            self.detector.categories,
            title=f"{plural(len(boxes), 'detection')} with a score of {scores.min():.2f} or more",
        )

    def box_trajectories(self) -> Drawn:
        """Draw how the decoder layers refine the box of every detection.

        Returns:
            As `viz.plot_box_trajectories`.
        """
        (decoder,), kept = self.records.decoder, self.kept()
        queries = self.detections["queries"][kept]
        labels, scores = self.detections["labels"][kept].tolist(), self.detections["scores"][kept]
        names = self.detector.categories
        texts = [
            f"{category_text(label, names[label])} {score:.2f}"
            for label, score in zip(labels, scores, strict=True)
        ]
        return viz.plot_box_trajectories(
            self.image,
            decoder.references[0][0, queries],
            torch.stack([boxes[0, queries] for boxes in decoder.boxes]),
            texts,
            title=f"box refinement over {plural(len(decoder.boxes), 'decoder layer')} "
            f"({plural(len(kept), 'detection')})",
        )

    def level_usage_by_size(self, *others: "DetectionTrace", layer: int = -1) -> Drawn:
        """Draw which levels the queries of small and of large objects attend to.

        Args:
            others: Traces of further images, whose detections are counted, too.
            layer: The decoder layer.

        Returns:
            As `viz.plot_level_usage_by_size`.
        """
        sides, mass = [], []
        for each in (self, *others):
            kept = each.kept()
            x1, y1, x2, y2 = each.detections["boxes"][kept].unbind(-1)
            sides.append(((x2 - x1) * (y2 - y1)).sqrt().clamp(min=1))
            weights = each.attention(layer).weights[0, each.detections["queries"][kept]]
            mass.append(weights.sum((1, 3)))  # (n, M, L, P) -> (n, L)
        strides = [self.image.shape[2] / w for _, w in self.records[0].spatial_shapes]
        return viz.plot_level_usage_by_size(
            torch.cat(sides),
            torch.cat(mass),
            strides,
            title=f"{short_name(self.attention(layer).name)}: "
            f"{plural(sum(map(len, sides)), 'detection')} in {plural(1 + len(others), 'image')}",
        )

    # Figures of one query

    def sampling_points(
        self, query: int | None = None, layer: int = -1, by: Literal["level", "head"] = "level"
    ) -> Drawn:
        """Draw where one query samples in one decoder layer.

        Args:
            query: The decoder query.
            layer: The decoder layer.
            by: One panel for each level, or for each head.

        Returns:
            As `viz.plot_sampling_points`.
        """
        query, attention = self.query_number(query), self.attention(layer)
        index = self.detection_of(query)
        return viz.plot_sampling_points(
            self.image,
            attention.reference_points[0, query],
            attention.locations[0, query],
            attention.weights[0, query],
            by,
            attention.spatial_shapes,
            None if index is None else self.detections["boxes"][index],
            title=self.describe(query, attention),
        )

    def layers(self, query: int | None = None) -> Drawn:
        """Draw how one query finds its object: its reference, points and box, layer by layer.

        Args:
            query: The decoder query.

        Returns:
            As `viz.plot_layers`.
        """
        query, records = self.query_number(query), self.part("decoder")
        (decoder,) = self.records.decoder
        return viz.plot_layers(
            self.image,
            [reference[0, query] for reference in decoder.references],
            [boxes[0, query] for boxes in decoder.boxes],
            torch.stack([record.locations[0, query] for record in records]),
            torch.stack([record.weights[0, query] for record in records]),
            [f"decoder layer {i}" for i in range(len(records))],
            title=self.describe(query),
        )

    def attention_heatmap(self, query: int | None = None) -> Drawn:
        """Draw the attention weights of one query over the image: of each layer, and of all.

        Args:
            query: The decoder query.

        Returns:
            As `viz.plot_attention_heatmap`.
        """
        query, records = self.query_number(query), self.part("decoder")
        return viz.plot_attention_heatmap(
            self.image,
            [record.locations[0, query] for record in records],
            [record.weights[0, query] for record in records],
            records[0].spatial_shapes,
            [boxes[0, query] for boxes in self.records.decoder[0].boxes],
            [f"decoder layer {i}" for i in range(len(records))],
            title=self.describe(query),
        )

    # Figures of the encoder

    def token(self, x: float | None = None, y: float | None = None, level: int = 0) -> Drawn:
        """Draw where one token of the encoder samples, layer by layer.

        Args:
            x: The position of the token, in pixels of the image from the left; the centre of the
                best detection if None.
            y: The same, from the top.
            level: The level of the token.

        Returns:
            As `viz.plot_layers`.

        Raises:
            ValueError: For a position outside the image or a level that does not exist.
        """
        records = self.part("encoder")
        token, row, column = self.token_at(x, y, level)
        rows, columns = records[0].spatial_shapes[level]
        cell = [(column + 0.5) / columns, (row + 0.5) / rows, 1 / columns, 1 / rows]
        return viz.plot_layers(
            self.image,
            [np.array(cell)] * len(records),
            None,
            torch.stack([record.locations[0, token] for record in records]),
            torch.stack([record.weights[0, token] for record in records]),
            [f"encoder layer {i}" for i in range(len(records))],
            ("the token's own cell", ""),
            title=f"token {token}: row {row}, column {column} of level {level}",
        )

    def proposals(self, best: int = 10) -> Drawn:
        """Draw the boxes that the encoder of a two-stage model proposes.

        Args:
            best: How many of the best boxes to draw.

        Returns:
            As `viz.plot_proposals`.

        Raises:
            ValueError: If the model has one stage.
        """
        if not self.records.proposals:
            raise ValueError("this model has one stage: its encoder proposes no boxes")
        (proposals,) = self.records.proposals
        return viz.plot_proposals(
            self.image,
            proposals.objectness[0].sigmoid(),
            self.records[0].spatial_shapes,
            proposals.boxes[0],
            proposals.topk_indices[0],
            best,
        )

    # Figures of whole attentions

    def offset_rose(self, layer: int | str = -1) -> Drawn:
        """Draw where each head of one attention samples, over all queries, as a wind rose.

        Args:
            layer: The decoder layer, or any attention by name, such as
                "encoder.layers.0.self_attn".

        Returns:
            As `viz.plot_offset_rose`.
        """
        attention = self.attention(layer)
        n_points = attention.weights.shape[-1]
        # Around a box, offset P reaches its border.
        scale = n_points if attention.reference_points.shape[-1] == 4 else 1
        return viz.plot_offset_rose(
            attention.offsets[0] / scale,
            attention.weights[0],
            initial_offsets(*attention.weights.shape[2:]) / scale,
            reach=n_points / scale,
            unit="pixels of the level" if scale == 1 else "half box sides (1 is the border)",
            title=f"{short_name(attention.name)}: {attention.weights.shape[1]} queries",
        )

    def out_of_bounds(self) -> Drawn:
        """Draw where attention weight falls outside the image; of an encoder, a sample of queries.

        Returns:
            As `viz.plot_out_of_bounds`.
        """
        some = [slice(None, None, -(-r.weights.shape[1] // 1000)) for r in self.records]
        return viz.plot_out_of_bounds(
            self.image,
            [r.locations[0, s] for r, s in zip(self.records, some, strict=True)],
            [r.weights[0, s] for r, s in zip(self.records, some, strict=True)],
            [short_name(r.name) for r in self.records],
        )

    def statistics(self) -> Drawn:
        """Draw statistics of the offsets and weights of every attention, with warnings.

        Returns:
            As `viz.plot_statistics`.
        """
        return viz.plot_statistics(self.records, head_norms(self.detector.model))

    # Figures of the matching

    def matching(self, layer: int = -1) -> Drawn:
        """Draw the matching of queries and objects after one decoder layer, and all its costs.

        Args:
            layer: The decoder layer.

        Returns:
            As `viz.plot_matching`.
        """
        return self._matching_trace().lines(layer)

    def matching_by_layer(self) -> Drawn:
        """Draw which query is matched with each object after each decoder layer.

        Returns:
            As `viz.plot_matching_by_layer`.
        """
        return self._matching_trace().by_layer()

    def _matching_trace(self) -> MatchingTrace:
        if self.target is None:
            raise ValueError(
                "the ground truth of this image is not known; set trace.target = "
                '{"boxes": (T, 4) xyxy in pixels, "labels": (T,)}'
            )
        return trace_matching(self.detector, self.image, self.target)

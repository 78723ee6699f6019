"""`look`: run a detector on one picture and keep all there is to see; each method draws a part.

    seen = dd.look(detector, "street.jpg")
    figure, data = seen.layers()          # how the best detection's query found its object
    figure, data = seen.reading(query=7)  # what another query read

The drawing itself is in `viz`, on plain arrays; here those arrays are picked.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ddetr_edu import viz
from ddetr_edu.attention import AttentionRecord, MSDeformAttn, initial_offsets
from ddetr_edu.attention.capture import Layers
from ddetr_edu.detector import DETR, Captured, capture
from ddetr_edu.matched import Matched, look_at_matching
from ddetr_edu.training import Detector, load_picture
from ddetr_edu.training.detector import Picture

Drawn = tuple[viz.NotebookFigure, dict | list]


def look(
    detector: Detector, picture: Picture, threshold: float = 0.5, layers: Layers | None = None
) -> "Seen":
    """Detect the objects of one picture, recording every attention, box and proposal on the way.

    An r50 model on a picture of 800 x 1066 leaves some 350 MB of records, nearly all of them its
    encoder's. The detector is put into evaluation mode.

    threshold: which detections the pictures of all objects show; at least the best one
    layers:    the attentions to record, as `capture` takes them: "decoder*" leaves out the encoder
    Raises: ValueError for a DETR, which has no sampling points, and as `Detector.predict` does.
    """
    if isinstance(detector.model, DETR):
        raise ValueError(
            "a DETR has no sampling points, each query looks at every token; look at a Deformable "
            "DETR instead, or call ddetr_edu.detector.attention_maps"
        )
    image = load_picture(picture)
    with capture(detector.model, layers) as records:
        found = detector.predict(image, threshold=0.0)
    return Seen(detector, image, records, found, threshold)


@dataclass
class Seen:
    """One picture, and all that a detector did with it. Each method returns (figure, data).

    The picture was alone in its batch, without padding: fractions of a level are fractions of it.
    `query` is a number of the decoder's Lq; that of the best detection when not given.
    """

    detector: Detector
    picture: Tensor  # (3, H, W) in [0, 1]
    records: Captured
    found: dict[str, Tensor]  # of Detector.predict, the 100 best: boxes, scores, labels, queries
    threshold: float
    target: dict[str, Tensor] | None = None  # "boxes" and "labels" of what is there, where known

    def boxes(self) -> Drawn:
        """The detections at or above the threshold."""
        boxes, labels, scores = (self.found[k][self._kept()] for k in ("boxes", "labels", "scores"))
        return viz.plot_boxes(
            self.picture, boxes, labels, scores, self.detector.categories,
            title=f"{count(len(boxes), 'detection')} with a score of {scores.min():.2f} or more",
        )  # fmt: skip

    def sampling_points(
        self, query: int | None = None, layer: int = -1, by: Literal["level", "head"] = "level"
    ) -> Drawn:
        """Where one query looks in one decoder layer: a panel for each level, or for each head."""
        query, record = self._query(query), self._layer(layer)
        place = self._place(query)
        return viz.plot_sampling_points(
            self.picture, record.reference_points[0, query], record.locations[0, query],
            record.weights[0, query], by, record.spatial_shapes,
            None if place is None else self.found["boxes"][place],
            title=f"{self._name(query)}, {short(record.name)}",
        )  # fmt: skip

    def layers(self, query: int | None = None) -> Drawn:
        """How one query finds its object: box entering, points and box leaving, layer by layer."""
        query, (decoder,), records = self._query(query), self.records.decoder, self._decoder()
        return viz.plot_layers(
            self.picture,
            [reference[0, query] for reference in decoder.references],
            [boxes[0, query] for boxes in decoder.boxes],
            torch.stack([record.locations[0, query] for record in records]),
            torch.stack([record.weights[0, query] for record in records]),
            [f"decoder layer {i}" for i in range(len(records))],
            title=self._name(query),
        )

    def reading(self, query: int | None = None) -> Drawn:
        """What one query reads: its weights laid back onto the picture, by layer and together."""
        query, records = self._query(query), self._decoder()
        return viz.plot_reading(
            self.picture,
            [record.locations[0, query] for record in records],
            [record.weights[0, query] for record in records],
            records[0].spatial_shapes,
            [boxes[0, query] for boxes in self.records.decoder[0].boxes],
            [f"decoder layer {i}" for i in range(len(records))],
            title=self._name(query),
        )

    def token(self, x: float | None = None, y: float | None = None, level: int = 0) -> Drawn:
        """Where an encoder's token looks, layer by layer.

        x, y: a place in pixels of the picture; the middle of the best detection when not given
        Raises: ValueError for a place outside the picture or a level that is not there.
        """
        height, width = self.picture.shape[1:]
        x1, y1, x2, y2 = self.found["boxes"][0].tolist()
        x, y = (x1 + x2) / 2 if x is None else x, (y1 + y2) / 2 if y is None else y
        records = self._encoder()
        shapes = records[0].spatial_shapes
        if not 0 <= level < len(shapes) or not (0 <= x < width and 0 <= y < height):
            raise ValueError(
                f"there is no token at x {x:g}, y {y:g} on level {level}: the picture is {width} x "
                f"{height} and the levels are 0 to {len(shapes) - 1}"
            )
        rows, columns = shapes[level]
        row, column = int(y / height * rows), int(x / width * columns)
        token = sum(h * w for h, w in shapes[:level]) + row * columns + column
        cell = [(column + 0.5) / columns, (row + 0.5) / rows, 1 / columns, 1 / rows]
        return viz.plot_layers(
            self.picture, [np.array(cell)] * len(records), None,
            torch.stack([record.locations[0, token] for record in records]),
            torch.stack([record.weights[0, token] for record in records]),
            [f"encoder layer {i}" for i in range(len(records))], ("the token's pixel", ""),
            title=f"token {token}: row {row}, column {column} of level {level}",
        )  # fmt: skip

    def rose(self, layer: int = -1) -> Drawn:
        """Where each head of one attention looks, over all its queries, against its first star.

        layer: of the decoder's attentions, or of all if it is a name such as
            "encoder.layers.0.self_attn"
        """
        record = self._layer(layer) if isinstance(layer, int) else self._named(layer)
        n_points = record.weights.shape[-1]
        # Around a box, offset P reaches its border.
        one = n_points if record.reference_points.shape[-1] == 4 else 1
        return viz.plot_rose(
            record.offsets[0] / one, record.weights[0],
            initial_offsets(*record.weights.shape[2:]) / one, reach=n_points / one,
            unit="pixels of the point's level" if one == 1 else "half box sides (1: the border)",
            title=f"{short(record.name)}: {record.weights.shape[1]} queries",
        )  # fmt: skip

    def levels(self, *others: "Seen", layer: int = -1) -> Drawn:
        """Which level the queries of large and of small objects read; others: further pictures."""
        sides, mass = [], []
        for seen in (self, *others):
            kept = seen._kept()
            x1, y1, x2, y2 = seen.found["boxes"][kept].unbind(-1)
            sides.append(((x2 - x1) * (y2 - y1)).sqrt().clamp(min=1))
            of_query = seen._layer(layer).weights[0, seen.found["queries"][kept]]
            mass.append(of_query.sum((1, 3)))  # (n, M, L, P) -> (n, L)
        strides = [self.picture.shape[2] / w for _, w in self.records[0].spatial_shapes]
        return viz.plot_levels_by_size(
            torch.cat(sides), torch.cat(mass), strides,
            title=f"{short(self._layer(layer).name)}: "
            f"{count(sum(map(len, sides)), 'detection')} in {count(1 + len(others), 'picture')}",
        )  # fmt: skip

    def paths(self) -> Drawn:
        """The way of every detection's box through the decoder's layers."""
        (decoder,), kept = self.records.decoder, self._kept()
        queries = self.found["queries"][kept]
        labels, scores = self.found["labels"][kept].tolist(), self.found["scores"][kept]
        names = [
            f"{self.detector.categories[label]} {score:.2f}"
            for label, score in zip(labels, scores, strict=True)
        ]
        return viz.plot_paths(
            self.picture, decoder.references[0][0, queries],
            torch.stack([boxes[0, queries] for boxes in decoder.boxes]), names,
            title=f"the way of {count(len(kept), 'box', 'boxes')} through "
            f"{count(len(decoder.boxes), 'decoder layer')}",
        )  # fmt: skip

    def proposals(self, best: int = 10) -> Drawn:
        """What the encoder proposes to begin at. Raises: ValueError if the model has one stage."""
        if not self.records.proposals:
            raise ValueError("this model has one stage: its encoder proposes nothing")
        (proposals,) = self.records.proposals
        return viz.plot_proposals(
            self.picture, proposals.promise[0].sigmoid(), self.records[0].spatial_shapes,
            proposals.boxes[0], proposals.chosen[0], best,
        )  # fmt: skip

    def outside(self) -> Drawn:
        """How much of all looking falls outside the picture, and where; of an encoder, a sample."""
        some = [slice(None, None, -(-r.weights.shape[1] // 1000)) for r in self.records]
        return viz.plot_outside(
            self.picture,
            [r.locations[0, s] for r, s in zip(self.records, some, strict=True)],
            [r.weights[0, s] for r, s in zip(self.records, some, strict=True)],
            [short(r.name) for r in self.records],
        )

    def statistics(self) -> Drawn:
        """Offsets and weights of every attention, with warnings in words."""
        return viz.plot_statistics(self.records, head_strengths(self.detector.model))

    def largest(self) -> int:
        """The query of the largest of the detections, which shows its points best."""
        kept = self._kept()
        x1, y1, x2, y2 = self.found["boxes"][kept].unbind(-1)
        return int(self.found["queries"][kept[((x2 - x1) * (y2 - y1)).argmax()]])

    # what the methods pick from

    def _encoder(self) -> list[AttentionRecord]:
        return self._part("encoder")

    def _decoder(self) -> list[AttentionRecord]:
        return self._part("decoder")

    def matching(self, layer: int = -1) -> Drawn:
        """Which query the matching gives to each object after one layer, and what it would cost."""
        return self._matched().lines(layer)

    def matching_by_layer(self) -> Drawn:
        """Which query each object gets after each decoder layer."""
        return self._matched().by_layer()

    def _matched(self) -> Matched:
        if self.target is None:
            raise ValueError(
                "nothing says what is in this picture; give it: seen.target = "
                '{"boxes": (T, 4) xyxy in pixels, "labels": (T,)}'
            )
        return look_at_matching(self.detector, self.picture, self.target)

    def _part(self, part: str) -> list[AttentionRecord]:
        records = [record for record in self.records if record.name.startswith(part)]
        if not records:
            raise ValueError(f"no attention of the {part} was recorded; look at more layers")
        return records

    def _layer(self, layer: int) -> AttentionRecord:
        records = self._decoder()
        if not -len(records) <= layer < len(records):
            raise ValueError(
                f"layer {layer} does not exist; the decoder has 0 to {len(records) - 1}"
            )
        return records[layer]

    def _named(self, name: str) -> AttentionRecord:
        for record in self.records:
            if record.name == name:
                return record
        raise ValueError(f'"{name}" is none of {", ".join(r.name for r in self.records)}')

    def _query(self, query: int | None) -> int:
        n_queries = self._decoder()[0].weights.shape[1]
        if query is None:
            return int(self.found["queries"][0])
        if not 0 <= query < n_queries:
            raise ValueError(f"query {query} does not exist; the model has 0 to {n_queries - 1}")
        return query

    def _place(self, query: int) -> int | None:
        """The best detection of a query, if it is among the 100 best."""
        places = (self.found["queries"] == query).nonzero()
        return int(places[0]) if len(places) else None

    def _name(self, query: int) -> str:
        place = self._place(query)
        if place is None:
            return f"query {query}, whose answers are not among the best 100"
        name = self.detector.categories[int(self.found["labels"][place])]
        return f"query {query}, which finally says {name} {self.found['scores'][place]:.2f}"

    def _kept(self) -> Tensor:
        """Detections at or above the threshold, the best of each query; at least the best one."""
        places = range(max(1, int((self.found["scores"] >= self.threshold).sum())))
        return torch.tensor([i for i in places if self._place(int(self.found["queries"][i])) == i])


def short(name: str) -> str:
    """ "decoder.layers.2.cross_attn" -> "decoder layer 2" """
    return " ".join(name.split(".")[:3]).replace("layers", "layer")


def count(number: int, one: str, many: str | None = None) -> str:
    """ "1 box", "3 boxes" """
    return f"{number} {one if number == 1 else many or one + 's'}"


def head_strengths(model: torch.nn.Module) -> dict[str, Tensor]:
    """How large each head's output can get: the norm of its two projections' product, (M,) each."""
    strengths = {}
    for name, module in model.named_modules():
        if isinstance(module, MSDeformAttn):
            into = module.value_proj.weight.unflatten(0, (module.n_heads, -1))  # (M, D, C)
            out = module.output_proj.weight.unflatten(1, (module.n_heads, -1))  # (C, M, D)
            product = out.transpose(0, 1) @ into  # (M, C, C)
            strengths[name] = torch.linalg.matrix_norm(product).detach()
    return strengths

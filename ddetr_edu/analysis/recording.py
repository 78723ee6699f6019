"""One run of a detector on one image, with everything that happened in it."""

from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ddetr_edu.attention import AttentionRecord, MSDeformAttn
from ddetr_edu.attention.capture import Layers
from ddetr_edu.detector import Detections, Detector, check_threshold
from ddetr_edu.models.capture import Captured, capture
from ddetr_edu.models.deformable_detr import DeformableDETR
from ddetr_edu.models.preprocessing import ImageInput, load_image
from ddetr_edu.models.queries import Queries


def record(
    detector: Detector, image: ImageInput, threshold: float = 0.5, layers: Layers | None = None
) -> "Recording":
    """Detect the objects of one image, and keep every attention, box and proposal on the way.

    Args:
        detector: The detector, whose model is a Deformable DETR; it is put into evaluation mode.
        image: Anything that `load_image` takes.
        threshold: The lowest score of the detections to be drawn; from 0 to 1.
        layers: The attentions to record, as `capture` takes them.

    Returns:
        The recording.

    Raises:
        ValueError: For a DETR, which has no sampling points, and as `Detector.predict` does.
        TypeError: As `Detector.predict` does.
    """
    if not isinstance(detector.model, DeformableDETR):
        raise ValueError(
            "the detector holds a DETR, which has no sampling points: its queries attend to every "
            "token; give a Deformable DETR, or call ddetr_edu.models.detr.attention_maps"
        )
    check_threshold(threshold)
    pixels = load_image(image)
    decoder_inputs: dict[str, Any] = {}

    def keep_inputs(module, args, kwargs):
        decoder_inputs.update(signature(module.forward).bind(*args, **kwargs).arguments)

    hook = detector.model.decoder.register_forward_pre_hook(keep_inputs, with_kwargs=True)
    try:
        with capture(detector.model, layers) as records:
            detections = detector.predict(pixels, threshold=0.0)
    finally:
        hook.remove()
    name = Path(image).name if isinstance(image, (str, Path)) else "an image"
    return Recording(detector, pixels, name, records, decoder_inputs, detections, threshold)


@dataclass
class Recording:
    """What a detector did with one image, which was alone in its batch, without padding."""

    detector: Detector
    image: Tensor  # (3, H, W) in [0, 1]
    image_name: str  # of its file, if it has one
    records: Captured
    decoder_inputs: dict[str, Any]  # by the argument names of Decoder.forward: queries, memory, ...
    detections: Detections  # the 100 best: "boxes", "scores", "labels", "queries"
    threshold: float  # figures of all detections leave out lower scores, but never the best one

    @property
    def model(self) -> DeformableDETR:
        """The detector's model."""
        assert isinstance(self.detector.model, DeformableDETR)  # `record` refuses others
        return self.detector.model

    @torch.no_grad()
    def rerun_decoder(self, queries: Queries | None = None) -> Captured:
        """Run the decoder again on the same image features, with the same or with other queries.

        Args:
            queries: The queries, with N = 1; those of the recording if None.

        Returns:
            The records of the decoder's attentions, and of its boxes and logits.
        """
        inputs = dict(self.decoder_inputs)
        if queries is not None:
            inputs["queries"] = queries
        with capture(self.model, "decoder*") as records:
            self.model.decoder(**inputs)
        return records

    # What the figures pick from; a number that does not exist raises a ValueError that names it

    def part(self, part: Literal["encoder", "decoder"]) -> list[AttentionRecord]:
        """The attentions of the encoder or of the decoder, first layer first.

        Args:
            part: Which of the two.

        Returns:
            Their records.

        Raises:
            ValueError: If none of them was recorded.
        """
        records = [each for each in self.records if each.name.startswith(part)]
        if not records:
            raise ValueError(f"no attention of the {part} was recorded; trace more layers")
        return records

    def attention(self, layer: int | str) -> AttentionRecord:
        """The attention of a decoder layer, or any attention by its name.

        Args:
            layer: The number of a decoder layer, from 0; -1 is the last. Or a name such as
                "encoder.layers.0.self_attn".

        Returns:
            Its record.

        Raises:
            ValueError: If it does not exist or was not recorded.
        """
        if isinstance(layer, str):
            names = [each.name for each in self.records]
            if layer not in names:
                raise ValueError(f'"{layer}" is none of {", ".join(names)}')
            return self.records[names.index(layer)]
        records = self.part("decoder")
        if not -len(records) <= layer < len(records):
            raise ValueError(
                f"layer {layer} does not exist; the decoder has 0 to {len(records) - 1}"
            )
        return records[layer]

    def query_number(self, query: int | None) -> int:
        """The number of a decoder query, checked.

        Args:
            query: The number, from 0 to Lq - 1; that of the best detection if None.

        Returns:
            The number.

        Raises:
            ValueError: If it does not exist.
        """
        n_queries = self.part("decoder")[0].weights.shape[1]
        if query is None:
            return int(self.detections["queries"][0])
        if not 0 <= query < n_queries:
            raise ValueError(f"query {query} does not exist; the model has 0 to {n_queries - 1}")
        return query

    def detection_of(self, query: int) -> int | None:
        """The index of the best detection of a query.

        Args:
            query: The number of the query.

        Returns:
            The index, or None if no detection of it is among the 100 best.
        """
        indices = (self.detections["queries"] == query).nonzero()
        return int(indices[0]) if len(indices) else None

    def describe(self, query: int, attention: AttentionRecord | None = None) -> str:
        """Say which query it is and what it detects: "query 7, decoder layer 2: cross, 0.93".

        Args:
            query: The number of the query.
            attention: The attention of the layer to name, if any.

        Returns:
            The text.
        """
        where = f"query {query}" + ("" if attention is None else f", {short_name(attention.name)}")
        index = self.detection_of(query)
        if index is None:
            return f"{where}: not among the 100 best detections"
        name = self.detector.categories[int(self.detections["labels"][index])]
        return f"{where}: {name}, {self.detections['scores'][index]:.2f}"

    def describe_sampling_points(
        self, query: int | None = None, layer: int = -1, by: Literal["level", "head"] = "level"
    ) -> list[str]:
        """Describe in words where one query samples in one decoder layer.

        Args:
            query: The decoder query.
            layer: The decoder layer.
            by: One line for each level, or for each head.

        Returns:
            A line about the query, and one for each panel: how many points it has, what share of
            the query's weight is on them, and what share of them is outside the image.
        """
        query, attention = self.query_number(query), self.attention(layer)
        weights, locations = attention.weights[0, query], attention.locations[0, query]
        outside = ((locations < 0) | (locations > 1)).any(-1)  # (M, L, P)
        axis = 1 if by == "level" else 0
        lines = [self.describe(query, attention)]
        for number in range(weights.shape[axis]):
            of_panel = weights.select(axis, number)
            lines.append(
                f"{by} {number}: {of_panel.numel()} points, "
                f"{of_panel.sum() / weights.sum():.0%} of the weight, "
                f"{outside.select(axis, number).float().mean():.0%} outside the image"
            )
        return lines

    def kept(self) -> Tensor:
        """The detections to draw: at or above the threshold, and of each query only the best.

        Returns:
            (n,) indices of `detections`, best first; at least that of the best one.
        """
        indices = range(max(1, int((self.detections["scores"] >= self.threshold).sum())))
        queries = self.detections["queries"].tolist()
        return torch.tensor([i for i in indices if self.detection_of(queries[i]) == i])

    def largest(self) -> int:
        """Find the query of the largest detection, which shows its sampling points best.

        Returns:
            The number of the query.
        """
        kept = self.kept()
        x1, y1, x2, y2 = self.detections["boxes"][kept].unbind(-1)
        return int(self.detections["queries"][kept[((x2 - x1) * (y2 - y1)).argmax()]])

    def token_at(
        self, x: float | None = None, y: float | None = None, level: int = 0
    ) -> tuple[int, int, int]:
        """The encoder's token at a position of the image.

        Args:
            x: Pixels of the image from the left; the centre of the best detection if None.
            y: Pixels from the top, alike.
            level: The level of the token.

        Returns:
            Its number, from 0 to S - 1, its row and its column.

        Raises:
            ValueError: For a position outside the image or a level that does not exist.
        """
        height, width = self.image.shape[1:]
        x1, y1, x2, y2 = self.detections["boxes"][0].tolist()
        x, y = (x1 + x2) / 2 if x is None else x, (y1 + y2) / 2 if y is None else y
        shapes = self.records[0].spatial_shapes
        if not 0 <= level < len(shapes) or not (0 <= x < width and 0 <= y < height):
            raise ValueError(
                f"there is no token at x {x:g}, y {y:g} on level {level}: the image is {width} x "
                f"{height} and the levels are 0 to {len(shapes) - 1}"
            )
        rows, columns = shapes[level]
        row, column = int(y / height * rows), int(x / width * columns)
        return sum(h * w for h, w in shapes[:level]) + row * columns + column, row, column


def short_name(name: str) -> str:
    """ "decoder.layers.2.cross_attn" -> "decoder layer 2" """
    return " ".join(name.split(".")[:3]).replace("layers", "layer")


def plural(number: int, noun: str) -> str:
    """ "1 image", "3 images" """
    return f"{number} {noun}" + ("" if number == 1 else "s")


def head_norms(model: torch.nn.Module) -> dict[str, Tensor]:
    """Measure how large the output of each head can get: the norm of its two projections' product.

    Args:
        model: Any model with deformable attentions.

    Returns:
        {name of the attention: (M,)}.
    """
    norms = {}
    for name, module in model.named_modules():
        if isinstance(module, MSDeformAttn):
            into = module.value_proj.weight.unflatten(0, (module.n_heads, -1))  # (M, D, C)
            out = module.output_proj.weight.unflatten(1, (module.n_heads, -1))  # (C, M, D)
            product = out.transpose(0, 1) @ into  # (M, C, C)
            norms[name] = torch.linalg.matrix_norm(product).detach()
    return norms

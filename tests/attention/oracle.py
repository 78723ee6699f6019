"""An independent deformable attention, in Python floats and for one output number at a time.

Written from the paper's formula without any of the library's code, for the tests to compare with.
"""

import math

import torch


def bilinear(image, x, y):
    """One channel (H, W) of nested lists at x, y in [0, 1], zeros outside."""
    height, width = len(image), len(image[0])
    column, row = x * width - 0.5, y * height - 0.5
    total = 0.0
    for r in range(height):
        for c in range(width):
            total += image[r][c] * max(0, 1 - abs(c - column)) * max(0, 1 - abs(r - row))
    return total


def ms_deform_attn(value, shapes, locations, weights):
    """The operation: arguments and result as `ddetr_edu.ms_deform_attn`, fp64, no gradient."""
    n_images, n_queries, n_heads, n_levels, n_points, _ = locations.shape
    channels = value.shape[-1]
    output = torch.zeros(n_images, n_queries, n_heads * channels, dtype=torch.float64)
    starts = [sum(h * w for h, w in shapes[:level]) for level in range(n_levels)]
    for n in range(n_images):
        for m in range(n_heads):
            for d in range(channels):
                for level, (height, width) in enumerate(shapes):
                    flat = value[n, starts[level] : starts[level] + height * width, m, d].tolist()
                    image = [flat[r * width : (r + 1) * width] for r in range(height)]
                    for q in range(n_queries):
                        for p in range(n_points):
                            x, y = locations[n, q, m, level, p].tolist()
                            weight = float(weights[n, q, m, level, p])
                            output[n, q, m * channels + d] += weight * bilinear(image, x, y)
    return output


def module(attention, query, reference_points, value, shapes, padding_mask=None):
    """What `MSDeformAttn.forward` should return, from its four linear layers and plain loops."""
    n_images, n_queries, _ = query.shape
    heads, levels, points = attention.n_heads, attention.n_levels, attention.n_points
    raw_offsets = attention.sampling_offsets(query).tolist()
    raw_scores = attention.attention_weights(query).tolist()
    projected = attention.value_proj(value)
    if padding_mask is not None:
        projected = torch.where(padding_mask[..., None], 0.0, projected)
    locations = torch.zeros(n_images, n_queries, heads, levels, points, 2, dtype=torch.float64)
    weights = torch.zeros(n_images, n_queries, heads, levels, points, dtype=torch.float64)
    for n in range(n_images):
        for q in range(n_queries):
            for m in range(heads):
                per_head = levels * points
                scores = raw_scores[n][q][m * per_head : (m + 1) * per_head]
                total = sum(math.exp(s) for s in scores)
                for level, (height, width) in enumerate(shapes):
                    reference = reference_points[n, q, level].tolist()
                    for p in range(points):
                        index = (m * levels + level) * points + p
                        dx, dy = raw_offsets[n][q][2 * index : 2 * index + 2]
                        if len(reference) == 2:
                            x, y = reference[0] + dx / width, reference[1] + dy / height
                        else:
                            cx, cy, w, h = reference
                            x, y = cx + dx / points * w / 2, cy + dy / points * h / 2
                        locations[n, q, m, level, p] = torch.tensor([x, y], dtype=torch.float64)
                        weights[n, q, m, level, p] = math.exp(scores[level * points + p]) / total
    per_head_value = projected.unflatten(-1, (heads, -1)).double()
    attended = ms_deform_attn(per_head_value, shapes, locations, weights)
    return attention.output_proj(attended.to(value.dtype))

"""The reference solutions of the lessons' exercises, written as a learner would write them.

A docstring here is the signature that the learner is given. Each lesson shows its solutions folded
away; a test compares them with this module.
"""

import math

import torch
from scipy.optimize import linear_sum_assignment


def count_tokens(height, width):
    """(height, width) -> int"""
    tokens = 0
    for stride in (8, 16, 32, 64):
        tokens += math.ceil(height / stride) * math.ceil(width / stride)
    return tokens


def bilinear_sample(feature_map, x, y):
    """(feature_map (H, W, D), x, y) -> (D,)"""
    height, width, channels = feature_map.shape
    column, row = x * width - 0.5, y * height - 0.5
    left, top = int(torch.floor(column)), int(torch.floor(row))
    value = torch.zeros(channels, dtype=feature_map.dtype)
    for r, weight_y in ((top, top + 1 - row), (top + 1, row - top)):
        for c, weight_x in ((left, left + 1 - column), (left + 1, column - left)):
            if 0 <= r < height and 0 <= c < width:
                value = value + weight_y * weight_x * feature_map[r, c]
    return value


def bilinear_slope(feature_map, x, y):
    """(feature_map (H, W), x, y) -> (2,), slopes along x and y"""
    height, width = feature_map.shape
    column, row = x * width - 0.5, y * height - 0.5
    left, top = int(torch.floor(column)), int(torch.floor(row))
    a, b = feature_map[top, left], feature_map[top, left + 1]
    c, d = feature_map[top + 1, left], feature_map[top + 1, left + 1]
    down, right = row - top, column - left
    slope_x = width * ((1 - down) * (b - a) + down * (d - c))
    slope_y = height * ((1 - right) * (c - a) + right * (d - b))
    return torch.stack([slope_x, slope_y])


def initial_offsets(n_heads, n_levels, n_points):
    """(M, L, P) -> offsets (M, L, P, 2) in pixels"""
    angle = torch.arange(n_heads) * 2 * math.pi / n_heads
    direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
    direction = direction / direction.abs().max(dim=-1, keepdim=True).values
    offsets = torch.zeros(n_heads, n_levels, n_points, 2)
    for p in range(n_points):
        offsets[:, :, p] = direction[:, None] * (p + 1)
    return offsets


def sampling_locations(reference_points, offsets, spatial_shapes):
    """reference points, offsets, shapes -> locations (N,Lq,M,L,P,2)"""
    locations = torch.zeros_like(offsets)
    for level, (height, width) in enumerate(spatial_shapes):
        step = offsets[:, :, :, level] / torch.tensor([width, height])
        locations[:, :, :, level] = reference_points[:, :, None, level, None] + step
    return locations


def attention_weights(scores):
    """scores (N, Lq, M, L, P) -> weights of the same shape"""
    n_images, n_queries, n_heads, n_levels, n_points = scores.shape
    weights = scores.reshape(n_images, n_queries, n_heads, n_levels * n_points).softmax(-1)
    return weights.reshape(n_images, n_queries, n_heads, n_levels, n_points)


def aggregate(samples, weights):
    """samples (N,Lq,M,L,P,D), weights (N,Lq,M,L,P) -> (N,Lq,M*D)"""
    per_head = (samples * weights[..., None]).sum(dim=(3, 4))
    return per_head.flatten(2)


def assign(cost):
    """cost (Q, T) -> the query of each object, (T,)"""
    queries, objects = linear_sum_assignment(cost)
    order = objects.argsort()
    return torch.as_tensor(queries[order])


def focal_loss(logits, is_object, num_boxes):
    """(logits, is_object, num_boxes) -> a number"""
    prob = logits.sigmoid()
    pos_loss = -0.25 * (1 - prob) ** 2 * torch.log(prob)
    neg_loss = -0.75 * prob**2 * torch.log(1 - prob)
    return torch.where(is_object, pos_loss, neg_loss).sum() / num_boxes

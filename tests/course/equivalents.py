"""Mutants of the solutions that compute the same: a check accepts them rightly."""

ORDER = "the order of the summands does not matter"
PROMOTED = "adding numbers of fp64 to zeros gives fp64"
REFERENCE_OF_A_LEVEL = {
    line: "an integer index removes its axis, so the new axes stand side by side"
    for line in (
        "reference = reference_points[:, :, level, None, None]",
        "reference = reference_points[:, :, None, None, level]",
    )
}
# The exercise -> the changed line of a mutant that computes the same -> why it does.
EQUIVALENT: dict[str, dict[str, str]] = {
    "aggregate": {
        "return per_head.flatten(-2)": "the axes from number 2 on are the last two",
        "per_head = (samples * weights[..., None]).sum(dim=(4, 3))": ORDER,
        "per_head = (samples * weights[..., None]).sum(dim=(-3, 4))": "-3 is axis 3 of six",
    },
    "assign": {},
    "attention_cost": {
        "n_tokens = sum((height * width for width, height in spatial_shapes))": (
            "the number of tokens is a product, in any order"
        )
    },
    "attention_weights": {
        f"weights = scores.reshape({axes}, n_levels * n_points).softmax(-1)": (
            "only the last axis matters to softmax; the others are split as before"
        )
        for axes in ("n_queries, n_images, n_heads", "n_images, n_heads, n_queries")
    },
    "bilinear_backward": {
        "rows = ((top + 1, row - top, height), (top, top + 1 - row, -height))": ORDER,
        "columns = ((left + 1, column - left, width), (left, left + 1 - column, -width))": ORDER,
        "grad_map, grad_y, grad_x = (torch.zeros_like(feature_map), 0.0, 0.0)": "both are 0",
    },
    "bilinear_sample": {
        "for r, weight_y in ((top + 1, row - top), (top, top + 1 - row)):": ORDER,
        "for c, weight_x in ((left + 1, column - left), (left, left + 1 - column)):": ORDER,
        "value = torch.zeros(channels)": PROMOTED,
        "value = torch.zeros(channels, dtype=x.dtype)": PROMOTED,
        "value = torch.zeros(channels, dtype=y.dtype)": PROMOTED,
        "value = torch.zeros(channels, dtype=column.dtype)": PROMOTED,
        "value = torch.zeros(channels, dtype=row.dtype)": PROMOTED,
    },
    "bilinear_slope": {
        line: "between existing pixels no position is negative, so truncating is rounding down"
        for line in (
            "left, top = int(torch.trunc(column)), int(torch.floor(row))",
            "left, top = int(torch.floor(column)), int(torch.trunc(row))",
        )
    },
    "convert_boxes": {
        **{
            f"{branch} <= '{format}':": "only names of formats are given, and this order fits"
            for branch, format in (
                ("if source", "cxcywh"),
                ("if target", "cxcywh"),
                ("elif source", "xywh"),
                ("elif target", "xywh"),
            )
        },
        "return torch.cat(parts, dim=1)": "axis 1 is the last of two",
        "return torch.cat(parts, dim=--1)": "axis 1 is the last of two",
        "old_size = torch.tensor([old_size[-1], old_size[0]])": "index 1 is the last of two",
        "new_size = torch.tensor([new_size[-1], new_size[0]])": "index 1 is the last of two",
        "first, second = (boxes[:, :-2], boxes[:, 2:])": "2 of 4 numbers are left",
        "first, second = (boxes[:, :2], boxes[:, -2:])": "2 of 4 numbers are left",
    },
    "corner_weights": {
        f"column, row = (x * width {x}, y * height {y})": (
            "one pixel further, the weights are the same"
        )
        for x, y in (
            ("+ 0.5", "- 0.5"),
            ("- 0.5", "+ 0.5"),
            ("- -0.5", "- 0.5"),
            ("- 0.5", "- -0.5"),
        )
    },
    "covering_token": {
        "before = sum((h * w for w, h in spatial_shapes[:level]))": "the product is the same"
    },
    "count_tokens": {
        f"for stride in {strides}:": ORDER
        for strides in ((16, 8, 32, 64), (8, 32, 16, 64), (8, 16, 64, 32))
    },
    "crossing": {
        "lead = (deformable / dense).log2()": "a quotient of logarithms has no base",
        "if k + 1 >= len(tokens):": "k + 1 is never greater",
        **{
            line.format(name): "all have one number for each size"
            for line in ("for k in range(len({})):", "if k + 1 == len({}):")
            for name in ("dense", "deformable", "lead", "order")
        },
    },
    "dense_attention": {
        "scores = query @ key.transpose(2, 1) / query.shape[2] ** 0.5": "two axes are swapped",
        "scores = query @ key.transpose(1, 2) / key.shape[2] ** 0.5": "all have D channels",
        "scores = query @ key.transpose(1, 2) / value.shape[2] ** 0.5": "all have D channels",
    },
    "effective_points": {
        "logs = torch.where(weights != 0, weights, 1).log()": "no weight is negative",
        "logs = torch.where(weights > 0, weights, 2).log()": "it is multiplied by a weight of 0",
        "entropy = -(weights * logs).sum(dim=(-1, -2))": ORDER,
    },
    "focal_loss": {
        "pos_loss = -0.25 * (prob - 1) ** 2 * torch.log(prob)": "the square has no sign"
    },
    "from_pixels": {
        "x, y = positions.unbind(1)": "axis 1 is the last of two",
        "x, y = positions.unbind(--1)": "axis 1 is the last of two",
        **{
            f"return torch.stack([(x + 0.5) / width, (y + 0.5) / height], dim={dim})": (
                "axis 1 is the last of two"
            )
            for dim in ("1", "--1")
        },
    },
    "grid_sample_attention": {
        "samples = F.grid_sample(maps, 2 * grid - 1)": "False is its default, with a warning",
        "return heads.permute(0, 3, 1, 2).flatten(-2)": "the axes from 2 on are the last two",
        **{
            line: "the same axes, counted from the end or named in the other order"
            for line in (
                "grid = locations[:, :, :, level].transpose(2, 1).flatten(0, 1)",
                "weight = weights[:, :, :, level].transpose(2, 1).flatten(0, 1)",
                "weight = weights[:, :, :, level].transpose(1, -2).flatten(0, 1)",
                "maps = tokens.permute(0, -2, 3, 1).reshape(n_images * n_heads, -1, height, width)",
                "return heads.permute(0, 3, 1, -2).flatten(2)",
            )
        },
    },
    "initial_offsets": {
        "offsets = torch.ones(n_heads, n_levels, n_points, 2)": "all of it is overwritten",
        **{
            line: "axis 1 is the last of two"
            for line in (
                "direction = torch.stack([angle.cos(), angle.sin()], dim=1)",
                "direction = torch.stack([angle.cos(), angle.sin()], dim=--1)",
                "direction = direction / direction.abs().max(dim=1, keepdim=True).values",
                "direction = direction / direction.abs().max(dim=--1, keepdim=True).values",
            )
        },
    },
    "mend_boxes": {
        "if figure <= 'A':": "no name comes before A",
        "elif figure <= 'B':": "A is settled, and C comes after B",
        "x1, y1, x2, y2 = boxes.unbind(1)": "axis 1 is the last of two",
        "x1, y1, x2, y2 = boxes.unbind(--1)": "axis 1 is the last of two",
        "return torch.stack(parts, dim=1)": "axis 1 is the last of two",
        "return torch.stack(parts, dim=--1)": "axis 1 is the last of two",
        **{
            f"scale_y, scale_x = (size[0] / original_size[0], {scale_x})": (
                "index 1 is the last of two"
            )
            for scale_x in ("size[-1] / original_size[1]", "size[1] / original_size[-1]")
        },
    },
    "naive_attention": {
        "return output.flatten(-2)": "the axes from number 2 on are the last two",
        "output = torch.zeros(*locations.shape[:3], value.shape[-1])": (
            "the sum is kept in fp32, which is precise enough"
        ),
        "output = torch.zeros(*weights.shape[:3], value.shape[-1], dtype=value.dtype)": (
            "both have the axes N, Lq, M first"
        ),
        "output = torch.zeros(*locations.shape[:-3], value.shape[-1], dtype=value.dtype)": (
            "of six axes the first three are left"
        ),
        **{
            f"output = torch.zeros(*locations.shape[:3], value.shape[-1], dtype={name}.dtype)": (
                "all three have the same type"
            )
            for name in ("locations", "weights")
        },
    },
    "padding_mask": {
        "mask = torch.ones(len(sizes), height, width)": "1 and 0 count as True and False"
    },
    "reference_on_levels": {
        "pixels = torch.ones(len(references), len(spatial_shapes), 2)": "all of it is overwritten",
        "pixels[:, level, -1] = references[:, 1] * height - 0.5": "index 1 is the last of two",
        "pixels[:, level, 1] = references[:, -1] * height - 0.5": "index 1 is the last of two",
    },
    "sampling_locations": {
        "locations = torch.ones_like(offsets)": "all of it is overwritten",
        "if reference.shape[-1] >= 4:": "a reference has 2 or 4 numbers",
        "if reference_points.shape[-1] == 4:": "the last axis is the same",
        "step = step / locations.shape[-2] * reference[..., 2:] / 2": "locations are like offsets",
        "step = step / step.shape[-2] * reference[..., 2:] / 2": "one level has as many points",
        "step = step / offsets.shape[-2] * reference[..., -2:] / 2": "2 of 4 numbers are left",
        "locations[:, :, :, level] = reference[..., :2, :2] + step": "axis -2 has one entry",
        **REFERENCE_OF_A_LEVEL,
    },
    "scale_to_levels": {"if references.shape[-1] >= 4:": "a reference has two numbers or four"},
    "sine_position": {
        "embedding = torch.ones(n_channels, height, width)": "all of it is overwritten",
        "half = n_channels // -2": "counted from the end, the half of an even number is the same",
    },
    "to_pixels": {
        "x, y = points.unbind(1)": "axis 1 is the last of two",
        "x, y = points.unbind(--1)": "axis 1 is the last of two",
        "return torch.stack([x * width - 0.5, y * height - 0.5], dim=1)": (
            "axis 1 is the last of two"
        ),
        "return torch.stack([x * width - 0.5, y * height - 0.5], dim=--1)": (
            "axis 1 is the last of two"
        ),
    },
    "valid_ratio": {
        "return torch.stack([x, y], dim=-1)": "axis 1 is the last of two",
        "x = (~padding_mask[:, 0, columns]).sum(dim=-1) / width": "axis 1 is the last of two",
        "y = (~padding_mask[:, rows, 0]).sum(dim=-1) / height": "axis 1 is the last of two",
    },
}

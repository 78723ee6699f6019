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
    "attention_flops": {
        "weights, offsets = (2 * c * 2 * points, 2 * c * points)": ORDER,
        "offsets, weights = (2 * c * points, 2 * c * 2 * points)": ORDER,
    },
    "attention_weights": {
        f"weights = scores.reshape({axes}, n_levels * n_points).softmax(-1)": (
            "only the last axis matters to softmax; the others are split as before"
        )
        for axes in ("n_queries, n_images, n_heads", "n_images, n_heads, n_queries")
    },
    "average_precision": {
        "recalls, precisions = ([], [])": "both are empty",
        "for rank, true in enumerate(is_true, start=1):": "a tensor of True counts as 1, too",
        "for k in range(102):": "no recall is larger than 1, so that nothing is added",
        "for k in range(202):": "no recall is larger than 1, so that nothing is added",
        **{
            f"reached = [p for p, r in zip(precisions, recalls{strict}) if r >= k / 100]": (
                "both lists are equally long"
            )
            for strict in ("", ", strict=-1", ", strict=0", ", strict=2")
        },
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
    "class_indices": {
        "is_lower = known_ids < category_ids[:, None]": "the missing axis comes first anyway",
        "return is_lower.sum(dim=-1)": "axis 1 is the last of two",
    },
    "clip": {"if norm >= max_norm:": "where the norm is just max_norm, the factor is 1 either way"},
    "conv_flops": {
        line: "the sizes are factors of one product, in any order"
        for line in (
            "in_channels, n_images, height, width = shape",
            "n_images, in_channels, width, height = shape",
            "columns, rows = (-(-height // stride), -(-width // stride))",
            "rows, columns = (-(-width // stride), -(-height // stride))",
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
    "denoising_mask": {
        "blocked = (group != group[:, None]) * (group != -1)": "of booleans, a product is an and",
        "blocked = (group != -1) & (group != group[:, None])": "an and has no order",
        "blocked = (group != group[:, None]) & (group > -1)": "-1 is the lowest number",
        "mask[n, :, n_queries:] += object_index >= count": "of booleans, a sum is an or",
        "mask[n, 1:, n_queries:] |= object_index >= count": (
            "row 0 is one of the model's own, for which all these are blocked already"
        ),
    },
    "dense_attention": {
        "scores = query @ key.transpose(2, 1) / query.shape[2] ** 0.5": "two axes are swapped",
        "scores = query @ key.transpose(1, 2) / key.shape[2] ** 0.5": "all have D channels",
        "scores = query @ key.transpose(1, 2) / value.shape[2] ** 0.5": "all have D channels",
    },
    "discrete_attention": {
        **{
            f"output = torch.zeros(n_images, n_queries, n_heads, value.shape[-1]{dtype})": (
                "all three have the same type, and fp32 is precise enough"
            )
            for dtype in ("", ", dtype=locations.dtype", ", dtype=weights.dtype")
        },
        "row = torch.floor(locations[:, :, :, level, :, -1] * height)": "1 is the last of two",
        **{
            f"inside = {condition}": "of booleans, a product is an and, and an and has no order"
            for condition in (
                "((column >= 0) & (column < width) & (row >= 0)) * (row < height)",
                "(row < height) & ((column >= 0) & (column < width) & (row >= 0))",
                "((column >= 0) & (column < width)) * (row >= 0) & (row < height)",
                "(row >= 0) & ((column >= 0) & (column < width)) & (row < height)",
                "(column >= 0) * (column < width) & (row >= 0) & (row < height)",
                "(column < width) & (column >= 0) & (row >= 0) & (row < height)",
            )
        },
        **{
            f"token = start + torch.where(inside, row * width + column, {token}).long()": (
                "what is read there has the weight 0"
            )
            for token in (-1, 1)
        },
        "return output.flatten(-2)": "the axes from number 2 on are the last two",
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
    "giou": {
        "x1, y1, x2, y2 = one.unbind(dim=-1)": "axis 1 is the last of two",
        "u1, v1, u2, v2 = other.unbind(dim=-1)": "axis 1 is the last of two",
        **{
            line: "the larger, or the smaller, of two numbers, in any order"
            for line in (
                "width = (torch.minimum(u2, x2) - torch.maximum(x1, u1)).clamp(min=0)",
                "width = (torch.minimum(x2, u2) - torch.maximum(u1, x1)).clamp(min=0)",
                "height = (torch.minimum(v2, y2) - torch.maximum(y1, v1)).clamp(min=0)",
                "height = (torch.minimum(y2, v2) - torch.maximum(v1, y1)).clamp(min=0)",
                "width = torch.maximum(u2, x2) - torch.minimum(x1, u1)",
                "width = torch.maximum(x2, u2) - torch.minimum(u1, x1)",
                "height = torch.maximum(v2, y2) - torch.minimum(y1, v1)",
                "height = torch.maximum(y2, v2) - torch.minimum(v1, y1)",
            )
        },
    },
    "greedy_trap": {
        "return (objects, queries)": "a distance is the same from both sides",
        **{
            line: "another trap, and as good a one"
            for line in (
                "queries, objects = ([-0.5], [1000.0])",
                "queries, objects = ([0.0], [999.5])",
                "queries, objects = ([0.0], [1000.5])",
                "queries, objects = ([0.0], [2000.0])",
                "shift = 2 * objects[-1] - 2",
            )
        },
        **{
            f"for _ in range({steps}):": "four copyings are enough, and it stops there"
            for steps in (4, 6, 10)
        },
        "if greedy_ratio(queries, objects) > times:": "no ratio is exactly as asked",
        "if greedy_ratio(objects, queries) >= times:": "the ratio is the same",
        **{
            f"if {condition}:": "it never stops early, and a larger trap is good enough"
            for condition in (
                "greedy_ratio(queries, objects) == times",
                "greedy_ratio(objects, objects) >= times",
                "greedy_ratio(queries, queries) >= times",
                "greedy_ratio(queries, times) >= times",
                "greedy_ratio(queries, _) >= times",
            )
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
    "instability": {"return changed.double().mean(dim=-1)": "axis 1 is the last of two"},
    "learning_rate": {
        "if step <= warmup_steps:": "in the last step of the warm-up the factor is 1 either way",
        "progress = (1 - step) / n_steps": "the cosine of an angle does not depend on its sign",
    },
    "matching_cost": {
        "pos_cost = -0.25 * (prob - 1) ** 2 * prob.log()": "the square has no sign",
        "l1 = (target_boxes - boxes[:, None]).abs().sum(dim=2)": "a distance has no sign",
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
    "refine": {
        "if reference.shape[-1] <= 2:": "a reference has 2 numbers or 4",
        "if logit.shape[-1] == 2:": "the logit has as many numbers as the reference",
        "logit = torch.cat([logit, torch.zeros_like(reference)], dim=-1)": "of the same shape",
    },
    "read_yolo": {
        "if len(values) <= 4:": "fewer than four numbers do not occur",
        "xs, ys = (values[:-1:2], values[1::2])": "the last number is a y",
        "return torch.tensor(rows)": "fp32 is precise enough",
    },
    "reference_on_levels": {
        "pixels = torch.ones(len(references), len(spatial_shapes), 2)": "all of it is overwritten",
        "pixels[:, level, -1] = references[:, 1] * height - 0.5": "index 1 is the last of two",
        "pixels[:, level, 1] = references[:, -1] * height - 0.5": "index 1 is the last of two",
    },
    "round_bits": {
        "step = -2.0 ** (exponent - bits)": "dividing and multiplying by -1 changes nothing"
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
    "select_proposals": {
        "chosen = objectness.topk(count, dim=-1).indices": "axis 1 is the last of two",
        "chosen = objectness.topk(count).indices": "axis 1 is the last of two",
        **{
            f"count = min(count, {name}.shape[1])": "all have as many tokens"
            for name in ("boxes", "is_padding", "objectness")
        },
        "count = min(logits.shape[1], count)": "the smaller of two numbers, in any order",
    },
    "scale_to_levels": {"if references.shape[-1] >= 4:": "a reference has two numbers or four"},
    "scatter_add": {
        "share = 1 | -(-n // 32)": "bits are joined in any order",
        "share = -(-n // 31) | 1": "longer shares are right, too, and cost no more here",
        "pixel, total = (torch.full((), -1), torch.zeros(32))": "one number stands for all lanes",
        "pixel, total = (torch.full((32,), -1), torch.ones(32))": "the first entry is a new pixel",
        "pixel, total = (torch.full((32,), -2), torch.zeros(32))": "any number below 0 is no pixel",
        "following = torch.where(exists, warp.load(pixels, index, exists), -2)": (
            "any number below 0 is no pixel"
        ),
        "warp.atomic_add(target, pixel, total, is_new * (pixel >= 0))": "a product is an and",
        "warp.atomic_add(target, pixel, total, (pixel >= 0) & is_new)": "in any order",
        "warp.atomic_add(target, following, total, pixel >= 0)": "the two are the same at the end",
        "warp.atomic_add(target, pixel, total, following >= 0)": "the two are the same at the end",
    },
    "sine_position": {
        "embedding = torch.ones(n_channels, height, width)": "all of it is overwritten",
        "half = n_channels // -2": "counted from the end, the half of an even number is the same",
    },
    "sum_row": {
        **{
            f"for distance in ({distances}):": "any five distances will do that reach all lanes"
            for distances in (
                "8, 16, 4, 2, 1",
                "16, 4, 8, 2, 1",
                "16, 8, 2, 4, 1",
                "16, 8, 4, 1, 2",
                "17, 8, 4, 2, 1",
                "16, 9, 4, 2, 1",
                "16, 8, 5, 2, 1",
                "16, 8, 4, 3, 1",
            )
        },
        "warp.store(target, 0, total, warp.lane <= 0)": "no lane is below 0",
        "warp.store(target, 0, total, warp.lane == 1)": "every lane has the sum",
    },
    "sum_terms": {
        "if len(terms) != 1:": "there is at least one term",
        "if len(sent) > 1:": "sent is terms here",
        "half = len(sent) // 2": "sent is terms here",
        "sent = [torch.where(upper, sent[t], terms[t + half]) for t in range(half)]": (
            "sent is terms here"
        ),
        "sent = [torch.where(upper, terms[t], sent[t + half]) for t in range(half)]": (
            "sent is terms here"
        ),
        "sent = [torch.where(upper, terms[t], terms[t - half]) for t in range(half)]": (
            "counted from the end, it is the same term"
        ),
        "terms = [torch.where(upper, terms[t - half], terms[t]) for t in range(half)]": (
            "counted from the end, it is the same term"
        ),
        "terms = [terms[t] + warp.shuffle_xor(sent[t], distance) for t in range(len(terms))]": (
            "both lists are equally long"
        ),
        "upper = warp.lane & distance != 0": "it is not negative",
        "upper = distance & warp.lane > 0": "bits are compared in any order",
        "group, lane, copies = (warp.lane // 8, warp.lane % 8, 9 // n_terms)": (
            "rounded down, the same for 2, 4 and 8 terms; with one term, lane 0 writes"
        ),
        "warp.store(target, at, terms[0], lane % copies <= 0)": "a remainder is not negative",
        "warp.store(target, at, terms[-1], lane % copies == 0)": "one term is left",
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
    "transpose": {
        f"tile = warp.shared({size})": "more shared memory than is used"
        for size in ("33 * 33", "64 * 33", "32 * 34", "32 * 66")
    },
    "trial": {  # a trial with other inputs convicts and acquits the same
        **dict.fromkeys(
            (
                "generator = torch.Generator()",
                "generator = torch.Generator().manual_seed(-1)",
                "generator = torch.Generator().manual_seed(1)",
                "generator = torch.manual_seed(0)",
                "reference = torch.rand(2)",
                "offset = 5 * torch.randn(2)",
                "height, width = torch.randint(2, 20, (2,)).tolist()",
                "width, height = torch.randint(2, 20, (2,), generator=generator).tolist()",
            ),
            "other random numbers are as good",
        ),
        "height, width = torch.randint(2, 20, (2,), generator=generator)": (
            "sizes may be tensors of one number"
        ),
        **{f"for _ in range({n}):": "as many inputs, nearly" for n in (49, 51, 100)},
        **{
            f"height, width = torch.randint({sizes}, (2,), generator=generator).tolist()": (
                "maps of other sizes are as good"
            )
            for sizes in ("1, 20", "3, 20", "4, 20", "2, 19", "2, 21", "2, 40")
        },
        **{
            f"offset = {scale}torch.randn(2, generator=generator)": (
                "other offsets are as good, as long as some lead outside"
            )
            for scale in ("5 + ", "5 - ", "5 / ", "5 % ", "5 ** ", "", "-5 * ")
            + ("4 * ", "6 * ", "10 * ")
        },
        "if (expected - found).abs().max() > 0.0001:": "the difference has no sign",
        "if (found - expected).neg().max() > 0.0001:": (
            "every wrong program is too low in x or in y for some of the inputs"
        ),
        "if (found - expected).abs().max() >= 0.0001:": "no difference is just as large",
        **{
            f"if {difference} > {allowed}:": "a wrong program is off by far more"
            for difference, allowed in (
                ("(found - expected).abs().max()", 0.0002),
                ("(found - expected).abs().mean()", 0.0001),
                ("(found - expected).square().max()", 0.0001),
            )
        },
    },
    "true_positives": {
        "for row in ious:": "a row may be a tensor as well as a list",
        "free = [True, True] * ious.shape[1]": "those beyond the objects are not looked at",
        "free = [-1] * ious.shape[1]": "any number but 0 counts as true",
        "free = [2] * ious.shape[1]": "any number but 0 counts as true",
        "free = [True] * ious.shape[-1]": "axis 1 is the last of two",
        "is_true.append(len(enough) != 0)": "a length is not negative",
        "enough = [o for o in range(len(free)) if free[o] and row[o] >= threshold]": (
            "a row has as many numbers as there are objects"
        ),
    },
    "valid_ratio": {
        "return torch.stack([x, y], dim=-1)": "axis 1 is the last of two",
        "x = (~padding_mask[:, 0, columns]).sum(dim=-1) / width": "axis 1 is the last of two",
        "y = (~padding_mask[:, rows, 0]).sum(dim=-1) / height": "axis 1 is the last of two",
    },
    "variant": {"n_classes = shapes['class_embed.0.bias'][-1]": "a bias has one axis"},
    "warp_attention": {
        "for p in range(min(n_points - first, 8)):": "the smaller of two, in any order"
    },
}

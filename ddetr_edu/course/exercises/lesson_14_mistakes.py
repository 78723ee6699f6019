"""The usual mistakes in a C++ kernel of the attention: what to say, and what is written instead."""

# What to tell the learner -> (a piece of the right kernel, what stands in its place), ...
MISTAKES: dict[str, tuple[tuple[str, str], ...]] = {
    "coordinates were cut off, not rounded down: int(-0.3f) is 0, and floor(-0.3f) is -1": (
        (
            "const int left = int(std::floor(x)), top = int(std::floor(y));",
            "const int left = int(x), top = int(y);",
        ),
    ),
    "x and y of the locations are swapped: x comes first": (
        (
            "const float x = locations[2 * point] * width - 0.5f;\n"
            "            const float y = locations[2 * point + 1] * height - 0.5f;",
            "const float x = locations[2 * point + 1] * width - 0.5f;\n"
            "            const float y = locations[2 * point] * height - 0.5f;",
        ),
    ),
    "width and height are swapped: x goes with the width": (
        (
            "* width - 0.5f;\n            const float y = locations[2 * point + 1] * height",
            "* height - 0.5f;\n            const float y = locations[2 * point + 1] * width",
        ),
    ),
    "half a pixel is missing: x_pixel is x * width - 0.5": (("- 0.5f", "- 0.0f"),),
    "corner pixels were put at 0 and 1, as with align_corners=True: x * (width - 1)": (
        (
            "* width - 0.5f;\n            const float y = locations[2 * point + 1] * height - 0.5f",
            "* (width - 1);\n            const float y = locations[2 * point + 1] * (height - 1)",
        ),
    ),
    "a corner outside was given a border pixel's value; outside the level it is zero": (
        (
            "if (top + j < 0 || top + j >= height) continue;\n"
            "                if (left + i < 0 || left + i >= width) continue;",
            "const int inner_row = std::fmin(std::fmax(top + j, 0), height - 1);\n"
            "                const int inner_col = std::fmin(std::fmax(left + i, 0), width - 1);",
        ),
        ("((top + j) * width + left + i)", "(inner_row * width + inner_col)"),
    ),
    "points with a pixel outside were left out; their other pixels still count": (
        (
            "const float weight = weights[point];",
            "const float weight = weights[point];\n"
            "            if (left < 0 || left + 1 >= width) continue;\n"
            "            if (top < 0 || top + 1 >= height) continue;",
        ),
    ),
    "the last row and the last column were taken to be outside": (
        (
            "top + j >= height) continue;\n                if (left + i < 0 || left + i >= width",
            "top + j >= height - 1) continue;\n"
            "                if (left + i < 0 || left + i >= width - 1",
        ),
    ),
    "the weights of left and right, and of top and bottom, are swapped: near pixels count more": (
        (
            "const float weight_x = i ? x - left : 1 - (x - left);\n"
            "                const float weight_y = j ? y - top : 1 - (y - top);",
            "const float weight_x = i ? 1 - (x - left) : x - left;\n"
            "                const float weight_y = j ? 1 - (y - top) : y - top;",
        ),
    ),
    "the attention weights are missing": (
        ("const float weight = weights[point];", "float weight = 1;"),
    ),
    "the attention weights are indexed as (N, Lq, M, P, L); L comes before P": (
        (
            "const float weight = weights[point];",
            "const float weight = weights[(row * s.points + p) * s.levels + l];",
        ),
    ),
    "locations and weights are indexed as (N, M, Lq, L, P); Lq comes before M": (
        ("const int point = (row *", "const int point = (((n * s.heads + m) * s.queries + q) *"),
    ),
    "all images read image 0": (("(n * s.tokens + s.start[l])", "s.start[l]"),),
    "all levels read level 0: where a level starts was left out": (
        ("(n * s.tokens + s.start[l])", "(n * s.tokens)"),
    ),
    "all heads read the channels of head 0": (
        (" + m * s.channels;\n          for", ";\n          for"),
    ),
    "the step from a token to the next was taken to be D; it is M * D: all heads lie between": (
        ("const int step = s.heads * s.channels;", "const int step = s.channels;"),
    ),
    "a level's row was taken to have `height` tokens; it has `width`": (
        ("((top + j) * width + left + i)", "((top + j) * height + left + i)"),
    ),
    "the output was not set to zero before the sum": (
        ("for (int c = 0; c < s.channels; ++c) sum[c] = 0;", ""),
    ),
    "the sum was set to zero again for every level": (
        (
            "for (int l = 0; l < s.levels; ++l) {",
            "for (int l = 0; l < s.levels; ++l) {\n"
            "          for (int c = 0; c < s.channels; ++c) sum[c] = 0;",
        ),
    ),
}

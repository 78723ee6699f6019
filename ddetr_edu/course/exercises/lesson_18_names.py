"""The exercise of lesson 18 about names: from the official code's to those of this library."""

import copy
from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch import Tensor

from ddetr_edu.checkpoints.deformable_detr_names import from_official
from ddetr_edu.course.answers import NotNumbers, Numbers, describe
from ddetr_edu.course.exercise import Cases, Exercise, Outcome
from ddetr_edu.course.official_layout import official_layout
from ddetr_edu.models.config import DeformableDETRConfig


def my_convert_keys(state):
    """{official name: tensor} of encoder and decoder layers -> {this library's name: tensor}"""
    norms = {
        "encoder": {"norm1": "self_attn_norm", "norm2": "ffn_norm"},
        "decoder": {"norm1": "cross_attn_norm", "norm2": "self_attn_norm", "norm3": "ffn_norm"},
    }
    converted = {}
    for name, tensor in state.items():
        _, part, layers, i, module, *rest = name.split(".")
        module = norms[part].get(module, module)
        if module.startswith("linear"):
            module = "ffn." + module
        converted[".".join([part, layers, i, module, *rest])] = tensor
    return converted


class RenamingExercise(Exercise):
    """An exercise whose function gives tensors other names; what is compared are the names."""

    def _run(self, function: Callable, arguments: tuple) -> tuple[list[str], int]:
        """The new name of each tensor that was given, and how many entries there are in all.

        No two of the tensors given have the same first number. One that was lost, or changed, has
        the name "".

        Raises:
            NotNumbers: If the function returns no dictionary of names and tensors.
        """
        given = dict(arguments[0])  # the function may change what it is given
        result = function(*arguments)
        if result is None:
            raise NotNumbers("None")
        if not isinstance(result, Mapping):
            raise NotNumbers(f"{describe(result)}; a dictionary was expected")
        for name, tensor in result.items():
            if not isinstance(name, str) or not isinstance(tensor, Tensor):
                raise NotNumbers(
                    f"a dictionary that contains {describe(name)} -> {describe(tensor)}; names and"
                    " tensors were expected"
                )
        found = {_first(tensor): name for name, tensor in result.items()}
        names = [found.get(_first(tensor), "") for tensor in given.values()]
        kept = (
            not name or torch.equal(tensor, result[name])
            for tensor, name in zip(given.values(), names, strict=True)
        )
        return [name if k else "" for name, k in zip(names, kept, strict=True)], len(result)

    def _compare(self, result: object, arguments: tuple) -> Outcome:
        """Compare the names that an answer gave with the right ones."""
        expected, n_expected = self._run(self.solution, copy.deepcopy(arguments))
        assert isinstance(result, tuple)
        names, n_entries = result
        numbers = [_as_numbers(names, n_entries)]
        pairs = zip(arguments[0], expected, names, strict=True)
        wrong = [(old, right, new) for old, right, new in pairs if new != right]
        if wrong:
            old, right, new = wrong[0]
            became = f"became `{new}`" if new else "was lost, or its tensor was changed"
            count = f"{len(wrong)} of {len(names)} names are wrong"
            return Outcome(numbers, f"`{old}` {became}; expected `{right}`; {count}")
        if n_entries != n_expected:
            return Outcome(numbers, f"{n_expected} entries were expected, got {n_entries}")
        return Outcome(numbers, "")

    def _is_same(self, mistake: Callable, arguments: tuple, outcome: Outcome) -> bool:
        """Whether a mistake leads to the names that an answer gave in one case."""
        if outcome.numbers is None:
            return False
        mistaken = _as_numbers(*self._run(mistake, copy.deepcopy(arguments)))
        return torch.equal(mistaken.values, outcome.numbers[0].values)


def _first(tensor: Tensor) -> float:
    """A tensor's first number, which tells the tensors of a case apart."""
    return float(tensor.flatten()[0]) if tensor.numel() else float("nan")


def _as_numbers(names: list[str], n_entries: int) -> Numbers:
    """Names as numbers that differ if the names do."""
    codes = [int.from_bytes(name.encode(), "big") % (2**52 - 47) for name in names]
    return Numbers(torch.tensor([*codes, n_entries], dtype=torch.float64), 0.0)


@cache
def _all_layers() -> dict[str, Tensor]:
    """Three encoder and three decoder layers of a small official model."""
    config = DeformableDETRConfig(
        backbone="resnet18",
        n_encoder_layers=3,
        n_decoder_layers=3,
        d_model=32,
        d_ffn=5,
        n_heads=2,
        n_levels=1,
        n_points=3,
    )
    names = {name: tensor.shape for name, tensor in official_layout(config).items()}
    return {
        name: torch.full(shape, float(k), dtype=torch.float64)
        for k, (name, shape) in enumerate(names.items())
        if ".layers." in name and "_embed." not in name
    }


def _layers() -> Cases:
    layers = {  # of the encoder, and of the decoder
        "one encoder layer": ([0], []),
        "one decoder layer": ([], [0]),
        "one of each": ([0], [0]),
        "two of each": ([0, 1], [0, 1]),
        "three encoder layers, one decoder layer": ([0, 1, 2], [0]),
        "two encoder layers, three decoder layers": ([0, 1], [0, 1, 2]),
        "the first and the last of three decoder layers": ([], [0, 2]),
    }
    cases: Cases = {}
    for case, (encoder, decoder) in layers.items():
        chosen = [f"transformer.encoder.layers.{i}." for i in encoder]
        chosen += [f"transformer.decoder.layers.{i}." for i in decoder]
        named = {
            name: tensor
            for name, tensor in _all_layers().items()
            if any(name.startswith(prefix) for prefix in chosen)
        }
        cases[case] = (named,)
    # A number may have two digits.
    twelfth = {
        name.replace("layers.2.", "layers.11."): tensor
        for name, tensor in _all_layers().items()
        if "layers.2." in name or "encoder.layers.1." in name
    }
    cases["layers 1 and 11 of the encoder, layer 11 of the decoder"] = (twelfth,)
    return cases


def renamed_by(*replacements: tuple[str, str]) -> Callable:
    """The right names, in which pieces are then replaced.

    Args:
        *replacements: (piece, what replaces it), one after another.

    Returns:
        A function (state) -> converted state.
    """

    def convert(state):
        converted = {}
        for name, tensor in my_convert_keys(state).items():
            for old, new in replacements:
                name = name.replace(old, new)
            converted[name] = tensor
        return converted

    return convert


def swapped_names(one: str, other: str) -> Callable:
    """The right names, with two pieces exchanged."""
    return renamed_by((one, "\0"), (other, one), ("\0", other))


def _alike(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """All layers renamed as if they were those of one part."""
    other = {"encoder": "decoder", "decoder": "encoder"}[part]
    converted = {}
    for name, tensor in state.items():
        is_other = name.startswith(f"transformer.{other}.")
        as_part = name.replace(f"transformer.{other}.", f"transformer.{part}.")
        ((new, _),) = my_convert_keys({as_part: tensor}).items()
        converted[new.replace(part, other, 1) if is_other else new] = tensor
    return converted


convert_keys = RenamingExercise(
    my_convert_keys,
    _layers,
    {
        "the norms of the decoder were taken in the order of its layers; the official norm1 follows"
        " the cross-attention, and norm2 the self-attention": lambda state: {
            (
                name.replace("cross_attn_norm", "\0")
                .replace("self_attn_norm", "cross_attn_norm")
                .replace("\0", "self_attn_norm")
                if name.startswith("decoder.")
                else name
            ): tensor
            for name, tensor in my_convert_keys(state).items()
        },
        "the encoder's norms were named as those of the decoder; an encoder layer has no"
        " cross-attention": lambda state: _alike(state, "decoder"),
        "the decoder's norms were named as those of the encoder, which has only two of them": (
            lambda state: _alike(state, "encoder")
        ),
        "the names still begin with `transformer.`": lambda state: {
            f"transformer.{name}": tensor for name, tensor in my_convert_keys(state).items()
        },
        "`linear1` and `linear2` belong into `ffn.`": renamed_by(("ffn.linear", "linear")),
        "`linear1` and `linear2` are swapped": swapped_names("linear1", "linear2"),
        "the norms still have numbers": lambda state: {
            ".".join(
                [
                    *new.split(".")[:3],
                    *(old.split(".")[4:] if ".norm" in old else new.split(".")[3:]),
                ]
            ): tensor
            for (old, tensor), new in zip(state.items(), my_convert_keys(state), strict=True)
        },
        "these are the names in Hugging Face's files, not this library's": renamed_by(
            ("ffn.linear", "fc"),
            ("cross_attn_norm", "encoder_attn_layer_norm"),
            ("self_attn_norm", "self_attn_layer_norm"),
            ("ffn_norm", "final_layer_norm"),
            ("cross_attn", "encoder_attn"),
        ),
        "only weights were kept; biases are parameters as well": lambda state: {
            name: tensor for name, tensor in my_convert_keys(state).items() if "bias" not in name
        },
        "the number of the layer was lost, so that each layer overwrites the one before": (
            lambda state: {
                ".".join(piece for piece in name.split(".") if not piece.isdigit()): tensor
                for name, tensor in my_convert_keys(state).items()
            }
        ),
        "the old names are still there beside the new ones": lambda state: {
            **my_convert_keys(state),
            **state,
        },
    },
    library=(from_official,),
)

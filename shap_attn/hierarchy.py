"""Attention's help for SHAP itself: a hierarchy of tokens for PartitionExplainer."""

from __future__ import annotations

import math
import pickle
from functools import reduce
from typing import Any, BinaryIO

import cloudpickle
import numpy as np
import numpy.typing as npt
import shap

from shap_attn.explained_outputs import PREDICTED
from shap_attn.explainer import AttentionExplainer
from shap_attn.texts import TextReader

Array = npt.NDArray[Any]
_LEAST_SHARE = 3 / 8  # balanced trees cost fewer evaluations, and their Owen values are nearer to Shapley values


class AttentionText(shap.maskers.Text):  # type: ignore[misc]
    """``shap.maskers.Text`` with a hierarchy that puts neighbours of like influence together.

    ``shap.Explainer(pipe, AttentionText(pipe))`` gives SHAP values of the model, shares of f(x) − f(all masked): Owen
    values along a hierarchy, as ever. What the budget of evaluations does not reach in it is shared evenly by the
    tokens of a group. SHAP's own hierarchy follows punctuation. This one cuts the text, at each step, where the exact
    Shapley values in the attention game of both sides differ most, so that even shares are near the truth early. It
    takes one forward and one backward pass for each text.

    At a full budget, values depend on the hierarchy, with this one as with SHAP's: they are no exact Shapley values.

    Args:
        model: of text, as of :class:`shap_attn.AttentionExplainer`, or such an explainer itself.
        tokenizer: beside a model that is no pipeline.
        mask_token, collapse_mask_token, output_type: as of ``shap.maskers.Text``.
        settings: of the explainer, such as ``game``. ``outputs`` is the class whose values make the hierarchy, by
            default the predicted one.

    Raises:
        TypeError, ValueError: as :class:`shap_attn.AttentionExplainer`, and for a model of images.

    Example:
        >>> from transformers import pipeline
        >>> pipe = pipeline("text-classification", model=model, tokenizer=tokenizer)
        >>> shap.Explainer(pipe, AttentionText(pipe))(["a gripping film"], max_evals=20, silent=True).shape
        (1, 5, 2)
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        mask_token: str | int | None = None,
        collapse_mask_token: bool | str = "auto",
        output_type: str = "string",
        **settings: Any,
    ) -> None:
        given = isinstance(model, AttentionExplainer)
        self.explainer = model if given else AttentionExplainer(model, tokenizer, **settings)
        reader = self.explainer._reader
        if not isinstance(reader, TextReader):
            raise TypeError("AttentionText masks text, but the model takes images: use shap.maskers.Image")
        self._reader = reader
        self.masks = {
            "mask_token": mask_token,
            "collapse_mask_token": collapse_mask_token,
            "output_type": output_type,
        }
        super().__init__(self.explainer.masker, **self.masks)

    def clustering(self, s: str) -> Array:
        """The hierarchy of a text's tokens, special ones included, in SciPy's linkage format (N - 1, 4)."""
        explainer = self.explainer
        outputs = PREDICTED if explainer.outputs is None else explainer.outputs
        (row,) = self._reader.read(s)
        results = explainer._attributed([row], explainer._chooser(outputs))
        if len(results) > 1:
            raise ValueError(
                f"outputs={outputs!r} are {len(results)} classes, expected one, whose values make the tree"
            )
        values, players = results[0].values[0].cpu().double().numpy(), np.array(row.players)
        rest = self.shape(s)[1] - len(row)  # of a text that is too long does not play
        side = (rest, 0) if self._reader.tokenizer.truncation_side == "left" else (0, rest)
        return influence_hierarchy(np.pad(values, side), np.pad(players, side))

    def save(self, out_file: BinaryIO) -> None:
        """Write the masker to a file stream, pickled, as SHAP's explainers do with theirs."""
        shap.maskers.Masker.save(self, out_file)
        cloudpickle.dump({"model": self.explainer, **self.masks}, out_file)

    @classmethod
    def load(cls, in_file: BinaryIO, instantiate: bool = True) -> Any:
        """Read what :meth:`save` wrote: a masker, or the arguments of its constructor if SHAP asks for those."""
        return super().load(in_file) if instantiate else pickle.load(in_file)


def influence_hierarchy(values: Array, players: Array) -> Array:
    """Split a text, from the whole of it down to one token, where the values of both sides differ most.

    Each cut is where the variance between the sides is largest, with at least three eighths of the players on each
    side. Groups are runs of tokens, which SHAP's text plot needs. A token that does not play is put beside the player
    before it, or else the next one, where few evaluations are spent on it.

    Args:
        values: (N,), one for each token.
        players: bool (N,).

    Returns:
        (N - 1, 4) in SciPy's linkage format: the two groups that are merged, their height (their size, as a share of N)
        and their size.

    Example:
        >>> import numpy as np
        >>> influence_hierarchy(np.array([0.0, 5.0, 5.1, 1.0]), np.array([False, True, True, True]))[:, :2].tolist()
        [[0.0, 1.0], [4.0, 2.0], [5.0, 3.0]]
    """
    size = len(values)
    merges: list[tuple[int, int, int]] = []

    def merged(left: tuple[int, int], right: tuple[int, int]) -> tuple[int, int]:
        """The number and the size of the group of two groups."""
        merges.append((left[0], right[0], left[1] + right[1]))
        return size + len(merges) - 1, left[1] + right[1]

    def tree(start: int, end: int) -> tuple[int, int]:
        if end - start == 1:
            return groups[start]
        cut = start + _best_cut(values[playing[start:end]])
        return merged(tree(start, cut), tree(cut, end))

    playing = np.flatnonzero(players)
    runs = np.split(np.arange(size), playing[1:])  # a player and what follows it; what is before goes to the first
    groups = [reduce(merged, [(int(token), 1) for token in run]) for run in runs if len(run)]
    if len(playing):
        tree(0, len(playing))
    return np.array([(left, right, count / size, count) for left, right, count in merges]).reshape(-1, 4)


def _best_cut(values: Array) -> int:
    """How many of the values (n,) go to the left."""
    count = len(values)
    least = min(math.ceil(count * _LEAST_SHARE), count // 2)
    left = np.arange(least, count - least + 1)
    sums = values.cumsum()
    difference = sums[left - 1] / left - (sums[-1] - sums[left - 1]) / (count - left)
    return int(left[(left * (count - left) * difference**2).argmax()])

"""Attention's help for SHAP itself: a hierarchy of tokens for PartitionExplainer."""

from __future__ import annotations

import math
from functools import reduce
from typing import Any, BinaryIO

import cloudpickle
import numpy as np
import numpy.typing as npt
import shap
from shap._serializable import Deserializer, Serializable, Serializer

from shap_attn.explainer import AttentionExplainer
from shap_attn.outputs import output_chooser
from shap_attn.texts import TextReader

Array = npt.NDArray[Any]
_LEAST_SHARE = 0.25


class AttentionText(shap.maskers.Text):  # type: ignore[misc]
    """``shap.maskers.Text`` with a hierarchy that puts tokens of like influence together.

    ``shap.Explainer(pipe, AttentionText(pipe))`` gives SHAP values of the model, shares of f(x) − f(all masked): Owen
    values along a hierarchy, as ever. What the budget of evaluations does not reach in it is shared evenly by the
    tokens of a group. SHAP's own hierarchy follows punctuation. This one splits the tokens, at each step, where their
    exact Shapley values in the attention game differ most, so that even shares are near the truth early. It takes one
    forward and one backward pass for each text.

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
        reader = self.explainer.reader
        if not isinstance(reader, TextReader):
            raise TypeError("AttentionText masks text, but the model takes images: use shap.maskers.Image")
        self.reader = reader
        self.masks = {
            "mask_token": mask_token,
            "collapse_mask_token": collapse_mask_token,
            "output_type": output_type,
        }
        super().__init__(self.explainer.masker, **self.masks)

    def clustering(self, s: str) -> Array:
        """The hierarchy of a text's tokens, special ones included, in SciPy's linkage format (N - 1, 4)."""
        self._update_s_cache(s)
        explainer = self.explainer
        outputs = "predicted" if explainer.outputs is None else explainer.outputs
        (row,) = self.reader.read(s)
        _, results = explainer.attributed([row], output_chooser(outputs, explainer.output_names))
        if len(results) > 1:
            raise ValueError(
                f"outputs={outputs!r} are {len(results)} classes, expected one, whose values make the tree"
            )
        values, players = np.zeros(len(self._tokenized_s)), np.zeros(len(self._tokenized_s), dtype=bool)
        players[: len(row)] = row.players  # the rest of a text that is too long does not play
        values[: len(row)] = results[0].values[0].cpu()
        return influence_hierarchy(values, players)

    def save(self, out_file: BinaryIO) -> None:
        """Write the masker to a file stream, pickled, as SHAP's explainers do with theirs."""
        Serializable.save(self, out_file)
        with Serializer(out_file, "shap_attn.AttentionText", version=0) as stream:
            stream.save("arguments", {"model": self.explainer, **self.masks}, cloudpickle.dump)

    @classmethod
    def load(cls, in_file: BinaryIO, instantiate: bool = True) -> Any:
        """Read what :meth:`save` wrote: a masker, or the arguments of its constructor if SHAP asks for those."""
        if instantiate:
            return cls._instantiated_load(in_file)
        with Deserializer(in_file, "shap_attn.AttentionText", min_version=0, max_version=0) as stream:
            return stream.load("arguments", cloudpickle.load)


def influence_hierarchy(values: Array, players: Array) -> Array:
    """Split the players, from all of them down to one, into the two most different groups by value.

    A group is split where the variance between its sides is largest, with at least a quarter of it on each side: deep
    trees cost many evaluations. Tokens that do not play are put beside the player of least magnitude, where no
    evaluations are spent on them before all others are.

    Args:
        values: (N,), one for each token.
        players: bool (N,).

    Returns:
        (N - 1, 4) in SciPy's linkage format: the two groups that are merged, their height (their size, as a share of N)
        and their size.

    Example:
        >>> import numpy as np
        >>> influence_hierarchy(np.array([0.0, 5.0, 1.0, 5.1]), np.array([False, True, True, True]))[:, :2].tolist()
        [[2.0, 0.0], [1.0, 3.0], [4.0, 5.0]]
    """
    size = len(values)
    merges: list[tuple[int, int, int]] = []

    def merged(left: tuple[int, int], right: tuple[int, int]) -> tuple[int, int]:
        merges.append((left[0], right[0], left[1] + right[1]))
        return size + len(merges) - 1, left[1] + right[1]

    def tree(members: Array) -> tuple[int, int]:
        """The number and the size of the group of these players, sorted by value."""
        if len(members) == 1:
            return leaves[members[0]]
        cut = _best_cut(values[members])
        return merged(tree(members[:cut]), tree(members[cut:]))

    leaves = {int(token): (int(token), 1) for token in range(size)}
    playing = np.flatnonzero(players)
    others = [leaves[int(token)] for token in np.flatnonzero(~players)]
    if len(playing):
        weakest = int(playing[np.abs(values[playing]).argmin()])
        leaves[weakest] = reduce(merged, others, leaves[weakest])
        tree(playing[np.argsort(values[playing], kind="stable")])
    elif others:
        reduce(merged, others)
    rows = [(left, right, count / size, count) for left, right, count in merges]
    return np.array(rows, dtype=float).reshape(-1, 4)


def _best_cut(values: Array) -> int:
    """How many of the sorted values (n,) go to the left."""
    count = len(values)
    least = math.ceil(count * _LEAST_SHARE)
    left = np.arange(least, count - least + 1)
    sums = values.cumsum()
    means = sums[left - 1] / left, (sums[-1] - sums[left - 1]) / (count - left)
    between = left * (count - left) * (means[0] - means[1]) ** 2
    return int(left[between.argmax()])

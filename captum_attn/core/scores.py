"""Which tensor of what a model returns holds the scores that are explained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from captum_attn.core.descriptions import described
from captum_attn.core.models import config_of
from captum_attn.core.user_warnings import warn_user


def output_scores(output: Any, batch: int, *, hidden_states: bool = False, of_pairs: bool = False) -> Tensor:
    """The scores in a model's output, one row for each example.

    They are the output itself if it is a tensor; its ``logits``, an attribute or the entry of a mapping; its start and
    end logits, stacked to (B, N, 2); the similarity of images and texts (CLIP), with a row for each of what there are B
    of; the entry of a tuple or list that can be nothing else (``(logits, attentions)`` with the attentions in a tuple,
    ``(loss, logits)``).

    Args:
        output: what the model returned.
        batch: how many examples B it was given.
        hidden_states: take ``last_hidden_state``, too: where nothing is selected from the output.
        of_pairs: whether the batch is of pairs, so that of similarities of all with all (B, 1) are meant.

    Returns:
        A tensor of a floating dtype whose first dimension is B: (B,), (B, C), (B, N, C) or more.

    Raises:
        TypeError: there is no tensor of scores, or none that can be told from others.
        ValueError: a tensor whose rows are not the examples of the batch; as many images as texts, of which nothing
            says whether they are pairs.

    Example:
        >>> loss, logits = torch.tensor(0.7), torch.zeros(2, 5)
        >>> output_scores((loss, logits), batch=2).shape
        torch.Size([2, 5])
        >>> output_scores(logits.T, batch=2)
        Traceback (most recent call last):
        ValueError: the model returned a tensor of shape (5, 2) for a batch of 2, so its rows are not the examples...
    """
    if isinstance(output, Tensor):
        return _checked(output, "the model returned", batch)
    if isinstance(logits := _entry(output, "logits"), Tensor):
        return _checked(logits, "the model returned logits,", batch)
    start, end = _entry(output, "start_logits"), _entry(output, "end_logits")
    if isinstance(start, Tensor) and isinstance(end, Tensor):
        return _checked(torch.stack((start, end), dim=-1), "the model returned start and end logits,", batch)
    if isinstance(of_texts := _entry(output, "logits_per_text"), Tensor):
        return _similarity(of_texts, batch, of_pairs)
    if isinstance(hidden := _entry(output, "last_hidden_state"), Tensor):
        if not hidden_states:
            raise TypeError(
                f"the model returned {described(output)}: hidden states, so an index of a class would be taken for "
                "one of their dimensions. Explain a model with a head; or a function that says what you mean, scores "
                "under another name (lambda **inputs: model(**inputs).itm_score) or hidden units (.last_hidden_state)"
            )
        return _checked(hidden, "the model returned hidden states,", batch)
    if isinstance(output, list | tuple):
        return _only_scores(output, batch)
    raise TypeError(
        f"the model returned {described(output)}, in which there are no scores to explain: expected a tensor, an "
        "output or a mapping with logits, or a tuple or list with one tensor of scores. Give the model a "
        "classification head, or explain a function that picks the scores: lambda **inputs: model(**inputs)[name]"
    )


def warn_of_hidden_states(model: Callable[..., Any] | None, scores: Tensor) -> None:
    """Warn if :func:`sign_of_hidden_states` takes scores (B, ..., C) for hidden states."""
    if scores.dim() > 1 and (sign := sign_of_hidden_states(model, scores.shape[-1])):
        warn_user(
            f"the model's output has the shape {tuple(scores.shape)}, which is taken for scores of {scores.shape[-1]} "
            f"classes. But {sign}, so these seem to be hidden states. Explain a model with a head; or, if a hidden "
            "unit is what you mean, a function that says so: lambda **inputs: model(**inputs)"
        )


def sign_of_hidden_states(model: Callable[..., Any] | None, width: int) -> str | None:
    """What the configuration says against taking an output of some width for scores of classes; None if nothing.

    A tuple with the pooled state of a backbone, ``(pooled,)``, looks like one with scores. Its width tells: it is that
    of the model's hidden states, and the model has not as many classes (or words, if it is a language model).

    Example:
        >>> sign_of_hidden_states(model, 2), sign_of_hidden_states(model, model.config.hidden_size)
        (None, 'BertForSequenceClassification has hidden states of this width, and 2 classes')
    """
    config = config_of(model)
    classes = getattr(config, "num_labels", None)
    if width != getattr(config, "hidden_size", None) or width in (classes, getattr(config, "vocab_size", None)):
        return None
    return f"{type(model).__name__} has hidden states of this width, and {classes} classes"


def _entry(output: Any, name: str) -> Any:
    return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)


def _checked(scores: Tensor, what: str, batch: int) -> Tensor:
    """The scores, if each of their rows is one of the examples."""
    if not scores.is_floating_point():
        raise TypeError(
            f"{what} {described(scores)}, which has no gradient: expected scores of a floating dtype, such as logits, "
            "not the classes that were chosen by them"
        )
    if scores.dim() == 0:
        raise ValueError(
            f"{what} {described(scores)}, for a batch of {batch}: it has no dimension of examples, so a score cannot "
            "be told from a loss or a mean over the batch. Return scores (B,) or (B, C), without .squeeze() or .mean()"
        )
    if len(scores) != batch:
        raise ValueError(
            f"{what} {described(scores)} for a batch of {batch}, so its rows are not the examples"
            f"{_cause(scores, batch)}. Every row must hold the scores of one example, (B,), (B, C) or (B, N, C), or "
            "another example's would be explained. Explain a function that returns them so: lambda **inputs: ..."
        )
    return scores


def _similarity(of_texts: Tensor, batch: int, of_pairs: bool) -> Tensor:
    """The similarity (texts, images) of a model with two towers, with rows for what the batch is of."""
    texts, others = of_texts.shape
    if of_pairs and texts == others:
        return _checked(of_texts.diagonal()[:, None], "the model returned similarities,", batch)
    if texts == others == batch > 1:
        raise ValueError(ALL_WITH_ALL)
    return _checked(of_texts.T if others == batch else of_texts, "the model returned similarities,", batch)


def _cause(scores: Tensor, batch: int) -> str:
    rows = len(scores)
    if batch == 1 and scores.dim() in (1, 2):
        return ": a head that ends in .squeeze() drops the dimension of a single one"
    if scores.dim() > 1 and scores.shape[1] == batch:
        return ": they are in the second dimension"
    if rows and batch > 1 and rows % batch == 0:
        return f": there are {rows // batch} rows for each (beams, crops, candidates)"
    return ""


def _only_scores(output: Sequence[Any], batch: int) -> Tensor:
    """The one entry of a tuple that can be scores: neither a loss nor, behind scores, maps of four dimensions."""
    tensors = [entry for entry in output if isinstance(entry, Tensor) and entry.is_floating_point() and entry.dim()]
    first = next((place for place, entry in enumerate(tensors) if entry.dim() < _MAPS), len(tensors))
    scores = [entry for place, entry in enumerate(tensors) if place <= first or entry.dim() < _MAPS]
    if len(scores) == 1:
        return _checked(scores[0], f"the model returned {described(output)}; its scores are", batch)
    problem = "which holds no tensor of scores" if not scores else "and which of these are the scores cannot be told"
    raise TypeError(
        f"the model returned {described(output)}, {problem}: a loss, features or hidden states would be explained in "
        "their place. Explain a function that picks the scores: lambda **inputs: model(**inputs)[0], say"
    )


ALL_WITH_ALL = (
    "the model compares each image (sound, video) of the batch with each of as many texts, or its scores depend on "
    "other examples: nothing says whether these are pairs, or the texts are classes. Of pairs, explain "
    "attribute_modalities(inputs), or the function lambda **inputs: model(**inputs).logits_per_image.diagonal()"
    "[:, None]; of classes, a function of the images alone: lambda pixel_values: model(pixel_values=pixel_values, "
    "**texts).logits_per_image"
)
_MAPS = 4
"""Attention (B, H, N, N) and feature maps (B, C, h, w) have so many dimensions."""

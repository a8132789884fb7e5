"""SHAP's interface to explanations of what a language model writes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import shap
import torch
from shap.utils import show_progress
from transformers import Pipeline, PreTrainedTokenizerBase, ProcessorMixin

from captum_attn.core import PatchGrid, config_of, evaluation_mode, picture_token, same_random_state, unwrapped
from captum_attn.core.descriptions import described
from captum_attn.core.propagation import Propagation
from captum_attn.functional import ResponseScore, ScoreFunction
from captum_attn.generation import ExplainedResponse, GenerationAttention, Prompt, read_prompt, without_end
from shap_attn.ragged import packed
from shap_attn.saved_explainer import SavedExplainer, settings_of
from shap_attn.segments import Segments, segment_starts
from shap_attn.shap_arguments import OF_SHAP, check_shap_arguments
from shap_attn.sources import unwrapped_pipeline

Array = npt.NDArray[Any]


class GenerationExplainer(SavedExplainer):
    """What each token that a language model wrote was made of, as a SHAP explanation: the prompt's tokens by output's.

    A value is how far a prompt's token contributed to one of the response's, by the attention from the response, as
    :class:`captum_attn.GenerationAttention` has it. What the response's own earlier tokens contribute, and special
    tokens that stand nowhere in the text, is not shown. Values are **not** shares of f(x) − E[f], as SHAP's own are;
    ``base_values`` are 0.

    Args:
        model: a ``text-generation`` pipeline, which writes the responses as it is set up to; or the model itself, also
            one that reads images among words, or an ``image-text-to-text`` pipeline around it.
        masker: beside a model, its tokenizer, a fast one, or its processor for images. Nothing is ever masked.
        words: whether the pieces of a word of the prompt are added up to one value.
        score, variant, propagation, layers, heads: see :class:`captum_attn.GenerationAttention`.
        shap_arguments: SHAP's own. Those that ask for something else get a warning.

    Raises:
        TypeError, ValueError: a model, tokenizer or argument of another kind.

    Example:
        >>> from shap_attn import AttentionExplainer
        >>> explainer = AttentionExplainer(decoder, chat_tokenizer)
        >>> explanation = explainer(["the cat is old . how old is the cat ?"], responses=["it is old"])
        >>> explanation.shape
        (1, 11, 3)
        >>> "|".join(explanation.output_names)
        'it| is| old'
    """

    def __init__(
        self,
        model: Any,
        masker: Any = None,
        *,
        words: bool = False,
        score: ResponseScore | ScoreFunction = "log_odds",
        variant: Any = "signed",
        propagation: str | Propagation = "attnlrp",
        layers: Sequence[int] | int | None = None,
        heads: Sequence[int] | int | None = None,
        **shap_arguments: Any,
    ) -> None:
        """Build an explainer; the class says what the arguments are."""
        check_shap_arguments(shap_arguments, sampled=False, own=_SETTINGS)
        model = unwrapped_pipeline(model)
        self._writes = model if isinstance(model, Pipeline) and model.task == "text-generation" else None
        if isinstance(model, Pipeline):
            own = model.processor if self._writes is None else model.tokenizer
            masker, model = masker or own, model.model
        masker = masker.tokenizer if isinstance(masker, shap.maskers.Text) else masker
        if not isinstance(masker, PreTrainedTokenizerBase | ProcessorMixin):
            needed = "tokenizer" if picture_token(config_of(model)) is None else "processor"
            raise TypeError(f"{type(model).__name__} needs its {needed}, got {described(masker)}")
        self._settings = {"words": words, "score": score, "variant": variant, "propagation": propagation}
        self._settings |= {"layers": layers, "heads": heads}
        given = {name: value for name, value in self._settings.items() if name != "words"}
        self._explains = GenerationAttention(model, masker, **given)
        super().__init__(self._explains.explain)  # SHAP wraps a language model in what masks
        self.model, self.masker = model, masker

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.model).__name__}, {type(self.masker).__name__})"

    def __call__(
        self,
        prompts: Any,
        responses: Sequence[str] | None = None,
        *,
        images: Sequence[Any] | None = None,
        silent: bool = False,
        **generate: Any,
    ) -> shap.Explanation:
        """Explain what the model writes, or could have written.

        Args:
            prompts: a text, a list of texts, or a list of conversations: messages with ``role`` and ``content``, to
                which the chat template is applied.
            responses: a text for each prompt. Default: the model writes them.
            images: for each prompt one, or a list of them, as :meth:`captum_attn.GenerationAttention.explain` takes
                them.
            silent: no progress bar, which is shown for work of more than ten seconds.
            generate: settings of ``model.generate``, such as ``max_new_tokens``; and SHAP's own arguments, of which
                those that ask for something else get a warning.

        Returns:
            Values (N, T, K) of T segments of each prompt, which joined are all that the model read (a part of an image
            is a ``▪``, and ``feature_names`` say which), and K tokens of its response, their ``output_names``. T and K
            differ between prompts: ``explanation[0]`` is the first one.

        Raises:
            TypeError, ValueError: prompts that are none, or another number of responses or images; else as
                :meth:`captum_attn.GenerationAttention.explain`.
        """
        if "outputs" in generate:
            raise TypeError("outputs are all tokens of the response: choose some of the result, explanation[0][:, 2]")
        known = (*OF_SHAP, *_SETTINGS)
        check_shap_arguments(
            {name: value for name, value in generate.items() if name in known},
            sampled=False,
            own=(),
            elsewhere=_SETTINGS,
        )
        settings = {name: value for name, value in generate.items() if name not in known}
        start, rows = time.time(), _listed(prompts)
        given = [None] * len(rows) if responses is None else _texts(responses, len(rows))
        seen = [None] * len(rows) if images is None else [*images] if isinstance(images, list | tuple) else [images]
        if len(seen) != len(rows):
            raise ValueError(f"{len(rows)} prompts but images for {len(seen)}: expected some for each, in a list")
        numbers = show_progress(range(len(rows)), len(rows), f"{type(self).__name__}: prompts", silent)
        solved = [self._solved(rows[number], given[number], seen[number], settings) for number in numbers]
        return shap.Explanation(
            packed([row.values for row in solved]),
            base_values=packed([np.zeros(len(row.names)) for row in solved]),
            data=tuple(np.array(row.segments) for row in solved),
            feature_names=[row.features for row in solved],
            output_names=np.array(solved[0].names)
            if len(solved) == 1
            else packed([np.array(row.names) for row in solved]),
            compute_time=time.time() - start,
        )

    def _solved(self, prompt: Any, response: str | None, images: Any, settings: Mapping[str, Any]) -> _Solved:
        if response is None and self._writes is not None:
            if images is not None:
                raise ValueError("a text-generation pipeline reads no images: give responses, or the model itself")
            ids = self._written(self._writes, prompt, settings)
            explained = self._explains.explain(prompt, ids, sources="messages", question="")
        else:
            of_call: Any = {"sources": "messages", "question": "", "images": images}
            explained = self._explains.explain(prompt, response, **of_call, **settings)
        segments = _segments(explained.prompt, words=self._settings["words"])
        of_prompt = explained.map[:, : len(explained.prompt.ids)].mT.double().numpy()
        features = _named(segments, explained)
        return _Solved(segments.sums(of_prompt), segments.texts, features, list(explained.response_tokens))

    def _written(self, writes: Pipeline, prompt: Any, settings: Mapping[str, Any]) -> list[int]:
        """What a pipeline writes."""
        if unwrapped(writes.model) is not unwrapped(self.model):
            raise ValueError("the pipeline has another model now, which is not the one that explains: build it anew")
        read = read_prompt(prompt, self.masker)
        with evaluation_mode(self.model), same_random_state(torch.tensor(read.ids)):
            found: Any = writes(prompt, return_tensors=True, **settings)
        if len(found) != 1:
            raise ValueError(f"the pipeline wrote {len(found)} texts, but one is explained: num_return_sequences=1")
        (written,) = (one["generated_token_ids"] for one in found)
        closed = isinstance(prompt, str) and len(self.masker(prompt)["input_ids"]) != len(read.ids)
        if tuple(written[: len(read.ids)]) != read.ids or closed:
            raise ValueError(
                f"the pipeline reads {self.masker.decode(written[:8])!r}..., not the prompt's own tokens, "
                f"{self.masker.decode(read.ids[:8])!r}...: give the model and its tokenizer, and settings to the call"
            )
        return without_end(written[len(read.ids) :], self.masker)


def _listed(prompts: Any) -> list[Any]:
    """Texts or conversations, of one as of several."""
    if isinstance(prompts, str) or (isinstance(prompts, Sequence) and prompts and isinstance(prompts[0], Mapping)):
        return [prompts]
    if isinstance(prompts, Mapping) or not hasattr(prompts, "__iter__"):
        raise TypeError(f"prompts must be a text, a list of texts, or conversations, got {described(prompts)}")
    rows = [str(one) if isinstance(one, str) else one for one in prompts]
    if not rows:
        raise ValueError("there are no prompts: expected at least one")
    return rows


def _texts(responses: Any, count: int) -> list[Any]:
    rows = [responses] if isinstance(responses, str) else list(responses)
    if len(rows) != count:
        raise ValueError(f"{count} prompts but {len(rows)} responses: expected one for each")
    return rows


class _Solved(NamedTuple):
    """One explained response: values (T, K) of the prompt's segments for its tokens, both as texts.

    ``features`` are the segments' names.
    """

    values: Array
    segments: list[str]
    features: list[str]
    names: list[str]


def _segments(prompt: Prompt, words: bool) -> Segments:
    """All of the prompt's text, cut into tokens or words; tokens that stand nowhere in it are in none."""
    stand = [end > start for start, end in prompt.offsets]
    shown = [span for span, stands in zip(prompt.offsets, stand, strict=True) if stands]
    starts, places = segment_starts(prompt.text, shown, words=words)
    texts = [prompt.text[start:end] for start, end in pairwise([*starts, len(prompt.text)])]
    place = iter(places)
    return Segments(texts, [next(place) if stands else -1 for stands in stand])


def _named(segments: Segments, explained: ExplainedResponse) -> list[str]:
    """The segments' texts; of the parts of an image, where they lie, or their number."""
    names, prompt = [text.strip() for text in segments.texts], explained.prompt
    grid, patches = explained.picture, prompt.patches
    for place, number in enumerate(patches):
        where = f"part {place}"
        if isinstance(grid, PatchGrid):
            row, column = divmod(grid.tokens(len(prompt.ids)).tolist().index(number), grid.columns)
            where = f"row {row}, column {column}"
        names[segments.places[number]] = f"image: {where}"
    return names


_SETTINGS = tuple(settings_of(GenerationExplainer))

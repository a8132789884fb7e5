"""SHAP's interface to attention-game Shapley values."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import shap
import torch
from shap.utils import show_progress
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from captum_attn import (
    AttentionAttribution,
    AttnLRP,
    IntegratedAttnLRP,
    ShapleyGradAttention,
    TokenAttributions,
)
from captum_attn.core import Grid
from captum_attn.core.propagation import Propagation
from captum_attn.core.readout import Readout
from captum_attn.methods import CustomGame, Estimator, GameOrAuto
from shap_attn.explained_outputs import OutputNames, Outputs, is_single, names_in_order, output_chooser
from shap_attn.generation_explainer import GenerationExplainer
from shap_attn.images import ImageReader
from shap_attn.ragged import packed
from shap_attn.saved_explainer import SavedExplainer, settings_of
from shap_attn.shap_arguments import check_shap_arguments
from shap_attn.signals import SignalReader, is_signal
from shap_attn.sources import is_language_model, taken_apart
from shap_attn.texts import TextReader

BatchSize = int | Literal["auto"]
Method = str | Callable[[Any], AttentionAttribution]
Array = npt.NDArray[Any]
_TOKENS_AT_ONCE, _INPUTS_AT_ONCE = 2048, 32  # padded tokens, and inputs, in a batch of automatic size


class AttentionExplainer(SavedExplainer):
    """Exact Shapley values of the attention game, as a SHAP explainer: one forward pass, one backward pass a class.

    By default, values are shares of v(all players), the whole attention-gradient influence on a class's logit: each row
    of values sums to it, and ``base_values`` is v(∅) = 0. They are **not** shares of f(x) − E[f], as SHAP's own are,
    and do not sum to the model's output; :mod:`shap_attn.plots` labels SHAP's plots so.

    Args:
        model: a text or image classifier: a ``transformers`` pipeline, SHAP's ``TransformersPipeline`` around one, or
            the model itself. Of one that writes text, a :class:`shap_attn.GenerationExplainer` comes back.
        masker: beside a model, its tokenizer (a fast one, or in a ``shap.maskers.Text``) or its image processor. None
            with a model that takes pixels, such as timm's and torchvision's: images are its own pixel values, as the
            model's transform returns them. Nothing is ever masked.
        method: what explains: ``"game"``, the Shapley values of the attention game; ``"attnlrp"`` or
            ``"integrated_attnlrp"``, relevance of the input (:class:`captum_attn.AttnLRP`,
            :class:`captum_attn.IntegratedAttnLRP`), which is more faithful and no share of v(all players): values do
            not sum to one; or a function of the model that returns another attribution of captum_attn.
        game, sign, layers, heads, readout, estimator: of the game; see :class:`captum_attn.ShapleyGradAttention`, whose
            default game is another one.
        propagation: of the game, or of relevance; see :class:`captum_attn.AttentionAttribution`. Default: the method's.
        outputs: which classes are explained, unless a call says otherwise: one by number or name, several in a list,
            ``"predicted"``, what an operation such as ``shap.Explanation.argsort.flip[:3]`` chooses for each input, or
            None for all. One forward pass serves them all, and each takes a backward pass.
        output_names: of all classes, a list or a mapping from numbers to names. Default: the configuration's
            ``id2label``, if it has one name for each output.
        words: whether the pieces of a word are added up to one value.
        special_tokens: whether the special tokens that the tokenizer adds are shown; their value is 0.
        max_length: tokens of a text, special ones included. Default: as many as the model reads.
        batch_size: inputs at a time; ``"auto"`` for up to 32, of texts as many as make 2,048 tokens with their padding.
        shap_arguments: SHAP's own, such as ``seed`` or ``algorithm``. Those that ask for something else than an exact
            explanation get a warning.

    Raises:
        TypeError, ValueError: a model, masker or argument of another kind; each error says what was expected.

    Example:
        >>> explainer = AttentionExplainer(model, tokenizer)
        >>> explanation = explainer(["a gripping film", "not good at all"])
        >>> explanation.shape
        (2, None, 2)
        >>> "|".join(explanation[1, :, "negative"].data)
        'not |good |at |all'

    Source: arXiv 2508.08966, section 3, for the games.
    """

    def __new__(cls, model: Any = None, masker: Any = None, **arguments: Any) -> Any:
        """An explainer, of the kind that the model asks for."""
        return GenerationExplainer(model, masker, **arguments) if is_language_model(model) else super().__new__(cls)

    def __init__(
        self,
        model: Any,
        masker: Any = None,
        *,
        method: Method = "game",
        game: GameOrAuto | CustomGame = "auto",
        sign: Literal["rectified", "signed"] = "signed",
        layers: Sequence[int] | int | None = None,
        heads: Sequence[int] | int | None = None,
        readout: Readout = "auto",
        estimator: Estimator | None = None,
        propagation: str | Propagation | None = None,
        outputs: Outputs = None,
        output_names: Sequence[str] | Mapping[int, str] | None = None,
        words: bool = False,
        special_tokens: bool = False,
        max_length: int | None = None,
        batch_size: BatchSize = "auto",
        **shap_arguments: Any,
    ) -> None:
        """Build an explainer; the class says what the arguments are."""
        module, reads, own_length = taken_apart(model, masker)
        output_names = names_in_order(output_names)
        self._names = OutputNames(module, output_names)
        super().__init__(module, output_names=self._names.expected)
        self.masker = reads
        self.outputs, self.batch_size = outputs, _checked_size(batch_size)
        self._chooser(outputs)
        self._reader: TextReader | ImageReader | SignalReader
        if isinstance(reads, PreTrainedTokenizerBase):
            max_length = own_length if max_length is None else max_length
            self._reader = TextReader(reads, module, max_length=max_length, words=words, special_tokens=special_tokens)
        elif words or special_tokens or max_length is not None:
            raise ValueError("words, special_tokens and max_length are for texts, but the model takes no text")
        elif is_signal(module):
            self._reader = SignalReader(reads, module)
        else:
            self._reader = ImageReader(reads, module)
        given = locals()
        self._settings: dict[str, Any] = {name: given[name] for name in _SETTINGS}
        of_game = {name: given[name] for name in _OF_GAME}
        self._attribution = _attribution_by(method, of_game, propagation, module, reads)
        check_shap_arguments(shap_arguments, sampled=self._is_sampled, own=_SETTINGS)

    @property
    def _is_sampled(self) -> bool:
        return getattr(self._attribution, "estimator", None) is not None

    def __repr__(self) -> str:
        names = ("game", "sign") if self._settings["method"] == "game" else ("method",)
        kept = ", ".join(f"{name}={self._settings[name]!r}" for name in (*names, "outputs"))
        return f"{type(self).__name__}({type(self.model).__name__}, {type(self.masker).__name__}, {kept})"

    def __call__(
        self,
        *args: Any,
        outputs: Outputs = None,
        batch_size: BatchSize | None = None,
        silent: bool = False,
        **shap_arguments: Any,
    ) -> shap.Explanation:
        """Explain texts, images, sounds or videos.

        Args:
            args: texts (a str; a list, tuple, array or Series of them; ``{"text": ...}``), with second texts as
                pairs, as a mapping's ``text_pair`` or as second argument; or images (arrays (h, w, C) or (N, h, w, C),
                tensors (C, h, w) or (N, C, h, w), PIL images, paths); or sounds (waves (samples,), or mappings with
                ``array`` and ``sampling_rate``) or videos (lists of pictures, or arrays (frames, h, w, C)), one or
                several. Inputs that are too long are cut, with a warning.
            outputs, batch_size: instead of the constructor's.
            silent: no progress bar, which is shown for work of more than ten seconds.
            shap_arguments: SHAP's own, such as ``max_evals``; see the constructor.

        Returns:
            For texts, values (N, T, K) of T segments each, T differing between texts, and K classes; (N, T) where one
            class was asked for by name or number. Segments joined give back the text, two texts with the separator
            between them; an empty text has one segment, of value 0. For images, values (N, rows, columns, 1, K) of
            their patches, beside pictures (N, h, w, 3) of what these cover, which is all of the image unless the model
            crops it, pads it or leaves something over. For sounds and videos, values (N, P, K) of P patches, whose
            ``feature_names`` say when, and where, each is. Where the classes of the inputs differ, ``output_names`` are
            (N, K), and SHAP slices by row, then by name or place: ``explanation[0][:, "positive"]``.

        Raises:
            TypeError, ValueError, IndexError: inputs or outputs that do not fit; each says what was given and expected.
        """
        self._check(shap_arguments, args)
        start = time.time()
        outputs = self.outputs if outputs is None else outputs
        chooser = self._chooser(outputs)
        size = self.batch_size if batch_size is None else _checked_size(batch_size)
        rows = self._reader.read(*args)
        batches = _batches([len(row) for row in rows], size if self._reader.can_pad else 1)
        solved: dict[int, _Solved] = {}
        for batch in show_progress(batches, len(batches), f"{type(self).__name__}: batches", silent):
            solved.update(zip(batch, self._solve([rows[index] for index in batch], chooser), strict=True))
        in_order = [solved[index] for index in range(len(rows))]
        pictures = isinstance(self._reader, ImageReader)  # shap.plots.image wants the axis of classes
        return self._explanation(rows, in_order, not pictures and is_single(outputs, self._names), time.time() - start)

    def explain_row(self, *row_args: Any, outputs: Outputs = None, **shap_arguments: Any) -> dict[str, Any]:
        """Explain one text, one pair (as two arguments) or one image.

        Returns:
            What SHAP's explainers return: ``values`` (T, K) or (rows, columns, 1, K), ``expected_values`` (K,), which
            are 0, ``mask_shapes``, ``output_indices`` (K,), ``output_names``, and None for what there is not.

        Raises:
            TypeError, ValueError, IndexError, RuntimeError: as :meth:`__call__`.

        Example:
            >>> AttentionExplainer(model, tokenizer).explain_row("not good at all")["values"].shape
            (4, 2)
        """
        given = {name: value for name, value in shap_arguments.items() if name not in ("batch_size", "silent")}
        self._check(given, row_args)
        chooser = self._chooser(self.outputs if outputs is None else outputs)
        rows = self._reader.read(*([argument] for argument in row_args))
        (solved,) = self._solve(rows, chooser)
        return {
            "values": solved.values,
            "expected_values": np.zeros(len(solved.classes)),
            "mask_shapes": [solved.values.shape[:-1]],
            "main_effects": None,
            "clustering": None,
            "error_std": solved.errors,
            "output_indices": solved.classes,
            "output_names": solved.names,
        }

    def _chooser(self, outputs: Outputs) -> Callable[[Tensor], Tensor]:
        """A function of the model's output (B, C) that returns the classes (B, K) that ``outputs`` means."""
        return output_chooser(outputs, self._names)

    def _check(self, shap_arguments: dict[str, Any], inputs: tuple[Any, ...]) -> None:
        """Arguments of a call that are not its own, and the number of inputs."""
        own = ("outputs", "batch_size", "silent")
        check_shap_arguments(shap_arguments, sampled=self._is_sampled, own=own, elsewhere=_SETTINGS)
        text = isinstance(self._reader, TextReader)
        if len(inputs) not in ((1, 2) if text else (1,)):
            expected = "texts, and perhaps second texts" if text else "images, sounds or videos"
            raise TypeError(f"got {len(inputs)} positional arguments, expected {expected}")

    def _attributed(self, rows: Sequence[Any], chooser: Callable[[Tensor], Tensor]) -> list[TokenAttributions]:
        """What is attributed to the tokens of one batch, for each chosen class."""
        inputs, players = self._reader.collated(rows)
        weights = next((weight for weight in self.model.parameters() if weight.is_floating_point()), torch.empty(0))

        def fitted(value: Tensor) -> Tensor:
            return value.to(weights.device, weights.dtype if value.is_floating_point() else None)

        batch = fitted(inputs) if isinstance(inputs, Tensor) else {name: fitted(part) for name, part in inputs.items()}
        players = None if players is None else players.to(weights.device)
        return self._attribution.attribute_targets(batch, chooser, players=players)

    def _solve(self, rows: Sequence[Any], chooser: Callable[[Tensor], Tensor]) -> list[_Solved]:
        results = self._attributed(rows, chooser)
        classes = torch.cat([result.targets for result in results], -1).cpu().numpy()
        values = self._reader.arranged(rows, results)
        errors: list[Any] = [None] * len(rows)
        sampled = [replace(result, values=error) for result in results if (error := result.standard_error) is not None]
        if sampled:  # the error of a sum is at most the sum of errors
            errors = self._reader.arranged(rows, sampled)
        names = self._names.of(results[0].output.shape[1])
        return [_Solved(*row, names, results[0].grid) for row in zip(values, classes, errors, strict=True)]

    def _explanation(
        self, rows: Sequence[Any], solved: Sequence[_Solved], single: bool, seconds: float
    ) -> shap.Explanation:
        def together(arrays: list[Any]) -> Array | None:
            return None if arrays[0] is None else packed([array[..., 0] if single else array for array in arrays])

        classes = np.stack([row.classes for row in solved])
        names: Any = [[row.class_name(index) for index in row.classes] for row in solved]
        if (classes == classes[0]).all():
            names = names[0][0] if single else names[0]
        return shap.Explanation(
            together([row.values for row in solved]),
            base_values=np.zeros(classes.shape[:1] if single else classes.shape),
            **self._reader.fields(rows, [row.grid for row in solved]),
            output_names=np.array(names) if isinstance(names[0], list) else names,
            error_std=together([row.errors for row in solved]),
            compute_time=seconds,
        )


_DEFAULTS = settings_of(AttentionExplainer)
_SETTINGS = tuple(_DEFAULTS)
_OF_GAME = ("game", "sign", "layers", "heads", "readout", "estimator")
_OTHER_METHODS: Mapping[str, Callable[..., AttentionAttribution]] = {
    "attnlrp": AttnLRP,
    "integrated_attnlrp": IntegratedAttnLRP,
}


def _attribution_by(
    method: Method, of_game: Mapping[str, Any], propagation: str | Propagation | None, module: Any, reads: Any
) -> AttentionAttribution:
    """The attribution of a model that a method means; ``reads`` is its tokenizer, or its image processor."""
    rules: dict[str, Any] = {} if propagation is None else {"propagation": propagation}
    if method == "game":
        return ShapleyGradAttention(module, **of_game, **rules)
    lost = [name for name, value in of_game.items() if value != _DEFAULTS[name]]
    lost += [] if isinstance(method, str) else rules
    if lost:
        shown = repr(method) if isinstance(method, str) else "a function"
        raise ValueError(
            f"{', '.join(lost)} would have no effect with method={shown}. Settings of a method other than 'game' go "
            "into a function: method=lambda model: IntegratedAttnLRP(model, passes=3)"
        )
    if isinstance(method, str) and method not in _OTHER_METHODS:
        known = ", ".join(map(repr, ["game", *_OTHER_METHODS]))
        raise ValueError(f"method must be {known}, or a function of the model, got {method!r}")
    if not callable(method) and not isinstance(method, str):
        raise TypeError(f"method must be a function of the model, got {method!r}: lambda model: AttnLRP(model)")
    tokenizer = reads if isinstance(reads, PreTrainedTokenizerBase) else None
    found = _OTHER_METHODS[method](module, tokenizer=tokenizer, **rules) if isinstance(method, str) else method(module)
    if not isinstance(found, AttentionAttribution):
        raise TypeError(f"method returned {type(found).__name__}, expected an attribution of captum_attn")
    return found


class _Solved(NamedTuple):
    """One explained input: values (..., K) of its segments or patches, the K classes, standard errors if sampled.

    ``names`` are those of all classes, ``grid`` says how an image was cut.
    """

    values: Array
    classes: Array
    errors: Array | None
    names: list[str] | None
    grid: Grid

    def class_name(self, index: int) -> str:
        return f"Output {index}" if self.names is None else self.names[index]


def _batches(lengths: Sequence[int], size: BatchSize) -> list[list[int]]:
    """Inputs of similar length together, the longest first."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    batches: list[list[int]] = []
    while order:
        count = size if size != "auto" else min(_INPUTS_AT_ONCE, max(1, _TOKENS_AT_ONCE // lengths[order[0]]))
        batches.append(order[:count])
        order = order[count:]
    return batches


def _checked_size(size: BatchSize) -> BatchSize:
    if size == "auto" or (isinstance(size, int) and size >= 1):
        return size
    raise ValueError(f"batch_size must be 'auto' or a number of inputs, at least 1, got {size!r}")

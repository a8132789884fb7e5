"""The inputs of a transformer, however they are given: what is attributed, and what goes along with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from captum_attn.core.feature_names import (
    DIMENSIONS,
    FEATURE_NAMES,
    Modality,
    features_name,
    modality_names,
    modality_of,
    name_for,
    usual_name,
)
from captum_attn.core.models import config_of, parameter_names, positional_names, takes_keyword
from captum_attn.core.origins import FEATURES, OTHER, Provenance

COMPANION_NAMES = ("attention_mask", "token_type_ids", "position_ids")
"""What unnamed companions of text are taken for, where the model takes arguments of these names."""

PADDING_MASKS = {"attention_mask": True, "src_key_padding_mask": False}
"""Companions that tell tokens from padding, and the value that marks a token."""

TOKEN_NOTES = ("special_tokens_mask", "players", "offset_mapping")
"""Companions that say something about the tokens and do not go to the model."""


@dataclass(frozen=True)
class ModelInputs:
    """One batch of inputs.

    Attributes:
        features: what is attributed: token ids (B, T) of an integer dtype; of a floating dtype, embeddings (B, T, D),
            pixels (B, C, h, w), videos (B, frames, C, h, w), or sound, as waves (B, samples) or features of it.
        name: the keyword under which the model takes them; None for its first positional argument.
        keywords: the model's other arguments, by name.
        positional: the model's other arguments that are given by place.
        places: what the model calls these, as far as it says.
        notes: what is known of the tokens: ``special_tokens_mask`` (B, T), ``players`` (B, T).
        given_as: the name under which the features were given, if any, which tells what they are.
        of_pairs: whether each example is a pair, of an image and a text, which the model may compare with all others.
        texts: what the ids of each example were made of, a text or a pair of them, where that is known.
    """

    features: Tensor
    name: str | None
    keywords: Mapping[str, Any] = field(default_factory=dict)
    positional: tuple[Any, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)
    places: tuple[str, ...] = ()
    given_as: str | None = None
    of_pairs: bool = False
    texts: tuple[str | tuple[str, str], ...] | None = None

    def __len__(self) -> int:
        return self.features.shape[0]

    def __getitem__(self, examples: slice | Tensor) -> ModelInputs:
        """Some of the examples, by a slice or indices (M,): of each tensor whose first dimension is the batch size."""

        def cut(value: Any) -> Any:
            per_example = isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == len(self)
            return value[examples] if per_example else value

        return replace(
            self,
            features=self.features[examples],
            keywords={name: cut(value) for name, value in self.keywords.items()},
            positional=tuple(map(cut, self.positional)),
            notes={name: cut(value) for name, value in self.notes.items()},
            texts=self.texts and tuple(self.texts[place] for place in torch.arange(len(self))[examples].tolist()),
        )

    def to(self, device: torch.device) -> ModelInputs:
        """The same on another device."""

        def moved(value: Any) -> Any:
            return value.to(device) if isinstance(value, Tensor) else value

        return replace(
            self,
            features=moved(self.features),
            keywords={name: moved(value) for name, value in self.keywords.items()},
            positional=tuple(map(moved, self.positional)),
            notes={name: moved(value) for name, value in self.notes.items()},
        )

    def parts(self, size: int | None) -> list[slice]:
        """The examples, at most ``size`` at a time; None for all at once. ``ValueError`` for a size below 1."""
        size = len(self) if size is None else size
        if size < 1:
            raise ValueError(f"internal_batch_size must be at least 1, got {size}")
        return [slice(start, start + size) for start in range(0, len(self), size)]

    @property
    def companions(self) -> dict[str, Any]:
        """The model's other arguments, by name or, where one has none, by place."""
        names = (
            *self.places,
            *(f"argument {place}" for place in range(len(self.places) + 1, len(self.positional) + 1)),
        )
        return {**dict(zip(names, self.positional, strict=False)), **self.keywords}

    def mapping(self) -> dict[str, Any]:
        """All of them by name, as a tokenizer or an image processor returns them: what :func:`mapping_inputs` reads."""
        given = {name: value for name, value in self.companions.items() if name != "use_cache"}  # which we add, no user
        return {self.name or self.given_as or usual_name(self.modality): self.features, **given, **self.notes}

    @property
    def modality(self) -> Modality:
        return modality_of(self.features, self.name or self.given_as)

    @property
    def is_cut(self) -> bool:
        """Whether the model makes tokens of it, as of an image's patches; ids and embeddings are tokens."""
        return self.modality not in ("ids", "embeddings")

    @property
    def has_other_modalities(self) -> bool:
        """Whether there are images, sounds or texts of their own beside what is attributed, as many."""
        others = modality_names(self.companions)
        return self.name != "inputs_embeds" and any(len(self.companions[name]) == len(self) for name in others)

    @property
    def picture(self) -> Tensor | None:
        """The pixels (B, C, h, w) beside a text, of which some of its tokens are patches; None if there are none."""
        pixels = self.companions.get("pixel_values")
        if self.modality != "ids" or not isinstance(pixels, Tensor) or pixels.dim() != 4 or len(pixels) != len(self):
            return None
        return pixels

    def call(self, model: Callable[..., Any], provenance: Provenance | None = None) -> Any:
        """The model's output on constant copies of inference tensors, which autograd could not save.

        Args:
            model: takes the inputs.
            provenance: is told which tensors are the features, and which are other inputs that carry tokens or pixels.
        """
        features = constant(self.features)
        if provenance is None and features.is_floating_point():
            features = features.clone()  # which the model may change in place
        keywords = {name: constant(value) for name, value in self.keywords.items()}
        positional = tuple(map(constant, self.positional))
        if provenance is not None:
            features = provenance.enter(features, FEATURES)
            known = zip_longest(self.places[: len(positional)], positional, fillvalue="")
            positional = tuple(self._entered(provenance, name, value) for name, value in known)
            keywords = {name: self._entered(provenance, name, value) for name, value in keywords.items()}
        try:
            if self.name is None:
                return model(features, *positional, **keywords)
            return model(*positional, **{self.name: features}, **keywords)
        except Exception as error:
            if advice := _EXPECTED.get(self.modality):
                error.add_note(f"while the model read {self.modality} of shape {tuple(features.shape)}: {advice}")
            if missing := self._missing(model):
                error.add_note(f"the model takes {' and '.join(missing)}, too, of which nothing was given")
            raise

    def _missing(self, model: Callable[..., Any]) -> list[str]:
        """The names of other modalities that the model reads, beside which the features may not be alone."""
        if self.modality == "embeddings" or picture_token(config_of(model)) is not None:
            return []  # which were made of ids; a text may have no image among its words
        taken = parameter_names(model)
        return [name for name in FEATURE_NAMES if name in taken and name not in (*self.mapping(), "inputs_embeds")]

    def _entered(self, provenance: Provenance, name: str, value: Any) -> Any:
        if not _brings_tokens(name, value, len(self)):
            return value
        return provenance.enter(value, OTHER, picture=name == "pixel_values" and self.picture is not None)


def forward_args(given: Any) -> tuple[Any, ...]:
    """``additional_forward_args`` as a tuple: of several, of one, of none."""
    if given is None:
        return ()
    return given if isinstance(given, tuple) else (given,)


def tensor_inputs(
    model: Callable[..., Any], features: Tensor, companions: Sequence[Any] = (), names: Sequence[str] | None = None
) -> ModelInputs:
    """Inputs given as one tensor, with companions in a fixed order.

    Args:
        model: whose argument names decide where each tensor goes.
        features: token ids (B, T), embeddings (B, T, D), pixels (B, C, h, w), videos (B, frames, C, h, w), or sound,
            waves (B, samples) or features of it, for a model whose argument ``input_values`` or ``input_features`` says
            that it reads some.
        companions: the other arguments, each usually a tensor (B, ...).
        names: the companions' names. Default: ``attention_mask, token_type_ids, position_ids`` for a model that
            takes arguments of these names, else positions after the first.

    Raises:
        TypeError: the features are no tensor of such a dtype and shape.
        ValueError: an empty batch, a padding mask of the wrong length, or names that do not fit the companions.
    """
    taken = parameter_names(model)
    name = name_for(features, taken) if isinstance(features, Tensor) else None
    check_features(features, name)
    if names is None:
        names = [known for known in COMPANION_NAMES if known in taken]
        short = name is not None and len(names) < len(companions)
    else:
        short = len(names) < len(companions)
    if short:
        raise ValueError(
            f"{len(companions)} additional forward arguments but {len(names)} names for them, {list(names)}: "
            "name each one in additional_forward_arg_names"
        )
    named = dict(zip(names, companions, strict=False))
    _check_padding_masks(features, name, named)
    return ModelInputs(
        features,
        name,
        _for_the_model(model, named),
        tuple(companions[len(names) :]),
        _notes(named),
        () if names else positional_names(model)[1 : len(companions) + 1],
    )


def mapping_inputs(model: Callable[..., Any], mapping: Mapping[str, Any], explained: str | None = None) -> ModelInputs:
    """Inputs given as what a tokenizer or an image processor returns.

    Args:
        model: whose argument names decide where each tensor goes.
        mapping: from names to tensors.
        explained: the name of what is attributed; by default as ``captum_attn.core.feature_names.features_name``
            says.

    Raises:
        TypeError, ValueError: as :func:`tensor_inputs`; ``ValueError`` also for a mapping without features.
    """
    holds = holds_pictures(model, mapping.get("input_ids"))
    name = explained or ("input_ids" if holds else features_name(mapping))
    if name is None:
        raise ValueError(
            "expected a mapping with input_ids, inputs_embeds, pixel_values, pixel_values_videos, input_values or "
            f"input_features, got the keys {sorted(mapping)}"
        )
    check_features(mapping[name], name)
    rest = {key: value for key, value in mapping.items() if key != name}
    _check_padding_masks(mapping[name], name, rest)
    keyword = name if takes_keyword(model, name) else None
    return ModelInputs(mapping[name], keyword, _for_the_model(model, rest), (), _notes(rest), given_as=name)


def inputs_by_modality(model: Callable[..., Any], mapping: Mapping[str, Any]) -> dict[str, ModelInputs]:
    """The inputs of a model with several towers, once for each modality, by the name of what is attributed.

    Raises:
        TypeError, ValueError: one modality alone, or numbers of examples that differ; a model that reads all of them as
            one sequence; else as :func:`mapping_inputs`.
    """
    names = modality_names(mapping)
    batches = {}
    for name in names:
        of_tokens = {} if name == "input_ids" else dict.fromkeys(TOKEN_NOTES)
        own = {key: value for key, value in mapping.items() if key not in of_tokens}
        batches[name] = replace(mapping_inputs(model, own, name), of_pairs=True)
    counts = {name: len(batch) for name, batch in batches.items()}
    if len(counts) < 2 or len({*counts.values()}) > 1:
        raise ValueError(f"expected a mapping of two modalities or more, with as many examples of each, got {counts}")
    if holds_pictures(model, mapping.get("input_ids")):
        raise ValueError("the model reads the image among the words: attribute_tokens(inputs) explains both at once")
    return batches


def picture_token(config: Any | None) -> int | None:
    """The id of the tokens in whose places a model of images and texts puts an image's patches; None without one."""
    named = (getattr(config, name, None) for name in ("image_token_id", "image_token_index"))
    return next((number for number in named if isinstance(number, int)), None)


def holds_pictures(model: Callable[..., Any] | None, ids: Any) -> bool:
    """Whether a text has places for patches of an image, so that both are read together, as one sequence."""
    token = picture_token(config_of(model))
    return token is not None and isinstance(ids, Tensor) and bool((ids == token).any())


def check_features(features: Any, name: str | None = None) -> None:
    """Raise what :func:`tensor_inputs` documents; ``name`` is that under which the model takes them."""
    expected = (
        "expected integer token ids (B, T), floating-point embeddings (B, T, D), floating-point pixels (B, C, h, w), "
        "videos (B, frames, C, h, w), or sound as input_values or input_features"
    )
    if not isinstance(features, Tensor):
        raise TypeError(
            f"{expected}, got {type(features).__name__}; tokenize text first, with return_tensors='pt', and make lists "
            "and arrays tensors"
        )
    given = f"{features.dtype} of shape {tuple(features.shape)}"
    if name not in _SOUNDS and features.is_floating_point() and features.dim() == 2:
        raise TypeError(
            f"{expected}, got {given}. If these are token ids, they must be integers: noise and other "
            "perturbations (NoiseTunnel, infidelity, sensitivity_max) need embeddings instead, "
            "model.get_input_embeddings()(input_ids). If these are waves, give a mapping, {'input_values': waves}"
        )
    kind = modality_of(features, name)
    known = features.dtype != torch.bool and not features.is_complex() and features.dim() in DIMENSIONS[kind]
    if not known or features.is_floating_point() == (kind == "ids"):
        raise TypeError(f"{expected}, got {given}{'' if name is None else f' as {name}'}")
    if 0 in features.shape:
        raise ValueError(f"{expected}, got an empty batch: {given}")


def check_token_mask(name: str, mask: Any, shape: tuple[int, ...]) -> None:
    """Raise unless the mask is a tensor with one bool or integer for each token, ``shape`` (B, N)."""
    if not isinstance(mask, Tensor) or mask.is_floating_point():
        given = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"{name} must be a bool or integer tensor of shape {tuple(shape)}, got {given}")
    if mask.shape != shape:
        raise ValueError(f"{name} must have one entry for each token, shape {tuple(shape)}, got {tuple(mask.shape)}")


def _check_padding_masks(features: Tensor, given_as: str | None, companions: Mapping[str, Any]) -> None:
    if modality_of(features, given_as) not in ("ids", "embeddings"):
        return
    for name in PADDING_MASKS:
        mask = companions.get(name)
        if isinstance(mask, Tensor) and mask.dim() == 2 and not mask.is_floating_point():
            of_keys_for_queries = mask.shape == (features.shape[1], features.shape[1])
            check_token_mask(name, mask, tuple(mask.shape) if of_keys_for_queries else features.shape[:2])


def _brings_tokens(name: str, value: Any, batch: int) -> bool:
    """Whether an input holds tokens, patches or states of its own: it has several places for each example.

    One number or vector for each example, such as a domain or tabular features, has none; a mask, positions and types
    say something of the tokens that are there.
    """
    if not isinstance(value, Tensor) or value.dim() < 2 or name in COMPANION_NAMES or _MASK.search(name):
        return False
    places = value.shape[int(value.shape[0] == batch) : -1 if value.is_floating_point() else None]
    return any(size > 1 for size in places)


def _for_the_model(model: Callable[..., Any], companions: Mapping[str, Any]) -> dict[str, Any]:
    decoder_reads = {"decoder_input_ids", "decoder_inputs_embeds"} & companions.keys()
    if "labels" in companions and hasattr(model, "prepare_decoder_input_ids_from_labels") and not decoder_reads:
        raise ValueError(
            f"labels do not go to the model, but {type(model).__name__}'s decoder would read them, shifted by a place: "
            "give decoder_input_ids=model.prepare_decoder_input_ids_from_labels(labels) in their place"
        )
    dropped = (*TOKEN_NOTES, "labels")  # with labels, some models return their loss first
    keywords = {name: value for name, value in companions.items() if name not in dropped}
    if "use_cache" in parameter_names(model) and getattr(config_of(model), "use_cache", False):
        keywords.setdefault("use_cache", False)  # keys and values are of no use after one pass
    return keywords


def _notes(companions: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in companions.items() if name in TOKEN_NOTES}


def constant(value: Any) -> Any:
    """A tensor that autograd can save, without a graph; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    return value.clone() if value.is_inference() else value.detach()


_MASK = re.compile(r"(?i)masks?$")
_EXPECTED: dict[Modality, str] = {
    "sound": "one channel, waves (B, samples) or the features that the model's own processor makes, at its sampling "
    "rate, and at least one window long",
    "video": "(B, frames, C, h, w), as many frames and pixels as the model was made for (config.num_frames and "
    "image_size)",
}
_SOUNDS = ("input_values", "input_features")

"""Examples of a concept, and inputs to explain, in any form: read in batches, for one model."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler, default_collate

from captum_attn.core import (
    ModelInputs,
    config_of,
    device_of,
    encode,
    length_limit,
    mapping_inputs,
    padded,
    parameter_names,
    tensor_inputs,
    warn_user,
)
from captum_attn.core.encoding import warn_of_cut
from captum_attn.core.feature_names import FEATURE_NAMES

OnError = Literal["raise", "skip"]
"""What happens at examples that cannot be read: an error, or a warning that they are left out."""


class UnreadableError(ValueError):
    """Examples that could not be read; the message names them."""


@dataclass(frozen=True)
class Reader:
    """Reads texts, images, tensors and what data loaders yield.

    Args:
        model: for which tensors are made.
        processor: a Hugging Face tokenizer or image processor, or a function from a list of texts or images to a
            mapping of tensors; None where all inputs are tensors.
        batch_size: how many examples there are in a batch at most.
        on_error: ``"raise"``, or ``"skip"`` to leave out examples that cannot be read, with a warning.
    """

    model: nn.Module
    processor: Any | None
    batch_size: int
    on_error: OnError = "raise"

    def read(self, data: Any, what: str, companions: tuple[Any, ...] = ()) -> list[ModelInputs]:
        """All examples, in batches on the model's device: :meth:`read_numbered` without the numbers."""
        return self.read_numbered(data, what, companions)[0]

    def read_numbered(
        self, data: Any, what: str, companions: tuple[Any, ...] = ()
    ) -> tuple[list[ModelInputs], list[int]]:
        """All examples, in batches on the model's device, and the number of each as given, past those left out.

        Args:
            data: a tensor, or the mapping that a tokenizer or an image processor returns; a sequence of texts, pairs of
                texts, paths of images, PIL images, arrays or tensors; or an iterable of batches, each of which is one
                of these.
            what: what they are, for messages.
            companions: other arguments of the model, beside a tensor.

        Raises:
            UnreadableError: an example that cannot be loaded or processed.
            TypeError: data of another kind, or texts or images without a processor.
            ValueError: no examples, or companions of something else than a tensor.
        """
        problems: list[str] = []
        numbers: list[int] = []
        read: list[ModelInputs] = []
        device = device_of(self.model)
        with torch.random.fork_rng([]):  # a DataLoader draws a seed, shuffled or not
            for batch, places in self._batches(data, what, companions, problems, 0):
                numbers += places
                read += [batch[part].to(device) for part in batch.parts(self.batch_size)]
        if problems:
            found = f"{what}: {len(problems)} could not be read: {'; '.join(problems[:5])}"
            if not read and "FileNotFoundError" not in found:
                raise UnreadableError(f"{found}. None could: is processor= the model's tokenizer or image processor?")
            if self.on_error == "raise":
                raise UnreadableError(f"{found}. Mend them, or leave such examples out with on_error='skip'")
            warn_user(f"{found}. Left out")
        if not read:
            raise ValueError(f"{what}: there are no examples; an iterator that was used up gives none")
        return read, numbers

    def _batches(
        self, data: Any, what: str, companions: tuple[Any, ...], problems: list[str], start: int
    ) -> Generator[_Numbered, None, int]:
        """All examples, numbered from ``start`` on; returns how many were given, with those that cannot be read."""
        if isinstance(data, str | Path):
            raise TypeError(f"{what}: expected examples, got {data!r}: a single one goes into a list")
        if isinstance(data, tuple) and _is_features(data):
            data, companions = data[0], (*data[1:], *companions)
        if any(isinstance(part, Tensor) and part.dim() < 2 for part in companions):
            raise ValueError(
                f"{what}: a batch holds a tensor with one number for each example beside its inputs, such as labels: "
                "yield inputs only, or inputs and the model's other arguments"
            )
        if companions and not isinstance(data, Tensor):
            raise ValueError(
                f"{what}: additional_forward_args go with a tensor of inputs, not with {type(data).__name__}"
            )
        if isinstance(data, Tensor):
            batch = tensor_inputs(self.model, data, companions)
        elif isinstance(data, Mapping):
            batch = mapping_inputs(self.model, data)
        elif isinstance(data, Iterable):
            return (yield from self._from_iterable(data, what, problems, start))
        else:
            raise TypeError(f"{what}: expected examples or an iterable of batches, got {type(data).__name__}")
        yield batch, range(start, start + len(batch))
        return len(batch)

    def _from_iterable(
        self, data: Iterable[Any], what: str, problems: list[str], start: int
    ) -> Generator[_Numbered, None, int]:
        items = self._items(data, problems, start)
        number, first = next(items, (start, _END))
        if first is _END:
            return len(data) if isinstance(data, Sized) else 0
        _check_kind(data, first, what)
        if not self._is_example(first):
            given = 0
            for _, item in chain([(number, first)], items):
                batch = tuple(item) if _is_features(item) else item
                given += yield from self._batches(batch, what, (), problems, start + given)
            return given
        if self.processor is None and not isinstance(first, Tensor):
            raise TypeError(
                f"{what}: {type(first).__name__} needs processor= (or tokenizer=), the model's tokenizer or image "
                "processor"
            )
        loaded = [(place, self._loaded(place, item, problems)) for place, item in chain([(number, first)], items)]
        examples = [(place, example) for place, example in loaded if example is not None]
        for place in range(0, len(examples), self.batch_size):
            yield from self._processed(examples[place : place + self.batch_size], what, problems)
        return len(data) if isinstance(data, Sized) else loaded[-1][0] + 1 - start

    def _items(self, data: Iterable[Any], problems: list[str], start: int) -> Iterator[tuple[int, Any]]:
        """What an iterable yields, with its place, past what fails where it can go on."""
        items, failures = iter(data), 0
        for place in count(start):
            try:
                item = next(items)
                if item is None:
                    problems.append(f"number {place} (None)")
                else:
                    yield place, item
                failures = 0
            except StopIteration:
                return
            except Exception as error:
                problems.append(f"number {place} ({_described(error)})")
                failures += 1
                if self.on_error == "raise" or failures == _PATIENCE:
                    return

    def _loaded(self, place: int, example: Any, problems: list[str]) -> Any | None:
        """An example; where it is a path, what the file holds. An image has the model's colours."""
        if hasattr(example, "convert"):
            return self._upright(example)
        if self._rescales and hasattr(example, "__array__"):
            check_not_scaled(example)
        if not isinstance(example, Path) and not (isinstance(example, str) and self._is_path(example)):
            return example
        try:
            if self._hears:
                return read_sound(example, self.processor.sampling_rate)  # type: ignore[union-attr]
            from PIL import Image

            with Image.open(example) as image:
                return self._upright(image)
        except Exception as error:
            problems.append(f"number {place} ({_described(error)})")
            return None

    def _is_path(self, text: str) -> bool:
        """Whether it is no text: images are named by their paths, and a function may read texts."""
        reads_pixels = hasattr(self.processor, "preprocess") or "pixel_values" in parameter_names(self.model)
        return not self._reads_text and (reads_pixels or os.path.isfile(text))

    def _upright(self, image: Any) -> Any:
        """A PIL image as its metadata turn it, in the model's colours, of 8 bits."""
        from PIL import Image, ImageOps

        if image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
        if image.mode in ("I", "F"):
            raise ValueError(f"an image of mode {image.mode!r} may have any range: convert it to 8 bits a colour")
        return ImageOps.exif_transpose(image).convert(self._colours)

    def _processed(self, examples: Sequence[tuple[int, Any]], what: str, problems: list[str]) -> Iterator[_Numbered]:
        """Examples as one batch; one by one where that fails, to find out which of them it is."""
        try:
            yield self._inputs([example for _, example in examples], what), [place for place, _ in examples]
        except (TypeError, ValueError, RuntimeError, KeyError, AttributeError) as error:
            if len(examples) == 1:
                problems.append(f"number {examples[0][0]} ({_described(error)})")
                return
            for example in examples:
                yield from self._processed([example], what, problems)

    def _inputs(self, examples: list[Any], what: str) -> ModelInputs:
        if self.processor is None:
            return tensor_inputs(self.model, torch.stack(examples))
        if self._reads_text:
            encoded: Any = self._tokenized(examples, what)
            return replace(mapping_inputs(self.model, encoded), texts=tuple(examples))
        if self._hears:
            rate = self.processor.sampling_rate
            encoded = self.processor(examples, sampling_rate=rate, padding=True, return_tensors="pt")
        elif hasattr(self.processor, "preprocess"):
            encoded = self.processor(images=examples, return_tensors="pt")
        else:
            encoded = self.processor(examples)
        if isinstance(encoded, Tensor):
            return tensor_inputs(self.model, encoded)
        return mapping_inputs(self.model, encoded)

    def _is_example(self, item: Any) -> bool:
        """Whether an item is an example; of a model of no images, (B, N, D) is a batch of embeddings, or of sounds."""
        is_states = isinstance(item, Tensor) and item.is_floating_point() and item.dim() == 3
        hears = not {"input_values", "input_features"}.isdisjoint(parameter_names(self.model))
        sees = not hears and any(isinstance(module, nn.Conv2d) for module in self.model.modules())
        return _is_single(item) and not (is_states and not sees)

    def _tokenized(self, examples: list[Any], what: str) -> dict[str, Tensor]:
        columns = zip(*examples, strict=True) if isinstance(examples[0], tuple) else [examples]
        limit = length_limit(self.processor, self.model, None)
        encoded = encode(self.processor, *columns, limit=limit)
        warn_of_cut(len(encoded.cut), len(examples), limit, "the model does not read the rest", whose=what)
        return padded(self.processor, encoded.read, self.model)

    @property
    def _colours(self) -> str:
        return "L" if getattr(config_of(self.model), "num_channels", 3) == 1 else "RGB"

    @property
    def _reads_text(self) -> bool:
        return hasattr(self.processor, "all_special_ids")

    @property
    def _rescales(self) -> bool:
        """Whether the processor takes pixels for numbers from 0 to 255."""
        return hasattr(self.processor, "preprocess") and bool(getattr(self.processor, "do_rescale", False))

    @property
    def _hears(self) -> bool:
        """Whether the processor is a sound's feature extractor."""
        return hasattr(self.processor, "sampling_rate")


def check_not_scaled(pixels: Any) -> None:
    """Raise ``ValueError`` for pixels that were scaled or normalised, of which a processor would make dark images."""
    array = np.asarray(pixels)
    if array.dtype.kind == "f" and array.ndim == 3 and (array.max() <= 1 or array.min() < 0):
        raise ValueError(
            "an image holds pixels from 0 to 1, or normalised ones, and the processor would divide them by 255: give "
            "PIL images or uint8 arrays; or, of what the processor has made already, one tensor, torch.stack(images)"
        )


def is_prepared(inputs: Any) -> bool:
    """Whether inputs are tensors already, or have a tensor's name: one, a tuple of them, or a mapping with some."""
    if isinstance(inputs, Mapping):
        return any(isinstance(value, Tensor) or name in FEATURE_NAMES for name, value in inputs.items())
    parts = inputs if isinstance(inputs, tuple) and inputs else (inputs,)
    return all(isinstance(part, Tensor) for part in parts)


def read_together(model: nn.Module, processor: Any | None, inputs: Any) -> ModelInputs:
    """What people have, as one batch for a model.

    Args:
        model: for which tensors are made.
        processor: a Hugging Face tokenizer, image processor, feature extractor, or a processor of several; or a
            function from a list of examples to a mapping of tensors.
        inputs: a text, a path of an image or a sound (WAV), a PIL image, an array (one image or wave); several of
            these; or the mapping that a processor of texts and images takes, ``{"text": [...], "images": [...]}``.

    Raises:
        TypeError, ValueError: as :meth:`Reader.read_numbered`; examples that do not make one batch.
    """
    if isinstance(inputs, Mapping):
        if processor is None:
            names = ", ".join(map(str, inputs))
            raise TypeError(
                f"a mapping of no tensors ({names}) needs processor=, the model's: give it to the explainer"
            )
        return mapping_inputs(model, processor(**inputs, padding=True, return_tensors="pt")).to(device_of(model))
    if processor is None:
        raise TypeError(
            f"expected tensors, or a mapping of them, got {type(inputs).__name__}; tokenize text first, with "
            "return_tensors='pt' (let a processor read images), or give the explainer tokenizer= (processor=), which "
            "does it"
        )
    if hasattr(inputs, "columns") and hasattr(inputs, "iterrows"):
        raise TypeError(f"got a table with the columns {list(inputs.columns)}: give one of them, table['text']")
    if not _is_one(inputs) and not isinstance(inputs, Iterable):
        raise TypeError(f"expected texts, images, sounds or tensors, got {type(inputs).__name__}")
    examples = [inputs] if _is_one(inputs) else list(inputs)
    batches = Reader(model, _part_for(processor, examples), max(len(examples), 1)).read(examples, "inputs")
    if len(batches) > 1:
        raise ValueError("the inputs are of different sizes, so that they make no batch: give them one by one")
    return batches[0]


def read_sound(path: str | Path, rate: int) -> npt.NDArray[np.float32]:
    """A wave (samples,) at so many samples a second, from a WAV file of any sampling rate and number of channels.

    Raises:
        OSError: no such file.
        ValueError: no WAV file.
    """
    from scipy.io import wavfile
    from scipy.signal import resample_poly

    try:
        own, samples = wavfile.read(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; expected a WAV file") from error
    scale = 1 if samples.dtype.kind == "f" else np.iinfo(samples.dtype).max // (2 if samples.dtype == np.uint8 else 1)
    wave = samples.astype(np.float32) / scale - (samples.dtype == np.uint8)
    wave = wave if wave.ndim == 1 else wave.mean(1)
    resampled: npt.NDArray[np.float32] = resample_poly(wave, rate, own).astype(np.float32)
    return resampled


def _is_one(inputs: Any) -> bool:
    """Whether it is one example, and not several."""
    if isinstance(inputs, str | Tensor) or hasattr(inputs, "convert") or not hasattr(inputs, "__array__"):
        return _is_single(inputs)
    array = np.asarray(inputs)
    return array.dtype.kind in "fiu" and array.ndim in (1, 3)


def _part_for(processor: Any | None, examples: Sequence[Any]) -> Any | None:
    """Of a processor of texts and images or sounds, the part that reads such examples."""
    first = examples[0] if examples else None
    texts = isinstance(first, tuple) or (isinstance(first, str) and Path(first).suffix.lower() not in MEDIA)
    names = ("tokenizer",) if texts else ("image_processor", "feature_extractor")
    return next((getattr(processor, name) for name in names if getattr(processor, name, None) is not None), processor)


def _is_single(item: Any) -> bool:
    """Whether an item of a sequence is an example, not a batch of them."""
    if isinstance(item, Tensor):
        return item.dim() == (3 if item.is_floating_point() else 1)
    pair = isinstance(item, tuple) and len(item) == 2 and all(isinstance(part, str) for part in item)
    return isinstance(item, str | Path) or pair or hasattr(item, "convert") or hasattr(item, "__array__")


def _is_features(data: Any) -> bool:
    """Whether it is a tuple or list of a batch's tensors, as a ``TensorDataset`` yields them."""
    tensors = isinstance(data, tuple | list) and len(data) > 0 and all(isinstance(part, Tensor) for part in data)
    return tensors and data[0].dim() > 1 and not (isinstance(data, list) and _is_single(data[0]))


def _check_kind(data: Iterable[Any], first: Any, what: str) -> None:
    """Raise ``ValueError`` where it cannot be told what tuples are, or a batch holds something beside its examples."""
    parts = list(first) if isinstance(first, list | tuple) else []
    texts = [isinstance(part, tuple) and all(isinstance(text, str) for text in part) for part in parts]
    if isinstance(first, tuple) and parts and all(isinstance(part, str) for part in parts):
        unclear = not isinstance(data, Sequence)
    else:
        in_columns = getattr(data, "collate_fn", None) is default_collate and any(texts)
        unclear = in_columns or (any(texts) and not all(texts))
    if unclear:
        raise ValueError(
            f"{what}: tuples of texts are columns of examples, such as texts and names, in a data loader, but pairs of "
            "texts in a list, so that it is not clear what these are: yield lists of texts, or, of pairs, let the "
            "loader keep lists, collate_fn=list"
        )


def check_in_order(data: Any, what: str) -> None:
    """Raise ``ValueError`` for a data loader that shuffles, where something is given for each of its examples."""
    if not isinstance(data, DataLoader) or isinstance(data.dataset, IterableDataset):
        return
    sampler = getattr(data.batch_sampler, "sampler", data.batch_sampler) or data.sampler
    if not isinstance(sampler, SequentialSampler):
        raise ValueError(
            f"the data loader shuffles, or has a sampler of its own ({type(sampler).__name__}), so that {what} would "
            "be of other examples: give shuffle=False"
        )


_Numbered = tuple[ModelInputs, Sequence[int]]
"""A batch, and the numbers of its examples, as they were given."""

MEDIA = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".wav")
"""Endings of names of files that are images or sounds."""

_END = object()
_PATIENCE = 20  # failures in a row, after which an iterator will not go on


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}"

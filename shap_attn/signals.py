"""Sounds and videos as SHAP users give them: read for the model, and named by when, and where, their tokens are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from captum_attn import TokenAttributions
from captum_attn.core import Grid, config_of, known_grid, parameter_names
from captum_attn.core.patches import Side

Array = npt.NDArray[Any]
HEARD = ("input_values", "input_features")
_CHANNELS = "a sound has one channel, (samples,), got {}: take the mean of its channels"


def is_signal(model: nn.Module) -> bool:
    """Whether a model hears sounds, or sees videos, and reads no text: by its arguments' names, or its frames."""
    taken, config = parameter_names(model), config_of(model)
    if "input_ids" in taken:
        return False
    frames = any(hasattr(config, name) for name in ("num_frames", "frames_per_clip", "tubelet_size"))
    return not {*HEARD, "pixel_values_videos"}.isdisjoint(taken) or ("pixel_values" in taken and frames)


@dataclass(frozen=True)
class Signal:
    """One sound or video.

    Attributes:
        inputs: what the model takes, a batch of one.
        seconds: how long one entry along time is; None if that is not known.
    """

    inputs: dict[str, Tensor]
    seconds: float | None = None

    def __len__(self) -> int:
        return 1

    @property
    def features(self) -> Tensor:
        return next(iter(self.inputs.values()))


class SignalReader:
    """Reads sounds or videos for one model, one at a time.

    Args:
        processor: a feature extractor, an image or a video processor; None: inputs are the model's own tensors.
        model: whose argument they are.
    """

    can_pad = False

    def __init__(self, processor: Any, model: nn.Module) -> None:
        self.processor = processor
        taken = parameter_names(model)
        self._hears = any(name in taken for name in HEARD)
        names = ("pixel_values_videos", *HEARD, "pixel_values")
        self._name = next(name for name in names if name in taken)
        self._of_bands = self._name == "input_features" or any(isinstance(m, nn.Conv2d) for m in model.modules())

    def read(self, given: Any) -> list[Signal]:
        """Process sounds, waves (samples,), or videos, (frames, h, w, C) or lists of pictures; one, or several.

        A sound may be a mapping with ``array`` (or ``raw``) and ``sampling_rate``, as data sets have them.

        Raises:
            ValueError: a sound of another sampling rate than the model's.
        """
        return [self._read(one) for one in self._listed(given)]

    def _listed(self, given: Any) -> list[Any]:
        sides = (1 + (self.processor is None and self._of_bands)) if self._hears else 4
        if isinstance(given, np.ndarray | Tensor):
            if self._hears and self.processor is not None and given.ndim == 2 and given.shape[1] <= 2 < given.shape[0]:
                raise ValueError(_CHANNELS.format(tuple(given.shape)))
            return list(given) if given.ndim > sides else [given]
        if isinstance(given, Mapping):
            return [given]
        if isinstance(given, str | Path) or not len(given):
            raise TypeError(f"expected sounds as waves, or videos as pictures, got {given!r}: read files beforehand")
        first = next(iter(given))
        if isinstance(first, str | Path):
            raise TypeError(f"expected waves (samples,), got {str(first)!r}: read it beforehand, by scipy.io.wavfile")
        many = isinstance(first, Mapping | list | tuple) or getattr(first, "ndim", 0) >= sides
        return list(given) if many else [given]

    def _read(self, one: Any) -> Signal:
        if self.processor is None:
            return Signal({self._name: torch.as_tensor(one).float()[None]})
        if not self._hears:
            pictures = list(one)
            return Signal(_tensors(self.processor(pictures, return_tensors="pt")))
        rate = self.processor.sampling_rate
        if isinstance(one, Mapping):
            own = one.get("sampling_rate", rate)
            if own != rate:
                raise ValueError(
                    f"the sound has {own} samples a second, but the model hears {rate}: resample it, with "
                    f"scipy.signal.resample_poly(wave, {rate}, {own})"
                )
            if not {"array", "raw"} & one.keys():
                raise ValueError(f"a sound has an 'array' (or 'raw') and a 'sampling_rate', got {sorted(one)}")
            one = one["array"] if "array" in one else one["raw"]
        wave = np.asarray(one, dtype=np.float32)
        if wave.ndim != 1:
            raise ValueError(_CHANNELS.format(wave.shape))
        inputs = _tensors(self.processor(wave, sampling_rate=rate, return_tensors="pt"))
        apart = 1 if next(iter(inputs.values())).dim() == 2 else getattr(self.processor, "hop_length", None)
        return Signal(inputs, None if apart is None else apart / rate)

    def collated(self, rows: Sequence[Signal]) -> tuple[dict[str, Tensor], None]:
        """Input of the model, a batch of one; its patches play."""
        (row,) = rows
        return row.inputs, None

    def arranged(self, rows: Sequence[Signal], results: Sequence[TokenAttributions]) -> list[Array]:
        """The values (P, K) of each one's patches, from the results for K targets."""
        patches = torch.stack([result.patches.flatten(1) for result in results], -1).double().cpu()
        return list(patches.numpy())

    def fields(self, rows: Sequence[Signal], grids: Sequence[Grid]) -> dict[str, Any]:
        """``data`` and ``feature_names`` of an explanation: when and where each patch is."""
        names = [_names(row, grid, self._hears) for row, grid in zip(rows, grids, strict=True)]
        return {"data": tuple(map(np.array, names)), "feature_names": names}


def _tensors(processed: Mapping[str, Any]) -> dict[str, Tensor]:
    """What a processor returned, with what is explained first."""
    given = {name: torch.as_tensor(value) for name, value in processed.items()}
    return dict(sorted(given.items(), key=lambda item: item[0] == "attention_mask"))


def _names(row: Signal, grid: Grid, hears: bool) -> list[str]:
    """When and where each patch is, in words."""
    layout = known_grid(grid)
    kinds = {layout.sides[layout.time].dim: "time"} if hears else {1: "frames", 3: "rows", 4: "columns"}
    each = []
    for place, side in enumerate(layout.sides):
        if row.seconds is not None and place == layout.time:
            each.append(_spans(side, "{:.2f}-{:.2f} s", row.seconds))
        else:
            each.append(_spans(side, kinds.get(side.dim, "bands") + " {:.0f}-{:.0f}") if side.count > 1 else [""])
    return [", ".join(filter(None, parts)) for parts in product(*each)]


def _spans(side: Side, form: str, unit: float = 1) -> list[str]:
    """From where to where each patch of a side goes."""
    ends = [max(side.first + number * side.size, 0) * unit for number in range(side.count + 1)]
    return [form.format(start, end) for start, end in pairwise(ends)]

"""Tables of token scores, as ``lightning_callbacks.read_attributions`` returns them, in SHAP's form."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import shap
from torch import Tensor

from captum_attn.core import PatchGrid
from shap_attn.images import as_picture, covered
from shap_attn.segments import Segments

Array = npt.NDArray[Any]
_COLUMNS = ("index", "tokens", "scores", "players", "target", "target_name", "rows", "columns")
_PLACE = ("rows", "columns", "positions", "patch_height", "patch_width", "top", "left", "image_height", "image_width")
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def explanation_from_frame(frame: pd.DataFrame, images: Any | None = None) -> shap.Explanation:
    """The explanations of a data set for SHAP's plots and :func:`shap_attn.pool`.

    Texts are put together from their tokens: what a tokenizer drops, such as capitals or the spaces around a full stop,
    cannot come back. Special tokens are left out, but for those between two texts.

    Args:
        frame: N rows with the columns of ``lightning_callbacks.read_attributions``, all of texts or all of images.
        images: the data set's pictures: ``images[index]`` is that of the sample ``index``, an array (h, w, C) or a
            tensor (C, h, w), 0 to 255 in integers or 0 to 1 in floating point, of the size in which the model was given
            it. Without them there is no ``data``.

    Returns:
        As :class:`shap_attn.AttentionExplainer` does with ``outputs="predicted"``: of texts, values (N, T, 1) of T
        segments each, or (N, T) if all have the same target; of images, values (N, rows, columns, 1, 1) of the
        patches, beside pictures (N, h, w, 3) of what these cover. Where targets differ, ``output_names`` are (N, 1).
        As there, values sum to v(all players), and ``base_values`` are v(∅) = 0.

    Raises:
        TypeError: no DataFrame, or pictures of another kind.
        ValueError: no rows, missing columns, texts without tokens, texts and images together, images of several sizes,
            or of which the rows do not say where their patches are.

    Example:
        >>> import pandas as pd
        >>> row = {"index": 0, "tokens": ["[CLS]", "un", "##funny", "film", "[SEP]"], "scores": [0, 3, 2, 1, 0]}
        >>> row |= {"players": [False, True, True, True, False], "target": 1, "target_name": "positive"}
        >>> explanation = explanation_from_frame(pd.DataFrame([row | {"rows": None, "columns": None}]))
        >>> "|".join(explanation[0].data), explanation[0].values.tolist(), explanation.output_names
        ('un|funny |film', [3.0, 2.0, 1.0], 'positive')
        >>> from shap_attn import pool
        >>> pool(explanation).feature_names
        ['film', 'unfunny']
    """
    of_images = _checked(frame)
    names = [_output_name(*row) for row in zip(frame["target"], frame["target_name"], strict=True)]
    same = len(set(names)) == 1
    fields = _image_fields(frame, images) if of_images else _text_fields(frame, single=same)
    shape = (len(frame),) if same and not of_images else (len(frame), 1)
    output_names: Any = np.array(names)[:, None] if not same else [names[0]] if of_images else names[0]
    return shap.Explanation(
        **fields, base_values=np.zeros(shape), output_names=None if names[0] is None and same else output_names
    )


def _checked(frame: Any) -> bool:
    """Whether the rows are images."""
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"expected a pandas DataFrame, as read_attributions returns, got {type(frame).__name__}")
    missing = [name for name in _COLUMNS if name not in frame.columns]
    if "prompt_length" in frame.columns:
        raise ValueError(
            "these are rows of GenerationModule, of responses: AttentionExplainer(model, tokenizer)(prompts, "
            "responses=responses) explains them for SHAP"
        )
    if missing or not len(frame):
        raise ValueError(f"the frame has {len(frame)} rows and no columns {missing}: expected rows with {_COLUMNS}")
    of_images = frame["image_height" if "image_height" in frame.columns else "rows"].notna()
    if of_images.any() != of_images.all():
        raise ValueError("the frame holds texts and images: take one data loader's rows, frame[frame.dataloader == 0]")
    if not of_images.any() and "sides" in frame.columns and frame["sides"].notna().any():
        raise ValueError(
            "these are rows of sounds or videos: AttentionExplainer(model, processor)(inputs) explains them for SHAP"
        )
    if not of_images.any() and frame["tokens"].isna().any():
        raise ValueError("the texts have no tokens: give AttributionModule the tokenizer, processor=tokenizer")
    if of_images.all():
        _check_place(frame)
    return bool(of_images.all())


def _check_place(frame: pd.DataFrame) -> None:
    """Raise ``ValueError`` unless all rows say which of their scores are patches, and where these lie."""
    missing = [name for name in _PLACE if name not in frame.columns]
    if missing:
        raise ValueError(
            f"the frame has no columns {missing}, so which of an image's scores belongs where is not known: read all "
            "columns. Files of former versions of this library lack them: explain these images again, in a new folder"
        )
    unknown = int(frame[[*_PLACE]].isna().any(axis=1).sum())
    if unknown:
        raise ValueError(
            f"{unknown} of {len(frame)} rows do not say where the scores belong in their image: these were explained "
            "by a former version of this library (explain them again, in a new folder), or nothing says which of the "
            "model's tokens are patches, as captum_attn.inspect(model, batch) explains"
        )


def _output_name(target: Any, name: Any) -> str | None:
    if isinstance(name, str):
        return name
    missing = np.ndim(target) == 0 and pd.isna(target)
    return None if missing else f"Output {int(np.ravel(target)[-1])}"


def _text_fields(frame: pd.DataFrame, *, single: bool) -> dict[str, Any]:
    bytes_of = _spelling(frame["tokens"])
    values, texts = np.empty(len(frame), dtype=object), []
    for row, parts in enumerate(zip(frame["tokens"], frame["scores"], frame["players"], strict=True)):
        segments, sums = _text(*parts, bytes_of)
        values[row] = sums if single else sums[:, None]
        texts.append(np.array(segments))
    names = [[segment.strip() for segment in text] for text in texts]
    return {"values": values, "data": tuple(texts), "feature_names": names}


def _text(
    tokens: Sequence[str], scores: Sequence[float], players: Sequence[bool], bytes_of: Callable[[str], bytes]
) -> tuple[list[str], Array]:
    """Segments of the tokens from the first to the last that plays, and the values (T,) of these."""
    playing = np.flatnonzero(np.asarray(players))
    if not len(playing):
        return [""], np.zeros(1)
    own = slice(playing[0], playing[-1] + 1)
    segments = _segmented([bytes_of(token) for token in tokens[own]])
    return segments.texts, segments.sums(np.asarray(scores[own], dtype=float))


def _segmented(pieces: Sequence[bytes]) -> Segments:
    """Segments that make up the text: pieces of one character share one, and spaces end one."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    texts: list[str] = []
    places, pending = [], False
    for count, piece in enumerate(pieces, 1):
        text = decoder.decode(piece, final=count == len(pieces))
        if pending:
            texts[-1] += text
        else:
            texts.append(text)
        places.append(len(texts) - 1)
        pending = bool(decoder.getstate()[0]) or not "".join(texts).strip()
    ends = list(accumulate(map(len, texts)))
    leading = [len(text) - len(text.lstrip()) if text.strip() else 0 for text in texts[1:]]
    starts = [0, *(end + spaces for end, spaces in zip(ends, leading, strict=False)), ends[-1]]
    whole = "".join(texts)
    segments = [whole[start:stop] for start, stop in pairwise(starts)]
    return Segments([segments[0].lstrip() or segments[0], *segments[1:]], places)


def _spelling(tokens: Sequence[Sequence[str]]) -> Callable[[str], bytes]:
    """What each token stands for, by the marks that the kinds of tokenizers leave."""
    every = {token for text in tokens for token in text}
    if any("Ġ" in token for token in every):
        return _of_byte_level
    if any("▁" in token or _BYTE.fullmatch(token) for token in every):
        return _of_sentence_piece
    if any(token.endswith("</w>") for token in every):
        return lambda token: token.replace("</w>", " ").encode()
    return _of_word_piece


def _of_word_piece(token: str) -> bytes:
    return (token[2:] if token.startswith("##") and len(token) > 2 else f" {token}").encode()


def _of_sentence_piece(token: str) -> bytes:
    byte = _BYTE.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace("▁", " ").encode()


def _of_byte_level(token: str) -> bytes:
    table = _byte_of_character()
    return b"".join(bytes([table[mark]]) if mark in table else mark.encode() for mark in token)


@cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for characters from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


def _image_fields(frame: pd.DataFrame, images: Any | None) -> dict[str, Any]:
    grids = [_grid(row) for row in frame[[*_PLACE]].itertuples(index=False)]
    sizes = sorted({(grid.rows, grid.columns) for grid in grids})
    if len(sizes) > 1:
        raise ValueError(f"images of several sizes, {sizes} patches: take rows of one size")
    scored = zip(frame["scores"], grids, strict=True)
    values = np.stack([np.asarray(scores, dtype=float)[grid.tokens(len(scores)).numpy()] for scores, grid in scored])
    pictures = None
    if images is not None:
        given = zip(frame["index"], grids, frame["image_height"], frame["image_width"], strict=True)
        pictures = np.stack([_under(images[int(index)], int(index), *known) for index, *known in given])
    return {"values": values.reshape(len(frame), *sizes[0], 1, 1), "data": pictures}


def _grid(row: Any) -> PatchGrid:
    """How the image of a row was cut."""
    height, width, top, left = map(float, (row.patch_height, row.patch_width, row.top, row.left))
    return PatchGrid(int(row.rows), int(row.columns), height, width, top, left, tuple(map(int, row.positions)))


def _under(image: Any, index: int, grid: PatchGrid, height: float, width: float) -> Array:
    """The part of an image that its patches cover, (h, w, 3) in [0, 1]."""
    shown = _shown(image)
    if shown.shape[:2] != (height, width):
        raise ValueError(
            f"image {index} has {' × '.join(map(str, shown.shape[:2]))} pixels, but the model was given {height:g} × "
            f"{width:g}, and which part of the image these were is not known: give images as they were given to the "
            'model, such as processor(images, do_normalize=False, return_tensors="pt")["pixel_values"]'
        )
    return covered(shown, grid)


def _shown(image: Any) -> Array:
    """An image (h, w, C) or tensor (C, h, w) as a picture (h, w, 3)."""
    array = np.moveaxis(image.detach().cpu().numpy(), 0, -1) if isinstance(image, Tensor) else np.asarray(image)
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.dtype.kind not in "uif":
        raise TypeError(
            f"an image is a {type(image).__name__} of shape {array.shape}, expected numbers: an array (h, w, C) or a "
            "tensor (C, h, w)"
        )
    return as_picture(array if array.dtype.kind == "f" else array / 255)

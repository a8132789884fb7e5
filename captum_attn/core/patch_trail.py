"""Follow an input through the forward pass to the attention: which patch of it each token is, and where it lies."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from captum_attn.core.cell_numbers import NONE, SEVERAL, WHOLE, filled, held_once, is_all, joined_along
from captum_attn.core.cell_rules import EMBEDDING, OF_THE_FIRST, ON_SIDES, Call, Cut, Found, Trace, rule_of
from captum_attn.core.cells import Axis, Cells
from captum_attn.core.function_arguments import tensors_in
from captum_attn.core.patches import NoPatchGrid, PatchLayout, dims_of_entries
from captum_attn.core.private_names import base_of, version_of


@dataclass(frozen=True)
class Attended:
    """Which cells an attention's queries and keys are.

    Attributes:
        cells: those of the keys.
        queries, keys: the numbers of their cells, (..., Q) and (..., K).
    """

    cells: Cells
    queries: Tensor
    keys: Tensor


class PatchTrail(TorchFunctionMode):
    """Follow pixels, or samples, to the attention that reads them, in the forward pass that runs inside this context.

    The torch functions that the model calls say what becomes of the image: it is resized, padded, cut and convolved,
    what the convolution returns is rearranged into tokens, and other tokens are put before or behind these. Numbers of
    cells are rearranged alike. What a function returns that is not known counts as read from several cells; nothing is
    guessed then.

    Args:
        pixels: (B, C, h, w), as they are given to the model; or a sound, or a video.
        length: how many tokens the attention has to which pixels are followed, past others that read them, where they
            stand beside the tokens of a text; None for the first that reads them.
        throughout: whether to follow them on to the end, and note what every attention's keys are.
        depends: whether a tensor was computed from the pixels, as far as a graph says. What this mode has not seen,
            such as the inside of scripted functions, counts as of several cells then.

    Attributes:
        attended: of each attention that reads the pixels, in the order in which they ran; None for one of which
            nothing says it.
        mixes: whether something else mixes neighbours after the first one: a convolution, pooling, linear attention.
        copies: whether parts of a map were put around it, by padding that reflects or replicates.
        in_windows: whether the heads of the first attention see different parts of the image.

    Example:
        >>> pixels, convolution = torch.rand(1, 3, 8, 8), torch.nn.Conv2d(3, 16, 4, 4)
        >>> with PatchTrail(pixels) as trail, torch.no_grad():
        ...     tokens = convolution(pixels).flatten(2).mT
        ...     tokens = torch.cat([torch.zeros(1, 1, 16), tokens], 1)[:, None]
        ...     _ = torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
        >>> trail.grid(length=5)
        PatchGrid(rows=2, columns=2, height=4, width=4, top=0, left=0, positions=(1, 2, 3, 4))
    """

    def __init__(
        self,
        pixels: Tensor,
        length: int | None = None,
        throughout: bool = False,
        depends: Callable[[Tensor], bool] | None = None,
    ) -> None:
        super().__init__()
        self._length, self.throughout, self._depends = length, throughout, depends
        self.attended: list[Attended | None] = []
        self.mixes = self.copies = self.in_windows = False
        self._traces: dict[int, Trace] = {}
        self._of_none: dict[int, weakref.ref[Tensor]] = {}  # computed from the pixels, and of no cell
        self._unmatched: set[int] = set()  # attentions whose values were not seen
        self._cuts: list[Cells] = []
        self._lost_in: dict[str, None] = {}
        self._left = False
        self._tokens: tuple[Cells, Tensor] | None = None
        self._pixels, self._examples = pixels, len(pixels)
        self._dims = dims_of_entries(pixels)
        self._size = [pixels.shape[dim] for dim in self._dims]
        self._unit = {2: "samples", 3: "entries"}.get(pixels.dim(), "pixels")
        self._hint = "; videos are (B, frames, C, h, w)" if pixels.dim() == 5 else ""

    def __enter__(self) -> PatchTrail:
        self.begin(self._pixels)
        super().__enter__()
        return self

    def begin(self, pixels: Tensor) -> Tensor:
        """Follow what is given to the model in place of the pixels, of their shape, too; returns it."""
        axes = (Axis(dim, Fraction(0), Fraction(1), count) for dim, count in zip(self._dims, self._size, strict=True))
        self._first_cells = cells = Cells(tuple(axes), self._unit)
        self._keep(pixels, cells, cells.numbers(pixels.shape, self._dims))
        return pixels

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        for number in self._unmatched:
            self.attended[number] = None
        self._traces.clear()
        self._of_none.clear()
        del self._pixels

    def grid(self, length: int) -> PatchLayout | NoPatchGrid:
        """Where the patches are among the tokens, and in the given image.

        Args:
            length: the number N of tokens in the explained attention.
        """
        if self._tokens is None:
            return NoPatchGrid(self._reason(length))
        cells, numbers = self._tokens
        found = numbers[numbers >= 0]
        if len(numbers) != length or len(found) != len(cells) or len(found.unique()) != len(cells):
            return NoPatchGrid(
                f"{len(found)} of the {len(numbers)} tokens in the first attention that reads the image are patches, "
                f"of {len(cells)} ({cells}), and the explained attention has {length} tokens: not one for each patch"
            )
        return cells.layout(numbers.argsort(stable=True)[-len(cells) :], of_image=self._dims == (2, 3))

    def _reason(self, length: int) -> str:
        seen = (
            ", ".join(map(str, self._cuts))
            or f"no patch embedding (a convolution of the {self._unit}, or a linear layer over all those of a patch)"
        )
        lost = f"; the trail ends in {', '.join(self._lost_in)}" if self._lost_in else ""
        given = " × ".join(map(str, self._size))
        return (
            f"nothing says which of the model's {length} tokens are patches of the given {given} {self._unit}: "
            f"on the way to the attention, {seen} was seen{lost}{self._hint}"
        )

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._tokens is not None:
            return func(*args, **kwargs)
        given = list(tensors_in((*args, *kwargs.values())))
        traces = {id(part): trace for part in given if (trace := self._trace(part)) is not None}
        if not traces:
            result = func(*args, **kwargs)
            if self._of_none and any(self._is_of_none(part) for part in given):
                self._of_none |= {id(part): weakref.ref(part) for part in tensors_in((result,))}
            return result
        versions = [version_of(part) for part in given]
        result = func(*args, **kwargs)
        changed = [(part, before) for part, before in zip(given, versions, strict=True) if version_of(part) != before]
        self._follow(Call(func, args, kwargs, result, traces), changed)
        return result

    def _is_of_none(self, tensor: Tensor) -> bool:
        known = self._of_none.get(id(tensor))
        return known is not None and known() is tensor

    def _trace(self, tensor: Tensor) -> Trace | None:
        trace = self._traces.get(id(tensor))
        if trace is None or trace.tensor() is not tensor:
            if self._depends is None or tensor.grad_fn is None or self._is_of_none(tensor) or not self._depends(tensor):
                return None
            return Trace(weakref.ref(tensor), version_of(tensor), self._first_cells, filled(SEVERAL, tensor.shape))
        if trace.version == version_of(tensor):
            return trace
        return Trace(trace.tensor, version_of(tensor), trace.cells, filled(SEVERAL, tensor.shape))

    def _keep(self, tensor: Tensor, cells: Cells, numbers: Tensor, relates: bool = False, columns: Any = None) -> None:
        if is_all(numbers, NONE):
            self._traces.pop(id(tensor), None)
            self._of_none[id(tensor)] = weakref.ref(tensor)
        elif not tensor.is_inference():
            self._traces[id(tensor)] = Trace(weakref.ref(tensor), version_of(tensor), cells, numbers, relates, columns)

    def _follow(self, call: Call, changed: Sequence[tuple[Tensor, int]]) -> None:
        if self.throughout:
            self._note(call)
        elif call.name == "scaled_dot_product_attention" or (call.name == "softmax" and call.is_square):
            rows = call.traces.get(id(call.first))
            beside = self._length not in (None, rows.numbers.shape[-2] if rows else None)
            if rows is not None and not beside and rows.relates == (call.name == "softmax") and self._arrive(rows):
                return
        if call.name in _LEAVING and not is_all(call.leading, WHOLE):
            self._left = True  # and may come back unseen
        results = [call.args[0]] if call.name in _WRITING else list(tensors_in((call.result,)))
        known = {id(result) for result in results}
        results += [part for part, _ in changed if id(part) not in known]
        if not results:
            return
        cells, numbers = self._found(call, results)
        lost = any(is_all(found, SEVERAL) for found in numbers)
        if lost and not any(is_all(trace.numbers, SEVERAL) for trace in call.traces.values()):
            self._lose(call.name.strip("_") + (_TURNED if call.name in ON_SIDES else ""))
        to_keys = call.of_columns if self.throughout and call.relates else None
        key_cells, of_keys = (None, [None] * len(results)) if to_keys is None else self._found(to_keys, results)
        for tensor, found, columns in zip(results, numbers, of_keys, strict=True):
            self._keep(tensor, cells, found, call.relates, key_cells and (key_cells, columns))
            for view, before in changed:
                base = base_of(view) if view is tensor else None
                if base is not None:
                    self._write_through(view, base, before, cells, found)

    def _lose(self, where: str) -> None:
        if not self._lost_in.keys() & {_LEFT, _OF_PARTS, _APART}:
            self._lost_in = {**dict(list(self._lost_in.items())[-2:]), where: None}

    def _write_through(self, view: Tensor, whole: Tensor, version: int, cells: Cells, numbers: Tensor) -> None:
        """What was written into a view stands in the tensor that it is a view of, too."""
        trace = self._traces.get(id(whole))
        known = trace is None or (trace.version == version and trace.cells.place == cells.place)
        try:
            written = torch.empty_strided(whole.shape, whole.stride(), dtype=torch.int64, device="cpu")
            written.fill_(NONE) if trace is None else written.copy_(trace.numbers)
            start = view.storage_offset() - whole.storage_offset()
            written.as_strided(view.shape, view.stride(), start).copy_(numbers)
        except RuntimeError:  # a view of another kind
            known = False
        found = held_once(written, compared=True).expand(whole.shape) if known else filled(SEVERAL, whole.shape)
        self._keep(whole, cells, found)

    def _found(self, call: Call, results: Sequence[Tensor]) -> tuple[Cells, Sequence[Tensor]]:
        """The cells that the results of a function come from; ``SEVERAL`` if that is not known."""
        call = call.of_rows
        first = call.traces.get(id(call.first)) if call.name in OF_THE_FIRST else None
        of_cells = [trace for trace in call.traces.values() if not is_all(trace.numbers, WHOLE)]
        of_cells = [trace for trace in of_cells if first is None or trace is first]
        if not of_cells:  # of the whole image, whatever the function
            return next(iter(call.traces.values())).cells, [filled(WHOLE, part.shape) for part in results]
        cells, rule = of_cells[0].cells, rule_of(call.name)
        found: Found = None
        if rule is not None and all(trace.cells.place == cells.place for trace in of_cells):
            try:
                found = rule(call)
            except (RuntimeError, ValueError, IndexError, TypeError, KeyError, AttributeError):
                found = None  # not how these functions are called
        if self.attended:
            self.mixes |= call.overlaps or any(is_all(call.numbers(part), SEVERAL) for part in call.factors)
        self.copies |= call.name == "pad" and call.option("mode", 2, "constant") in _COPYING and not self._is_raw(cells)
        if self.throughout and isinstance(found, Cut) and not self._is_raw(cells) and call.skips:
            found = None
        if isinstance(found, Cut):
            cells, found = found.cells, found.numbers
            if call.name in EMBEDDING:
                self._cuts.append(cells)
                self._lost_in = {}
        numbers = [found] if isinstance(found, Tensor) else list(found or ())
        if [part.shape for part in numbers] != [part.shape for part in results]:
            numbers = [filled(SEVERAL, part.shape) for part in results]
        return cells, numbers

    def _is_raw(self, cells: Cells) -> bool:
        """Whether cells are the input's own entries."""
        return cells.place == self._first_cells.place

    def _note(self, call: Call) -> None:
        """Which cells an attention's queries and keys are, if it is one; of eager code, once its values are seen."""
        first, second = call.first, call.option("key", 1, None)
        scores = call.traces.get(id(first))
        if call.name == "scaled_dot_product_attention":
            keys, values = call.traces.get(id(second)), call.traces.get(id(call.option("value", 2, None)))
            known = _same_tokens(keys, values)
            shape = (*first.shape[:-1], second.shape[-2])
        elif call.name == "softmax" and scores is not None and scores.relates:
            keys, shape, known = scores.of_keys, first.shape, True
        else:
            if pair := call.attention_and_values:
                self._match(*pair)
            return
        found = None
        if keys is not None and known and not self._left:
            asking, asked = (joined_along(numbers, [-1])[..., 0] for numbers in (call.numbers(first), keys.numbers))
            asking, asked = asking.expand(shape[:-1]), asked.expand(*shape[:-2], shape[-1])
            self.mixes |= bool((asking == WHOLE).any())
            found = Attended(keys.cells, asking, asked)
        self.attended.append(found)
        if found is not None and call.name == "softmax":
            self._unmatched.add(len(self.attended) - 1)

    def _match(self, keys: Trace | None, values: Trace) -> None:
        """Take note of a product of scores and values: those of the last softmax, or what no softmax was seen of."""
        last, same = len(self.attended) - 1, _same_tokens(keys, values)
        if last not in self._unmatched:
            self.mixes = True
            if self.attended and not same:
                self.attended[last] = None
        elif same:
            self._unmatched.discard(last)

    def _arrive(self, trace: Trace) -> bool:
        """The attention's queries (..., N, d), or its scores (..., N, N): the cell of each of the N tokens."""
        sides = [side for side in range(trace.numbers.dim()) if side != trace.numbers.dim() - 2]
        tokens = joined_along(trace.numbers, sides).expand(*(1 for _ in sides[:-1]), trace.numbers.shape[-2], 1)
        if self._left or (tokens == SEVERAL).any():
            each = joined_along(trace.numbers, sides[1:])
            apart = self._length is not None and not (each == SEVERAL).any()
            known = self._length is None and not self._left and not (trace.numbers == SEVERAL).any()
            self.in_windows = known and self._in_windows(each.flatten(0, -3)[..., 0])
            self._lose(_LEFT if self._left else _APART if apart else _OF_PARTS)
            return False
        self._tokens = trace.cells, tokens.flatten().clone()
        self._traces.clear()
        return True

    def _in_windows(self, each: Tensor) -> bool:
        """Whether an example's heads, or rows of the batch (R, N), are of different parts of it."""
        if (each == SEVERAL).any():
            return True
        of_example = each.view(self._examples, -1, each.shape[-1]) if len(each) % self._examples == 0 else each[:, None]
        return bool((of_example != of_example[:, :1]).any())


def _same_tokens(keys: Trace | None, values: Trace | None) -> bool:
    """Whether keys (..., K, d) and values are of the same cells."""
    if keys is None or values is None or keys.cells.place != values.cells.place:
        return False
    own, others = (joined_along(trace.numbers, [-1])[..., 0] for trace in (keys, values))
    try:
        return bool((own == others).all())
    except RuntimeError:
        return False


_COPYING = ("reflect", "replicate")
_TURNED = " of an image that was turned, flipped or rolled, or whose parts lie on each other"
_OF_PARTS = "an attention of tokens that read several parts of the image, or of parts of it (windows)"
_APART = (
    "texts in which the image's patches are other tokens than in others: explain them one by one, by "
    "internal_batch_size=1 (in evaluate and compare, batch_size=1)"
)
_LEFT = "a conversion of the image, or of what was made of it, to NumPy or a list"
_WRITING = frozenset({"__setitem__", "data="})
_LEAVING = frozenset({"numpy", "tolist", "__array__", "__dlpack__"})

"""Follow an image's pixels through the forward pass to the attention: which patch each token is, and where it lies."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from captum_attn.core import image_cells
from captum_attn.core.image_cells import Axis, Cells, Option
from captum_attn.core.patches import NoPatchGrid, PatchGrid

_NONE = -1


@dataclass(frozen=True)
class _Trace:
    """Which cell each entry of a tensor comes from.

    ``numbers`` has the tensor's shape and no memory to speak of: what is the same for all examples and channels is
    held once (stride 0). The tensor is not kept alive, and forgotten once it is overwritten.
    """

    tensor: weakref.ref[Tensor]
    version: int
    cells: Cells
    numbers: Tensor


class PatchTrail(TorchFunctionMode):
    """Follow pixels to the first attention that reads them, in the forward pass that runs inside this context.

    The torch functions that the model calls say what becomes of the image: it is resized, padded, cut and convolved,
    what the convolution returns is rearranged into tokens, and other tokens are put before or behind these. Numbers of
    cells are rearranged alike. A function that is not known loses the trail; nothing is guessed then.

    Args:
        pixels: (B, C, h, w), as they are given to the model.

    Example:
        >>> pixels, convolution = torch.rand(1, 3, 8, 8), torch.nn.Conv2d(3, 16, 4, 4)
        >>> with PatchTrail(pixels) as trail, torch.no_grad():
        ...     tokens = convolution(pixels).flatten(2).mT
        ...     tokens = torch.cat([torch.zeros(1, 1, 16), tokens], 1)[:, None]
        ...     _ = torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
        >>> trail.grid(length=5)
        PatchGrid(rows=2, columns=2, height=4, width=4, top=0, left=0, positions=(1, 2, 3, 4))
    """

    def __init__(self, pixels: Tensor) -> None:
        super().__init__()
        self._traces: dict[int, _Trace] = {}
        self._cuts: list[Cells] = []
        self._lost_in: dict[str, None] = {}
        self._tokens: tuple[Cells, Tensor] | None = None
        self._pixels = pixels
        self._size = tuple(pixels.shape[2:])

    def __enter__(self) -> PatchTrail:
        rows, columns = (Axis(Fraction(0), Fraction(1), side) for side in self._size)
        cells = Cells(rows, columns, "pixels")
        self._keep(self._pixels, cells, cells.numbers(self._pixels.shape))
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._traces.clear()
        del self._pixels

    def grid(self, length: int, players: Tensor | None = None) -> PatchGrid | NoPatchGrid:
        """Where the patches are among the tokens, and in the given image.

        Where the trail was lost between the convolution and the attention, ``players`` are taken for the patches, in
        reading order, if these are as many.

        Args:
            length: the number N of tokens in the explained attention.
            players: bool (B, N), those that the caller names.
        """
        if self._tokens is None:
            return self._named(players) or NoPatchGrid(self._reason(length))
        cells, numbers = self._tokens
        found = numbers[numbers != _NONE]
        if len(numbers) != length or len(found) != len(cells) or len(found.unique()) != len(cells):
            return NoPatchGrid(
                f"{len(found)} of the {len(numbers)} tokens in the first attention that reads the image are patches, "
                f"of {len(cells)} ({cells}), and the explained attention has {length} tokens: not one for each patch"
            )
        return cells.grid(tuple(numbers.argsort(stable=True)[-len(cells) :].tolist()))

    def _named(self, players: Tensor | None) -> PatchGrid | None:
        """The only cut into as many patches as there are players, if these are the same tokens in each image."""
        if players is None or not (players == players[0]).all():
            return None
        positions = tuple(players[0].nonzero().flatten().tolist())
        cuts = {cut.place: cut for cut in self._cuts if len(cut) == len(positions)}
        return next(iter(cuts.values())).grid(positions) if len(cuts) == 1 else None

    def _reason(self, length: int) -> str:
        seen = ", ".join(map(str, self._cuts)) or "no patch embedding (a convolution of the pixels)"
        lost = f"; the trail ends in {', '.join(self._lost_in)}" if self._lost_in else ""
        height, width = self._size
        return (
            f"nothing says which of the model's {length} tokens are patches of the given {height} × {width} pixels: "
            f"on the way to the attention, {seen} was seen{lost}"
        )

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._tokens is not None:
            return func(*args, **kwargs)
        followed = [trace for part in _tensors(args, kwargs) if (trace := self._trace(part)) is not None]
        result = func(*args, **kwargs)
        if followed:
            self._follow(_name_of(func), _Call(func, args, kwargs, result), followed)
        return result

    def _trace(self, tensor: Tensor) -> _Trace | None:
        trace = self._traces.get(id(tensor))
        if trace is None or trace.tensor() is not tensor or trace.version != tensor._version:
            return None
        return trace

    def _keep(self, tensor: Tensor, cells: Cells, numbers: Tensor) -> None:
        if numbers.shape == tensor.shape and not tensor.is_inference():
            self._traces[id(tensor)] = _Trace(weakref.ref(tensor), tensor._version, cells, numbers)

    def _follow(self, name: str, call: _Call, followed: list[_Trace]) -> None:
        if name in _ATTENTION or (name == "softmax" and call.is_square):
            rows = self._trace(call.first) if isinstance(call.first, Tensor) else None
            if rows is not None:
                self._arrive(rows)
            return
        results = [part for part in _tensors((call.result,), {}) if part.is_floating_point()]
        if not results:
            return
        try:
            found = self._found(name, call, followed)
        except (
            RuntimeError,
            ValueError,
            IndexError,
            TypeError,
            KeyError,
            AttributeError,
        ):  # not how these functions are called
            found = None
        if found is None:
            self._lost_in = {**dict(list(self._lost_in.items())[-2:]), name: None}
            return
        cells, numbers = found
        for tensor, part in zip(results, numbers, strict=False):
            self._keep(tensor, cells, part)

    def _found(self, name: str, call: _Call, followed: list[_Trace]) -> tuple[Cells, Sequence[Tensor]] | None:
        """The cells that the results of a function come from; None if that is not known."""
        trace, shape = followed[0], getattr(call.result, "shape", torch.Size())
        if name in _ENTRY_BY_ENTRY:
            first, *others = [one for one in followed if one.numbers.shape == shape] or followed  # not a gate for all
            agree = all(_agree(first, other) for other in others)
            return (first.cells, [first.numbers.expand(shape)]) if agree else None
        if name in _JOINING:
            joined = self._concatenated(call, followed)
            return None if joined is None else (trace.cells, [joined])
        leading = self._trace(call.first) if isinstance(call.first, Tensor) else None
        if leading is None:
            return None
        numbers = leading.numbers
        if name in _FORM:
            return leading.cells, [_reshaped(numbers, shape)]
        if name in _ORDER:
            rearranged = call.func(numbers, *call.args[1:], **call.kwargs)
            return leading.cells, [rearranged] if isinstance(rearranged, Tensor) else list(rearranged)
        if name in _CHOICE:
            chosen = _chosen(name, numbers, call)
            return None if chosen is None else (leading.cells, [chosen])
        if name in _ROWS:
            mixed = numbers.dim() - 1
            return (leading.cells, [numbers.narrow(-1, 0, 1).expand(shape)]) if _constant(numbers, mixed) else None
        if name == "pad" and shape == numbers.shape and not any(call.option("pad", 1, ())):
            return leading.cells, [numbers]  # as windows do that fit
        if name in _ON_IMAGES:
            cells = _on_image(name, call, leading)
            if cells is not None and name == "conv2d":
                self._cuts.append(cells)
                self._lost_in = {}
            return None if cells is None else (cells, [cells.numbers(shape)])
        return None

    def _concatenated(self, call: _Call, followed: list[_Trace]) -> Tensor | None:
        """Numbers of tensors side by side; what does not come from the image has none."""
        parts = call.args[0] if call.args else call.kwargs["tensors"]
        dim = call.kwargs.get("dim", call.kwargs.get("axis", call.args[1] if len(call.args) > 1 else 0))
        dim %= call.result.dim()
        if any(trace.cells.place != followed[0].cells.place for trace in followed):
            return None
        if all(trace.numbers.shape[dim] > 1 and _constant(trace.numbers, dim) for trace in followed):
            return followed[0].numbers.narrow(dim, 0, 1).expand(call.result.shape) if dim else None  # more channels
        traces = [self._trace(part) for part in parts]
        none = torch.full((1,) * call.result.dim(), _NONE, device="cpu")
        numbers = [
            none.expand(part.shape) if trace is None else trace.numbers
            for part, trace in zip(parts, traces, strict=True)
        ]
        once = [side for side in range(call.result.dim()) if side != dim and all(_constant(n, side) for n in numbers)]
        for side in once:
            numbers = [part.narrow(side, 0, 1) for part in numbers]
        return torch.cat(numbers, dim).expand(call.result.shape)

    def _arrive(self, trace: _Trace) -> None:
        """The attention's queries (..., N, d), or its scores (..., N, N): the cell of each of the N tokens."""
        numbers = _held_once(trace.numbers)
        tokens = numbers[(0,) * (numbers.dim() - 2) + (slice(None), slice(0, 1))]
        if (numbers == tokens).all():
            self._tokens = trace.cells, tokens.flatten().clone()
            self._traces.clear()
        else:
            self._lost_in = {"an attention of parts of the image (windows)": None}


@dataclass(frozen=True)
class _Call:
    """A torch function that was called."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any

    @property
    def first(self) -> Any:
        """The tensor that the function is about."""
        place = 1 if _name_of(self.func) in _SECOND else 0
        names = ("input", "query", "self")
        named = next((self.kwargs[name] for name in names if name in self.kwargs), None)
        return self.args[place] if len(self.args) > place else named

    @property
    def is_square(self) -> bool:
        """Whether the result can be an attention of tokens to each other, (..., N, N)."""
        shape = self.result.shape
        return len(shape) > 2 and shape[-1] == shape[-2]

    def option(self, name: str, place: int, default: Any) -> Any:
        return self.kwargs.get(name, self.args[place] if len(self.args) > place else default)


def _on_image(name: str, call: _Call, trace: _Trace) -> Cells | None:
    """What a function of images makes of the cells of its input (B, C, rows, columns); None for other input."""
    numbers, result = trace.numbers, call.result
    images = numbers.dim() == 4 and _constant(numbers, 0) and _constant(numbers, 1)
    if not images or not isinstance(result, Tensor) or result.dim() != 4:
        return None
    cells = trace.cells.seen_in(numbers[0, 0])
    return None if cells is None else _ON_IMAGES[name](cells, (result.shape[2], result.shape[3]), call.option)


def _chosen(name: str, numbers: Tensor, call: _Call) -> Tensor | None:
    """Entries that are chosen by an index, or come in another order; None if lists choose along what differs."""
    if name == "__getitem__":
        index = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
        lists = [place for place, part in enumerate(index) if isinstance(part, list | Tensor)]
        if not lists:
            return numbers[index]
        plain = all(isinstance(part, slice) for place, part in enumerate(index) if place != lists[0])
        if not plain or not _constant(numbers, lists[0]):
            return None
        kept = (*index[: lists[0]], slice(0, 1), *index[lists[0] + 1 :])
        return numbers[kept].expand(call.result.shape)
    given = call.option("dim" if name == "index_select" else "dims", 1, ())
    sides = [given] if isinstance(given, int) else [*given]
    sides += [side for side in call.args[2:] if isinstance(side, int)]
    if not all(_constant(numbers, side % numbers.dim()) for side in sides):
        return None
    for side in sides:
        numbers = numbers.narrow(side, 0, 1)
    return numbers.expand(call.result.shape)


def _reshaped(numbers: Tensor, shape: Sequence[int]) -> Tensor:
    """The numbers in another form; where that takes a copy, one of what differs between examples and channels."""
    try:
        return numbers.view(*shape)
    except RuntimeError:
        pass
    for side in (0, -1):  # examples and channels mostly keep their places
        if numbers.shape[side] == shape[side] > 1 and _constant(numbers, side):
            numbers, shape_once = numbers.narrow(side, 0, 1), list(shape)
            shape_once[side] = 1
            return _reshaped(numbers, shape_once).expand(*shape)
    copied = numbers.reshape(*shape)
    for side in range(copied.dim()):
        first = copied.narrow(side, 0, 1)
        copied = first if (copied == first).all() else copied
    return copied.expand(*shape)


def _held_once(numbers: Tensor) -> Tensor:
    """The numbers without what repeats them (stride 0)."""
    for side in range(numbers.dim()):
        numbers = numbers.narrow(side, 0, 1) if _constant(numbers, side) else numbers
    return numbers


def _constant(numbers: Tensor, side: int) -> bool:
    return numbers.shape[side] == 1 or numbers.stride(side) == 0


def _agree(one: _Trace, other: _Trace) -> bool:
    """Whether two tensors that are added are of the same cells, entry by entry."""
    if one.cells.place != other.cells.place or one.numbers.shape != other.numbers.shape:
        return False
    return bool((_held_once(one.numbers) == _held_once(other.numbers)).all())


def _tensors(args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    for part in (*args, *kwargs.values()):
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, list | tuple):
            yield from (entry for entry in part if isinstance(entry, Tensor))


def _name_of(func: Any) -> str:
    """A function's name; that of the attribute, for ``Tensor.mT`` and the like."""
    name: str = getattr(func, "__name__", "")
    return getattr(getattr(func, "__self__", None), "__name__", "") if name == "__get__" else name


def _functions(names: str) -> frozenset[str]:
    """Names of functions, and what these are called in place and as operators (``add_``, ``__radd__``)."""
    forms = ("{}", "{}_", "__{}__", "__r{}__", "__i{}__")
    return frozenset(form.format(name) for name in names.split() for form in forms)


_ATTENTION = frozenset({"scaled_dot_product_attention"})
_ENTRY_BY_ENTRY = _functions(
    "add sub mul div truediv pow neg subtract multiply divide true_divide abs exp log sqrt rsqrt square clamp clip "
    "round floor sigmoid tanh relu relu6 gelu silu mish elu leaky_relu hardswish hardtanh hardsigmoid softplus "
    "dropout dropout1d dropout2d alpha_dropout feature_dropout layer_norm rms_norm group_norm batch_norm instance_norm "
    "normalize local_response_norm where masked_fill lerp addcmul nan_to_num contiguous clone detach requires_grad "
    "to type type_as float double half bfloat16 cuda cpu expand expand_as broadcast_to"
)
_FORM = _functions("view reshape view_as reshape_as flatten ravel unflatten squeeze unsqueeze")
_ORDER = _functions(
    "permute transpose swapaxes swapdims movedim moveaxis t mT T narrow select split chunk unbind tensor_split "
    "split_with_sizes"
)
_CHOICE = _functions("getitem index_select flip")
_JOINING = _functions("cat concat concatenate")
_ROWS = _functions("linear matmul bmm baddbmm addmm") - {"__rmatmul__"}  # A row stays a row; Tensor @ rows mixes them
_SECOND = _functions("baddbmm addmm")
_ON_IMAGES: dict[str, Callable[[Cells, tuple[int, int], Option], Cells | None]] = {
    "conv2d": image_cells.convolved,
    "pad": image_cells.padded,
    "interpolate": image_cells.interpolated,
    "upsample": image_cells.interpolated,
    "max_pool2d": image_cells.max_pooled,
    "avg_pool2d": image_cells.pooled,
    "adaptive_avg_pool2d": image_cells.pooled_to_size,
    "adaptive_max_pool2d": image_cells.pooled_to_size,
}

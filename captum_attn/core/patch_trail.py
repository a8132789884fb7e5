"""Follow an image's pixels through the forward pass to the attention: which patch each token is, and where it lies."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from types import TracebackType
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from captum_attn.core import image_cells
from captum_attn.core.cell_numbers import (
    NONE,
    SEVERAL,
    WHOLE,
    contracted,
    filled,
    held_once,
    is_all,
    is_repeated,
    joined,
    joined_along,
    moved,
    reshaped,
)
from captum_attn.core.image_cells import Axis, Cells, Option
from captum_attn.core.patches import NoPatchGrid, PatchGrid


@dataclass(frozen=True)
class _Trace:
    """Which cell each entry of a tensor comes from.

    Attributes:
        tensor: not kept alive.
        version: what the tensor holds; once it is overwritten otherwise, its entries are of ``SEVERAL`` cells.
        cells: that are numbered.
        numbers: of the tensor's shape.
        relates: whether entries of two tensors were multiplied and summed, as queries and keys are, or attention and
            values: the numbers are those of the first one's rows.
    """

    tensor: weakref.ref[Tensor]
    version: int
    cells: Cells
    numbers: Tensor
    relates: bool = False


class PatchTrail(TorchFunctionMode):
    """Follow pixels to the first attention that reads them, in the forward pass that runs inside this context.

    The torch functions that the model calls say what becomes of the image: it is resized, padded, cut and convolved,
    what the convolution returns is rearranged into tokens, and other tokens are put before or behind these. Numbers of
    cells are rearranged alike. What a function returns that is not known counts as read from several cells; nothing is
    guessed then.

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
        self._left = False
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

    def grid(self, length: int) -> PatchGrid | NoPatchGrid:
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
        return cells.grid(tuple(numbers.argsort(stable=True)[-len(cells) :].tolist()))

    def _reason(self, length: int) -> str:
        seen = (
            ", ".join(map(str, self._cuts))
            or "no patch embedding (a convolution of the pixels, or a linear layer over all those of a patch)"
        )
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
        given = list(_tensors((*args, *kwargs.values())))
        traces = {id(part): trace for part in given if (trace := self._trace(part)) is not None}
        if not traces:
            return func(*args, **kwargs)
        versions = [_version(part) for part in given]
        result = func(*args, **kwargs)
        changed = [(part, before) for part, before in zip(given, versions, strict=True) if _version(part) != before]
        self._follow(_Call(func, args, kwargs, result, traces), changed)
        return result

    def _trace(self, tensor: Tensor) -> _Trace | None:
        trace = self._traces.get(id(tensor))
        if trace is None or trace.tensor() is not tensor:
            return None
        if trace.version == _version(tensor):
            return trace
        return _Trace(trace.tensor, _version(tensor), trace.cells, filled(SEVERAL, tensor.shape))

    def _keep(self, tensor: Tensor, cells: Cells, numbers: Tensor, relates: bool = False) -> None:
        if is_all(numbers, NONE):
            self._traces.pop(id(tensor), None)
        elif not tensor.is_inference():
            self._traces[id(tensor)] = _Trace(weakref.ref(tensor), _version(tensor), cells, numbers, relates)

    def _follow(self, call: _Call, changed: Sequence[tuple[Tensor, int]]) -> None:
        if call.name == "scaled_dot_product_attention" or (call.name == "softmax" and call.is_square):
            rows = call.traces.get(id(call.first))
            if rows is not None and rows.relates == (call.name == "softmax") and self._arrive(rows):
                return
        if call.name in _LEAVING and not is_all(call.leading, WHOLE):
            self._left = True  # and may come back unseen
        results = [call.args[0]] if call.name in _WRITING else list(_tensors((call.result,)))
        known = {id(result) for result in results}
        results += [part for part, _ in changed if id(part) not in known]
        if not results:
            return
        cells, numbers = self._found(call, results)
        lost = any(is_all(found, SEVERAL) for found in numbers)
        if lost and not any(is_all(trace.numbers, SEVERAL) for trace in call.traces.values()):
            self._lose(call.name.strip("_") + (_TURNED if call.name in _ON_IMAGES else ""))
        for tensor, found in zip(results, numbers, strict=True):
            self._keep(tensor, cells, found, call.relates)
            for view, before in changed:
                if view is tensor and view._base is not None:
                    self._write_through(view, view._base, before, cells, found)

    def _lose(self, where: str) -> None:
        if not self._lost_in.keys() & {_LEFT, _OF_PARTS}:
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

    def _found(self, call: _Call, results: Sequence[Tensor]) -> tuple[Cells, Sequence[Tensor]]:
        """The cells that the results of a function come from; ``SEVERAL`` if that is not known."""
        of_cells = [trace for trace in call.traces.values() if not is_all(trace.numbers, WHOLE)]
        if not of_cells:  # of the whole image, whatever the function
            return next(iter(call.traces.values())).cells, [filled(WHOLE, part.shape) for part in results]
        cells, rule = of_cells[0].cells, _rule(call.name)
        found: _Found = None
        if rule is not None and all(trace.cells.place == cells.place for trace in of_cells):
            try:
                found = rule(call)
            except (RuntimeError, ValueError, IndexError, TypeError, KeyError, AttributeError):
                found = None  # not how these functions are called
        if isinstance(found, _Cut):
            cells, found = found.cells, found.numbers
            if call.name in _EMBEDDING:
                self._cuts.append(cells)
                self._lost_in = {}
        numbers = [found] if isinstance(found, Tensor) else list(found or ())
        if [part.shape for part in numbers] != [part.shape for part in results]:
            numbers = [filled(SEVERAL, part.shape) for part in results]
        return cells, numbers

    def _arrive(self, trace: _Trace) -> bool:
        """The attention's queries (..., N, d), or its scores (..., N, N): the cell of each of the N tokens."""
        sides = [side for side in range(trace.numbers.dim()) if side != trace.numbers.dim() - 2]
        tokens = joined_along(trace.numbers, sides).expand(*(1 for _ in sides[:-1]), trace.numbers.shape[-2], 1)
        if self._left or (tokens == SEVERAL).any():
            self._lose(_LEFT if self._left else _OF_PARTS)
            return False
        self._tokens = trace.cells, tokens.flatten().clone()
        self._traces.clear()
        return True


@dataclass(frozen=True)
class _Call:
    """A torch function that was called, and the traces of the tensors that it got."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any
    traces: dict[int, _Trace]

    @property
    def name(self) -> str:
        """The function's name; that of the attribute, for ``Tensor.mT`` and the like; ``data=`` if it is set."""
        name: str = getattr(self.func, "__name__", "")
        attribute: str = getattr(getattr(self.func, "__self__", None), "__name__", "")
        return {"__get__": attribute, "__set__": f"{attribute}="}.get(name, name)

    @property
    def first(self) -> Any:
        """The tensor that the function is about."""
        named = next((self.kwargs[name] for name in ("input", "query", "self") if name in self.kwargs), None)
        return self.args[0] if self.args else named

    @property
    def is_square(self) -> bool:
        """Whether the result can be an attention of tokens to each other, (..., N, N)."""
        shape: tuple[int, ...] = getattr(self.result, "shape", ())
        return len(shape) > 2 and shape[-1] == shape[-2]

    @property
    def relates(self) -> bool:
        """Whether the result :attr:`_Trace.relates`: scores remain scores, but what is added to a state is a state."""
        given = _tensors((*self.args, *self.kwargs.values()))
        flags = [self.traces[id(part)].relates for part in given if id(part) in self.traces]
        if self.name in _PRODUCTS or self.name == "scaled_dot_product_attention":
            return any(flags) or len(flags) > 1
        return any(flags) if self.is_square or len(flags) == 1 else all(flags)

    def option(self, name: str, place: int, default: Any) -> Any:
        return self.kwargs.get(name, self.args[place] if len(self.args) > place else default)

    def numbers(self, part: Tensor) -> Tensor:
        """Of a tensor that the function got."""
        trace = self.traces.get(id(part))
        return filled(NONE, part.shape) if trace is None else trace.numbers

    @property
    def cells(self) -> Cells:
        """Those of the first tensor."""
        return self.traces[id(self.first)].cells

    @property
    def leading(self) -> Tensor:
        """The numbers of the first tensor; ``KeyError`` if it comes from elsewhere."""
        return self.traces[id(self.first)].numbers

    @property
    def shapes(self) -> list[torch.Size]:
        return [part.shape for part in _tensors((self.result,))]


@dataclass(frozen=True)
class _Cut:
    """Other cells that a function makes, and their numbers in its result."""

    cells: Cells
    numbers: Tensor


_Found: TypeAlias = _Cut | Tensor | Sequence[Tensor] | None
_Rule: TypeAlias = Callable[[_Call], _Found]
"""The cells that a function's results come from, one tensor of numbers for each; None if not known."""


def _of_each_entry(call: _Call) -> Tensor:
    parts = [part for part in _tensors((*call.args, *call.kwargs.values())) if _fits(part.shape, call.result.shape)]
    return joined([call.numbers(part) for part in parts]).expand(call.result.shape)


def _fits(shape: Sequence[int], result: Sequence[int]) -> bool:
    return len(shape) <= len(result) and all(a in (1, b) for a, b in zip(shape[::-1], result[::-1], strict=False))


def _normalized(call: _Call) -> Tensor:
    """Each entry by itself, beside weights, and means over others, which count like a gate."""
    return call.leading.expand(call.result.shape)


def _in_another_form(call: _Call) -> Tensor:
    return reshaped(call.numbers(call.first), call.result.shape)


def _repeated(call: _Call) -> Tensor:
    return call.numbers(call.first).expand(call.result.shape)


def _none(call: _Call) -> Tensor:
    """What takes no more than its shape from the image."""
    return filled(NONE, call.result.shape)


def _seen_otherwise(call: _Call) -> Tensor | Sequence[Tensor]:
    found: Tensor | Sequence[Tensor] = call.func(call.leading, *call.args[1:], **call.kwargs)
    return found


def _moved(call: _Call) -> Tensor:
    """What the function does with the entries, it does with their numbers; not if the image says where they go."""
    given = list(_tensors((*call.args, *call.kwargs.values())))
    subjects = {id(part) for part in _tensors(call.args[:1])}
    carried = [part for part in given if part.is_floating_point() or id(part) in subjects]
    places = {id(part): place for place, part in enumerate(carried)}
    if any(id(part) in call.traces and id(part) not in places for part in given):
        raise ValueError("the image chooses the entries")

    def function(*numbers: Tensor) -> Tensor:
        def put(value: Any) -> Any:
            if isinstance(value, Tensor):
                return numbers[places[id(value)]] if id(value) in places else value.cpu()
            return type(value)(map(put, value)) if type(value) in (list, tuple) else value

        found: Tensor = call.func(*map(put, call.args), **{name: put(value) for name, value in call.kwargs.items()})
        return found

    return moved(function, [call.numbers(part) for part in carried], call.result.shape)


def _written(call: _Call) -> Tensor:
    """``tensor[index] = value``."""
    (target, index, value), numbers = call.args, call.numbers(call.args[0]).clone()
    entries = index if isinstance(index, tuple) else (index,)
    if any(id(entry) in call.traces for entry in entries):
        raise ValueError("the image chooses the entries")
    on_cpu = tuple(entry.cpu() if isinstance(entry, Tensor) else entry for entry in entries)
    numbers[on_cpu] = call.numbers(value) if isinstance(value, Tensor) else NONE
    return held_once(numbers, compared=True).expand(target.shape)


def _chosen(call: _Call) -> Tensor | Sequence[Tensor]:
    index = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    return _moved(call) if any(isinstance(part, list | Tensor) for part in index) else _seen_otherwise(call)


def _reduced(call: _Call) -> Sequence[Tensor]:
    if len(list(_tensors((*call.args, *call.kwargs.values())))) > 1:  # the larger one of each two entries
        return [_of_each_entry(call)]
    numbers, place = call.leading, 2 if call.name in _ORDER_FIRST else 1
    given = call.option("dim", place, call.kwargs.get("axis"))
    dims = [given] if isinstance(given, int) and not isinstance(given, bool) else given
    sides = [side % numbers.dim() for side in (dims or range(numbers.dim()))]
    kept = joined_along(numbers, sides).expand([1 if s in sides else n for s, n in enumerate(numbers.shape)])
    return [kept if len(shape) == len(kept.shape) else kept.squeeze(sides) for shape in call.shapes]


def _products(call: _Call) -> _Found:
    """Sums of products; of two tensors of the image (queries and keys, probabilities and values), the first's rows."""
    operands = list(_tensors(call.args))
    added = operands.pop(0) if call.name in _ADDED else None
    equation = call.args[0] if call.name == "einsum" else _PRODUCTS[call.name]

    def product(*factors: Tensor) -> Tensor:
        if call.name == "tensordot":
            summed: Tensor = torch.tensordot(factors[0], factors[1], call.option("dims", 2, 2))
        else:
            summed = torch.einsum(equation, *factors)
        return summed

    def seen_from(place: int, operand: Tensor) -> Tensor:
        ones = [torch.ones((1,) * other.dim(), dtype=torch.double, device="cpu") for other in operands]
        alone = lambda numbers: product(*ones[:place], numbers, *ones[place + 1 :])  # noqa: E731
        return contracted(alone, call.numbers(operand))

    operands = operands[:2] if call.name == "linear" else operands
    found = [seen_from(place, one) for place, one in enumerate(operands) if id(one) in call.traces]
    if len(found) > 1:
        found = [one for one in found if is_repeated(one, -1) and not (one == SEVERAL).any()][:1]
    if added is not None and id(added) in call.traces:
        found.append(call.numbers(added))
    if len(found) == 1 and call.name in _EMBEDDING and is_all(found[0], SEVERAL):
        return _embedded(call)
    return joined(found).expand(call.result.shape) if found else None


def _embedded(call: _Call) -> _Cut | None:
    """A linear layer over tokens (..., N, K) that hold all pixels of a patch each."""
    numbers = held_once(call.leading)
    cut = call.cells.in_blocks(numbers.flatten(0, -2))
    if cut is None:
        return None
    cells, blocks = cut
    return _Cut(cells, blocks.view(*numbers.shape[:-1], 1).expand(call.result.shape))


def _unfolded(call: _Call) -> Tensor | Sequence[Tensor]:
    """``F.unfold``, and ``Tensor.unfold``, which returns a view."""
    if call.result.dim() > call.leading.dim():
        return _seen_otherwise(call)

    def function(numbers: Tensor) -> Tensor:
        columns: Tensor = call.func((numbers - NONE).double(), *call.args[1:], **call.kwargs)
        return columns.long() + NONE

    return moved(function, [call.leading], call.result.shape)


def _of_channels(call: _Call) -> Tensor | None:
    """``conv1d`` with a kernel of one entry."""
    narrow = call.option("weight", 1, None).shape[2] == 1 and call.result.shape[2] == call.leading.shape[2]
    return joined_along(call.leading, [1]).expand(call.result.shape) if narrow else None


def _padded(call: _Call) -> Tensor | None:
    """Copies of what lies at the border count for nothing; those from the other side would."""
    if call.option("mode", 2, "constant") == "circular":
        return None
    sides = list(call.option("pad", 1, ()))
    return moved(lambda numbers: torch.nn.functional.pad(numbers, sides, value=NONE), [call.leading], call.result.shape)


def _on_image(change: Callable[[Cells, tuple[int, int], Option], Cells | None]) -> _Rule:
    """What a function of images (B, C, rows, columns) makes of the cells."""

    def rule(call: _Call) -> _Found:
        numbers, shape = call.leading, call.result.shape
        if numbers.dim() not in (3, 4) or len(shape) != numbers.dim():
            return None
        channels = joined_along(numbers.view(1, *numbers.shape) if numbers.dim() == 3 else numbers, [0])
        channels = channels.expand(1, -1, *numbers.shape[-2:])[0]
        seen = call.cells.seen_in_channels(channels)
        cells = None if seen is None else change(seen, (shape[-2], shape[-1]), call.option)
        if seen is None or cells is None:
            return None
        pooled = len(cells) == 1 < len(seen) and call.name not in _EMBEDDING
        return filled(WHOLE, shape) if pooled else _Cut(cells, cells.numbers(shape))

    return rule


def _tensors(parts: Sequence[Any]) -> Iterator[Tensor]:
    for part in parts:
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, list | tuple):
            yield from _tensors(part)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


@cache
def _rule(name: str) -> _Rule | None:
    """What is known of a function of this name; its forms in place and as an operator are the same one."""
    plain = name.strip("_").removeprefix("special_")
    forms = [name, plain, plain[1:]] if name.startswith("__") else [name, plain]
    pointwise = _of_each_entry if any(map(_is_pointwise, forms)) else None
    return next((_RULES[form] for form in forms if form in _RULES), pointwise)


def _is_pointwise(name: str) -> bool:
    """Whether torch itself says of a function that it computes each entry by itself."""
    packet = getattr(torch.ops.aten, name, None)
    overloads: list[str] = getattr(packet, "overloads", list)()
    return any(torch.Tag.pointwise in getattr(packet, overload).tags for overload in overloads)


_PRODUCTS = {
    "linear": "...i,oi->...o",
    "matmul": "...ij,...jk->...ik",
    "__matmul__": "...ij,...jk->...ik",
    "__rmatmul__": "...jk,...ij->...ik",
    "bmm": "...ij,...jk->...ik",
    "mm": "...ij,...jk->...ik",
    "addmm": "...ij,...jk->...ik",
    "baddbmm": "...ij,...jk->...ik",
    "cdist": "...id,...jd->...ij",
    "inner": "...id,...jd->...ij",
    "einsum": "",
    "tensordot": "",
}
_TURNED = " of an image that was turned, flipped or rolled, or whose parts lie on each other"
_OF_PARTS = "an attention of tokens that read several parts of the image, or of parts of it (windows)"
_LEFT = "a conversion of the image, or of what was made of it, to NumPy or a list"
_WRITING = frozenset({"__setitem__", "data="})
_LEAVING = frozenset({"numpy", "tolist", "__array__", "__dlpack__"})
_EMBEDDING = frozenset({"conv2d", "linear", "matmul", "__matmul__", "bmm", "mm"})
_ADDED = frozenset({"addmm", "baddbmm"})
_ORDER_FIRST = frozenset({"norm", "vector_norm", "quantile", "nanquantile", "kthvalue"})
_GROUPS: dict[_Rule, str] = {
    _of_each_entry: "truediv subtract multiply divide floor_divide absolute negative fix hardswish prelu log_sigmoid "
    "softsign tanhshrink expit arccos arcsin arctan arctan2 arcsinh arctanh greater greater_equal less less_equal "
    "not_equal complex polar conj conj_physical resolve_conj resolve_neg real imag",
    _normalized: "layer_norm rms_norm group_norm batch_norm instance_norm normalize local_response_norm softmax "
    "log_softmax softmin dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout "
    "contiguous clone detach requires_grad type float double half bfloat16 int long short byte bool char "
    "cuda cpu cfloat cdouble positive pin_memory tril triu tensor as_tensor asarray",
    _repeated: "to type_as expand expand_as broadcast_to",
    _none: "zeros_like ones_like full_like empty_like rand_like randn_like randint_like new_zeros new_ones new_full "
    "new_empty fill_ zero_",
    _in_another_form: "view reshape view_as reshape_as flatten ravel unflatten squeeze unsqueeze atleast_1d "
    "atleast_2d atleast_3d",
    _seen_otherwise: "permute transpose swapaxes swapdims movedim moveaxis t mT T adjoint mH H narrow select split "
    "chunk unbind tensor_split split_with_sizes hsplit vsplit dsplit diagonal",
    _chosen: "getitem",
    _moved: "cat concat concatenate stack hstack vstack dstack column_stack row_stack flip fliplr flipud rot90 repeat "
    "tile repeat_interleave index_select gather take_along_dim index_copy scatter masked_select pixel_shuffle "
    "pixel_unshuffle channel_shuffle roll",
    _reduced: "sum mean nansum nanmean amax amin max min std var std_mean var_mean norm vector_norm logsumexp prod "
    "median nanmedian quantile nanquantile aminmax all any argmax argmin count_nonzero",
    _products: " ".join(_PRODUCTS),
    _of_channels: "conv1d",
    _padded: "pad",
}
_RULES: dict[str, _Rule] = {name: rule for rule, names in _GROUPS.items() for name in names.split()}
_RULES |= {
    "setitem": _written,
    "unfold": _unfolded,
    "copy_": lambda call: call.numbers(call.args[1]).expand(call.result.shape),
    "data=": lambda call: call.numbers(call.args[1]),
    "glu": lambda call: joined(call.leading.chunk(2, call.option("dim", 1, -1))).expand(call.result.shape),
    "view_as_complex": lambda call: joined_along(call.leading, [-1]).squeeze(-1).expand(call.result.shape),
    "view_as_real": lambda call: call.leading[..., None].expand(call.result.shape),
    "scaled_dot_product_attention": lambda call: joined_along(call.leading, [-1]).expand(call.result.shape),
}
_ON_IMAGES: dict[str, _Rule] = {
    "conv2d": _on_image(image_cells.convolved),
    "interpolate": _on_image(image_cells.interpolated),
    "upsample": _on_image(image_cells.interpolated),
    "max_pool2d": _on_image(image_cells.max_pooled),
    "avg_pool2d": _on_image(image_cells.pooled),
    "adaptive_avg_pool2d": _on_image(image_cells.pooled_to_size),
    "adaptive_max_pool2d": _on_image(image_cells.pooled_to_size),
}
_RULES |= _ON_IMAGES

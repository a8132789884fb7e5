"""What torch functions make of the cells of an input that their arguments come from: rules, by the function's name.

A function that is new here needs its name in one of the ``_GROUPS``, or a rule of its own.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Tensor

from captum_attn.core import cells
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
from captum_attn.core.cells import Axis, Cells, Option
from captum_attn.core.function_arguments import tensors_in


@dataclass(frozen=True)
class Trace:
    """Which cell each entry of a tensor comes from.

    Attributes:
        tensor: not kept alive.
        version: what the tensor holds; once it is overwritten otherwise, its entries are of ``SEVERAL`` cells.
        cells: that are numbered.
        numbers: of the tensor's shape.
        relates: whether entries of two tensors were multiplied and summed, as queries and keys are, or attention and
            values: the numbers are those of the first one's rows.
        columns: of scores of queries and keys, the keys' cells and their numbers; None where these are not followed.
    """

    tensor: weakref.ref[Tensor]
    version: int
    cells: Cells
    numbers: Tensor
    relates: bool = False
    columns: tuple[Cells, Tensor] | None = None

    @property
    def of_columns(self) -> Trace | None:
        """The trace of scores as it is to the keys."""
        return None if self.columns is None else replace(self, cells=self.columns[0], numbers=self.columns[1])

    @property
    def of_keys(self) -> Trace | None:
        """The trace of the keys (..., K, d) of scores."""
        trace = self.of_columns
        return None if trace is None else replace(trace, numbers=joined_along(trace.numbers, [-2]).transpose(-1, -2))


@dataclass(frozen=True)
class Call:
    """A torch function that was called, and the traces of the tensors that it got."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any
    traces: dict[int, Trace]

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
        """Whether the result :attr:`Trace.relates`: scores remain scores, but what is added to a state is a state."""
        given = tensors_in((*self.args, *self.kwargs.values()))
        flags = [self.traces[id(part)].relates for part in given if id(part) in self.traces]
        if self.name in _PRODUCTS or self.name == "scaled_dot_product_attention":
            return any(flags) or len(flags) > 1
        return any(flags) if self.is_square or len(flags) == 1 else all(flags)

    @property
    def overlaps(self) -> bool:
        """Of a convolution, of pooling or resizing, whether its windows overlap, as far as its arguments say."""
        if self.name not in ON_SIDES and self.name not in ("conv1d", "conv2d", "conv3d"):
            return False
        if self.name.startswith("adaptive"):
            pairs = zip(self.leading.shape[::-1], self.result.shape[::-1], strict=False)
            return any(before % after for before, after in pairs if after)
        if not self.name.startswith(("conv", "max_pool", "avg_pool")):
            return True
        return any(stride is not None and (size - 1) * apart + 1 > stride for size, stride, apart in self.windows)

    @property
    def skips(self) -> bool:
        """Of a convolution or of pooling, whether entries lie between those that its windows read."""
        if self.name not in ON_SIDES and not self.name.startswith("conv"):
            return False
        if self.name.startswith(("interpolate", "upsample")):
            smaller = any(after < before for before, after in zip(self.leading.shape, self.result.shape, strict=False))
            return smaller and self.option("mode", 3, "nearest").startswith("nearest")
        if not self.name.startswith(("conv", "max_pool", "avg_pool")):
            return False
        return any(apart > 1 or (stride is not None and size < stride) for size, stride, apart in self.windows)

    @property
    def windows(self) -> list[tuple[int, int | None, int]]:
        """Of a convolution or of pooling, along each side the entries of a window, the stride and the dilation."""
        if self.name.startswith("conv"):
            kernel, strides = getattr(self.option("weight", 1, None), "shape", (0, 0))[2:], self.option("stride", 3, 1)
            dilation = self.option("dilation", 5, 1)
        else:
            kernel, strides = self.option("kernel_size", 1, 1), self.option("stride", 2, None)
            dilation = self.option("dilation", 4, 1) if self.name.startswith("max") else 1
        sizes = list(kernel) if isinstance(kernel, list | tuple) else [kernel] * 3
        each = [one if isinstance(one, list | tuple) else [one] * len(sizes) for one in (strides, dilation)]
        return list(zip(sizes, *each, strict=False))

    @property
    def factors(self) -> list[Tensor]:
        """Of a product of two tensors of the image, these; else none."""
        factors = [part for part in tensors_in(self.args) if id(part) in self.traces] if self.name in _PRODUCTS else []
        return factors if len({id(part) for part in factors}) == 2 else []

    @property
    def of_rows(self) -> Call:
        """The call as it is to the first of two factors, where these are of different cells: results are of its."""
        cells = [self.traces[id(part)].cells.place for part in self.factors]
        return self._of(self.factors[0]) if len(set(cells)) == 2 else self

    @property
    def of_columns(self) -> Call | None:
        """The call as it is to the keys, where its results are scores of queries and keys, or made of such."""
        columns = {part: trace.of_columns for part, trace in self.traces.items()}
        scores = {part: trace for part, trace in columns.items() if trace is not None}
        if self.name in _PRODUCTS:
            return None if scores or not self.factors else self._of(self.factors[1])
        return replace(self, traces={**self.traces, **scores}) if scores else None

    @property
    def attention_and_values(self) -> tuple[Trace | None, Trace] | None:
        """Of a product of attention and values, the trace of the keys of the one, and that of the other."""
        traces = [self.traces[id(part)] for part in self.factors]
        return (traces[0].of_keys, traces[1]) if traces and traces[0].columns is not None else None

    def _of(self, factor: Tensor) -> Call:
        return replace(self, traces={id(factor): self.traces[id(factor)]})

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
        return [part.shape for part in tensors_in((self.result,))]


@dataclass(frozen=True)
class Cut:
    """Other cells that a function makes, and their numbers in its result."""

    cells: Cells
    numbers: Tensor | Sequence[Tensor]


Found: TypeAlias = Cut | Tensor | Sequence[Tensor] | None
Rule: TypeAlias = Callable[[Call], Found]
"""The cells that a function's results come from, one tensor of numbers for each; None if not known."""


def _of_each_entry(call: Call) -> Tensor:
    parts = [part for part in tensors_in((*call.args, *call.kwargs.values())) if _fits(part.shape, call.result.shape)]
    return joined([call.numbers(part) for part in parts]).expand(call.result.shape)


def _fits(shape: Sequence[int], result: Sequence[int]) -> bool:
    return len(shape) <= len(result) and all(a in (1, b) for a, b in zip(shape[::-1], result[::-1], strict=False))


def _normalized(call: Call) -> Tensor:
    """Each entry by itself, beside weights, and means over others, which count like a gate."""
    return call.leading.expand(call.result.shape)


def _in_another_form(call: Call) -> Tensor:
    return reshaped(call.numbers(call.first), call.result.shape)


def _repeated(call: Call) -> Tensor:
    return call.numbers(call.first).expand(call.result.shape)


def _none(call: Call) -> Tensor:
    """What takes no more than its shape from the image."""
    return filled(NONE, call.result.shape)


def _seen_otherwise(call: Call) -> Tensor | Sequence[Tensor]:
    found: Tensor | Sequence[Tensor] = call.func(call.leading, *call.args[1:], **call.kwargs)
    return found


def _moved(call: Call) -> Tensor:
    """What the function does with the entries, it does with their numbers; not if the image says where they go."""
    given = list(tensors_in((*call.args, *call.kwargs.values())))
    subjects = {id(part) for part in tensors_in(call.args[:1])}
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


def _written(call: Call) -> Tensor:
    """``tensor[index] = value``."""
    (target, index, value), numbers = call.args, call.numbers(call.args[0]).clone()
    entries = index if isinstance(index, tuple) else (index,)
    if any(id(entry) in call.traces for entry in entries):
        raise ValueError("the image chooses the entries")
    on_cpu = tuple(entry.cpu() if isinstance(entry, Tensor) else entry for entry in entries)
    numbers[on_cpu] = call.numbers(value) if isinstance(value, Tensor) else NONE
    return held_once(numbers, compared=True).expand(target.shape)


def _scattered(call: Call) -> Tensor:
    """``tensor.masked_scatter(mask, source)``, where the image does not say where its parts go."""
    target, mask, source = call.args
    if id(mask) in call.traces:
        raise ValueError("the image chooses the entries")
    into, given = call.numbers(target), call.numbers(source)
    width = target.shape[-1]
    if is_repeated(into, -1) and is_repeated(given, -1) and source.shape[-1] == width:  # whole states
        into, given, mask = into[..., :1], given[..., :1], mask.expand_as(target)[..., :1]
    found = into.contiguous().masked_scatter(mask.cpu(), given.contiguous())
    return found.expand(target.shape)


def _chosen(call: Call) -> Tensor | Sequence[Tensor]:
    index = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    return _moved(call) if any(isinstance(part, list | Tensor) for part in index) else _seen_otherwise(call)


def _reduced(call: Call) -> Cut | Sequence[Tensor]:
    if len(list(tensors_in((*call.args, *call.kwargs.values())))) > 1:  # the larger one of each two entries
        return [_of_each_entry(call)]
    numbers, place = call.leading, 2 if call.name in _ORDER_FIRST else 1
    given = call.option("dim", place, call.kwargs.get("axis"))
    dims = [given] if isinstance(given, int) and not isinstance(given, bool) else given
    sides = [side % numbers.dim() for side in (dims or range(numbers.dim()))]
    kept = joined_along(numbers, sides).expand([1 if s in sides else n for s, n in enumerate(numbers.shape)])
    cells = call.cells
    if is_all(kept, SEVERAL):
        ends = list(range(-len(sides), 0))
        pooled = _in_blocks(cells, numbers.movedim(sides, ends).flatten(-len(sides)))
        if pooled is not None:
            cells, blocks = pooled
            for side in sorted(sides):
                blocks = blocks.unsqueeze(side)
            kept = blocks.expand_as(kept)
    return Cut(cells, [kept if len(shape) == len(kept.shape) else kept.squeeze(sides) for shape in call.shapes])


def _products(call: Call) -> Found:
    """Sums of products; of two tensors of the image (queries and keys, probabilities and values), the first's rows."""
    operands = list(tensors_in(call.args))
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
    if len(found) == 1 and call.name in EMBEDDING and is_all(found[0], SEVERAL):
        return _embedded(call)
    return joined(found).expand(call.result.shape) if found else None


def _embedded(call: Call) -> Cut | None:
    """A linear layer over tokens (..., N, K) that hold all pixels of a patch each."""
    cut = _in_blocks(call.cells, call.leading)
    return None if cut is None else Cut(cut[0], cut[1].unsqueeze(-1).expand(call.result.shape))


def _in_blocks(cells: Cells, numbers: Tensor) -> tuple[Cells, Tensor] | None:
    """Larger cells, of which the last side of numbers (..., K) holds all that lie in one; and which ones, (...)."""
    numbers = held_once(numbers)
    cut = cells.in_blocks(numbers.flatten(0, -2))
    return None if cut is None else (cut[0], cut[1].view(numbers.shape[:-1]))


def _unfolded(call: Call) -> Tensor | Sequence[Tensor]:
    """``F.unfold``, and ``Tensor.unfold``, which returns a view."""
    if call.result.dim() > call.leading.dim():
        return _seen_otherwise(call)

    def function(numbers: Tensor) -> Tensor:
        columns: Tensor = call.func((numbers - NONE).double(), *call.args[1:], **call.kwargs)
        return columns.long() + NONE

    return moved(function, [call.leading], call.result.shape)


def _of_tokens(call: Call) -> Found:
    """``conv1d``: with a kernel of one entry, of each token by itself; else along a sound, or along tokens."""
    narrow = call.option("weight", 1, None).shape[2] == 1 and call.result.shape[2] == call.leading.shape[2]
    found = joined_along(call.leading, [1]).expand(call.result.shape) if narrow else None
    if found is not None and not is_all(found, SEVERAL):
        return found
    return _along_sides(cells.convolved, 1)(call)


def _padded(call: Call) -> Tensor | None:
    """Copies of what lies at the border count for nothing; those from the other side would."""
    if call.option("mode", 2, "constant") == "circular":
        return None
    sides = list(call.option("pad", 1, ()))
    return moved(lambda numbers: torch.nn.functional.pad(numbers, sides, value=NONE), [call.leading], call.result.shape)


def _along_sides(change: Callable[[Cells, Sequence[int], Option], Cells | None], sides: int = 0) -> Rule:
    """What a function of some last dimensions (B, C, ...) makes of the cells."""

    def rule(call: Call) -> Found:
        numbers, shape = call.leading, call.result.shape
        count = sides or len(shape) - 2
        if numbers.dim() not in (count + 1, count + 2) or len(shape) != numbers.dim():
            return None
        channels = joined_along(numbers if numbers.dim() == count + 2 else numbers[None], [0])[0]
        seen = call.cells.seen_in_channels(channels.expand(-1, *numbers.shape[-count:]))
        found = None if seen is None else change(seen, tuple(shape[-count:]), call.option)
        if seen is None or found is None:
            return None
        ends = list(range(-count, 0))
        if count == 1 and not seen.moved and _stays(seen.axes[0], found.axes[0]):
            kept = seen.numbers([1] * (len(shape) - 1) + [seen.counts[0]], ends)
            kept = torch.nn.functional.pad(kept, (0, found.counts[0] - seen.counts[0]), value=NONE)
            return Cut(replace(seen, moved=True), kept.expand(*shape))
        pooled = len(found) == 1 < len(seen) and call.name not in EMBEDDING
        return filled(WHOLE, shape) if pooled else Cut(found, found.numbers(shape, ends))

    return rule


def _stays(before: Axis, after: Axis) -> bool:
    """Whether a convolution with an even kernel leaves cells where they are: between two of them, with one more."""
    return before.step == after.step and after.first == before.first - before.step / 2 and after.count > before.count


@cache
def rule_of(name: str) -> Rule | None:
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
EMBEDDING = frozenset({"conv1d", "conv2d", "conv3d", "linear", "matmul", "__matmul__", "bmm", "mm"})
_ADDED = frozenset({"addmm", "baddbmm"})
_ORDER_FIRST = frozenset({"norm", "vector_norm", "quantile", "nanquantile", "kthvalue"})
_GROUPS: dict[Rule, str] = {
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
    _of_tokens: "conv1d",
    _padded: "pad",
}
OF_THE_FIRST = frozenset(f"{_GROUPS[_repeated]} {_GROUPS[_in_another_form]} scaled_dot_product_attention".split())
"""Functions whose results are of the first tensor's cells, whatever cells others are of: these give a dtype, a form, or
what queries read.
"""
_RULES: dict[str, Rule] = {name: rule for rule, names in _GROUPS.items() for name in names.split()}
_RULES |= {
    "setitem": _written,
    "masked_scatter": _scattered,
    "unfold": _unfolded,
    "copy_": lambda call: call.numbers(call.args[1]).expand(call.result.shape),
    "data=": lambda call: call.numbers(call.args[1]),
    "glu": lambda call: joined(call.leading.chunk(2, call.option("dim", 1, -1))).expand(call.result.shape),
    "view_as_complex": lambda call: joined_along(call.leading, [-1]).squeeze(-1).expand(call.result.shape),
    "view_as_real": lambda call: call.leading[..., None].expand(call.result.shape),
    "scaled_dot_product_attention": lambda call: joined_along(call.leading, [-1]).expand(call.result.shape),
}
_CHANGES = {
    "conv": cells.convolved,
    "max_pool": cells.max_pooled,
    "avg_pool": cells.pooled,
    "adaptive_avg_pool": cells.pooled_to_size,
    "adaptive_max_pool": cells.pooled_to_size,
}
ON_SIDES: dict[str, Rule] = {
    f"{name}{sides}d": _along_sides(change, sides) for name, change in _CHANGES.items() for sides in (1, 2, 3)
}
ON_SIDES |= {name: _along_sides(cells.interpolated) for name in ("interpolate", "upsample")}
_RULES = {**ON_SIDES, **_RULES}

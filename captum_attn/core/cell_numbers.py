"""Which cell of an input each entry of a tensor comes from: numbers of the tensor's shape, and what becomes of them.

A number tells one cell; three more codes say that an entry comes from ``NONE``, from the ``WHOLE`` image (a mean over
all of it: a gate for all cells alike), or from cells that are ``SEVERAL``, or not known. Numbers take no memory to
speak of: what is the same for all examples and channels is held once (stride 0).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor

NONE, WHOLE, SEVERAL = -2, -1, 2**40


def filled(code: int, shape: Sequence[int]) -> Tensor:
    """The same code for all entries of a tensor."""
    return torch.full((), code, device="cpu").expand(tuple(shape))


def joined(numbers: Sequence[Tensor]) -> Tensor:
    """Where each entry comes from if it is computed from the entries of several tensors at its place (broadcast)."""
    return reduce(_joined, map(held_once, numbers))


def _joined(one: Tensor, other: Tensor) -> Tensor:
    upper, lower = torch.maximum(one, other), torch.minimum(one, other)
    return torch.where((lower < 0) | (lower == upper), upper, SEVERAL)


def joined_along(numbers: Tensor, sides: Sequence[int]) -> Tensor:
    """Where what is computed from all entries along some sides comes from; these sides are left, of one entry."""
    numbers = held_once(numbers)
    sides = [side % numbers.dim() for side in sides]
    if not sides:
        return numbers
    upper = numbers.amax(sides, keepdim=True)
    lower = torch.where(numbers < 0, upper, numbers).amin(sides, keepdim=True)
    of_all = all(size == 1 or side in sides for side, size in enumerate(numbers.shape))
    return torch.where(lower == upper, upper, WHOLE if of_all else SEVERAL)


def contracted(product: Callable[..., Tensor], numbers: Tensor) -> Tensor:
    """Where sums of products of entries with others come from.

    Args:
        product: a linear function, with factors above 0.
        numbers: of its argument.
    """
    numbers = held_once(numbers)
    number, told = numbers.double(), (numbers >= 0).double()
    count, total, squares = product(told), product(number * told), product(number * number * told)
    mean = (total / count).nan_to_num().round()
    of_one = (mean * count == total) & (mean * mean * count == squares)
    found = torch.where(of_one, mean, SEVERAL).long()
    rest = torch.where(product((numbers == WHOLE).double()) > 0, WHOLE, NONE)
    return torch.where(count > 0, found, rest)


def moved(function: Callable[..., Tensor], numbers: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """Numbers that a function puts to other places, as it does with entries; on what differs alone where that does.

    Args:
        function: of the numbers.
        numbers: of one shape but for one side, along which the function may join them.
        shape: of the result.
    """
    alike = {len(part.shape) for part in numbers} == {len(shape)}
    repeated = [side for side in range(len(shape)) if alike and all(is_repeated(part, side) for part in numbers)]
    for sides in (repeated, [side for side in repeated if side == 0]):
        if not sides:
            continue
        once = list(numbers)
        for side in sides:
            once = [part.narrow(side, 0, 1) for part in once]
        try:
            found = function(*once)
        except (RuntimeError, IndexError):  # the function looks at these sides
            continue
        if found.dim() == len(shape) and all(a in (1, b) for a, b in zip(found.shape, shape, strict=True)):
            return held_once(found, compared=True).expand(*shape)
    return held_once(function(*numbers), compared=True).expand(*shape)


def reshaped(numbers: Tensor, shape: Sequence[int]) -> Tensor:
    """The numbers in another form; where that takes a copy, one of what differs between examples and channels."""
    try:
        return numbers.view(*shape)
    except RuntimeError:
        pass
    for side in (0, -1):  # examples and channels mostly keep their places
        if numbers.shape[side] == shape[side] > 1 and is_repeated(numbers, side):
            numbers, shape_once = numbers.narrow(side, 0, 1), list(shape)
            shape_once[side] = 1
            return reshaped(numbers, shape_once).expand(*shape)
    return held_once(numbers.reshape(*shape), compared=True).expand(*shape)


def held_once(numbers: Tensor, compared: bool = False) -> Tensor:
    """The numbers without what repeats them: sides of stride 0, or, if ``compared``, of equal entries."""
    for side in range(numbers.dim()):
        first = numbers.narrow(side, 0, min(1, numbers.shape[side]))
        if is_repeated(numbers, side) or (compared and bool((numbers == first).all())):
            numbers = first
    return numbers


def is_repeated(numbers: Tensor, side: int) -> bool:
    """Whether the numbers are held once along a side."""
    return numbers.shape[side] == 1 or numbers.stride(side) == 0


def is_all(numbers: Tensor, code: int) -> bool:
    """Whether all entries have one code."""
    return bool((held_once(numbers) == code).all())

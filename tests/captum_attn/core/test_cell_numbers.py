"""Numbers of cells through sums of products are what the sets of cells say that each entry is computed from."""

from __future__ import annotations

import pytest
import torch

from captum_attn.core.cell_numbers import NONE, SEVERAL, WHOLE, contracted, joined, joined_along, moved


def brute(cells):
    """The code of an entry that is computed from entries with these codes."""
    told = {cell for cell in cells if cell >= 0}
    if len(told) == 1:
        return told.pop()
    return SEVERAL if told else max(cells)


CODES = torch.tensor([NONE, NONE, WHOLE, 0, 3, 3, SEVERAL])


@pytest.mark.parametrize("seed", range(5))
def test_what_is_computed_from_several_entries(seed):
    generator = torch.Generator().manual_seed(seed)
    numbers = CODES[torch.randint(len(CODES), (40, 3), generator=generator)]
    expected = [brute(row) for row in numbers.tolist()]
    assert (
        contracted(lambda rows: torch.einsum("nk,kd->nd", rows, torch.ones(1, 1).double()), numbers).flatten().tolist()
        == expected
    )
    assert joined(list(numbers.unbind(1))).tolist() == expected
    assert joined_along(numbers, [1]).flatten().tolist() == expected


def test_a_mean_of_all_cells_is_of_the_whole_image():
    numbers = torch.arange(6).view(2, 3).expand(4, 2, 3)
    assert joined_along(numbers, [1, 2]).flatten().tolist() == [WHOLE]
    assert joined_along(numbers, [2]).flatten().tolist() == [SEVERAL, SEVERAL]
    assert joined_along(numbers, [0]).flatten().tolist() == [*range(6)]


@pytest.mark.parametrize("sides", [(1,), (2,), (3,), (1, 3), (2, 3)])
def test_entries_that_are_moved_are_so_whether_held_once_or_not(sides):
    numbers = torch.arange(4).view(1, 4, 1).expand(4, 4, 4)
    functions = [
        lambda x: x.flip(sides[-1] - 1),
        lambda x: x.repeat_interleave(2, sides[0] - 1),
        lambda x: torch.cat([x, x + 1], 1),
    ]
    for function in functions:
        expected = function(numbers.clone())
        assert torch.equal(moved(function, [numbers], expected.shape), expected)

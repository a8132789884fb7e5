"""However examples are dealt to processes, the table ends up as if one had filled it."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_callbacks.gathering import RowsOfExamples


@given(st.lists(st.integers(0, 2), min_size=1, max_size=9), st.integers(1, 3))
def test_merged_tables_are_the_whole_exactly(owners, width):
    values = torch.rand(len(owners), width, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    tables = [RowsOfExamples(len(owners), {"a": width, "b": 1}) for _ in range(2)]
    for row, owner in enumerate(owners):  # an owner of 2: nobody
        if owner < 2:
            tables[owner].update("a", torch.tensor([row]), values[[row]])
    whole, other = tables
    whole.merge_state(other)
    rows, found = whole.gathered()["a"]
    expected = [row for row, owner in enumerate(owners) if owner < 2]
    assert rows.tolist() == expected
    assert torch.equal(found, values[expected])
    assert [len(part) for part in whole.gathered()["b"]] == [0, 0]


def test_a_row_may_be_written_again():
    table = RowsOfExamples(2, {"a": 1})
    for value in (1.0, 2.0):
        table.update("a", torch.tensor([1]), torch.tensor([[value]]))
    rows, values = table.gathered()["a"]
    assert rows.tolist() == [1]
    assert values.tolist() == [[2.0]]

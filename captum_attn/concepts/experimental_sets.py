"""Which concepts are compared with each other, and which of their examples count."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import torch
from captum.concept import Concept
from torch import Tensor

from captum_attn.bench import Reader
from captum_attn.core import ModelInputs, add_to_hash, as_index, is_index

ExperimentalSets = Sequence[Sequence[Concept]] | Sequence[Concept] | Mapping[str, Any]
"""Concepts that are compared with each other: one set, several sets, or examples by name."""

FEWEST_EXAMPLES = 5


def concept_sets(given: ExperimentalSets) -> list[list[Concept]]:
    """Experimental sets in any form, checked."""
    sets = _listed(given)
    keys = [frozenset(concept.id for concept in one) for one in sets]
    if len(set(keys)) < len(keys):
        raise ValueError("two experimental sets have the same concepts: each counts as a test, so give one of them")
    known: dict[int, Concept] = {}
    for one in sets:
        for concept in one:
            _check_concept(concept, known.setdefault(concept.id, concept))
        _check_contrast(one)
    return sets


def _listed(given: ExperimentalSets) -> list[list[Concept]]:
    """Lists of concepts; ``TypeError`` for anything else."""
    if isinstance(given, Mapping):
        given = [[Concept(id, name, examples) for id, (name, examples) in enumerate(given.items())]]
    members: list[Any] = list(given)
    if all(isinstance(member, Concept) for member in members):
        members = [members]
    sets = [list(one) if isinstance(one, Sequence) else [one] for one in members]
    strangers = [type(member).__name__ for one in sets for member in one if not isinstance(member, Concept)]
    if strangers:
        raise TypeError(
            "concepts must be a list of lists of captum.concept.Concept, one such list, or a mapping from names to "
            f"examples, got {strangers[0]} in it"
        )
    return sets


def _check_concept(concept: Concept, first: Concept) -> None:
    """Raise ``ValueError`` for a concept without examples, or another one than the first with its id."""
    if concept.data_iter is None:
        raise ValueError(f"concept {concept.name!r} has no examples: its data_iter is None")
    if (first.name, id(first.data_iter)) != (concept.name, id(concept.data_iter)):
        raise ValueError(
            f"the concepts {first.name!r} and {concept.name!r} have the same id {concept.id}, but other names "
            "or examples: give each its own"
        )


def _check_contrast(members: Sequence[Concept]) -> None:
    """Raise ``ValueError`` for a set in which a concept has nothing else beside it."""
    if min(len({concept.id for concept in members}), len({concept.name for concept in members})) < max(2, len(members)):
        named = ", ".join(repr(concept.name) for concept in members)
        raise ValueError(
            f"an experimental set must have at least two different concepts, got [{named}]: a concept is a "
            "direction away from others; add random examples if there are none"
        )


def check_enough(name: str, count: int) -> None:
    """Raise ``ValueError`` for a concept of too few examples."""
    if count < FEWEST_EXAMPLES:
        raise ValueError(
            f"concept {name!r} has too few examples, {count}: expected at least {FEWEST_EXAMPLES}, better 30 or more"
        )


class ExampleNumbers(dict[str, list[int]]):
    """Numbers of examples by the names of their concepts, and what these examples were.

    Attributes:
        contents: of each of them, by the name of its concept and its number.
    """

    def __init__(self, contents: Mapping[str, Mapping[int, str]]) -> None:
        super().__init__({name: sorted(numbered) for name, numbered in contents.items() if numbered})
        self.contents = contents


@dataclass(frozen=True)
class ReadConcepts:
    """Concepts whose examples are read.

    Attributes:
        sets: the experimental sets.
        examples: of each concept, by its id, in batches.
        numbers: of each of these, as they were given, by the concept's id.
        contents: of each of these, by which copies are found.
        kept: the places of those that count.
    """

    sets: list[list[Concept]]
    examples: dict[int, list[ModelInputs]]
    numbers: dict[int, list[int]]
    contents: dict[int, list[str]]
    kept: dict[int, list[int]]

    @property
    def names(self) -> dict[int, str]:
        """Of the concepts, by their ids."""
        return {concept.id: concept.name for members in self.sets for concept in members}

    def without(self, leave_out: Mapping[str, Collection[int]]) -> ReadConcepts:
        """The same without some examples, by their numbers.

        Raises:
            ValueError: no such concept or example, or several of the name; too few that are left; other examples than
                those of which :class:`ExampleNumbers` tell.
        """
        names = list(self.names.values())
        for name in leave_out:
            if names.count(name) != 1:
                raise ValueError(f"leave_out: {names.count(name)} concepts are named {name!r}, of {names}")
        kept = {}
        for id, name in self.names.items():
            left_out = {_number(given) for given in leave_out.get(name, ())}
            self._check_numbers(id, left_out, getattr(leave_out, "contents", {}).get(name, {}))
            kept[id] = [place for place in self.kept[id] if self.numbers[id][place] not in left_out]
            check_enough(name, len(kept[id]))
        return replace(self, kept=kept)

    def _check_numbers(self, id: int, left_out: Collection[int], contents: Mapping[int, str]) -> None:
        read, name = dict(zip(self.numbers[id], self.contents[id], strict=True)), self.names[id]
        strange = sorted(set(left_out) - set(read))
        if strange:
            raise ValueError(f"concept {name!r} has {len(read)} examples, from 0, so that {strange} are none of them")
        if any(contents.get(number, read[number]) != read[number] for number in left_out):
            raise ValueError(
                f"leave_out tells of examples of concept {name!r} that have other numbers now: does its data loader "
                "shuffle? Give them in one order"
            )

    def copies(self, members: Sequence[Concept], inputs: Sequence[str]) -> Tensor:
        """bool (E,), which of the examples that count of a set's concepts are copies of inputs, or of ones before."""
        each = (content for concept in members for content in self.examples_that_count(concept).values())
        return copies_among(list(each), inputs)

    def examples_that_count(self, concept: Concept) -> dict[int, str]:
        """The contents of a concept's examples that count, by their numbers as they were given."""
        id = concept.id
        return {self.numbers[id][place]: self.contents[id][place] for place in self.kept[id]}

    def check_different(self, inputs: Sequence[str]) -> None:
        """Raise ``ValueError`` for a concept with fewer than 5 different examples, of which none is an input."""
        for members in self.sets:
            counts = [len(self.kept[concept.id]) for concept in members]
            for concept, copies in zip(members, self.copies(members, inputs).split(counts), strict=True):
                if int((~copies).sum()) < FEWEST_EXAMPLES:
                    raise ValueError(
                        f"of the {len(copies)} examples of concept {concept.name!r}, {int(copies.sum())} are copies of "
                        "each other, of other concepts' or of the explained inputs: expected at least "
                        f"{FEWEST_EXAMPLES} that are not"
                    )


def read_with(reader: Reader, experimental_sets: ExperimentalSets) -> ReadConcepts:
    """Concepts whose examples a reader has read, checked."""
    sets = concept_sets(experimental_sets)
    concepts = {concept.id: concept for members in sets for concept in members}
    read = {id: reader.read_numbered(c.data_iter, f"concept {c.name!r}") for id, c in concepts.items()}
    for id, (_, numbers) in read.items():
        check_enough(concepts[id].name, len(numbers))
    return ReadConcepts(
        sets,
        examples={id: batches for id, (batches, _) in read.items()},
        numbers={id: numbers for id, (_, numbers) in read.items()},
        contents={id: content_of_each(batches) for id, (batches, _) in read.items()},
        kept={id: list(range(len(numbers))) for id, (_, numbers) in read.items()},
    )


def _number(given: Any) -> int:
    """An example's number; ``TypeError`` for what is none, such as a mask's entry."""
    if not is_index(given):
        raise TypeError(f"leave_out has the numbers of examples, got {given!r} among them")
    return as_index(given)


def content_of_each(batches: Iterable[ModelInputs]) -> list[str]:
    """A hash of what the model reads of each input; without what a mask of its tokens says is padding."""
    return [_content(batch, number) for batch in batches for number in range(len(batch))]


def _content(batch: ModelInputs, number: int) -> str:
    """That of one input. What is zero throughout counts as not given, which is how models read token types; as do
    positions from 0 on.
    """
    given = {name: v for name, v in batch.companions.items() if isinstance(v, Tensor) and v.shape[:1] == (len(batch),)}
    mask, real = given.get("attention_mask"), None
    if mask is not None and mask.shape == batch.features.shape[:2]:
        real = given.pop("attention_mask").bool()[number]
    digest = sha256()
    for name, value in [("", batch.features), *sorted(given.items())]:
        row = value[number] if real is None or value.shape[1:2] != real.shape else value[number][real]
        counted = name == "position_ids" and row.dim() == 1 and torch.equal(row, torch.arange(len(row)).to(row))
        if not name or (row.any() and not counted):
            digest.update(name.encode())
            add_to_hash(digest, row if row.is_floating_point() else row.long())
    return digest.hexdigest()


def copies_among(examples: Sequence[str], inputs: Sequence[str]) -> Tensor:
    """bool (E,), which examples have the content of an input, or of an example before them.

    Example:
        >>> copies_among(["a", "b", "a", "c"], ["c"])
        tensor([False, False,  True,  True])
    """
    seen, found = set(inputs), []
    for content in examples:
        found.append(content in seen)
        seen.add(content)
    return torch.tensor(found, dtype=torch.bool)

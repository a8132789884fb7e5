"""Which concepts are compared with each other."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from captum.concept import Concept

ExperimentalSets = Sequence[Sequence[Concept]] | Sequence[Concept] | Mapping[str, Any]

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


def kept_examples(
    sets: Sequence[Sequence[Concept]], counts: Mapping[int, int], leave_out: Mapping[str, Collection[int]]
) -> dict[int, list[int]]:
    """The numbers of the examples that count, by the ids of their concepts, of which there are so many of each.

    Raises:
        ValueError: no such concept or example; too few that are left.
    """
    concepts = {concept.id: concept.name for members in sets for concept in members}
    unknown = set(leave_out) - set(concepts.values())
    if unknown:
        raise ValueError(f"leave_out has no such concepts: {sorted(unknown)}, expected some of {[*concepts.values()]}")
    kept = {}
    for id, name in concepts.items():
        left_out = set(leave_out.get(name, ()))
        if not left_out <= set(range(counts[id])):
            strange = sorted(left_out - set(range(counts[id])))
            raise ValueError(f"concept {name!r} has {counts[id]} examples, from 0, so that {strange} are none of them")
        kept[id] = [number for number in range(counts[id]) if number not in left_out]
        check_enough(name, len(kept[id]))
    return kept


def check_different(name: str, count: int, different: int) -> None:
    """Raise ``ValueError`` for a concept most of whose examples are copies."""
    if different < FEWEST_EXAMPLES:
        raise ValueError(
            f"of the {count} examples of concept {name!r}, {count - different} are copies of each other, of other "
            f"concepts' or of the explained inputs: expected at least {FEWEST_EXAMPLES} that are not"
        )

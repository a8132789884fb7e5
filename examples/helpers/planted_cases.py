"""Questions about eight paragraphs, one of which holds the answer: handed over, or put together from lists."""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captum_attn import GenerationAttention

KINDS = ("plain", "distractor", "paraphrase", "two-hop", "unanswerable")
PEOPLE = ("Ingrid", "Tobias", "Maren", "Felix", "Odette", "Bruno", "Leila", "Anton", "Petra", "Silas", "Noor", "Jonas")
PLACES = ("Dunmore", "Velmora", "Carrow", "Ashby", "Tarnwick", "Sollen", "Brackwater", "Pellin", "Mirfield", "Lorne")
COLOURS = ["green", "purple", "orange", "yellow", "crimson", "silver", "turquoise", "brown"]
TRADES = ["baker", "carpenter", "nurse", "diver", "lawyer", "farmer", "painter", "pilot", "tailor", "chemist"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
FOODS = ["pancakes", "lentils", "oysters", "dumplings", "cherries", "noodles", "pumpkins", "mushrooms"]
THINGS = ("lighthouse", "library", "museum", "ferry", "market", "theatre", "chapel", "harbour", "station", "bridge")
FILLERS = (
    "The {thing} of {place} was repaired after the winter. Visitors often ask about its clock.",
    "A storm closed the road to {place}. The bus takes the long way round.",
    "The choir rehearses in the old {thing}. Its windows face the river.",
    "Children from {place} planted forty trees. The mayor thanked them with lemonade.",
    "The newspaper of {place} has four pages. The last one is for puzzles.",
    "Nobody remembers who built the {thing}. The plans were lost in a fire.",
    "A band plays near the {thing} on holidays. The trumpet is always late.",
)
FACTS: dict[str, tuple[str, str, str, list[str]]] = {
    # what: the sentence, the question in its words, the question in others, the answers
    "colour": (
        "The {thing} of {place} was painted {answer}.",
        "What colour was the {thing} of {place} painted?",
        "Which hue did the {thing} of {place} get?",
        COLOURS,
    ),
    "trade": (
        "{person} works as a {answer} in {place}.",
        "What does {person} work as?",
        "What is {person}'s job?",
        TRADES,
    ),
    "day": (
        "The {thing} of {place} is closed on {answer}.",
        "On which day is the {thing} of {place} closed?",
        "When can nobody visit the {thing} of {place}?",
        DAYS,
    ),
    "food": (
        "{person} sells {answer} at the market.",
        "What does {person} sell at the market?",
        "Which goods does {person} offer to customers?",
        FOODS,
    ),
}


@dataclass(frozen=True)
class Case:
    """A question about some paragraphs; ``planted`` are those that hold the answer, none of a control.

    ``written`` is what the model answered, if that is known.
    """

    kind: str
    paragraphs: list[str]
    question: str
    answer: str
    planted: tuple[int, ...]
    written: str | None = None

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": "\n\n".join([*self.paragraphs, f"Question: {self.question}"])}]


def add_arguments(parser: argparse.ArgumentParser, kinds: Sequence[str] = KINDS) -> None:
    """The options that say which model answers which cases."""
    parser.add_argument("--model", type=Path, required=True, help="folder of a chat model")
    parser.add_argument("--data", type=Path, help="folder that holds planted_facts")
    parser.add_argument("--made", type=int, default=0, help="so many cases of each kind (default: %(default)s)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(kinds), help="default: %(default)s")
    parser.add_argument("--tokens", type=int, default=24, help="the most tokens of an answer (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the cases that are made (default: %(default)s)")


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options, which say some cases."""
    options = parser.parse_args()
    if not options.data and not options.made:
        parser.error("no cases: give --data or --made")
    return options


def asked_for(options: argparse.Namespace) -> list[Case]:
    """The cases that the options say."""
    return [*(handed_over(options.data) if options.data else []), *made(options.made, options.kinds, options.seed)]


def answer_of(case: Case, model: Any, tokenizer: Any, tokens: int) -> str:
    """What the model answered, or the first sentence that it answers, greedily; what small models add is no answer."""
    if case.written:
        return case.written
    explainer = GenerationAttention(model, tokenizer, variant="attention")
    text = explainer.explain(case.messages, max_new_tokens=tokens, do_sample=False).response
    return re.split(r"(?<=[.!?])\s|\n", text)[0]


def handed_over(data: Path) -> list[Case]:
    """The cases of a folder: plain ones, and ones with a distractor."""
    found = []
    for name, kind in (("cases", "plain"), ("distractors", "distractor")):
        lines = (data / "planted_facts" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        for row in map(json.loads, lines):
            planted = (int(row["planted"]),)
            found.append(Case(kind, row["paragraphs"], row["question"], row["answer"], planted, row.get("generated")))
    return found


def made(count: int, kinds: list[str], seed: int) -> list[Case]:
    """So many cases of each kind."""
    draw = random.Random(seed)
    return [made_case(kind, draw) for kind in kinds for _ in range(count)]


def made_case(kind: str, draw: random.Random) -> Case:
    """A case of eight paragraphs, the fact among them."""
    what = draw.choice(list(FACTS))
    sentence, question, paraphrased, answers = FACTS[what]
    answer, other_answer = draw.sample(answers, 2)
    (person, other_person), (place, other_place) = draw.sample(PEOPLE, 2), draw.sample(PLACES, 2)
    thing = draw.choice(THINGS)
    names = {"person": person, "place": place, "thing": thing}
    fillers = [one.format(place=draw.choice(PLACES), thing=draw.choice(THINGS)) for one in FILLERS]
    planted = [with_filler(sentence.format(**names, answer=answer), draw)]
    if kind == "distractor":
        others = {"person": other_person, "place": other_place, "thing": thing}
        fillers[0] = with_filler(sentence.format(**others, answer=other_answer), draw)
    if kind == "two-hop":
        trade = draw.choice(TRADES)
        answer, question = trade, "What does {person}'s neighbour work as?"
        planted = [
            with_filler(f"{person}'s neighbour is called {other_person}.", draw),
            with_filler(f"{other_person} works as a {trade} in {place}.", draw),
        ]
        fillers = fillers[1:]
    if kind == "unanswerable":
        planted, fillers = [], [*fillers, fillers[0].replace("repaired", "sold")]
    paragraphs = [*fillers, *planted]
    draw.shuffle(paragraphs)
    asked = (paraphrased if kind == "paraphrase" else question).format(**names)
    return Case(kind, paragraphs, asked, answer, tuple(map(paragraphs.index, planted)))


def with_filler(fact: str, draw: random.Random) -> str:
    """The fact and a second sentence, so that paragraphs are alike."""
    more = (
        "It was in the news last week.",
        "Everybody in town knows.",
        "A neighbour told us so.",
        "It has long been so.",
    )
    return f"{fact} {draw.choice(more)}"

"""Train the small decoder in ``models/llama-facts`` on made-up stories, from random weights.

It answers a question about the paragraphs of its prompt by copying the sentence that says it. Names, and half of the
answers, are new words in every story, so that it has to look them up.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from small_models import ANSWERING_MODEL, load_answering_model
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast, set_seed

VOCABULARY = 1024
BATCH_SIZE = 32
LEARNING_RATE = 3e-3
PROMPT_WEIGHT = 0.1  # of the loss at the prompt's tokens, beside 1 at the answers'
QUESTIONS = 5  # about a story, at most, one after another
PARAGRAPHS = 10  # at most
UNSEEN = 3  # answers at the end of each list that only the test has
CASES = 500  # of the test, of each kind
KINDS = ("plain", "distractor", "paraphrase", "two-hop")
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
THINGS = "lighthouse library museum ferry market theatre chapel harbour station bridge tower school mill garden".split()
TEST_PEOPLE = "Ingrid Tobias Maren Felix Odette Bruno Leila Anton Petra Silas Noor Jonas Clara Hugo Wilma Oskar".split()
TEST_PLACES = "Dunmore Velmora Carrow Ashby Tarnwick Sollen Brackwater Pellin Mirfield Lorne Hexley Granton".split()
ONSETS = "b br c ch cl d dr f fl g gl gr h j k l m n p pl pr qu r s sh sl st t th tr v w y z".split()
VOWELS = "a e i o u a e i o u ai ea ee ie oa oo ou y".split()
CODAS = ["", "", "", *"ck d ft g l ld ll m n nd ng nk p r rn rt s sk ss st t th x".split()]
FACTS: dict[str, tuple[str, str, str, str]] = {
    # what: the sentence, the question in its words, the question in others, the answers
    "colour": (
        "The {thing} of {place} was painted {answer}.",
        "What colour was the {thing} of {place} painted?",
        "Which hue did the {thing} of {place} get?",
        "green purple orange yellow brown white black blue red grey pink crimson silver turquoise",
    ),
    "day": (
        "The {thing} of {place} is closed on {answer}.",
        "On which day is the {thing} of {place} closed?",
        "When can nobody visit the {thing} of {place}?",
        "Monday Wednesday Thursday Saturday Easter holidays Tuesday Friday Sunday",
    ),
    "year": (
        "The {thing} of {place} was built in {answer}.",
        "When was the {thing} of {place} built?",
        "How old is the {thing} of {place}?",
        " ".join(map(str, range(1501, 2000, 7))),
    ),
    "material": (
        "The {thing} of {place} is made of {answer}.",
        "What is the {thing} of {place} made of?",
        "Which material was used for the {thing} of {place}?",
        "stone brick glass iron timber marble clay concrete steel granite bamboo slate",
    ),
    "trade": (
        "{person} works as a {answer} in {place}.",
        "What does {person} work as?",
        "What is {person}'s job?",
        "baker carpenter nurse diver lawyer teacher cook driver guard singer farmer painter pilot tailor chemist",
    ),
    "food": (
        "{person} sells {answer} at the market.",
        "What does {person} sell at the market?",
        "Which goods does {person} offer to customers?",
        "pancakes lentils dumplings cherries noodles bread cheese honey plums oysters pumpkins mushrooms",
    ),
    "pet": (
        "{person} keeps a {answer} in the garden.",
        "What does {person} keep in the garden?",
        "Which animal does {person} own?",
        "goat dog cat rabbit parrot donkey pony turtle sheep hamster peacock",
    ),
    "music": (
        "{person} plays the {answer} every evening.",
        "What does {person} play every evening?",
        "Which instrument does {person} practise?",
        "piano violin flute drum guitar harp horn cello trumpet banjo bassoon",
    ),
    "home": (
        "{person} moved to {answer} last year.",
        "Where did {person} move last year?",
        "In which town is {person}'s new home?",
        " ".join(TEST_PLACES),
    ),
}
FILLERS = (
    "The {thing} of {place} needs a new roof.",
    "Snow fell on {place} for a week.",
    "The road to {place} is narrow.",
    "{person} wrote a letter to {other}.",
    "{person} walked from {place} to the {thing}.",
    "Children like the {thing} of {place}.",
    "Nobody knows who owns the old {thing}.",
    "The train from {place} was late again.",
    "The mayor of {place} thanked {person}.",
    "{person} and {other} went to school together.",
    "A concert was held near the {thing}.",
    "There are forty trees behind the {thing}.",
    "Tourists often ask about the weather.",
    "The bus takes the long way round.",
    "It was in the newspaper last week.",
    "Everybody in {place} knows about it.",
    "{other} told us so.",
    "It has long been like that.",
    "Its windows face the river.",
    "The last page is for puzzles.",
)


@dataclass(frozen=True)
class Story:
    """Paragraphs, and questions about them with their answers."""

    paragraphs: list[str]
    questions: list[tuple[str, str]]
    gap: str = "\n\n"

    def turns(self) -> list[tuple[str, str]]:
        """What the user says and what the model answers, the paragraphs before the first question."""
        first, *more = [(f"Question: {question}", answer) for question, answer in self.questions]
        return [(f"{self.gap.join(self.paragraphs)}\n\n{first[0]}", first[1]), *more]


def made_word(draw: random.Random) -> str:
    """A word of one to three syllables."""
    count = draw.choices((1, 2, 3), (1, 4, 2))[0]
    return "".join(draw.choice(ONSETS) + draw.choice(VOWELS) + draw.choice(CODAS) for _ in range(count))


def made_story(draw: random.Random, paragraphs: int, kind: str = "", test: bool = False) -> Story:
    """A story of so many paragraphs: of facts and fillers in any number, or with one question of a kind.

    Only a ``test`` has names and answers of the lists that training never shows.
    """
    people = draw.sample(TEST_PEOPLE, 6) if test else [made_word(draw).capitalize() for _ in range(6)]
    places = draw.sample(TEST_PLACES, 6) if test else [made_word(draw).capitalize() for _ in range(6)]
    things = draw.sample(THINGS, 3)
    of_people = [what for what in FACTS if "{person}" in FACTS[what][0]]
    asked = [draw.choice(of_people if kind == "two-hop" else list(FACTS))]
    ...
    return Story([], [])

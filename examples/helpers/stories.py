"""Short stories of facts and fillers, and questions about them: what ``models/llama-facts`` reads."""

from __future__ import annotations

import random
from typing import NamedTuple

NEW = 0.1  # so many names are of no list
QUESTIONS = 5  # about a story, at most
UNSEEN = 3  # answers at the end of each list that only the test has
THINGS = "lighthouse library museum ferry market theatre chapel harbour station bridge tower school mill garden"
TEST_PEOPLE = "Ingrid Tobias Maren Felix Odette Bruno Leila Anton Petra Silas Noor Jonas Clara Hugo Wilma Oskar"
TEST_PLACES = "Dunmore Velmora Carrow Ashby Tarnwick Sollen Brackwater Pellin Mirfield Lorne Hexley Granton"
ONSETS = "b br c ch cl d dr f fl g gl gr h j k l m n p pl pr qu r s sh sl st t th tr v w y z"
VOWELS = "a e i o u a e i o u ai ea ee ie oa oo ou y"
CODAS = "- - - - - - - ck d ft g k l ld ll m n nd ng p r rn rt s sk ss st t th x"  # -: none
FACTS: dict[str, tuple[str, str, str, str]] = {
    # what: the sentence about "it", the question in its words, the question in others, the answers
    "colour": (
        "The {it} was painted {answer}.",
        "What colour was the {it} painted?",
        "Which hue did the {it} get?",
        "green purple orange yellow brown white black blue red grey pink crimson silver turquoise",
    ),
    "day": (
        "The {it} is closed on {answer}.",
        "On which day is the {it} closed?",
        "When can nobody visit the {it}?",
        "Monday Wednesday Thursday Saturday Easter holidays Tuesday Friday Sunday",
    ),
    "year": (
        "The {it} was built in {answer}.",
        "When was the {it} built?",
        "How old is the {it}?",
        " ".join(map(str, range(1501, 2000, 7))),
    ),
    "material": (
        "The {it} is made of {answer}.",
        "What is the {it} made of?",
        "Which material was used for the {it}?",
        "stone brick glass iron timber marble clay concrete steel granite bamboo slate",
    ),
    "trade": (
        "{it} works as a {answer} in {place}.",
        "What does {it} work as?",
        "What is {it}'s job?",
        "baker carpenter nurse diver lawyer teacher cook driver guard singer farmer painter pilot tailor chemist",
    ),
    "food": (
        "{it} sells {answer} at the market.",
        "What does {it} sell at the market?",
        "Which goods does {it} offer to customers?",
        "pancakes lentils dumplings cherries noodles bread cheese honey plums oysters pumpkins mushrooms",
    ),
    "pet": (
        "{it} keeps a {answer} in the garden.",
        "What does {it} keep in the garden?",
        "Which animal does {it} own?",
        "goat dog cat rabbit parrot donkey pony turtle sheep hamster peacock",
    ),
    "music": (
        "{it} plays the {answer} every evening.",
        "What does {it} play every evening?",
        "Which instrument does {it} practise?",
        "piano violin flute drum guitar harp horn cello trumpet banjo bassoon",
    ),
    "home": (
        "{it} moved to {answer} last year.",
        "Where did {it} move last year?",
        "In which town is {it}'s new home?",
        TEST_PLACES,
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


class Story(NamedTuple):
    """A text, and questions about it with their answers."""

    text: str
    questions: list[tuple[str, str]]

    def parts(self) -> list[str]:
        """What the model reads: the text, and then a question and what to answer, in turn."""
        asked = (
            (f"Question: {question}<|end|><|assistant|>", f"{answer}<|end|>") for question, answer in self.questions
        )
        return [f"<|user|>{self.text}\n\n", *(part for both in asked for part in both)]


def made_word(draw: random.Random) -> str:
    """A word of two or three syllables."""
    syllables = draw.choices((2, 3), (3, 1))[0]
    parts = [draw.choice(letters.split()) for _ in range(syllables) for letters in (ONSETS, VOWELS)]
    return "".join([*parts, draw.choice(CODAS.split())]).replace("-", "")


NAMES = [made_word(random.Random(f"name {number}")).capitalize() for number in range(120)]
WORDS = [made_word(random.Random(f"word {number}")) for number in range(60)]
SEEN = [answer for fact in FACTS.values() if fact[3] != TEST_PLACES for answer in fact[3].split()[:-UNSEEN]]


def new_word(draw: random.Random, words: list[str], new: float) -> str:
    """One of the words or, so often, one that is in no list, which is then several tokens."""
    word = made_word(draw)
    return draw.choice(words) if draw.random() >= new else word.capitalize() if words[0].istitle() else word


def made_answer(draw: random.Random, what: str, test: bool, asked: bool, new: float) -> str:
    """An answer: in training of the list or, half of the time, made up; what a test asks for is what training lacks."""
    words = FACTS[what][3].split()
    if test:
        return draw.choice(words[-UNSEEN:] if asked else words)
    if what == "year" or (what != "home" and draw.random() < 0.5):
        return draw.choice(words[:-UNSEEN])
    return new_word(draw, NAMES if words[0].istitle() else WORDS, new)


def made_story(draw: random.Random, paragraphs: int, kind: str = "", test: bool = False, new: float = NEW) -> Story:
    """A story of so many paragraphs or a few more: with any facts and questions, or with one question of a kind.

    Only in a ``test`` are the names and the asked answer of the lists that no story for training has.
    """
    people = draw.sample(TEST_PEOPLE.split(), 5) if test else [new_word(draw, NAMES, new) for _ in range(5)]
    places = draw.sample(TEST_PLACES.split(), 4) if test else [new_word(draw, NAMES, new) for _ in range(4)]
    things = draw.sample(THINGS.split(), 3)
    about_people = [what for what in FACTS if FACTS[what][0].startswith("{it}")]
    whats = draw.sample(about_people if kind == "two-hop" else list(FACTS), 1 if kind else draw.randint(1, 2))
    count = {"": draw.randint(1, paragraphs), "plain": 1, "distractor": draw.randint(2, 4)}.get(kind, 2)

    facts: dict[tuple[str, str], tuple[str, str]] = {}  # of what and whom: the sentence and the answer
    for _ in range(20):
        what = draw.choice(whats)
        it = draw.choice(people) if what in about_people else f"{draw.choice(things)} of {draw.choice(places)}"
        answer = made_answer(draw, what, test, not facts, new)
        if len(facts) < count and all(answer != other for _, other in facts.values()):
            sentence = FACTS[what][0].format(it=it, answer=answer, place=draw.choice(places))
            facts.setdefault((what, it), (sentence, answer))

    said = [fact for fact, _ in facts.values()]
    questions = []
    neighbours: dict[str, str] = {}
    for (what, it), (fact, _) in facts.items():
        two_hop = kind == "two-hop" or (not kind and what in about_people and draw.random() < 0.3)
        backward = not kind and draw.random() < 0.4
        paraphrased = kind == "paraphrase" or (not kind and draw.random() < 0.4)
        free = [one for one in people if one != it and one not in neighbours]
        if backward:
            questions.append((fact.replace(f"The {it}", "What").replace(it, "Who", 1).replace(".", "?"), fact))
            continue
        if two_hop and free and it not in neighbours.values():
            neighbours[one := draw.choice(free)] = it
            said.append(f"{one}'s neighbour is called {it}.")
            it = f"{one}'s neighbour"
        questions.append((FACTS[what][2 if paraphrased else 1].format(it=it), fact))
    questions = questions[:1] if kind else draw.sample(questions, min(QUESTIONS, len(questions)))

    def filler() -> str:
        names = {"person": draw.choice(people), "other": draw.choice(people), "place": draw.choice(places)}
        return draw.choice(FILLERS).format(**names, thing=draw.choice(things))

    said += [filler() for _ in range(paragraphs - len(said))]
    said = [f"{one} {filler()}" if draw.random() < 0.5 else one for one in said]
    draw.shuffle(said)
    return Story((" " if draw.random() < 0.2 else "\n\n").join(said), questions)

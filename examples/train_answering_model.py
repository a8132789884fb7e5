"""Train the small decoder in ``models/llama-facts`` on made-up stories, from random weights.

It answers a question about the paragraphs of its prompt with the sentence that says it, which it has to look up there:
every story puts other names and answers together. Those of the test come up in training only as tokens drawn at random.
It takes torch 2.9 or newer, for its Muon.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from small_models import ANSWER_MODEL
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    set_seed,
)

VOCABULARY = 2048
BATCH_SIZE = 32
NEW = 0.1  # so many names are of no list
RENAMED = 0.3  # so many stories have random tokens instead of listed names and answers
QUESTIONS = 5  # about a story, at most
PARAGRAPHS = 10  # at most
UNSEEN = 3  # answers at the end of each list that only the test has
CASES = 500  # of the test, of each kind
KINDS = ("plain", "distractor", "paraphrase", "two-hop")
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
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


class Batch(NamedTuple):
    """Tokens of stories, padded: (stories, tokens), and which each of them sees: (stories, 1, tokens, tokens).

    Questions stand one after another and see the text, but not each other, as if each were the only one.
    """

    ids: Tensor
    positions: Tensor
    written: Tensor  # which are the model's to write
    seen: Tensor


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


def trained_tokenizer(draw: random.Random) -> PreTrainedTokenizerBase:
    """Learn a byte-level BPE vocabulary in which a word is the same at the beginning of a line and after a space."""
    tokenizer = Tokenizer(models.BPE())
    lines = pre_tokenizers.Split(Regex("\n+"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([lines, pre_tokenizers.ByteLevel(add_prefix_space=True)])
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    stories = [made_story(draw, PARAGRAPHS) for _ in range(2000)]
    texts = [part for story in stories for part in story.parts()]
    lists = [*NAMES, *WORDS, TEST_PEOPLE, TEST_PLACES, THINGS, *(fact[3] for fact in FACTS.values())]
    tokenizer.train_from_iterator([*texts, *FILLERS * 100, *500 * [" ".join(lists)]], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL[0],
        eos_token=SPECIAL[1],
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=1024,
    )


def random_model(tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """Build the untrained decoder."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=64,
        intermediate_size=256,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.0625,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    for layer in model.model.layers:  # each begins with what it reads, so that tokens are told apart from the start
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    return model


def batch_of(stories: list[Story], tokenizer: PreTrainedTokenizerBase) -> Batch:
    """The tokens of stories."""
    ids, positions, parts = [], [], []
    for story in stories:
        tokens: list[list[int]] = tokenizer(story.parts())["input_ids"]
        starts = [0] + [len(tokens[0]) + (0 if i % 2 else len(tokens[i - 1])) for i in range(1, len(tokens))]
        ids.append(torch.tensor([one for part in tokens for one in part]))
        positions.append(
            torch.cat([start + torch.arange(len(part)) for start, part in zip(starts, tokens, strict=True)])
        )
        parts.append(torch.tensor([number for number, part in enumerate(tokens) for _ in part]))
    part = pad_sequence(parts, True, -1)
    question = (part + 1) // 2
    seen = (question[:, :, None] == question[:, None]) | (question[:, None] == 0)
    written = (part > 0) & (part % 2 == 0)
    return Batch(pad_sequence(ids, True), pad_sequence(positions, True), written, seen.tril()[:, None])


def logits_of(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    """What the model says of the tokens to write: (tokens, vocabulary)."""
    seen, written = batch.seen[:, :, :-1, :-1], batch.written[:, 1:]
    read = model.model(batch.ids[:, :-1], attention_mask=seen, position_ids=batch.positions[:, :-1], use_cache=False)
    logits: Tensor = model.lm_head(read.last_hidden_state[written])
    return logits


def rename(ids: Tensor, listed: list[int], vocabulary: int) -> None:
    """Put random tokens for the listed ones in some of the stories, so that any word is looked up and copied."""
    for row in (row for row in ids if torch.rand(()) < RENAMED):
        others = torch.arange(vocabulary)
        others[listed] = torch.randint(len(SPECIAL), vocabulary, (len(listed),))
        row.copy_(others[row])


def training_batches(draw: random.Random, steps: int) -> Iterator[list[Story]]:
    """New stories for every step: short ones first, and in each batch stories of like length."""
    for step in range(0, steps, 16):
        most = 1 if step < 0.08 * steps else 4 if step < 0.55 * steps else 7 if step < 0.7 * steps else PARAGRAPHS
        stories = [made_story(draw, draw.randint(1, most)) for _ in range(16 * BATCH_SIZE)]
        stories.sort(key=lambda story: len(str(story)))
        batches = [stories[start : start + BATCH_SIZE] for start in range(0, len(stories), BATCH_SIZE)]
        yield from draw.sample(batches, min(16, steps - step))


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, steps: int, draw: random.Random) -> None:
    """Fit the model to the answers to new stories in every step."""
    listed = [one for [one] in tokenizer([*NAMES, *WORDS, *SEEN])["input_ids"]]
    matrices = [weight for name, weight in model.model.layers.named_parameters() if weight.ndim == 2]
    others = [weight for name, weight in model.named_parameters() if weight.ndim == 1 or "embed" in name]
    optimizers = [torch.optim.Muon(matrices, lr=0.012, weight_decay=0.0), torch.optim.AdamW(others, lr=2e-3)]
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(one, lambda step: min((step + 1) / 50, 1, 2.5 - 2.5 * step / steps))
        for one in optimizers
    ]
    model.train()
    with tqdm(training_batches(draw, steps), "steps", steps, mininterval=10) as progress:
        for stories in progress:
            batch = batch_of(stories, tokenizer)
            rename(batch.ids, listed, len(tokenizer))
            loss = cross_entropy(logits_of(model, batch), batch.ids[batch.written])
            model.zero_grad()
            loss.backward()
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()
            progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    model.eval()


@torch.no_grad()
def correct(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, stories: list[Story]) -> Tensor:
    """Whether each story's answer is what the model writes greedily, all of it and then its end: bool (stories,)."""
    right = []
    for start in range(0, len(stories), BATCH_SIZE):
        batch = batch_of(stories[start : start + BATCH_SIZE], tokenizer)
        as_written = logits_of(model, batch).argmax(-1) == batch.ids[batch.written]
        right += [bool(one.all()) for one in as_written.split(batch.written.sum(1).tolist())]
    return torch.tensor(right)


def main() -> None:
    """Train, save in float16, load again and print the share of right answers to held-out questions of each kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ANSWER_MODEL, help="folder to write the model to")
    parser.add_argument("--steps", type=int, default=1500, help="0: only test the model in the folder")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    if arguments.steps:
        set_seed(arguments.seed)
        draw = random.Random(arguments.seed)
        tokenizer = trained_tokenizer(draw)
        model = random_model(tokenizer)
        train(model, tokenizer, arguments.steps, draw)
        model.half().save_pretrained(arguments.out)  # half the size; it is loaded as float32 all the same
        model.config.dtype = torch.float32
        model.config.save_pretrained(arguments.out)
        tokenizer.save_pretrained(arguments.out)

    saved = AutoModelForCausalLM.from_pretrained(arguments.out, dtype=torch.float32)
    saved_tokenizer = AutoTokenizer.from_pretrained(arguments.out)
    for kind in KINDS:
        draw = random.Random(kind)
        stories = [made_story(draw, draw.randint(3, PARAGRAPHS), kind, test=True) for _ in range(CASES)]
        new = [made_story(draw, draw.randint(3, PARAGRAPHS), kind, new=1.0) for _ in range(CASES)]
        right, right_new = (correct(saved, saved_tokenizer, some).float().mean() for some in (stories, new))
        print(f"{kind}: {right:.3f}, where names are of several tokens {right_new:.3f}")


if __name__ == "__main__":
    main()

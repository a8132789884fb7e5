"""T-TCAV on texts: words in a classifier, questions in a decoder, tone in a chat model.

    python examples/ttcav_texts.py
    python examples/ttcav_texts.py --model HuggingFaceTB/SmolLM2-135M-Instruct

- **The shipped sentiment model**: words of praise, of blame and of neither, against the logit of *positive*.
- **The shipped decoder** answers a question from its prompt. After "The mill of Ashby was", *painted* answers what
  colour it has, *built* how old it is, so that it is known what must move the log-odds of *painted*: which question was
  asked, and not whether it was about a lighthouse or a museum.
- With ``--model``, **a chat model**: polite, rude and matter-of-fact requests, against the log-odds of a reply that
  begins with ``--reply``.

A causal language model is explained as :class:`captum_attn.generation.ScoredResponse`: its inputs end with the reply,
and what it returns is the reply's log-odds. What these are on the concepts' own examples stands beside what T-TCAV
found. ``index.html`` shows everything.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from helpers.concept_page import ANSWERS, SHOWN, Page, verdict
from helpers.small_models import load_answering_model, load_text_model
from helpers.stories import FACTS, TEST_PLACES, THINGS
from torch import Tensor

from captum_attn import TTCAV
from captum_attn.command.loading import load
from captum_attn.generation import ScoredResponse

Texts = Mapping[str, Sequence[str]]

PRAISE = """gripping superb delightful charming brilliant wonderful moving funny warm fresh clever beautiful touching
powerful enjoyable remarkable stunning witty engaging excellent heartfelt thrilling inventive lovely amazing fascinating
hilarious smart"""
BLAME = """dull awful boring tedious stale clumsy terrible lifeless bland ugly annoying stupid dreadful weak pointless
messy predictable shallow pretentious horrible sloppy forgettable tiresome silly lame mediocre unfunny empty"""
NEUTRAL = """red wooden round daily local northern square digital annual central metal rural wide blue nightly german
plastic morning western public tall liquid yellow electric urban monthly southern paper"""
FRAMES = ("the film is {}", "a {} story", "it is {}")
REVIEWS = (
    "a gripping , funny and warm film",
    "one of the best films of the year",
    "i loved every minute of it",
    "a delight from start to finish",
    "the cast is superb , and the story is moving",
    "smart , fresh and beautifully made",
    "it is a charming little film",
    "thrilling , and never less than fascinating",
    "a heartfelt story , told with wit",
    "you will leave the cinema with a smile",
    "powerful and deeply touching",
    "an inventive and hilarious ride",
)
QUESTIONS = 40  # of each concept
POLITE = ("Could you please {}? Thank you!", "Would you be so kind as to {}, please?", "Please {}. Many thanks!")
RUDE = ("{} now, you stupid machine.", "Hurry up and {}, you useless idiot.", "Just {} already, dumb bot.")
PLAIN = ("I want you to {}.", "Your task is to {}.", "The next thing to do is to {}.")
TASKS = """write a poem about the sea; list three fruits; explain gravity; tell me a joke; describe Paris;
name a colour; write a haiku; suggest a book; plan a picnic; write a short story; give me a recipe for soup;
name five birds; describe a castle; write a limerick; suggest a film; name a large river; write a letter to a friend;
explain how rain forms; describe a forest; list four planets; suggest a name for a cat; explain what a verb is;
write a riddle; describe the taste of honey; name a famous painter; give me a tip for sleeping well; translate a word;
explain inflation; name an old city; write a toast"""


def main() -> None:
    options = arguments()
    page = Page(options.out)
    sentiment(page)
    questions(page)
    if options.model:
        tone(page, options)
    page.write()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or hub name of a chat model")
    parser.add_argument("--reply", default="Of course", help="how its answer begins (default: %(default)s)")
    parser.add_argument("--layers", type=int, nargs="+", help="some of its layers, by number (default: all)")
    parser.add_argument("--out", type=Path, default=Path("out/ttcav_texts"), help="where to (default: %(default)s)")
    return parser.parse_args()


def sentiment(page: Page) -> None:
    """Words of praise and blame in the shipped sentiment model."""
    model, tokenizer = load_text_model()
    concepts = {"praise": framed(PRAISE.split()), "blame": framed(BLAME.split()), "neutral": framed(NEUTRAL.split())}
    ttcav = TTCAV(model, processor=tokenizer)
    scores = ttcav.interpret(list(REVIEWS), concepts, target=1, show_progress=False)
    page.title("Words", f"Adjectives of praise, blame and neither; {len(REVIEWS)} positive reviews; target: positive.")
    page.say(verdict(scores))
    page.table(scores.concepts()[ANSWERS])
    page.figure("scores_sentiment", scores.plot())
    page.table(scores.table()[SHOWN])
    mixed = ["a slow and tedious start , but a brilliant and moving end"]
    page.figure("map_sentiment", ttcav.sensitivity_maps(mixed, concepts, 1, show_progress=False).plot(0, layer=0))


def framed(words: Sequence[str], frames: Sequence[str] = FRAMES) -> list[str]:
    """Short texts, each around one of the words."""
    return [frame.format(word) for word, frame in zip(words, cycle(frames), strict=False)]


def questions(page: Page) -> None:
    """What is asked, and about what, in the shipped decoder."""
    model, tokenizer = load_answering_model()
    rng = random.Random(0)
    concepts = {
        "asks for the colour": [prompt("colour", rng) for _ in range(QUESTIONS)],
        "asks for the year": [prompt("year", rng) for _ in range(QUESTIONS)],
        "about a lighthouse": [prompt(("colour", "year")[n % 2], rng, "lighthouse") for n in range(QUESTIONS)],
        "about a museum": [prompt(("colour", "year")[n % 2], rng, "museum") for n in range(QUESTIONS)],
    }
    inputs = [prompt(kind, rng) for kind in ("colour", "year") for _ in range(QUESTIONS // 2)]
    page.title("Questions", "Four kinds of prompts; target: the log-odds that the answer goes on with 'painted'.")
    of_reply(page, model, tokenizer, inputs, concepts, " painted", "questions")


def prompt(asked: str, rng: random.Random, thing: str | None = None) -> str:
    """A story with the colour and the year of a thing, the question for one, and how the answer to either begins."""
    it = f"{thing or rng.choice(THINGS.split())} of {rng.choice(TEST_PLACES.split())}"
    facts = [FACTS[kind][0].format(it=it, answer=rng.choice(FACTS[kind][3].split())) for kind in ("colour", "year")]
    rng.shuffle(facts)
    question = FACTS[asked][1].format(it=it)
    return f"<|user|>{' '.join(facts)}\n\nQuestion: {question}<|end|><|assistant|>The {it} was"


def tone(page: Page, options: argparse.Namespace) -> None:
    """Polite and rude requests to a chat model."""
    loaded = load(options.model)
    model, tokenizer = loaded.model, loaded.processor

    def asked(frames: Sequence[str], tasks: Sequence[str]) -> list[str]:
        messages = [[{"role": "user", "content": text}] for text in framed(tasks, frames)]
        return [tokenizer.apply_chat_template(one, tokenize=False, add_generation_prompt=True) for one in messages]

    tasks = TASKS.replace("\n", " ").split("; ")
    concepts = {
        "polite": asked(POLITE, tasks[:20]),
        "rude": asked(RUDE, tasks[:20]),
        "matter-of-fact": asked(PLAIN, tasks[:20]),
    }
    page.title(
        "Tone", f"Requests to {options.model}; target: the log-odds of an answer that begins with {options.reply}."
    )
    of_reply(page, model, tokenizer, asked(PLAIN, tasks[20:]), concepts, options.reply, "tone", options.layers)


def of_reply(
    page: Page,
    model: Any,
    tokenizer: Any,
    inputs: Sequence[str],
    concepts: Texts,
    reply: str,
    name: str,
    layers: Sequence[int] | None = None,
) -> None:
    """Which prompts move the log-odds of a reply."""
    scored = ScoredResponse(model, count=len(tokenizer(reply, add_special_tokens=False).input_ids))
    encoded = {concept: with_reply(tokenizer, prompts, reply) for concept, prompts in concepts.items()}
    ttcav = TTCAV(scored, layers)
    scores = ttcav.interpret(with_reply(tokenizer, inputs, reply), encoded, target=0, show_progress=False)
    with torch.no_grad():
        odds = {concept: scored(**given) for concept, given in encoded.items()}
    page.say(verdict(scores))
    columns = {"concept": list(odds), "mean log-odds": [float(of.mean()) for of in odds.values()]}
    own = pd.DataFrame(columns).assign(spread=[float(of.std()) for of in odds.values()])
    page.table(own.merge(scores.concepts()[ANSWERS], on="concept"))
    page.figure(f"scores_{name}", scores.plot())
    page.table(scores.table()[SHOWN])


def with_reply(tokenizer: Any, prompts: Sequence[str], reply: str) -> dict[str, Tensor]:
    """Prompts with a reply behind them, padded on the left; ``SystemExit`` if its tokens depend on the prompt."""
    texts = [prompt + reply for prompt in prompts]
    given = tokenizer(texts, padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt")
    ids = tokenizer(reply, add_special_tokens=False, return_tensors="pt").input_ids
    if not given.input_ids[:, -ids.shape[1] :].eq(ids).all():
        raise SystemExit(f"the reply {reply!r} has other tokens behind a prompt: begin it with another word")
    return {name: given[name] for name in ("input_ids", "attention_mask")}


if __name__ == "__main__":
    main()

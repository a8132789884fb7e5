"""Which of eight paragraphs did a language model copy its answer from? Explanations against leave-one-out.

    python examples/benchmarks/answer_sources.py --model DECODER --data DATA
    python examples/benchmarks/answer_sources.py --model DECODER --made 100 --kinds plain distractor paraphrase two-hop

DECODER is the folder of a chat model. Cases are those of ``DATA/planted_facts`` (keys paragraphs, question, answer,
planted, and generated, the model's answer), and ``--made`` so many of each kind that are put together here from lists
of names and facts, the place of the fact at random: plain facts; *distractor*, where another paragraph says the like of
something else; *paraphrase*, where the question uses other words; *two-hop*, where the answer takes two paragraphs;
*unanswerable* controls, where none has it. The model answers these, greedily, and a case counts where the answer is in
it (but the controls). In the *null* rows, each response is another case's.

For each way to explain: how often the planted paragraph has the largest value (with Wilson's 95 % interval; of two-hop
facts, both of them), Pearson's correlation with what the response's score loses without each paragraph, the rank
correlation with its scores under ``--subsets`` random subsets (LDS), how often the answer's own tokens point at the
planted paragraph, and seconds. Truth is the sum of the response's tokens' log-odds, and, beside it, log-probabilities.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest, pearsonr
from sklearn.linear_model import RidgeCV
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from captum_attn.generation import (
    GenerationAttention,
    leave_one_out,
    linear_datamodeling_score,
    random_absences,
    scores_without,
)

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


def main() -> None:
    disable_progress_bar()
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    cases = [*(handed_over(options.data) if options.data else []), *made(options.made, options.kinds, options.seed)]
    file = options.out / "answer_sources.csv"
    rows: list[dict[str, Any]] = []
    previous: tuple[Case, str] | None = None
    for number, case in enumerate(tqdm(cases, desc="Answers", unit="answer")):
        response = case.written or answered(case, model, tokenizer, options.tokens)
        if case.planted and case.answer.lower() not in response.lower():
            continue
        rows += measured(case, response, number, model, tokenizer, options.subsets)
        if previous is not None and previous[0].answer != case.answer:
            null = Case("null", case.paragraphs, case.question, previous[0].answer, case.planted)
            rows += measured(null, previous[1], number, model, tokenizer, 0)
        previous = (case, response)
        pd.DataFrame(rows).to_csv(file, index=False)
    text = markdown(pd.DataFrame(rows))
    (options.out / "answer_sources.md").write_text(text, encoding="utf-8")
    print(text)


def answered(case: Case, model: Any, tokenizer: Any, tokens: int) -> str:
    """What the model writes, greedily."""
    explainer = GenerationAttention(model, tokenizer)
    return explainer.explain(case.messages, max_new_tokens=tokens, do_sample=False).response


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a chat model")
    parser.add_argument("--data", type=Path, help="folder that holds planted_facts")
    parser.add_argument("--made", type=int, default=0, help="so many cases of each kind (default: %(default)s)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="default: all")
    parser.add_argument("--tokens", type=int, default=24, help="the most tokens of an answer (default: %(default)s)")
    parser.add_argument("--subsets", type=int, default=20, help="for LDS (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the cases that are made (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/answer_sources"), help="default: %(default)s")
    options = parser.parse_args()
    if not options.data and not options.made:
        parser.error("no cases: give --data or --made")
    return options


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


def explainers(model: Any, tokenizer: Any) -> dict[str, GenerationAttention]:
    """All that one pass over the response can tell, by name."""
    return {
        f"{sign}, {rules}, {score}": GenerationAttention(model, tokenizer, variant=sign, propagation=rules, score=score)
        for sign in ("signed", "rectified")
        for rules in ("attnlrp", "gradient")
        for score in ("log_odds", "log_prob")
    }


def measured(case: Case, response: str, number: int, model: Any, tokenizer: Any, subsets: int) -> list[dict[str, Any]]:
    """A row for each explanation of one response."""
    ways = explainers(model, tokenizer)
    found: dict[str, tuple[Any, Tensor, float]] = {}
    for name, way in ways.items():
        start = time.perf_counter()
        one = way.explain(case.messages, response, sources=case.paragraphs)
        found[name] = one, one.source_values, time.perf_counter() - start
    truths = {score: ways[f"signed, attnlrp, {score}"] for score in ("log_odds", "log_prob")}
    explained, _, _ = found["signed, attnlrp, log_odds"]
    lost = {score: leave_one_out(way, explained) for score, way in truths.items()}
    absent = random_absences(len(case.paragraphs), subsets, seed=number)
    scores = {name: scores_without(way, explained, absent) for name, way in truths.items()} if subsets else {}
    found["leave-one-out"] = None, lost["log_odds"], float("nan")
    if subsets:
        found[f"ContextCite-like, {subsets} ablations"] = None, regression(absent, scores["log_odds"]), float("nan")
    found["random"] = None, torch.rand(len(case.paragraphs), generator=torch.Generator().manual_seed(number)), 0.0
    rows = []
    for name, (result, values, seconds) in found.items():
        row: dict[str, Any] = {"case": number, "kind": case.kind, "way": name, "seconds": seconds}
        top = set(values.topk(max(1, len(case.planted))).indices.tolist())
        row["planted first"] = float(top == set(case.planted)) if case.planted else None
        for score, truth in lost.items():
            row[f"r, {score}"] = float(pearsonr(values.double().numpy(), truth.double().numpy()).statistic)
            if subsets:
                row[f"LDS, {score}"] = linear_datamodeling_score(values, absent, scores[score])
        if result is not None and case.planted and result.response.count(case.answer) == 1:
            of_answer = result.by_source(result.of(case.answer))
            row["answer points at it"] = float(int(of_answer.argmax()) in case.planted)
        rows.append(row)
    return rows


def regression(absent: Tensor, scores: Tensor) -> Tensor:
    """Weights of sources in a ridge regression of the scores on what is there."""
    fitted = RidgeCV(np.logspace(-2, 2, 9)).fit((~absent).numpy().astype(float), scores.double().numpy())
    return torch.from_numpy(fitted.coef_)


def markdown(frame: pd.DataFrame) -> str:
    """A table for each kind of case."""
    measures = [name for name in frame.columns if name not in ("case", "kind", "way")]
    parts = []
    for kind, of_kind in frame.groupby("kind", sort=False):
        lines = [f"**{kind}**, {of_kind.case.nunique()} cases", "", f"| | {' | '.join(measures)} |"]
        lines += ["|---|" + "--:|" * len(measures)]
        for way, of_way in of_kind.groupby("way", sort=False):
            cells = [cell(name, of_way[name].dropna().to_numpy(dtype=float)) for name in measures]
            lines.append(f"| {way} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def cell(name: str, values: Any) -> str:
    """A mean and its standard error; of counts, a share and Wilson's interval."""
    if not len(values):
        return ""
    if name in ("planted first", "answer points at it"):
        interval = binomtest(int(values.sum()), len(values)).proportion_ci(method="wilson")
        return f"{values.mean():.2f} ({interval.low:.2f} to {interval.high:.2f})"
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{values.mean():.2f} ± {error:.2f}"


if __name__ == "__main__":
    main()

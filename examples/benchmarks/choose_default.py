"""Which game, sign and rules should be the default? All side by side, in one table.

    python examples/benchmarks/choose_default.py --data DATA --models MODELS --limit 100
    python examples/benchmarks/choose_default.py --data DATA --models MODELS --decoder SMOLLM2 --limit 100 --split train

For each game, sign and propagation, and for relevance of the input: comprehensiveness on the paper's scale, by
replacement / by attention knockout, on each data set; on SST-2, how well scores find the words to which people gave
the sentence's sentiment when they saw these alone (average precision); and for a language model, how often the
paragraph from which an answer was copied has the largest sum, and the correlation of the paragraphs' sums with what
the answer's log-odds lose without each of them. Of the games alone, whose default explains the next token as it does a
class: comprehensiveness for the likeliest token after 48 tokens of each of ``--limit`` reviews of IMDb, by `` the`` in
the place of others. Standard errors in a row of their own. ``--split train`` is for choosing: other texts and digits
than those of the tables in the README.

DATA and MODELS are as for ``paper_table.py``; without them, handwritten digits alone. DATA holds ``sst2/train.tsv``,
too, whose phrases of one word are what people said of words, and, for DECODER, a chat model,
``planted_facts/cases.jsonl`` (keys paragraphs, question, planted, generated) and ``imdb/SPLIT.jsonl``. What was
measured of data sets is kept in ``--out``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.data_sets import MAX_LENGTH, Data, read

from captum_attn import AttnLRP, IntegratedAttnLRP, MaskTunnel, ShapleyGradAttention
from captum_attn.functional import PERCENTAGES, mean_drop, top_and_rest
from captum_attn.generation import GenerationAttention, ScoredResponse, leave_one_out
from captum_attn.metrics import evaluate

SETS = ("sst2", "ag_news", "imdb", "digits", "zebras")
TIMES = {"ag_news": 2.0, "imdb": 0.4, "digits": 4.5}
PEOPLE = "people"


def main() -> None:
    disable_progress_bar()
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    found = [measured(name, options) for name in options.sets]
    if options.decoder:
        model = AutoModelForCausalLM.from_pretrained(options.decoder, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(options.decoder)
        found += [of(model, tokenizer, options) for of in (of_language_model, of_next_tokens)]
    frame = pd.concat(found, ignore_index=True)
    frame.to_csv(options.out / "choose_default.csv", index=False)
    table = markdown(frame)
    (options.out / "choose_default.md").write_text(table, encoding="utf-8")
    print(table)
    print(f"Wrote {options.out / 'choose_default.md'}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the data sets (default: digits alone)")
    parser.add_argument("--models", type=Path, help="folder of the models")
    parser.add_argument("--decoder", type=Path, help="folder of a chat model (default: no language model)")
    parser.add_argument("--sets", nargs="*", choices=SETS, help="default: all there are; none: the decoder alone")
    parser.add_argument("--split", choices=("train", "test"), default="test", help="default: %(default)s")
    parser.add_argument(
        "--limit",
        type=int,
        default=100,
        help="texts of SST-2 and of next tokens; twice as many of AG News, 0.4 times of IMDb, 4.5 times the digits",
    )
    parser.add_argument("--out", type=Path, default=Path("out/choose_default"), help="default: %(default)s")
    options = parser.parse_args()
    asked = options.data or options.models or options.decoder or set(options.sets or ()) - {"digits"}
    if asked and not (options.data and options.models):
        parser.error("all but the digits needs --data and --models")
    if options.sets is None:
        options.sets = list(SETS) if options.data else ["digits"]
    if options.split == "train" and "zebras" in options.sets:
        options.sets.remove("zebras")  # there are no others
    if not options.sets and not options.decoder:
        parser.error("nothing to measure: --sets without names is for --decoder alone, and zebras have no train split")
    return options


def variants(model: Any, tokenizer: Any) -> dict[str, Any]:
    """What could be the default, by name."""
    signed = partial(ShapleyGradAttention, model, tokenizer=tokenizer)
    games = {
        f"{game}, {sign}, {propagation}": signed(game=game, sign=sign, propagation=propagation)
        for game in ("incoming", "cls")
        for sign in ("signed", "rectified")
        for propagation in ("gradient", "attnlrp")
    }
    return {
        **games,
        "AttnLRP, cp": AttnLRP(model, tokenizer=tokenizer, propagation="cp"),
        "AttnLRP": AttnLRP(model, tokenizer=tokenizer),
        "IntegratedAttnLRP, 1 pass": IntegratedAttnLRP(model, passes=1, tokenizer=tokenizer),
        "IntegratedAttnLRP, 5 passes": IntegratedAttnLRP(model, tokenizer=tokenizer),
    }


def measured(name: str, options: argparse.Namespace) -> pd.DataFrame:
    """A row for each variant and measure of a data set."""
    limit = int(options.limit * TIMES.get(name, 1.0))
    data = read(name, argparse.Namespace(**{**vars(options), "limit": limit}), options.split)
    methods = variants(data.model, data.tokenizer)
    for rules in ("gradient", "attnlrp"):
        game = ShapleyGradAttention(data.model, tokenizer=data.tokenizer, propagation=rules)
        methods[f"MaskTunnel, incoming, signed, {rules}"] = MaskTunnel(game, data.tokenizer)
    result = evaluate(
        data.model,
        data.inputs,
        methods,
        tokenizer=data.tokenizer,
        rationales=words_of_sentiment(data, options.data) if name == "sst2" else None,
        percentages=PERCENTAGES["paper"],
        interventions=("replacement", "knockout"),
        max_length=MAX_LENGTH,
        file=options.out / f"{name}-{options.split}-{limit}.jsonl",
    )
    metrics = ["comprehensiveness", *(["token_auprc"] if name == "sst2" else [])]
    table = result.table(metrics, scale="paper").query("ranking == 'scores'")
    agreement = table.metric == "token_auprc"
    measure = (name + ", " + table.intervention).where(~agreement, PEOPLE)
    return table.assign(measure=measure)[["method", "measure", "mean", "standard_error"]]


def words_of_sentiment(data: Data, folder: Path) -> list[list[tuple[int, int]]]:
    """Where words of a text stand that people, shown the word alone, gave the sentiment of the text's label."""
    rows = [line.split("\t") for line in (folder / "sst2" / "train.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    said: dict[str, set[int]] = {}
    for phrase, label in rows:
        if len(phrase.split()) == 1:
            said.setdefault(phrase.strip(), set()).add(int(label))
    return [
        [word.span() for word in re.finditer(r"\S+", str(text)) if said.get(word.group()) == {int(label)}]
        for text, label in zip(data.inputs, data.labels, strict=True)
    ]


def of_language_model(model: Any, tokenizer: Any, options: argparse.Namespace) -> pd.DataFrame:
    """The same of answers that were copied from one of several paragraphs."""
    lines = (options.data / "planted_facts" / "cases.jsonl").read_text(encoding="utf-8").splitlines()
    rows, explainer = list[tuple[str, str, float]](), GenerationAttention(model, tokenizer)
    torch.manual_seed(0)
    for case in tqdm(list(map(json.loads, lines)), desc="Answers", unit="answer"):
        asked = "\n\n".join([*case["paragraphs"], f"Question: {case['question']}"])
        answer = explainer.explain([{"role": "user", "content": asked}], case["generated"], sources=case["paragraphs"])
        lost = leave_one_out(explainer, answer).double()
        ids, players = answer.solver.responses.ids, answer.groups[None] >= 0
        scored = ScoredResponse(model, len(answer.response_ids))
        found = {
            name: method.attribute_tokens(ids, target=0, players=players).values
            for name, method in variants(scored, tokenizer).items()
        }
        for name, values in {**found, "random": torch.rand(ids.shape)}.items():
            sums = answer.by_source(values[0]).double()
            correlation = float(torch.corrcoef(torch.stack([sums, lost]))[0, 1])
            rows += [
                (name, "planted first", float(sums.argmax() == case["planted"])),
                (name, "correlation", correlation),
            ]
    return means_of(rows)


def of_next_tokens(model: Any, tokenizer: Any, options: argparse.Namespace) -> pd.DataFrame:
    """What the likeliest next token's probability loses without the tokens that rank highest."""
    texts = (options.data / "imdb" / f"{options.split}.jsonl").read_text(encoding="utf-8").splitlines()[: options.limit]
    replacement = tokenizer(" the", add_special_tokens=False)["input_ids"][0]
    methods = variants(model, tokenizer).items()
    games = {name: method for name, method in methods if isinstance(method, ShapleyGradAttention)}
    rows = []
    torch.manual_seed(0)
    for text in tqdm([json.loads(line)["text"] for line in texts], desc="Next tokens", unit="text"):
        ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=48)["input_ids"]
        players = torch.ones_like(ids, dtype=torch.bool)
        whole, target = next_tokens(model, ids).max(-1)
        written = (-1, int(target))
        found = {name: method.attribute_tokens(ids, written, players=players).values for name, method in games.items()}
        for name, values in {**found, "random": torch.rand(ids.shape)}.items():
            top, _ = top_and_rest(values, players, PERCENTAGES["eraser"])
            perturbed = next_tokens(model, ids.where(~top[:, 0], replacement))[:, target[0]]
            rows.append((name, "next token", float(mean_drop(whole, perturbed[None]))))
    return means_of(rows)


@torch.no_grad()
def next_tokens(model: Any, ids: Tensor) -> Tensor:
    """Probabilities (B, V) of the token after ids (B, N)."""
    found: Tensor = model(input_ids=ids, logits_to_keep=1).logits[:, -1].softmax(-1)
    return found


def means_of(rows: list[tuple[str, str, float]]) -> pd.DataFrame:
    """Means and standard errors by method and measure."""
    groups = pd.DataFrame(rows, columns=["method", "measure", "value"]).groupby(["method", "measure"], sort=False).value
    return groups.agg(mean="mean", standard_error="sem").reset_index()


def markdown(frame: pd.DataFrame) -> str:
    """A row for each variant, a column for each set and what else was measured."""
    means, errors = (
        frame.pivot(index="method", columns="measure", values=values) for values in ("mean", "standard_error")
    )
    order = frame.method.unique()
    means = means.reindex(order)
    means.loc["*standard error, about*"] = errors.drop(index="random").mean()
    names = list(dict.fromkeys(measure.split(",")[0] for measure in frame.measure))
    lines = [f"| game, sign, propagation | {' | '.join(names)} |", "|---|" + "--:|" * len(names)]
    for method, row in means.iterrows():
        cells = []
        for name in names:
            both = [row.get(measure) for measure in (name, f"{name}, replacement", f"{name}, knockout")]
            cells.append(" / ".join(f"{value:.3f}" for value in both if value is not None and pd.notna(value)))
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

"""Which of eight paragraphs did a language model copy its answer from? Explanations against leave-one-out.

    python examples/benchmarks/answer_sources.py --model DECODER --data DATA
    python examples/benchmarks/answer_sources.py --model DECODER --made 120 --kinds plain
    python examples/benchmarks/answer_sources.py --model DECODER --made 40 --kinds distractor paraphrase two-hop

DECODER is the folder of a chat model. Cases are those of ``DATA/planted_facts`` (keys paragraphs, question, answer,
planted, and generated, the model's answer), and ``--made`` so many of each kind that are put together here from lists
of names and facts, the place of the fact at random: plain facts; *distractor*, where another paragraph says the like of
something else; *paraphrase*, where the question uses other words; *two-hop*, where the answer takes two paragraphs;
*unanswerable* controls, where none has it. The model answers these, greedily, of which the first sentence is explained,
and a case counts where the answer is in it (but the controls). In the *null* rows, each response is another case's.

For each way to explain: how often the planted paragraph has the largest value (with Wilson's 95 % interval; of two-hop
facts, both of them), Pearson's correlation with what the response's score loses without each paragraph, the rank
correlation with its scores under ``--subsets`` random subsets (LDS), how often the answer's own tokens point at the
sentence that it stands in, and seconds. Truth is the sum of the response's tokens' log-odds, and, beside it,
log-probabilities. Passes are forward (f) and backward (b), of T tokens in an answer; *cached*: over these alone.
Weights of heads are fitted to four other cases. ``--rivals`` cases of each kind are explained by what others do, too,
and the first ``--slow`` of all by Captum's Layer Integrated Gradients, which takes minutes: its row alone is

    python examples/benchmarks/answer_sources.py --model DECODER --made 3 --kinds plain --slow 3 --ways "Captum LLMGrad"
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from captum.attr import (
    FeatureAblation,
    LayerGradientXActivation,
    LayerIntegratedGradients,
    LLMAttribution,
    LLMGradientAttribution,
    TextTemplateInput,
    TextTokenInput,
)
from scipy.stats import binomtest, pearsonr
from sklearn.linear_model import LassoCV
from torch import Tensor
from torch.nn.functional import logsigmoid
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.planted_cases import Case, add_arguments, answer_of, asked_for, made, parsed

from captum_attn import AttentionRollout, AttnLRP, ShapleyGradAttention
from captum_attn.generation import (
    ExplainedResponse,
    GenerationAttention,
    HeadWeights,
    ScoredResponse,
    find_sources,
    leave_one_out,
    linear_datamodeling_score,
    random_absences,
    scores_without,
)

BOTH = ("log_odds", "log_prob")


class Way(NamedTuple):
    """A way to explain: its name, passes, what makes an explained response, or values (K,) of the paragraphs, of a
    response, and whether the answer's own tokens are looked at, too.
    """

    name: str
    passes: str
    explains: Callable[[Case, ExplainedResponse], ExplainedResponse | Tensor]
    by_token: bool = False


class Found(NamedTuple):
    """Name and passes of a way, the values (K,) that it found, in how many seconds, and what points at a sentence."""

    name: str
    passes: str
    values: Tensor
    seconds: float
    pointing: ExplainedResponse | None = None


def main() -> None:
    disable_progress_bar()
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    asked = Asked(model, tokenizer, options)
    rows: list[dict[str, Any]] = []
    previous: tuple[Case, str] | None = None
    seen: dict[str, int] = {}
    for number, case in enumerate(tqdm(asked_for(options), desc="Answers", unit="answer")):
        response = asked.answer(case)
        if case.planted and case.answer.lower() not in response.lower():
            continue
        seen[case.kind] = seen.get(case.kind, 0) + 1
        others = asked.rivals(number) if seen[case.kind] <= options.rivals else []
        ways = [way for way in [*asked.ours(), *others] if way.name.startswith(tuple(options.ways))]
        rows += asked.measured(case, response, number, ways)
        if case.kind == "plain" and previous is not None and previous[0].answer != case.answer:
            null = Case("null", case.paragraphs, case.question, previous[0].answer, case.planted)
            rows += asked.measured(null, previous[1], number, asked.ours()[:1])
        previous = (case, response)
        pd.DataFrame(rows).to_csv(options.out / "answer_sources.csv", index=False)
    text = markdown(pd.DataFrame(rows))
    (options.out / "answer_sources.md").write_text(text, encoding="utf-8")
    print(text)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--subsets", type=int, default=20, help="for LDS (default: %(default)s)")
    parser.add_argument("--rivals", type=int, default=30, help="cases a kind for what others do (default: %(default)s)")
    parser.add_argument("--ways", nargs="+", default=[""], metavar="NAME", help="whose names begin so (default: all)")
    parser.add_argument("--slow", type=int, default=0, help="cases for Captum's gradients (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/answer_sources"), help="default: %(default)s")
    return parsed(parser)


class Asked:
    """A model that is asked, and all ways to explain its answers."""

    def __init__(self, model: Any, tokenizer: Any, options: argparse.Namespace) -> None:
        self.model, self.tokenizer, self.options = model, tokenizer, options
        self.truth = GenerationAttention(model, tokenizer)
        self.learned = self._learned()

    def _learned(self) -> list[Way]:
        """Weights of heads, fitted to what the same four answers lose."""
        answers = [
            self.truth.explain(case.messages, text, sources=case.paragraphs) for case, text in self._cases_for_weights()
        ]
        lost = [leave_one_out(self.truth, one) for one in answers]
        ways = []
        for variant, passes in (("attention", "1 f, cached"), ("signed", "1 f + b, cached")):
            one: Any = partial(GenerationAttention, self.model, self.tokenizer, variant=variant)  # type: ignore[arg-type]
            influence = [answer.by_source(one().influence_of_heads(answer)) for answer in answers]
            weighted = one(head_weights=HeadWeights.fit(influence, lost, one().explains))
            ways.append(Way(f"head weights from four cases, {variant}", passes, by(weighted)))
        return ways

    def _cases_for_weights(self) -> list[tuple[Case, str]]:
        cases = [(case, self.answer(case)) for case in made(12, ["plain"], self.options.seed + 1000)]
        return [(case, text) for case, text in cases if case.answer.lower() in text.lower()][:4]

    def answer(self, case: Case) -> str:
        return answer_of(case, self.model, self.tokenizer, self.options.tokens)

    def ours(self) -> list[Way]:
        """What one pass over the response's rows tells."""
        one: Any = partial(GenerationAttention, self.model, self.tokenizer)
        kinds = [("signed", "attnlrp"), ("rectified", "attnlrp"), ("signed", "gradient")]
        rows = []
        for sign, rules in kinds:
            for score in BOTH if sign == "signed" else BOTH[:1]:
                explains = by(one(variant=sign, propagation=rules, score=score))
                rows.append(Way(f"{sign}, {rules}, {score}", "1 f + b, cached", explains, rules == "attnlrp"))
        return [*rows, *self.learned, Way("raw attention", "1 f, cached", by(one(variant="attention")))]

    def rivals(self, number: int) -> list[Way]:
        """What others do, and passes over the whole sequence."""
        one: Any = partial(GenerationAttention, self.model, self.tokenizer)
        ways = [
            Way("rollout", "2 f", by(one(method=AttentionRollout))),
            Way("incoming, all rows", "2 f + b", by(one(method=partial(ShapleyGradAttention, game="incoming")))),
            Way("AttnLRP, logit", "2 f + b", by(one(method=AttnLRP, score="logit"))),
            Way("Captum Input × Gradient, log_odds", "1 f + b", self.input_x_gradient),
            Way("Captum LLMAttribution(FeatureAblation)", "9 f", self.captum_ablation),
            Way("ContextCite-like, 32 ablations", "32 f", partial(self.regression, seed=10**6 + number)),
        ]
        slow = Way("Captum LLMGradientAttribution(LayerIntegratedGradients)", "T × 50 (f + b)", self.captum_lig)
        return [*ways, *([slow] if number < self.options.slow else [])]

    def input_x_gradient(self, _: Case, explained: ExplainedResponse) -> Tensor:
        ids = explained.solver.responses.ids
        scored = ScoredResponse(self.model, len(explained.response_ids))
        method = LayerGradientXActivation(scored, self.model.get_input_embeddings())
        return explained.by_source(method.attribute(ids, target=0)[0].detach().sum(-1))

    def captum_lig(self, _: Case, explained: ExplainedResponse) -> Tensor:
        method = LLMGradientAttribution(
            LayerIntegratedGradients(self.model, self.model.get_input_embeddings()), self.tokenizer
        )
        given = TextTokenInput(explained.prompt.text, self.tokenizer)
        target = torch.tensor(explained.response_ids)
        values = method.attribute(given, target=target, n_steps=50, internal_batch_size=10).seq_attr
        return explained.by_source(torch.cat([values.float(), torch.zeros(len(target))]))

    def captum_ablation(self, case: Case, explained: ExplainedResponse) -> Tensor:
        template = explained.prompt.text
        for paragraph in case.paragraphs:
            template = template.replace(paragraph, "{}")
        method = LLMAttribution(FeatureAblation(self.model), self.tokenizer)
        given = TextTemplateInput(template, list(case.paragraphs))
        found = method.attribute(given, target=torch.tensor(explained.response_ids), forward_in_tokens=False)
        values: Tensor = found.seq_attr
        return values

    def regression(self, _: Case, explained: ExplainedResponse, seed: int) -> Tensor:
        """Weights of sources in a sparse regression of the response's log-odds on what is there, as in ContextCite."""
        absent = random_absences(len(explained.sources), 32, seed=seed)
        scores = scores_without(self.truth, explained, absent).sum(-1)
        fitted = LassoCV(cv=4).fit((~absent).numpy().astype(float), scores.double().numpy())
        return torch.from_numpy(fitted.coef_)

    def measured(self, case: Case, response: str, number: int, ways: list[Way]) -> list[dict[str, Any]]:
        """A row for each explanation of one response."""
        explained = self.truth.explain(case.messages, response, sources=case.paragraphs)
        count = len(case.paragraphs)
        start = time.perf_counter()
        alone = scores_without(self.truth, explained, torch.cat([torch.zeros(1, count), torch.eye(count)]).bool())
        seconds = time.perf_counter() - start
        absent = random_absences(count, 0 if case.kind == "null" else self.options.subsets, seed=number)
        subsets = scores_without(self.truth, explained, absent) if len(absent) else torch.zeros(0, 1)
        found = [
            Found("leave-one-out", "9 f", lost(alone), seconds),
            Found("random", "", torch.rand(count, generator=torch.Generator().manual_seed(number)), 0.0),
            *(timed(way, case, explained) for way in ways),
        ]
        rows = [row_of(case, one, alone, absent, subsets) for one in found]
        return [{"case": number, **row} for row in rows]


def timed(way: Way, case: Case, explained: ExplainedResponse) -> Found:
    start = time.perf_counter()
    result = way.explains(case, explained)
    seconds = time.perf_counter() - start
    if isinstance(result, Tensor):
        return Found(way.name, way.passes, result, seconds)
    return Found(way.name, way.passes, result.source_values, seconds, result if way.by_token else None)


def lost(scores: Tensor) -> Tensor:
    """(K,), what the response's score loses without each paragraph, of tokens' scores (1 + K, T), the whole's first."""
    sums = scores.double().sum(-1)
    return sums[0] - sums[1:]


def row_of(case: Case, found: Found, alone: Tensor, absent: Tensor, subsets: Tensor) -> dict[str, Any]:
    """Measures of one explanation, against tokens' log-odds without each paragraph and without random ones."""
    values = found.values.double()
    row: dict[str, Any] = {"kind": case.kind, "way": found.name, "passes": found.passes, "seconds": found.seconds}
    top = set(values.topk(max(1, len(case.planted))).indices.tolist())
    row["planted first"] = float(top == set(case.planted)) if case.planted else None
    # log p of a token is the logarithm of the logistic function of its log-odds
    for score, of_odds in {"log_odds": lambda odds: odds, "log_prob": logsigmoid}.items():
        row[f"r, {score}"] = float(pearsonr(values.numpy(), lost(of_odds(alone)).numpy()).statistic)
        if len(absent):
            row[f"LDS, {score}"] = linear_datamodeling_score(values, absent, of_odds(subsets).sum(-1))
    if found.pointing is not None and case.planted and found.pointing.response.count(case.answer) == 1:
        row["answer points at it"] = points_at(case, found.pointing)
    return row


def by(explainer: GenerationAttention) -> Callable[[Case, ExplainedResponse], ExplainedResponse]:
    """The same response, explained by another explainer."""

    def explains(case: Case, explained: ExplainedResponse) -> ExplainedResponse:
        return explainer.explain(case.messages, explained.response_ids, sources=case.paragraphs)

    return explains


def points_at(case: Case, explained: ExplainedResponse) -> float:
    """Whether the answer's own tokens point at the sentence that it stands in, of all in the paragraphs."""
    sentences = find_sources(explained.prompt, "sentences", case.question)
    sums = replace(explained, sources=sentences).by_source(explained.of(case.answer))
    return float(case.answer in sentences[int(sums.argmax())].text)


def markdown(frame: pd.DataFrame) -> str:
    """A table for each kind of case."""
    measures = [name for name in frame.columns if name not in ("case", "kind", "way", "passes")]
    parts = []
    for kind, of_kind in frame.groupby("kind", sort=False):
        lines = [f"**{kind}**, {of_kind.case.nunique()} cases", "", f"| | passes | cases | {' | '.join(measures)} |"]
        lines += ["|---|---|--:|" + "--:|" * len(measures)]
        for (way, passes), of_way in of_kind.groupby(["way", "passes"], sort=False):
            cells = [cell(name, of_way[name].dropna().to_numpy(dtype=float)) for name in measures]
            lines.append(f"| {way} | {passes} | {len(of_way)} | {' | '.join(cells)} |")
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

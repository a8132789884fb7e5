"""What attention does for SHAP's own values: error and faithfulness, by number of model evaluations.

1. On short texts, exact Shapley values of the masked model come from all 2^n coalitions. How far from them are
   ``shap.PartitionExplainer``'s Owen values at a budget of evaluations, along the hierarchy of ``shap.maskers.Text``
   and along that of ``shap_attn.AttentionText``? (Squared error, relative to the squared norm of the exact values.)
2. On longer texts, how much does the probability of the predicted class fall when the 10, 20 and 50 % of tokens with
   the highest values are masked (comprehensiveness, a mean over the three)? And by ``AttentionExplainer``'s values?
3. Does the attention game serve as a control variate, for sampling the model's own Shapley values? Estimate those of
   the difference between the model and the game, whose values are known exactly, and add these. Shown is the variance
   at equal cost, relative to sampling the model alone, with the best factor before the game.

Writes ``shap_budget.md``::

    python examples/benchmarks/shap_budget.py --model FOLDER --texts dev.tsv
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from math import comb
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import numpy.typing as npt
import shap
import torch
from scipy.stats import kendalltau
from shap.utils import MaskedModel
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import Pipeline, pipeline
from transformers.utils.logging import disable_progress_bar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.reviews import made_up_reviews, read_texts
from helpers.small_models import TEXT_MODEL

from captum_attn import ShapleyGradAttention
from captum_attn.functional import GAMES, coalition_values
from shap_attn import AttentionExplainer, AttentionText

Array = npt.NDArray[Any]
SHORT_BUDGETS, LONG_BUDGETS = (10, 20, 40, 80, 160, 500), (25, 50, 100, 200, 500)
SHORT, LONG = range(6, 11), range(20, 35)  # tokens that play
SHARES = (0.1, 0.2, 0.5)
ORDERS = 400


def main() -> None:
    options = arguments()
    disable_progress_bar()
    pipe = pipeline("text-classification", model=options.model, top_k=None, batch_size=64, dtype=torch.float32)
    short, long = (texts_of(pipe, options, lengths) for lengths in (SHORT, LONG))
    errors: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    drops: dict[tuple[str, int], list[float]] = defaultdict(list)
    agreements: list[tuple[float, float]] = []
    variances: dict[tuple[str, str], list[float]] = defaultdict(list)
    for text in tqdm(short, unit="short text"):
        short_text(pipe, text, errors, variances)
    for text in tqdm(long, unit="long text"):
        long_text(pipe, text, drops, agreements)
    report = markdown(options, len(short), len(long), errors, drops, agreements, variances)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "shap_budget.md").write_text(report, encoding="utf-8")
    print(report)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(TEXT_MODEL), help="folder or hub name (default: the shipped classifier)")
    parser.add_argument("--texts", type=Path, help="a file with a text in each line, up to a tab (default: made up)")
    parser.add_argument("--count", type=int, default=40, help="texts of each kind (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/shap_budget"), help="default: %(default)s")
    return parser.parse_args()


def texts_of(pipe: Pipeline, options: argparse.Namespace, lengths: range) -> list[str]:
    texts = read_texts(options.texts) if options.texts else made_up_reviews()
    texts += [" ".join(texts[start : start + 3]) for start in range(0, len(texts), 3)] * (options.texts is None)
    return [text for text in texts if len(pipe.tokenizer(text)["input_ids"]) - 2 in lengths][: options.count]


class Cached:
    """The model's probability of one class, which is asked once for each masked text."""

    def __init__(self, pipe: Pipeline, text: str) -> None:
        self.model = shap.models.TransformersPipeline(pipe)
        self.output = int(self.model([text])[0].argmax())
        self.known: dict[str, float] = {}

    def __call__(self, texts: Sequence[str]) -> Array:
        new = list(dict.fromkeys(text for text in map(str, texts) if text not in self.known))
        for start in range(0, len(new), 64):
            part = new[start : start + 64]
            self.known.update(zip(part, self.model(part)[:, self.output], strict=True))
        return np.array([self.known[str(text)] for text in texts])


def maskers(pipe: Pipeline) -> dict[str, shap.maskers.Text]:
    return {"shap.maskers.Text": shap.maskers.Text(pipe.tokenizer), "AttentionText": AttentionText(pipe)}


def owen_values(model: Cached, masker: shap.maskers.Text, text: str, budget: int) -> Array:
    """Without the special tokens at the ends."""
    np.random.seed(0)  # PartitionExplainer breaks ties with it
    explainer = shap.explainers.PartitionExplainer(model, masker)
    values: Array = explainer([text], max_evals=budget, batch_size=10, silent=True).values[0]
    return values[1:-1]


# 1 and 3: short texts


def short_text(
    pipe: Pipeline,
    text: str,
    errors: dict[tuple[str, int], list[tuple[float, float]]],
    variances: dict[tuple[str, str], list[float]],
) -> None:
    model = Cached(pipe, text)
    masked = MaskedModel(model, shap.maskers.Text(pipe.tokenizer), shap.links.identity, True, text)
    coalitions = np.array(list(product([False, True], repeat=len(masked) - 2)))
    worth = masked(np.pad(coalitions, ((0, 0), (1, 1))))
    exact = exact_shapley(coalitions, worth)
    for name, masker in maskers(pipe).items():
        for budget in SHORT_BUDGETS:
            owen = owen_values(model, masker, text, budget)
            error = np.square(owen - exact).sum() / np.square(exact).sum()
            errors[name, budget].append((error, kendalltau(owen, exact).statistic))
    control_variates(pipe, text, model.output, coalitions, worth, variances)


def exact_shapley(coalitions: Array, worth: Array) -> Array:
    """Shapley values (n,) by enumeration: coalitions (2^n, n) in binary order, and their worth (2^n,)."""
    size = coalitions.shape[1]
    weights = np.array([1 / (size * comb(size - 1, rest)) for rest in range(size)])
    place = 2 ** np.arange(size)[::-1]
    values = []
    for player in range(size):
        without = np.flatnonzero(~coalitions[:, player])
        gains = worth[without + place[player]] - worth[without]
        values.append((weights[coalitions[without].sum(1)] * gains).sum())
    return np.array(values)


def control_variates(
    pipe: Pipeline,
    text: str,
    output: int,
    coalitions: Array,
    worth: Array,
    variances: dict[tuple[str, str], list[float]],
) -> None:
    batch = pipe.tokenizer(text, return_tensors="pt")
    matrix = ShapleyGradAttention(pipe.model, sign="rectified").influence(batch, target=output)[0].double()
    everyone = torch.from_numpy(np.pad(coalitions, ((0, 0), (1, 1))))
    plain = sampling_variances(coalitions, worth)
    variances["paired", "the model alone"].append(plain["paired"] / plain["single"])
    for game in GAMES:
        control = coalition_values(matrix, everyone, game).numpy()
        factor = best_factor(coalitions, worth, control)
        difference = sampling_variances(coalitions, worth - factor * control)
        for kind in plain:
            variances[kind, game].append(difference[kind] / plain[kind])


def sampling_variances(coalitions: Array, worth: Array) -> dict[str, float]:
    """Variance of marginal contributions along random orders, and along pairs of an order and its reverse."""
    size = coalitions.shape[1]
    orders = np.random.default_rng(0).permuted(np.tile(np.arange(size), (ORDERS, 1)), axis=1)
    forwards, backwards = (marginals(part, worth) for part in (orders, orders[:, ::-1]))
    paired = (forwards + backwards) / 2
    return {"single": forwards.var(0).sum(), "paired": 2 * paired.var(0).sum()}  # a pair costs two orders


def marginals(orders: Array, worth: Array) -> Array:
    """Marginal contributions (K, n) of the players along orders (K, n)."""
    place = 2 ** np.arange(orders.shape[1])[::-1]
    prefixes = np.pad(place[orders].cumsum(1), ((0, 0), (1, 0)))
    gains = np.empty(orders.shape)
    np.put_along_axis(gains, orders, np.diff(worth[prefixes], axis=1), 1)
    return gains


def best_factor(coalitions: Array, worth: Array, control: Array) -> float:
    """Of the control in a regression of the worth on it and on the players, which no estimator has trouble with."""
    size = coalitions.shape[1]
    weights = np.array([comb(size, int(count)) for count in coalitions.sum(1)]) ** -0.5
    design = np.column_stack([np.ones(len(worth)), coalitions, control]) * weights[:, None]
    return float(np.linalg.lstsq(design, worth * weights, rcond=None)[0][-1])


# 2: longer texts


def long_text(
    pipe: Pipeline, text: str, drops: dict[tuple[str, int], list[float]], agreements: list[tuple[float, float]]
) -> None:
    model = Cached(pipe, text)
    own = AttentionExplainer(pipe, outputs="predicted")([text], silent=True).values[0][:, 0]
    drops["AttentionExplainer", 1].append(comprehensiveness(model, shap.maskers.Text(pipe.tokenizer), text, own))
    for name, masker in maskers(pipe).items():
        for budget in LONG_BUDGETS:
            owen = owen_values(model, masker, text, budget)
            drops[name, budget].append(comprehensiveness(model, masker, text, owen))
        if name == "shap.maskers.Text":
            overlap = len({*own.argsort()[-3:]} & {*owen.argsort()[-3:]}) / 3
            agreements.append((kendalltau(own, owen).statistic, overlap))


def comprehensiveness(model: Cached, masker: shap.maskers.Text, text: str, values: Array) -> float:
    masked = []
    for share in (0, *SHARES):
        kept = np.ones(len(values) + 2, dtype=bool)
        kept[1 + np.argsort(-values)[: int(np.ceil(share * len(values)))]] = False
        masked.append(masker(kept, text)[0][0])
    whole, *without = model(masked)
    return float(whole - np.mean(without))


# What is shown


def markdown(
    options: argparse.Namespace,
    short: int,
    long: int,
    errors: dict[tuple[str, int], list[tuple[float, float]]],
    drops: dict[tuple[str, int], list[float]],
    agreements: list[tuple[float, float]],
    variances: dict[tuple[str, str], list[float]],
) -> str:
    names = list(dict.fromkeys(name for name, _ in errors))
    lines = [f"# SHAP values by number of evaluations, `{Path(options.model).name}`", ""]
    lines += [f"## Relative squared error (Kendall's τ) against exact values, {short} texts of 6 to 10 tokens", ""]
    lines += header("evaluations", SHORT_BUDGETS)
    for name in names:
        cells = [tuple(np.mean(errors[name, budget], axis=0)) for budget in SHORT_BUDGETS]
        lines.append(row(name, [f"{error:.3f} ({tau:.2f})" for error, tau in cells]))
    lines += ["", f"## Comprehensiveness, {long} texts of 20 to 34 tokens (± standard error)", ""]
    lines += header("evaluations", LONG_BUDGETS)
    for name in names:
        lines.append(row(name, [with_error(drops[name, budget]) for budget in LONG_BUDGETS]))
    own = with_error(drops["AttentionExplainer", 1])
    tau, overlap = np.mean(agreements, axis=0)
    lines += ["", f"AttentionExplainer's own values, from one forward and one backward pass: {own}."]
    lines += [f"They agree with SHAP's at 500 evaluations: Kendall's τ {tau:.2f}, {overlap:.2f} of the three highest."]
    lines += ["", "## Control variates: variance at equal cost, relative to sampling the model alone", ""]
    lines += header("orders drawn", ("single", "paired with their reverse"))
    for game in GAMES:
        lines.append(row(game, [f"{mean(variances[kind, game]):.2f}" for kind in ("single", "paired")]))
    pairing = mean(variances["paired", "the model alone"])
    lines += ["", f"Pairing alone leaves {pairing:.2f} of the variance of single orders."]
    return "\n".join(lines) + "\n"


def with_error(values: list[float]) -> str:
    return f"{mean(values):.3f} ± {np.std(values) / len(values) ** 0.5:.3f}"


def header(first: str, columns: Sequence[object]) -> list[str]:
    return [row(first, map(str, columns)), "|---|" + "--:|" * len(columns)]


def row(first: str, cells: Any) -> str:
    return f"| {first} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()

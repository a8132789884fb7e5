"""How faithful are explanations of classifiers? The study of arXiv 2508.08966, on real data.

    python examples/benchmarks/paper_table.py
    python examples/benchmarks/paper_table.py --data DATA --models MODELS --sets sst2 --rows attention
    python examples/benchmarks/paper_table.py --data DATA --models MODELS --limit 40
    python examples/benchmarks/paper_table.py --data DATA --models MODELS --sets zebras --only AttnLRP MaskTunnel

Explains a classifier's predictions by attention, by attention and its gradients, and by Captum's and SHAP's methods,
takes the tokens with the highest scores away, by [MASK] and by attention knockout, and measures what that does. For
each data set it writes a table (Markdown and CSV) and a figure; for texts, the error of sampled Shapley values of the
attention game against the exact ones, too. What was measured is kept in ``--out``: an interrupted run goes on, and more
rows are added.

DATA holds ``sst2/dev.tsv`` (sentence, tab, label), ``ag_news/test.jsonl`` and ``imdb/test.jsonl`` (keys text, label),
and photographs in ``photos/targets/zebra``; MODELS holds ``minilm-sst2``, ``minilm-ag-news``, ``minilm-imdb`` and
``dinov2-zebra``. The shipped models explain handwritten digits and, without DATA, made-up reviews.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import torch
from captum.attr import IntegratedGradients
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers.utils.logging import disable_progress_bar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.data_sets import IMAGE_SETS, MAX_LENGTH, TEXT_SETS, Data, read

from captum_attn import AttnLRP, GradSAM, IntegratedAttnLRP, MaskTunnel, ShapleyAttention, ShapleyGradAttention
from captum_attn.bench import GradientBaseline, MaskedModel, Scorer, captum_baselines
from captum_attn.functional import (
    PERCENTAGES,
    ShapleyEstimate,
    coalition_values,
    kernel_shapley,
    permutation_shapley,
    shapley_values,
)
from captum_attn.metrics import Evaluation, evaluate
from shap_attn import ExactBaseline, PartitionBaseline

COALITIONS = 100
METRICS = ["comprehensiveness", "sufficiency", "f1_macro", "f1_weighted", "seconds"]
PASSES = (1, 3, 5, 9)
BUDGETS = (4, 8, 16, 32, 64)


def main() -> None:
    mpl.use("Agg")
    disable_progress_bar()
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    sets = options.sets or [
        *(TEXT_SETS if options.data else ["made-up"]),
        "digits",
        *(IMAGE_SETS if options.data else []),
    ]
    report = []
    for name in sets:
        data = read(name, options)
        print(f"{name}: {len(data.inputs)} examples")
        rows, families = methods(data, options.rows)
        if options.only:
            rows = {method: rows[method] for method in rows if method.startswith(tuple(options.only))}
        result = evaluate(
            data.model,
            data.inputs,
            rows,
            tokenizer=data.tokenizer,
            labels=data.labels,
            percentages=PERCENTAGES["paper"],
            interventions=("replacement", "knockout"),
            batch_size=options.batch_size,
            max_length=MAX_LENGTH,
            file=options.out / f"{name}{'' if options.limit is None else f'-{options.limit}'}.jsonl",
        )
        report.append(written(name, result, families, options.out))
        if data.tokenizer is not None and not options.only:
            report.append(estimator_table(data, options.out))
    (options.out / "paper_table.md").write_text("\n".join(report), encoding="utf-8")
    print("\n".join(report))
    print(f"Wrote {options.out / 'paper_table.md'}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the data sets (default: made-up reviews)")
    parser.add_argument("--models", type=Path, help="folder of the models (default: the shipped model)")
    parser.add_argument(
        "--sets", nargs="+", choices=[*TEXT_SETS, "made-up", "digits", "zebras"], help="default: all there are"
    )
    parser.add_argument("--limit", type=int, help="explain the first texts of each set only")
    parser.add_argument(
        "--rows", choices=("attention", "all"), default="all", help="all: Captum's and SHAP's methods, too (slow)"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="methods whose names begin so (default: all rows)")
    parser.add_argument("--batch-size", type=int, default=32, help="texts at a time (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/paper_table"), help="default: %(default)s")
    options = parser.parse_args()
    if (options.data is None) != (options.models is None):
        parser.error("--data and --models go together")
    if options.data is None and set(options.sets or ()) & {*TEXT_SETS, *IMAGE_SETS}:
        parser.error(f"the sets {', '.join([*TEXT_SETS, *IMAGE_SETS])} need --data and --models")
    for folder in filter(None, (options.data, options.models)):
        if not folder.is_dir():
            parser.error(f"there is no folder {folder}")
    return options


def methods(data: Data, rows: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The rows of the table, and the family of each."""
    model, tokenizer = data.model, data.tokenizer
    attention = partial(ShapleyAttention, model, tokenizer=tokenizer)
    rectified = partial(ShapleyGradAttention, model, tokenizer=tokenizer, sign="rectified")
    signed = partial(ShapleyGradAttention, model, tokenizer=tokenizer)
    by_attention: dict[str, Any] = {
        "Att-CLS": attention(game="cls"),
        "Att-Mutual": attention(game="mutual"),
        "Att-Max-Mutual": attention(game="max_mutual"),
    }
    by_gradients: dict[str, Any] = {
        "Grad-SAM": GradSAM(model, tokenizer=tokenizer),
        "Grad-Att-CLS": rectified(game="cls"),
        "Grad-Att-Mutual": rectified(game="mutual"),
        "Grad-Att-Max-Mutual": rectified(game="max_mutual"),
        "Approx. Max-Mutual": rectified(game="max_mutual", estimator=approximate),
        "Kernel Max-Mutual": rectified(game="max_mutual", estimator=kernel),
        "incoming, rectified": rectified(),
        "cls, signed": signed(game="cls"),
        "incoming, signed": signed(),
        "MaskTunnel(incoming), 3 copies": MaskTunnel(signed(), tokenizer),
        "MaskTunnel(incoming), 9 copies": MaskTunnel(signed(), tokenizer, rounds=3),
    }
    lrp, integrated = (
        partial(AttnLRP, model, tokenizer=tokenizer),
        partial(IntegratedAttnLRP, model, tokenizer=tokenizer),
    )
    by_rules: dict[str, Any] = {
        "incoming, AttnLRP rules": signed(propagation="attnlrp"),
        "incoming, rectified, AttnLRP rules": rectified(propagation="attnlrp"),
        "AttnLRP": lrp(),
        "CP-LRP": lrp(propagation="cp"),
        **{f"IntegratedAttnLRP, {passes} passes": integrated(passes=passes) for passes in PASSES},
    }
    by_input: dict[str, Any] = {}
    if rows == "all":
        masked = MaskedModel(model, tokenizer, batch_size=128)
        by_input = captum_baselines(masked, samples=COALITIONS)
        by_input["IntegratedGradients, 50 steps"] = GradientBaseline(IntegratedGradients, masked, n_steps=50)
        if tokenizer is not None:
            partition = once(PartitionBaseline(masked))
            by_input["SHAP Partition, 500"] = partition
            by_input["SHAP Partition, 500, absolute (same run)"] = absolute(partition)
        if data.name == "sst2-short":
            by_input["Shapley values, exact"] = ExactBaseline(masked)
    families = {
        "attention": by_attention,
        "attention and gradients": by_gradients,
        "rules": by_rules,
        "input": by_input,
    }
    return (
        {name: method for members in families.values() for name, method in members.items()},
        {**{name: family for family, members in families.items() for name in members}, "random": "random"},
    )


def approximate(worth: Any, players: int, device: Any) -> ShapleyEstimate:
    """The paper's ``Approx.``: marginal contributions along orders of 100 coalitions in all, but at least 4 orders."""
    return permutation_shapley(worth, players, permutations=max(4, orders(COALITIONS, players)), device=device)


def orders(coalitions: int, players: int) -> int:
    """The even number of orders that costs at most so many coalitions: n + 1 each."""
    return coalitions // (players + 1) // 2 * 2


def kernel(worth: Any, players: int, device: Any) -> ShapleyEstimate:
    """The paper's ``Kernel``: 100 coalitions, or 4 n where these do not determine the values."""
    return kernel_shapley(worth, players, coalitions=max(COALITIONS, 4 * players), device=device)


def absolute(method: Scorer) -> Scorer:
    """The magnitudes of a method's scores."""
    return lambda batch, targets: method(batch, targets).abs()


def once(method: Scorer) -> Scorer:
    """A method that is not asked twice in a row about the same batch."""
    last: list[Any] = [None, None]

    def remembered(batch: Mapping[str, Any], targets: Tensor) -> Tensor:
        if last[0] is None or not all(torch.equal(batch[name], last[0].get(name)) for name in batch):
            last[:] = batch, method(batch, targets)
        scores: Tensor = last[1]
        return scores

    return remembered


def written(name: str, result: Evaluation, families: dict[str, str], out: Path) -> str:
    """Write a data set's table and figure; the table as Markdown."""
    result.table(scale="paper").to_csv(out / f"{name}.csv", index=False)
    figure, axes = plt.subplots(1, 2, figsize=(15, 1.2 + 0.25 * len(result.methods)), layout="constrained")
    for intervention, ax in zip(result.settings.interventions, axes, strict=True):
        result.plot("comprehensiveness", scale="paper", intervention=intervention, families=families, ax=ax)
    axes[0].get_legend().remove()
    axes[0].set_title(name, loc="left")
    figure.savefig(out / f"{name}.png", dpi=75)
    plt.close(figure)
    text = f"# {name}, {result.settings.count} examples\n\n{result.to_markdown(METRICS, scale='paper')}"
    text += f"\n{differences(result)}"
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    return text


def differences(result: Evaluation) -> str:
    """How much more or less faithful methods are than ours of five passes, example by example."""
    reference = "IntegratedAttnLRP, 5 passes"
    if reference not in result.methods:
        return ""
    frame = result.compare(reference, ["comprehensiveness"], scale="paper")
    pairs = zip(frame.difference, frame.standard_error, strict=True)
    cells = frame.assign(cell=[f"{difference:+.3f} ± {error:.3f}" for difference, error in pairs])
    wide = cells.pivot(index="method", columns="intervention", values="cell").reindex(frame.method.unique())
    lines = [f"Comprehensiveness less that of {reference}, paired:", "", f"| method | {' | '.join(wide.columns)} |"]
    lines += ["|---|" + "--:|" * len(wide.columns)]
    lines += [f"| {name} | {' | '.join(row)} |" for name, row in zip(wide.index, wide.to_numpy(), strict=True)]
    return "\n".join(lines) + "\n"


def estimator_table(data: Data, out: Path) -> str:
    """How far sampled Shapley values of the games are from the exact ones, by sampler and number of coalitions."""
    explainer = ShapleyGradAttention(data.model, tokenizer=data.tokenizer, sign="rectified")
    errors = []
    tokenizer: Any = data.tokenizer
    for text in tqdm(data.inputs[:50], desc="Sampled against exact", unit="text"):
        batch = tokenizer(text, return_tensors="pt", truncation=True, max_length=MAX_LENGTH)
        players = explainer.attribute_tokens(batch).players[0]
        matrix = explainer.influence(batch)[0][players][:, players].double()
        count = len(matrix)
        for game in ("mutual", "max_mutual"):
            exact = shapley_values(matrix[None], torch.ones(1, count, dtype=torch.bool), game)[0]
            worth = partial(_worth, matrix, game)
            for budget in BUDGETS:
                coalitions = budget * (count + 1)
                by_orders = permutation_shapley(worth, count, permutations=orders(coalitions, count)).values
                regression = kernel_shapley(worth, count, coalitions=coalitions).values
                for sampler, found in (("permutations", by_orders), ("kernel", regression)):
                    errors.append((game, sampler, budget, float((found - exact).norm() / exact.norm())))
    frame = pd.DataFrame(errors, columns=["game", "sampler", "budget", "error"])
    means = frame.groupby(["game", "sampler", "budget"], sort=False).error.agg(["mean", "sem", "count"])
    means.to_csv(out / f"{data.name}-estimators.csv")
    lines = [
        f"# Sampled Shapley values against exact ones, {data.name}: relative error by coalitions for each player",
        "",
    ]
    lines += [f"| game | sampler | {' | '.join(map(str, BUDGETS))} |", "|---|---|" + "--:|" * len(BUDGETS)]
    for (game, sampler), part in frame.groupby(["game", "sampler"], sort=False):
        cells = [f"{error:.1e}" for error in part.groupby("budget").error.mean()]
        lines.append(f"| {game} | {sampler} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    (out / f"{data.name}-estimators.md").write_text(text, encoding="utf-8")
    return text


def _worth(matrix: Tensor, game: Any, coalitions: Tensor) -> Tensor:
    return coalition_values(matrix, coalitions, game)


if __name__ == "__main__":
    main()

"""Do explanations of the same predictions agree? Attention's methods beside Captum's and SHAP's, on one page.

    python examples/compare_methods.py
    python examples/compare_methods.py --data DATA --models MODELS --sets sst2 ag_news --limit 40
    python examples/compare_methods.py --sets digits --rows attention --limit 100

Explains made-up reviews and handwritten digits with the two small models in ``examples/models``, by every method of
this package, Captum's and SHAP's, and says how far they agree with each other, with themselves (under other seeds, and
on paraphrases of the made-up reviews), how faithful they are, and what they cost. For each set it writes
``index.html``, ``comparison.png``, and the tables as CSV files; words of caution stand on top of the page.

DATA and MODELS are folders as in ``benchmarks/paper_table.py``.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import torch
from helpers.data_sets import MAX_LENGTH, TEXT_SETS, Data, read
from transformers.utils.logging import disable_progress_bar

from captum_attn import (
    AttentionFlow,
    AttentionRollout,
    GeneralizedAttentionFlow,
    GenericRelevance,
    GradientAttentionRollout,
    GradSAM,
    IntegratedAttention,
    MaskTunnel,
    NormAttention,
    RawAttention,
    ShapleyAttention,
    ShapleyGradAttention,
    compare,
)
from captum_attn.bench import MaskedModel, captum_baselines
from shap_attn import PartitionBaseline

LIMITS = {"text": 32, "digits": 32}
SAMPLES = 100
SEEDS = (1, 2)
REWORDED = (
    (r"i thought (.*) was (.*) !", r"to me , \1 was \2 !"),
    (r"(.*) is (.*) , and (.*) is (.*) \.", r"\3 is \4 , and \1 is \2 ."),
    (r"(.*) is (.*) , but (.*) is (.*) \.", r"although \1 is \2 , \3 is \4 ."),
    (r"(.*) is (.*) \.", r"i think that \1 is \2 ."),
)


def main() -> None:
    disable_progress_bar()
    options = arguments()
    if not options.models:
        torch.set_num_threads(1)  # the shipped models are tiny: threads cost more than they give
    for name in options.sets:
        limit = options.limit or LIMITS.get(name, 40)
        data = read(name, argparse.Namespace(**{**vars(options), "limit": limit}))
        methods, reruns = rows(data, options.rows)
        print(f"{name}: {len(data.inputs)} inputs, {len(methods)} methods")
        comparison = compare(
            data.model,
            data.inputs,
            methods,
            tokenizer=data.tokenizer,
            labels=data.labels,
            reruns=reruns,
            paraphrases=list(map(reworded, data.inputs)) if name == "text" else None,
            batch_size=options.batch_size,
            max_length=MAX_LENGTH,
        )
        folder = options.out / name
        comparison.to_html(folder / "index.html")
        comparison.plot().savefig(folder / "comparison.png", dpi=110)
        for kind in ("table", "agreement", "stability"):
            getattr(comparison, kind)().to_csv(folder / f"{kind}.csv", index=False)
        columns = ["method", "comprehensiveness", "sufficiency", "seconds", "agreement", "under_reruns"]
        print(comparison.table()[[*columns, "under_paraphrases"]].to_string(index=False, float_format="%.3f"))
        print("\n".join(f"- {sentence}" for sentence in comparison.cautions()))
        print(f"Wrote {folder / 'index.html'}\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of data sets")
    parser.add_argument("--models", type=Path, help="folder of the models that were trained for them")
    parser.add_argument(
        "--sets", nargs="+", choices=["text", "digits", *TEXT_SETS], default=["text", "digits"], help="what to explain"
    )
    parser.add_argument("--limit", type=int, help="inputs of each set (default: 32 of the shipped ones, 40 of others)")
    parser.add_argument("--rows", choices=("attention", "all"), default="all", help="all: Captum's and SHAP's, too")
    parser.add_argument("--batch-size", type=int, default=32, help="inputs at a time (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/compare_methods"), help="default: %(default)s")
    options = parser.parse_args()
    if set(options.sets) & set(TEXT_SETS) and (options.data is None or options.models is None):
        parser.error(f"the sets {', '.join(TEXT_SETS)} need --data and --models")
    return options


def rows(data: Data, kind: str) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The methods, and copies of those that draw random numbers, with other seeds."""
    model, tokenizer = data.model, data.tokenizer
    gradients = ShapleyGradAttention(model, tokenizer=tokenizer)
    methods: dict[str, Any] = {
        "RawAttention": RawAttention(model, tokenizer=tokenizer),
        "AttentionRollout": AttentionRollout(model, tokenizer=tokenizer),
        "AttentionFlow": AttentionFlow(model, tokenizer=tokenizer),
        "NormAttention": NormAttention(model, tokenizer=tokenizer),
        "ShapleyAttention": ShapleyAttention(model, tokenizer=tokenizer),
        "GradSAM": GradSAM(model, tokenizer=tokenizer),
        "GenericRelevance": GenericRelevance(model, tokenizer=tokenizer),
        "GradientAttentionRollout": GradientAttentionRollout(model, tokenizer=tokenizer),
        "GeneralizedAttentionFlow": GeneralizedAttentionFlow(model, tokenizer=tokenizer),
        "IntegratedAttention": IntegratedAttention(model, tokenizer=tokenizer),
        "Grad-Att-CLS": ShapleyGradAttention(model, tokenizer=tokenizer, game="cls", sign="rectified"),
        "ShapleyGradAttention": gradients,
        "MaskTunnel": MaskTunnel(gradients, tokenizer),
    }
    reruns: dict[str, list[Any]] = {"MaskTunnel": [MaskTunnel(gradients, tokenizer, seed=seed) for seed in SEEDS]}
    if kind == "all":
        masked = MaskedModel(model, tokenizer, batch_size=128)
        methods.update(captum_baselines(masked, SAMPLES))
        again = captum_baselines(masked, SAMPLES, seed=SEEDS[0])
        reruns.update({name: [again[name]] for name in ("Lime", "KernelShap", "ShapleyValueSampling")})
        if tokenizer is not None:
            methods["SHAP Partition"] = PartitionBaseline(masked, SAMPLES)
    return methods, reruns


def reworded(review: str) -> str:
    """The same as a made-up review says, in other words or another order."""
    for pattern, paraphrase in REWORDED:
        said, count = re.subn(f"^{pattern}$", paraphrase, review)
        if count:
            return said
    return review


if __name__ == "__main__":
    main()

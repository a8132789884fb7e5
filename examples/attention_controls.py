"""Does attention explain this model? Five tests of the literature, on real data.

    python examples/attention_controls.py
    python examples/attention_controls.py --model MODEL --texts dev.tsv --limit 64 --train train.tsv
    python examples/attention_controls.py --model MODEL --texts dev.tsv --limit 64 --seeds SEED_1 SEED_2

How far attention agrees with gradients and with leaving tokens out; what permuted and uniform attention do to the
prediction; how far attention can be from the model's own while the prediction stays; and, beside that, how far apart
the attention of models trained from other seeds is. For each, it writes a table (Markdown and CSV) and figures.

Other seeds are folders of models that were trained alike (``--seeds``), or models that this script trains: MODEL with a
new classification head and new last layers, fine-tuned on some of the training sentences. They are kept in ``--out``.
Texts are files of ``sentence<TAB>label``; without arguments, the shipped model explains made-up reviews.
"""

from __future__ import annotations

import argparse
import random
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from helpers.reviews import made_up_reviews, read_sentences
from helpers.small_models import TEXT_MODEL
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, set_seed
from transformers.utils.logging import disable_progress_bar

from captum_attn.controls import (
    ControlResult,
    Counterfactuals,
    SeedVariance,
    attention_correlation,
    counterfactual_attention,
    permuted_attention,
    seed_variance,
    uniform_attention,
)

BATCH_SIZE = 32
TRAINING_BATCH = 16


def main() -> None:
    disable_progress_bar()
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    model, tokenizer = load(options.model), AutoTokenizer.from_pretrained(options.model)
    texts, labels = sentences(options.texts, options.limit, model, tokenizer)
    seeds = {str(folder): load(folder) for folder in options.seeds or trained_seeds(options, tokenizer)}
    print(f"{len(texts)} texts, {len(seeds)} seeds")
    for name, seed in seeds.items():
        print(f"{name}: accuracy {accuracy(seed, tokenizer, texts, labels):.3f}")

    given: dict[str, Any] = {"tokenizer": tokenizer}
    found: dict[str, ControlResult] = {
        "correlation": attention_correlation(model, texts, **given),
        "permuted": permuted_attention(model, texts, permutations=options.permutations, **given),
        "uniform": uniform_attention(model, texts, labels=labels, **given),
    }
    counterfactual = counterfactual_attention(model, texts, steps=options.steps, **given)
    seeds_apart = seed_variance(seeds, texts, **given)
    found |= {"counterfactual": counterfactual, "seeds": seeds_apart}
    report = [written(name, result, options.out) for name, result in found.items()]
    report.append(compared(counterfactual, seeds_apart, options.out))
    if not options.seeds:
        report.append(
            f"These seeds share all starting weights but those of heads and the last {options.new_layers} layers, and "
            "were trained for a short time: a weak control, which favours the adversary.\n"
        )
    if options.by_layer:
        report.append(layer_by_layer(model, texts, options))
    (options.out / "attention_controls.md").write_text("\n".join(report), encoding="utf-8")
    print("\n".join(report))
    print(f"Wrote {options.out / 'attention_controls.md'}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=TEXT_MODEL, help="folder of a classifier (default: the shipped)")
    parser.add_argument("--texts", type=Path, help="sentences to explain (default: made-up reviews)")
    parser.add_argument("--limit", type=int, default=24, help="how many (default: %(default)s)")
    parser.add_argument("--permutations", type=int, default=10, help="of attention (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="of the counterfactual search (default: %(default)s)")
    parser.add_argument("--by-layer", action="store_true", help="search each layer by itself, too")
    parser.add_argument("--seeds", type=Path, nargs="+", help="folders of at least two models trained alike")
    parser.add_argument("--train", type=Path, help="training sentences for other seeds (default: made-up reviews)")
    parser.add_argument("--train-seeds", type=int, default=2, help="how many to train (default: %(default)s)")
    parser.add_argument("--train-steps", type=int, default=30, help="of AdamW (default: %(default)s)")
    parser.add_argument(
        "--new-layers", type=int, default=1, help="that start anew, from the last (default: %(default)s)"
    )
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="of AdamW (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/attention_controls"), help="default: %(default)s")
    options = parser.parse_args()
    for path in filter(None, (options.model, options.texts, options.train, *(options.seeds or ()))):
        if not path.exists():
            parser.error(f"there is no {path}")
    if len(options.seeds or range(options.train_seeds)) < 2:
        parser.error("at least two seeds are needed")
    return options


def load(folder: Path) -> PreTrainedModel:
    """The classifier in a folder, in float32."""
    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def sentences(
    path: Path | None, limit: int | None, model: PreTrainedModel, tokenizer: Any
) -> tuple[list[str], list[int]]:
    """Sentences and their labels; of made-up reviews, which nobody labelled, the model's own predictions."""
    if path is not None:
        texts, labels = read_sentences(path)
        return texts[:limit], labels.tolist()[:limit]
    made_up = made_up_reviews()[:limit]
    with torch.no_grad():
        return made_up, model(**tokenizer(made_up, padding=True, return_tensors="pt")).logits.argmax(-1).tolist()


@torch.no_grad()
def accuracy(model: PreTrainedModel, tokenizer: Any, texts: list[str], labels: list[int]) -> float:
    """The share of texts whose label is predicted."""
    right = 0
    for start in range(0, len(texts), BATCH_SIZE):
        batch = tokenizer(texts[start : start + BATCH_SIZE], padding=True, truncation=True, return_tensors="pt")
        predicted = model(**batch).logits.argmax(-1).tolist()
        right += sum(map(int.__eq__, predicted, labels[start : start + BATCH_SIZE]))
    return right / len(texts)


def trained_seeds(options: argparse.Namespace, tokenizer: Any) -> list[Path]:
    """Folders of models trained alike from several seeds; those that are there already are not trained again."""
    texts, labels = sentences(options.train, None, load(options.model), tokenizer)
    settings = f"{options.model.name}-{options.new_layers}-new-{options.train_steps}-steps-{options.learning_rate:g}"
    settings += f"-{sha256(repr((texts, labels)).encode()).hexdigest()[:8]}"
    folders = [options.out / f"{settings}-seed-{seed}" for seed in range(options.train_seeds)]
    for seed, folder in enumerate(folders):
        if not (folder / "config.json").exists():
            train(options, tokenizer, texts, labels, seed).save_pretrained(folder)
    return folders


def train(
    options: argparse.Namespace, tokenizer: Any, texts: list[str], labels: list[int], seed: int
) -> PreTrainedModel:
    """Fine-tune the model after giving it a new classification head and new last layers."""
    set_seed(seed)
    model = load(options.model)
    count = model.config.num_hidden_layers
    layers = next(part for part in model.modules() if isinstance(part, torch.nn.ModuleList) and len(part) == count)
    heads = [part for name, part in model.named_children() if name != model.base_model_prefix]
    for part in [*heads, *layers[count - options.new_layers :]]:
        for module in part.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    model.get_input_embeddings().requires_grad_(False)
    optimizer = torch.optim.AdamW(
        filter(lambda w: w.requires_grad, model.parameters()), options.learning_rate, fused=True
    )
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, options.train_steps)
    model.train()
    for _ in tqdm(range(options.train_steps), desc=f"Seed {seed}", unit="step"):
        rows = random.sample(range(len(texts)), TRAINING_BATCH)
        batch = tokenizer([texts[row] for row in rows], padding=True, truncation=True, return_tensors="pt")
        loss = model(**batch, labels=torch.tensor([labels[row] for row in rows])).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def written(name: str, result: ControlResult, out: Path) -> str:
    """Write a control's frame, table and figure; the table as Markdown."""
    result.frame().to_csv(out / f"{name}.csv", index=False)
    result.plot().savefig(out / f"{name}.png", dpi=100)
    return f"# {name}\n\n{result.to_markdown()}"


def compared(counterfactual: Counterfactuals, seeds: SeedVariance, out: Path) -> str:
    """The counterfactual attention beside other seeds': figures, and a table as Markdown."""
    counterfactual.plot(seeds).savefig(out / "counterfactual.png", dpi=100)
    counterfactual.plot_example(0).savefig(out / "counterfactual-example.png", dpi=100)
    lines = [
        "# counterfactual attention beside other seeds",
        "",
        "| layer | counterfactual | other seeds | difference | farther than any pair of seeds |",
        "|---|--:|--:|--:|--:|",
    ]
    for row in counterfactual.compare(seeds).itertuples():
        difference = f"{row.difference:.3f} ± {row.standard_error:.3f}"
        lines.append(f"| {row.layer} | {row.counterfactual:.3f} | {row.seeds:.3f} | {difference} | {row.farther:.0%} |")
    return "\n".join(lines) + "\n"


def layer_by_layer(model: PreTrainedModel, texts: list[str], options: argparse.Namespace) -> str:
    """Counterfactual attention in one layer at a time, as a Markdown table."""
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    lines = ["# counterfactual attention in single layers", "", "| layer | divergence | found |", "|---|--:|--:|"]
    for layer in range(model.config.num_hidden_layers):
        result = counterfactual_attention(model, texts, tokenizer=tokenizer, layers=[layer], steps=options.steps)
        table = result.table().query("layer == 'all' and measure == 'divergence'").iloc[0]
        divergence = f"{table['mean']:.3f} ± {table.standard_error:.3f}"
        lines.append(f"| {layer} | {divergence} | {result.share_found:.1%} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

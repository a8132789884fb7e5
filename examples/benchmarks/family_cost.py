"""What every explanation of the family costs, in units of a forward and a backward pass, and how the slow ones grow.

    python examples/benchmarks/family_cost.py
    python examples/benchmarks/family_cost.py --model MODEL --batch 32 --length 64

A text classifier, the shipped one or that in a folder, runs on random ids. The unit is a forward and a backward pass to
the embeddings, with fused attention and frozen weights. Methods take turns within one process; a ratio is the median of
the rounds' ratios. Attention flow, generalized attention flow and integrated attention take longer: they are timed on
one text of each of ``--lengths``. Then an encoder of the same dimensions, with random weights and room for ``--long``
tokens, is explained; peak memory is what one call takes on top of the model, each in a process of its own.

Writes ``family_cost.md``. Runs on Linux and macOS.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from attribution_cost import device_name, reset_resident_peak, resident_peak
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.utils.logging import disable_progress_bar

import captum_attn

UNIT = "forward + backward"
FORWARD = "forward"
FAST = (
    "RawAttention",
    "AttentionRollout",
    "NormAttention",
    "NormAttention(residual=True)",
    "GradSAM",
    "GenericRelevance",
    "GradientAttentionRollout",
    "ShapleyAttention",
    "ShapleyGradAttention",
)
SLOW = (
    "AttentionFlow",
    "GeneralizedAttentionFlow(information='attention')",
    "GeneralizedAttentionFlow",
    "IntegratedAttention",
)
LONG = (
    "RawAttention",
    "AttentionRollout",
    "NormAttention",
    "GradSAM",
    "GenericRelevance",
    "GradientAttentionRollout",
    "ShapleyGradAttention",
)
TARGET = 1
SHIPPED = Path(__file__).resolve().parents[1] / "models" / "bert-sst2"

Inputs = dict[str, Tensor]
Run = Callable[[], object]


def main() -> None:
    disable_progress_bar()
    options = arguments()
    torch.manual_seed(0)
    if options.measure:
        print(peak(options.measure, long_model(options), random_ids(options, 1, options.long)))
        return
    model = AutoModelForSequenceClassification.from_pretrained(options.model, dtype=torch.float32).eval()
    config = model.config
    lines = [
        "# Cost of the family",
        "",
        f"{device_name(torch.device('cpu'))}, {torch.get_num_threads()} threads; {config.num_hidden_layers} layers, "
        f"{config.hidden_size} wide, {config.num_attention_heads} heads; {options.rounds} rounds.",
        "",
        *fast_table(options, model),
        "",
        *slow_table(options, model),
        "",
        *long_table(options),
        "",
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "family_cost.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=SHIPPED, help="folder of a BERT classifier (default: shipped)")
    parser.add_argument("--batch", type=int, default=32, help="texts at a time (default: %(default)s)")
    parser.add_argument("--length", type=int, default=64, help="tokens of a text (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="default: %(default)s")
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 32, 64, 128], help="default: %(default)s")
    parser.add_argument("--long", type=int, default=4096, help="tokens of the long text (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/family_cost"), help="default: %(default)s")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    return parser.parse_args()


def long_model(options: argparse.Namespace) -> torch.nn.Module:
    """An encoder of the same dimensions that reads long texts, with random weights."""
    config = AutoConfig.from_pretrained(options.model, max_position_embeddings=options.long)
    model: torch.nn.Module = AutoModelForSequenceClassification.from_config(config).eval()
    return model


def random_ids(options: argparse.Namespace, batch: int, length: int) -> Inputs:
    """``[CLS]``, words, ``[SEP]``, without padding."""
    vocabulary = AutoConfig.from_pretrained(options.model).vocab_size
    ids = torch.randint(vocabulary // 2, vocabulary, (batch, length))
    ids[:, 0], ids[:, -1] = 2, 3
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def built(name: str, model: torch.nn.Module) -> Any:
    """``Name`` or ``Name(argument=value)``, of the package."""
    kind, _, rest = name.partition("(")
    arguments = dict([rest[:-1].split("=")]) if rest else {}
    values = {
        key: value == "True" if value in ("True", "False") else value.strip("'") for key, value in arguments.items()
    }
    return getattr(captum_attn, kind)(model, **values)


def runs(names: tuple[str, ...], model: torch.nn.Module, inputs: Inputs) -> dict[str, Run]:
    """What is timed, by name."""
    methods = {name: partial(built(name, model).attribute_tokens, inputs, target=TARGET) for name in names}
    return {FORWARD: partial(forward, model, inputs), UNIT: partial(forward_and_backward, model, inputs), **methods}


def forward(model: torch.nn.Module, inputs: Inputs) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(**inputs).logits
    return logits


def forward_and_backward(model: Any, inputs: Inputs) -> Tensor:
    """The gradient of the target's logit with respect to the embeddings; weights take no part."""
    frozen = [parameter.requires_grad_(False) for parameter in model.parameters() if parameter.requires_grad]
    embeddings = model.get_input_embeddings()(inputs["input_ids"]).requires_grad_()
    logits = model(inputs_embeds=embeddings, attention_mask=inputs["attention_mask"]).logits
    gradient: Tensor
    (gradient,) = torch.autograd.grad(logits[:, TARGET].sum(), embeddings)
    for parameter in frozen:
        parameter.requires_grad_()
    return gradient


def timed(variants: Mapping[str, Run], rounds: int) -> dict[str, list[float]]:
    """Seconds of every variant in every round, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for count in tqdm(range(rounds + 1), desc="Rounds, with one to warm up", leave=False):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            if count:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def fast_table(options: argparse.Namespace, model: torch.nn.Module) -> list[str]:
    seconds = timed(runs(FAST, model, random_ids(options, options.batch, options.length)), options.rounds)
    lines = [f"## {options.batch} texts of {options.length} tokens", "", f"| | ms | {UNIT} = 1 |", "|---|--:|--:|"]
    for name, times in seconds.items():
        ratio = median(own / unit for own, unit in zip(times, seconds[UNIT], strict=True))
        lines.append(f"| {name} | {1e3 * median(times):.0f} | {ratio:.2f} |")
    return lines


def slow_table(options: argparse.Namespace, model: torch.nn.Module) -> list[str]:
    lines = [
        "## Slower ones: seconds for one text, by tokens",
        "",
        f"| | {' | '.join(map(str, options.lengths))} |",
        "|---|" + "--:|" * len(options.lengths),
    ]
    found = {
        length: timed(runs(SLOW, model, random_ids(options, 1, length)), max(1, options.rounds // 4))
        for length in options.lengths
    }
    for name in (UNIT, *SLOW):
        lines.append(f"| {name} | {' | '.join(f'{median(found[length][name]):.3f}' for length in options.lengths)} |")
    return lines


def long_table(options: argparse.Namespace) -> list[str]:
    names = (UNIT, *LONG)
    found = {name: measured_alone(options, name) for name in tqdm(names, desc=f"{options.long} tokens", leave=False)}
    lines = [f"## One text of {options.long:,} tokens", "", "| | s | peak MB | of the unit's |", "|---|--:|--:|--:|"]
    for name, (seconds, peak_bytes) in found.items():
        share = peak_bytes / found[UNIT][1]
        lines.append(f"| {name} | {seconds:.1f} | {peak_bytes / 1e6:,.0f} | {share:.2f} |")
    return lines


def measured_alone(options: argparse.Namespace, name: str) -> tuple[float, int]:
    """Seconds and peak bytes, in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", name]
    command += ["--model", str(options.model), "--long", str(options.long)]
    seconds, peak_bytes = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-2:]
    return float(seconds), int(peak_bytes)


def peak(name: str, model: torch.nn.Module, inputs: Inputs) -> str:
    names = () if name == UNIT else (name,)
    short = {key: part[:, :16] for key, part in inputs.items()}
    runs(names, model, short)[name]()
    run = runs(names, model, inputs)[name]
    reset_resident_peak()
    before, start = resident_peak(), time.perf_counter()
    run()
    return f"{time.perf_counter() - start} {resident_peak() - before}"


if __name__ == "__main__":
    main()

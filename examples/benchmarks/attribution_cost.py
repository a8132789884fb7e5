"""Time and peak memory of an explanation, beside what it is made of and what it replaces.

A classifier of BERT-base size, or a decoder of that size as Llama is built, with random weights runs on random ids, in
these variants:

- ``forward``: a forward pass without a graph, with fused attention (SDPA);
- ``forward + backward``: the same with frozen weights and a graph, and the gradient of the summed target logits with
  respect to the embeddings: the unit of all ratios;
- ``explanation``: ``ShapleyGradAttention(model, game=game).attribute_tokens(ids, target)``, for each game;
- ``AttnLRP``: ``AttnLRP(model).attribute_tokens(ids, target)``;
- ``eager attention``: the model with ``attn_implementation="eager"`` and ``output_attentions=True``, the gradient of
  the summed target logits with respect to all attentions, and the readout row of the mean of A * ReLU(G).

Variants take turns within one process, so that a drift of the machine hits all alike. A ratio is the median of the
ratios of the rounds. Peak memory is what one call takes on top of the model, its inputs and a tiny first call, each in
a process of its own: resident memory on a CPU, allocated memory on a GPU. A case that would not fit is left out and
shown as "—". The last section tells what the closed-form games alone cost.

Writes ``attribution_cost.md`` and ``attribution_cost.png``. Runs on Linux and macOS::

    python examples/benchmarks/attribution_cost.py
    python examples/benchmarks/attribution_cost.py --sizes 1x128,1x512,8x128,1x1536
    python examples/benchmarks/attribution_cost.py --sizes 1x128,8x512 --games cls,mutual --padding
    python examples/benchmarks/attribution_cost.py --sizes 1x1024 --games incoming --model llama
    python examples/benchmarks/attribution_cost.py --device cuda --dtype bfloat16 --max-tokens 131072
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.metadata
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedModel,
)

from captum_attn import AttentionAttribution, AttnLRP, ShapleyGradAttention
from captum_attn.functional import GAMES, Game, shapley_values

BATCHES = (1, 8, 32)
LENGTHS = (128, 256, 512, 1024, 1536, 2048, 4096)
FORWARD, UNIT, EXPLANATION, EAGER = "forward", "forward + backward", "explanation", "eager attention"
RELEVANCE = "AttnLRP"
MODELS = ("bert", "llama")
TARGET = 1
CLS, SEP, PAD, FIRST_WORD = 101, 102, 0, 1000
GAME_LENGTH = 512
SKIPPED = "—"
OUT_OF_MEMORY = 3  # exit status

Inputs = dict[str, Tensor]
Run = Callable[[Inputs], Tensor]


@dataclass(frozen=True)
class Case:
    """One shape of input: ``batch`` texts of ``length`` tokens."""

    batch: int
    length: int

    @classmethod
    def parse(cls, text: str) -> Case:
        """``8x512`` is a batch of 8 texts with 512 tokens each."""
        batch, length = map(int, text.split("x"))
        return cls(batch, length)

    def __str__(self) -> str:
        return f"{self.batch}x{self.length}"

    @property
    def tokens(self) -> int:
        return self.batch * self.length


@dataclass
class Measurement:
    """What was measured in one case, by variant.

    Attributes:
        seconds: the time of every round.
        bytes: peak memory.
    """

    case: Case
    seconds: dict[str, list[float]] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)

    def milliseconds(self, variant: str) -> float | None:
        return 1e3 * median(self.seconds[variant]) if variant in self.seconds else None

    def time_ratio(self, variant: str) -> float | None:
        """Median over the rounds of the time in units of that round's forward + backward."""
        if not {variant, UNIT} <= self.seconds.keys():
            return None
        return median(ours / unit for ours, unit in zip(self.seconds[variant], self.seconds[UNIT], strict=True))

    def megabytes(self, variant: str) -> float | None:
        return self.bytes[variant] / 1e6 if variant in self.bytes else None

    def memory_ratio(self, variant: str) -> float | None:
        """Peak memory in units of that of forward + backward."""
        return self.bytes[variant] / self.bytes[UNIT] if self.bytes.get(UNIT) and variant in self.bytes else None


def main() -> None:
    options = arguments()
    torch.manual_seed(0)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.measure_memory:
        try:
            print(measure_memory(options, options.measure_memory))
        except torch.OutOfMemoryError:
            sys.exit(OUT_OF_MEMORY)
        return
    model = random_model(options)
    measurements = [Measurement(case) for case in options.sizes]
    measure_all(options, model, measurements)
    report = markdown(options, measurements, games_cost(options, model))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "attribution_cost.md").write_text(report, encoding="utf-8")
    draw(measurements, variant_names(options.games), options.out / "attribution_cost.png")
    print(report)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=cases, help="such as 1x128,8x512; default: all up to --max-tokens")
    parser.add_argument(
        "--max-tokens", type=int, default=4096, help="most batch x N without --sizes (default: %(default)s)"
    )
    parser.add_argument("--games", type=games, default=list(GAMES), help=f"some of {','.join(GAMES)} (default: all)")
    parser.add_argument("--model", choices=MODELS, default="bert", help="default: %(default)s")
    parser.add_argument("--padding", action="store_true", help="half of each batch has half of the length")
    parser.add_argument("--repeats", type=int, default=5, help="least number of rounds (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=12.0, help="more rounds up to that time (default: %(default)s)"
    )
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu or cuda (default: cpu)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: float32")
    parser.add_argument("--threads", type=int, help="of PyTorch on the CPU; default: PyTorch's choice")
    parser.add_argument("--out", type=Path, default=Path("out/attribution_cost"), help="default: %(default)s")
    parser.add_argument("--measure-memory", metavar="VARIANT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    every = [Case(batch, length) for batch in BATCHES for length in LENGTHS]
    options.sizes = options.sizes or [case for case in every if case.tokens <= options.max_tokens]
    if not options.sizes:
        parser.error(f"--max-tokens {options.max_tokens} leaves out every case, expected at least {LENGTHS[0]}")
    return options


def cases(text: str) -> list[Case]:
    return [Case.parse(part) for part in text.split(",")]


def games(text: str) -> list[Game]:
    unknown = set(text.split(",")) - set(GAMES)
    if unknown:
        raise argparse.ArgumentTypeError(
            f"unknown games {', '.join(sorted(unknown))}: expected some of {','.join(GAMES)}"
        )
    return [game for game in GAMES if game in text.split(",")]


# What is measured


def random_model(options: argparse.Namespace) -> PreTrainedModel:
    """A classifier with random weights, for texts as long as the longest case."""
    longest = max(GAME_LENGTH, *(case.length for case in options.sizes))
    if options.model == "bert":
        bert = BertConfig(max_position_embeddings=longest, attn_implementation="sdpa")
        model: PreTrainedModel = BertForSequenceClassification(bert)
    else:
        size = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12}
        llama = LlamaConfig(**size, num_key_value_heads=4, max_position_embeddings=longest, pad_token_id=PAD)
        model = LlamaForSequenceClassification(llama)
    return model.eval().to(options.device, getattr(torch, options.dtype))


def twin(model: PreTrainedModel, trainable: bool) -> PreTrainedModel:
    """A copy of the model that shares its weights, with other settings."""
    weights: dict[int, object] = {id(p): nn.Parameter(p.detach(), trainable) for p in model.parameters()}
    return copy.deepcopy(model, weights)


def random_inputs(case: Case, options: argparse.Namespace) -> Inputs:
    """Ids (B, N) of ``[CLS] words [SEP]``, with an attention mask and padding if asked for."""
    ids = torch.randint(FIRST_WORD, BertConfig().vocab_size, (case.batch, case.length))
    ids[:, 0], ids[:, -1] = CLS, SEP
    if not options.padding:
        return {"input_ids": ids.to(options.device)}
    short, middle = (case.batch + 1) // 2, case.length // 2
    ids[:short, middle - 1], ids[:short, middle:] = SEP, PAD
    return {"input_ids": ids.to(options.device), "attention_mask": (ids != PAD).long().to(options.device)}


def variant_names(chosen: Sequence[Game]) -> list[str]:
    return [FORWARD, UNIT, *map(explanation_name, chosen), RELEVANCE, EAGER]


def explanation_name(game: Game) -> str:
    return f"{EXPLANATION} ({game})"


def variants(model: PreTrainedModel, chosen: Sequence[Game]) -> dict[str, Run]:
    """The variants by name. Explanation and eager attention get weights as a user has them, not frozen."""
    frozen, eager = twin(model, trainable=False), twin(model, trainable=True)
    eager.set_attn_implementation("eager")
    explanations = (partial(explanation, ShapleyGradAttention(model, game=game)) for game in chosen)
    runs: list[Run] = [
        partial(forward, model),
        partial(forward_backward, frozen),
        *explanations,
        partial(explanation, AttnLRP(model)),
        partial(eager_attention, eager),
    ]
    return dict(zip(variant_names(chosen), runs, strict=True))


@torch.no_grad()
def forward(model: PreTrainedModel, inputs: Inputs) -> Tensor:
    logits: Tensor = model(**inputs).logits
    return logits


def forward_backward(model: PreTrainedModel, inputs: Inputs) -> Tensor:
    words = model.get_input_embeddings()(inputs["input_ids"]).requires_grad_()
    logits = model(inputs_embeds=words, attention_mask=inputs.get("attention_mask")).logits
    (gradient,) = torch.autograd.grad(logits[:, TARGET].sum(), (words,))
    return gradient


def explanation(explainer: AttentionAttribution, inputs: Inputs) -> Tensor:
    return explainer.attribute_tokens(inputs, target=TARGET).values


def eager_attention(model: PreTrainedModel, inputs: Inputs) -> Tensor:
    output = model(**inputs, output_attentions=True)
    gradients = torch.autograd.grad(output.logits[:, TARGET].sum(), output.attentions)
    rows = [(a[:, :, 0] * g[:, :, 0].relu()).mean(1) for a, g in zip(output.attentions, gradients, strict=True)]
    return torch.stack(rows).mean(0).detach()


# How it is measured


def measure_all(options: argparse.Namespace, model: PreTrainedModel, measurements: Sequence[Measurement]) -> None:
    """Fill in memory first, so that a variant that does not fit is not timed either."""
    runs = variants(model, options.games)
    with tqdm(total=sum(m.case.tokens for m in measurements), unit="token", smoothing=0) as bar:
        for measurement in measurements:
            case, inputs = measurement.case, random_inputs(measurement.case, options)
            for name in runs:
                bar.set_postfix_str(f"{case} memory of {name}")
                peak = peak_in_own_process(options, case, name)
                if peak is not None:
                    measurement.bytes[name] = peak
            bar.set_postfix_str(f"{case} time")
            fitting = {name: partial(runs[name], inputs) for name in measurement.bytes}
            measurement.seconds = interleaved(fitting, options)
            if options.device.type == "cuda":
                torch.cuda.empty_cache()
            bar.update(case.tokens)


def interleaved(runs: Mapping[str, Callable[[], object]], options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of every run in every round, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    start, rounds = time.perf_counter(), 0
    while rounds < options.repeats or time.perf_counter() - start < options.seconds:
        for name, run in runs.items():
            seconds[name].append(seconds_of(run, options.device))
        rounds += 1
    return seconds


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    synchronise(device)
    start = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_in_own_process(options: argparse.Namespace, case: Case, variant: str) -> int | None:
    """Peak bytes of a variant; None if it would not fit, or the system ended it because it did not."""
    if variant == EAGER and eager_bytes(case, options) > 0.9 * free_bytes(options.device):
        return None
    command = [sys.executable, str(Path(__file__).resolve()), "--measure-memory", variant, "--sizes", str(case)]
    command += ["--games", ",".join(options.games), "--dtype", options.dtype, "--model", options.model]
    command += ["--device", str(options.device), "--threads", str(torch.get_num_threads())]
    command += ["--padding"] * options.padding
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if finished.returncode == OUT_OF_MEMORY or finished.returncode < 0:
        return None
    finished.check_returncode()
    return int(finished.stdout)


def measure_memory(options: argparse.Namespace, variant: str) -> int:
    """Peak bytes of one call on top of the model and its inputs, in this fresh process."""
    (case,) = options.sizes
    run = variants(random_model(options), options.games)[variant]
    inputs = random_inputs(case, options)
    run(random_inputs(Case(1, 16), options))
    if options.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(options.device)
        before = torch.cuda.memory_allocated(options.device)
        run(inputs)
        return torch.cuda.max_memory_allocated(options.device) - before
    reset_resident_peak()
    before = resident_peak()
    run(inputs)
    return resident_peak() - before


def reset_resident_peak() -> None:
    """Let the peak be what is resident now, on Linux. Elsewhere it stays the peak since the start, near to it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def resident_peak() -> int:
    """The largest resident memory in bytes, since the last reset."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(found(r"VmHWM:\s+(\d+)", status.read_text()))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def eager_bytes(case: Case, options: argparse.Namespace) -> int:
    """About what eager attention takes: A and G of all layers, and a few of one layer on the way."""
    config = BertConfig()
    matrices = (2 * config.num_hidden_layers + 3) * config.num_attention_heads * case.length
    states = config.num_hidden_layers * (6 * config.hidden_size + 2 * config.intermediate_size)
    return int(case.tokens * (matrices + states) * getattr(torch, options.dtype).itemsize)


def free_bytes(device: torch.device) -> int:
    """What the next process can take without swapping, weights left out of account."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        return 1024 * int(found(r"MemAvailable:\s+(\d+)", meminfo.read_text()))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def found(pattern: str, text: str) -> str:
    """The first group of a pattern, empty if it is nowhere."""
    match = re.search(pattern, text)
    return match[1] if match else ""


def games_cost(options: argparse.Namespace, model: PreTrainedModel) -> dict[str, list[float]]:
    """Seconds of the closed forms on one text's influence matrix, and of a forward pass on that text."""
    inputs = random_inputs(Case(1, GAME_LENGTH), argparse.Namespace(device=options.device, padding=False))
    influence = torch.rand(1, GAME_LENGTH, GAME_LENGTH, device=options.device)
    players = inputs["input_ids"] >= FIRST_WORD
    runs: dict[str, Callable[[], object]] = {game: partial(shapley_values, influence, players, game) for game in GAMES}
    return interleaved({FORWARD: partial(forward, model, inputs), **runs}, options)


# What is shown


def markdown(
    options: argparse.Namespace, measurements: Sequence[Measurement], game_seconds: dict[str, list[float]]
) -> str:
    names = variant_names(options.games)
    return "\n".join(
        [
            "# Cost of an explanation",
            "",
            *header(options),
            "",
            "## Time",
            "",
            f"Milliseconds, medians; in brackets the multiple of {UNIT}, the median of the rounds' ratios.",
            "",
            *table(measurements, names, Measurement.milliseconds, Measurement.time_ratio),
            "",
            "## Peak memory",
            "",
            f"Megabytes on top of the model; in brackets the multiple of {UNIT}.",
            "",
            *table(measurements, names, Measurement.megabytes, Measurement.memory_ratio),
            "",
            "## Games",
            "",
            f"The closed form alone, on one ({GAME_LENGTH}, {GAME_LENGTH}) matrix with {GAME_LENGTH - 2} players, in "
            f"percent of a {FORWARD} of {GAME_LENGTH} tokens ({1e3 * median(game_seconds[FORWARD]):.1f} ms).",
            "",
            *games_table(game_seconds),
            "",
        ]
    )


def header(options: argparse.Namespace) -> list[str]:
    versions = [f"Python {platform.python_version()}"]
    versions += [f"{package} {version(package)}" for package in ("captum-attn", "torch", "transformers")]
    inputs = "half of each batch padded by half" if options.padding else "no padding"
    return [
        f"- {', '.join(versions)}",
        f"- {device_name(options.device)}, threads: {torch.get_num_threads()}, {options.dtype}",
        f"- {options.model}, BERT-base dimensions, random weights, {inputs}; at least {options.repeats} rounds",
        f"- {date.today().isoformat()}",
    ]


def version(package: str) -> str:
    return next((installed.version for installed in importlib.metadata.distributions(name=package)), "from source")


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    name = found(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else platform.processor()
    return name or platform.machine()


def table(
    measurements: Iterable[Measurement],
    names: Sequence[str],
    value: Callable[[Measurement, str], float | None],
    ratio: Callable[[Measurement, str], float | None],
) -> list[str]:
    """A Markdown table of a quantity and its ratio, one row a case and one column a variant."""
    rows = [["batch", "N", *names], ["--:"] * (2 + len(names))]
    for m in measurements:
        rows.append([str(m.case.batch), str(m.case.length), *(cell(value(m, name), ratio(m, name)) for name in names)])
    return [f"| {' | '.join(row)} |" for row in rows]


def cell(value: float | None, ratio: float | None) -> str:
    if value is None:
        return SKIPPED
    return f"{value:,.{0 if value >= 100 else 1}f} ({SKIPPED if ratio is None else f'{ratio:.2f}'})"


def games_table(seconds: dict[str, list[float]]) -> list[str]:
    rows = [["game", "ms", "% of forward"], ["---", "--:", "--:"]]
    for game in GAMES:
        percent = 100 * median(ours / unit for ours, unit in zip(seconds[game], seconds[FORWARD], strict=True))
        rows.append([f"`{game}`", f"{1e3 * median(seconds[game]):.3f}", f"{percent:.2f}"])
    return [f"| {' | '.join(row)} |" for row in rows]


def draw(measurements: Sequence[Measurement], names: Sequence[str], path: Path) -> None:
    """Two panels, time and memory over N, in units of forward + backward."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    draw_ratios(panels[0], "Time", measurements, names, Measurement.time_ratio)
    draw_ratios(panels[1], "Peak memory", measurements, names, Measurement.memory_ratio)
    handles = [Line2D([], [], color=colour(names, name), label=name) for name in names]
    for batch in batches(measurements):
        style = line_style(measurements, batch)
        handles.append(Line2D([], [], color="0.3", label=f"batch of {batch}", **style))
    figure.legend(handles=handles, loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=150)


def draw_ratios(
    axes: Axes,
    title: str,
    measurements: Sequence[Measurement],
    names: Sequence[str],
    ratio: Callable[[Measurement, str], float | None],
) -> None:
    for name in names:
        for batch in batches(measurements):
            points = [(m.case.length, ratio(m, name)) for m in measurements if m.case.batch == batch]
            shown = sorted((length, value) for length, value in points if value is not None)
            lengths, values = [length for length, _ in shown], [value for _, value in shown]
            axes.plot(lengths, values, color=colour(names, name), **line_style(measurements, batch))
    axes.set_title(title)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sorted({m.case.length for m in measurements})))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.tick_params(axis="x", labelsize="small")
    axes.set_xlabel("tokens N")
    axes.set_ylabel(f"multiple of {UNIT}")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def batches(measurements: Iterable[Measurement]) -> list[int]:
    return sorted({m.case.batch for m in measurements})


def colour(names: Sequence[str], name: str) -> str:
    return "0.6" if name == UNIT else f"C{names.index(name)}"


def line_style(measurements: Iterable[Measurement], batch: int) -> dict[str, Any]:
    place = batches(measurements).index(batch)
    return {"linestyle": ("-", "--", ":", "-.")[place % 4], "marker": "osd^"[place % 4], "markersize": 4}


if __name__ == "__main__":
    main()

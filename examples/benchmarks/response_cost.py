"""What does it cost to explain a response? One pass on the prompt's cache, a whole pass, and Captum's wrapper.

    python examples/benchmarks/response_cost.py --model DECODER
    python examples/benchmarks/response_cost.py --model DECODER --lengths 8000 --responses 64 --ways cached

DECODER is the folder of a language model. For prompts of ``--lengths`` tokens and responses of ``--responses``, drawn
at random: seconds (the median of ``--repeats`` after one more) and the peak of memory beyond that of the model alone,
each way in a process of its own, one after the other; NaN where there is not enough memory, or the process is killed.

- *cached*: the signed attention of the response's rows under the rules of AttnLRP, by one pass on cached keys;
- *map*: the same for each of the response's T tokens; ``map / (T b)`` is its backward passes against T of their sum;
- *whole*: the same values, up to a factor, from a pass over the whole sequence;
- *Captum*: ``LLMGradientAttribution`` of ``LayerGradientXActivation``, T forward and backward passes over the whole
  sequence. It is measured on two of the response's tokens, and counted T / 2 times. (Integrated Gradients, the other
  one that it wraps, takes 50 times as many.)
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pandas as pd
import torch
from captum.attr import LayerGradientXActivation, LLMGradientAttribution, TextTokenInput
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from captum_attn import ShapleyGradAttention
from captum_attn.core import InfluenceObserver, Responses, response_pass
from captum_attn.core.propagation import ATTNLRP
from captum_attn.core.readout import KnownRows
from captum_attn.functional import response_scores
from captum_attn.generation.response_rows import ResponseRows, WholeSequence

WAYS = ("cached", "map", "whole", "Captum")


class Cost(NamedTuple):
    """Seconds, mebibytes beyond the model's, and of the map how much more its backward passes took than T of one."""

    seconds: float
    memory: float
    ratio: float | None = None


def main() -> None:
    options = arguments()
    rows = []
    for length in options.lengths:
        for count in options.responses:
            row: dict[str, Any] = {"N": length, "T": count}
            for way in options.ways:
                cost = measured_alone(way, options.model, length, count, options.repeats)
                row[f"{way}, s"], row[f"{way}, MiB"] = round(cost.seconds, 3), round(cost.memory, 0)
                if cost.ratio is not None:
                    row["map / (T b)"] = round(cost.ratio, 2)
            rows.append(row)
            print(pd.DataFrame([row]).to_string(index=False), flush=True)
    frame = pd.DataFrame(rows)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(options.out, index=False)
    for way in options.ways:
        if way != "cached" and "cached" in options.ways:
            frame[f"{way} / cached"] = (frame[f"{way}, s"] / frame["cached, s"]).round(1)
    print(frame.to_string(index=False))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a causal language model")
    parser.add_argument("--lengths", type=int, nargs="+", default=[245, 1000, 4000], help="default: %(default)s")
    parser.add_argument("--responses", type=int, nargs="+", default=[16, 64], help="default: %(default)s")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="default: all")
    parser.add_argument("--repeats", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("out/response_cost.csv"), help="default: %(default)s")
    return parser.parse_args()


def measured_alone(way: str, folder: Path, length: int, count: int, repeats: int) -> Cost:
    """:func:`measured` in a process with a peak of memory of its own; NaN without enough memory, or if it is killed."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(measured, way, folder, length, count, repeats).result()
        except BrokenProcessPool as error:
            print(f"{way}, {length} and {count} tokens: {error}")
        except RuntimeError as error:
            if "allocate memory" not in str(error):
                raise
            print(f"{way}, {length} and {count} tokens: {error}")
    return Cost(math.nan, math.nan)


def measured(way: str, folder: Path, length: int, count: int, repeats: int) -> Cost:
    """The cost of one way, in this process."""
    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    ids = torch.randint(len(tokenizer) // 2, (1, length + count))
    responses = Responses(ids, torch.ones_like(ids, dtype=torch.bool), count)
    with torch.no_grad():
        model(ids[:, :8])
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading
    before = memory_now("VmRSS")
    calls: dict[str, Callable[[], Any]] = {
        "cached": rows_of(model, responses).of_response,
        "map": partial(rows_of(model, responses).of_parts, torch.eye(count)),
        "whole": partial(whole_of(model, tokenizer, responses).of_parts, torch.ones(1, count)),
        "Captum": partial(captums, model, tokenizer, ids[:, :length], ids[0, length : length + 2]),
    }
    seconds = timed(calls[way], repeats)
    memory = memory_now("VmHWM") - before
    if way == "Captum":
        return Cost(seconds * count / 2, memory)
    return Cost(seconds, memory, map_ratio(model, responses) if way == "map" else None)


def map_ratio(model: Any, responses: Responses) -> float:
    """What backward passes for each of T tokens take, over T of their sum; all from one forward pass."""
    with response_pass(model, responses, propagation=ATTNLRP) as run:
        scores = response_scores(run.logits[0], responses.predicted[0])
        took = []
        for parts in ([scores.sum()] * len(scores), scores):
            start = time.perf_counter()
            for part in parts:
                observer = InfluenceObserver(run.watched(), "signed", KnownRows(torch.ones(1, len(scores))))
                run.show([observer], part, retain_graph=True)
            took.append(time.perf_counter() - start)
    return took[1] / took[0]


def rows_of(model: Any, responses: Responses) -> ResponseRows:
    return ResponseRows(model, responses)


def whole_of(model: Any, tokenizer: Any, responses: Responses) -> WholeSequence:
    method = partial(ShapleyGradAttention, game="cls", propagation="attnlrp")
    return WholeSequence(model, tokenizer, responses, "log_odds", method)


def captums(model: Any, tokenizer: Any, prompt: Tensor, target: Tensor) -> Tensor:
    method = LLMGradientAttribution(LayerGradientXActivation(model, model.get_input_embeddings()), tokenizer)
    given = TextTokenInput("a", tokenizer)
    given.inp_tensor = given.itp_tensor = prompt
    given.values = [""] * prompt.shape[1]
    values: Tensor = method.attribute(given, target=target).seq_attr
    return values


def timed(call: Callable[[], Any], repeats: int) -> float:
    """The median of some calls, after one more."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return median(times)


def memory_now(name: str) -> float:
    """What Linux says of this process, in MiB: ``VmRSS``, or ``VmHWM``, its peak."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return float(line.split()[1]) / 1024


if __name__ == "__main__":
    main()

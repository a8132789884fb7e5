"""Which tokens of the prompt made a language model sure of its answer? Explanations by replacement of tokens.

    python examples/benchmarks/answer_tokens.py --model DECODER --data DATA
    python examples/benchmarks/answer_tokens.py --model DECODER --made 10 --kinds plain distractor

DECODER is the folder of a chat model, cases are as for ``answer_sources.py``. For each way to explain:
comprehensiveness and sufficiency, how much surer the model is (by the logistic function of the mean of the answer's
tokens' log-odds) of its answer to the whole prompt than without the 1, 5, 10, 20 and 50 % of tokens of what was written
to it that rank highest, or with these alone; the others become ``--replacement``.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from captum.attr import LayerGradientXActivation
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.planted_cases import add_arguments, answer_of, asked_for, parsed

from captum_attn import AttentionRollout, AttnLRP, GenerationAttention, ShapleyGradAttention
from captum_attn.generation import ResponseClassifier, response_inputs
from captum_attn.metrics import evaluate


def main() -> None:
    disable_progress_bar()
    options = arguments()
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    cases = asked_for(options)
    prompts: list[Any] = [case.messages for case in cases]
    responses = [answer_of(case, model, tokenizer, options.tokens) for case in cases]
    classifier = ResponseClassifier(model)
    found = evaluate(
        classifier,
        response_inputs(prompts, responses, tokenizer),
        methods(classifier, model, tokenizer),
        tokenizer=tokenizer,
        metrics=["comprehensiveness", "sufficiency"],
        replacement=tokenizer(options.replacement, add_special_tokens=False)["input_ids"][0],
        batch_size=4,
        file=options.out,
    )
    print(found.to_markdown())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, kinds=("plain", "distractor"))
    parser.add_argument("--replacement", default=" the", help="a token that says nothing (default: %(default)r)")
    parser.add_argument("--out", type=Path, help="a file of JSON lines, from which a run goes on (default: none)")
    return parsed(parser)


def methods(classifier: ResponseClassifier, model: Any, tokenizer: Any) -> dict[str, Any]:
    """Ways to explain, by name."""
    one = partial(GenerationAttention, model, tokenizer)
    inner = LayerGradientXActivation(classifier, model.get_input_embeddings())

    def input_x_gradient(batch: dict[str, Tensor], targets: Tensor) -> Tensor:
        given = (batch["response_ids"], batch["attention_mask"])
        values: Tensor = inner.attribute(batch["input_ids"], target=targets, additional_forward_args=given)
        return values.detach().sum(-1)

    return {
        "one cached pass, signed, attnlrp": one().of_batch,
        "one cached pass, rectified, attnlrp": one(variant="rectified").of_batch,
        "one cached pass, signed, gradient": one(propagation="gradient").of_batch,
        "raw attention": one(variant="attention").of_batch,
        "AttnLRP": AttnLRP(classifier),
        "incoming, all rows": ShapleyGradAttention(classifier, game="incoming"),
        "rollout": AttentionRollout(classifier),
        "Captum Input × Gradient": input_x_gradient,
    }


if __name__ == "__main__":
    main()

"""Train the small decoder in ``models/llama-facts`` on made-up stories, from random weights.

It answers a question about the paragraphs of its prompt with the sentence that says it, which it has to look up there:
every story puts other names and answers together. Those of the test come up in training only as tokens drawn at random.
It takes torch 2.9 or newer, for its Muon.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    set_seed,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.small_models import ANSWER_MODEL
from helpers.stories import FACTS, FILLERS, NAMES, SEEN, TEST_PEOPLE, TEST_PLACES, THINGS, WORDS, Story, made_story

VOCABULARY = 2048
BATCH_SIZE = 32
RENAMED = 0.3  # so many stories have random tokens instead of listed names and answers
PARAGRAPHS = 10  # at most
CASES = 500  # of the test, of each kind
KINDS = ("plain", "distractor", "paraphrase", "two-hop")
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]


class Batch(NamedTuple):
    """Tokens of stories, padded: (stories, tokens), and which each of them sees: (stories, 1, tokens, tokens).

    Questions stand one after another and see the text, but not each other, as if each were the only one.
    """

    ids: Tensor
    positions: Tensor
    written: Tensor  # which are the model's to write
    seen: Tensor


def trained_tokenizer(draw: random.Random) -> PreTrainedTokenizerBase:
    """Learn a byte-level BPE vocabulary in which a word is the same at the beginning of a line and after a space."""
    tokenizer = Tokenizer(models.BPE())
    lines = pre_tokenizers.Split(Regex("\n+"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([lines, pre_tokenizers.ByteLevel(add_prefix_space=True)])
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    stories = [made_story(draw, PARAGRAPHS) for _ in range(2000)]
    texts = [part for story in stories for part in story.parts()]
    lists = [*NAMES, *WORDS, TEST_PEOPLE, TEST_PLACES, THINGS, *(fact[3] for fact in FACTS.values())]
    tokenizer.train_from_iterator([*texts, *FILLERS * 100, *500 * [" ".join(lists)]], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL[0],
        eos_token=SPECIAL[1],
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=1024,
    )


def random_model(tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """Build the untrained decoder."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=64,
        intermediate_size=256,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.0625,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    for layer in model.model.layers:  # each begins with what it reads, so that tokens are told apart from the start
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    return model


def batch_of(stories: list[Story], tokenizer: PreTrainedTokenizerBase) -> Batch:
    """The tokens of stories."""
    ids, positions, parts = [], [], []
    for story in stories:
        tokens: list[list[int]] = tokenizer(story.parts())["input_ids"]
        starts = [0] + [len(tokens[0]) + (0 if i % 2 else len(tokens[i - 1])) for i in range(1, len(tokens))]
        ids.append(torch.tensor([one for part in tokens for one in part]))
        positions.append(
            torch.cat([start + torch.arange(len(part)) for start, part in zip(starts, tokens, strict=True)])
        )
        parts.append(torch.tensor([number for number, part in enumerate(tokens) for _ in part]))
    part = pad_sequence(parts, True, -1)
    question = (part + 1) // 2
    seen = (question[:, :, None] == question[:, None]) | (question[:, None] == 0)
    written = (part > 0) & (part % 2 == 0)
    return Batch(pad_sequence(ids, True), pad_sequence(positions, True), written, seen.tril()[:, None])


def logits_of(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    """What the model says of the tokens to write: (tokens, vocabulary)."""
    seen, written = batch.seen[:, :, :-1, :-1], batch.written[:, 1:]
    read = model.model(batch.ids[:, :-1], attention_mask=seen, position_ids=batch.positions[:, :-1], use_cache=False)
    logits: Tensor = model.lm_head(read.last_hidden_state[written])
    return logits


def rename(ids: Tensor, listed: list[int], vocabulary: int) -> None:
    """Put random tokens for the listed ones in some of the stories, so that any word is looked up and copied."""
    for row in (row for row in ids if torch.rand(()) < RENAMED):
        others = torch.arange(vocabulary)
        others[listed] = torch.randint(len(SPECIAL), vocabulary, (len(listed),))
        row.copy_(others[row])


def training_batches(draw: random.Random, steps: int) -> Iterator[list[Story]]:
    """New stories for every step: short ones first, and in each batch stories of like length."""
    for step in range(0, steps, 16):
        most = 1 if step < 0.08 * steps else 4 if step < 0.55 * steps else 7 if step < 0.7 * steps else PARAGRAPHS
        stories = [made_story(draw, draw.randint(1, most)) for _ in range(16 * BATCH_SIZE)]
        stories.sort(key=lambda story: len(str(story)))
        batches = [stories[start : start + BATCH_SIZE] for start in range(0, len(stories), BATCH_SIZE)]
        yield from draw.sample(batches, min(16, steps - step))


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, steps: int, draw: random.Random) -> None:
    """Fit the model to the answers to new stories in every step."""
    listed = [one for [one] in tokenizer([*NAMES, *WORDS, *SEEN])["input_ids"]]
    matrices = [weight for name, weight in model.model.layers.named_parameters() if weight.ndim == 2]
    others = [weight for name, weight in model.named_parameters() if weight.ndim == 1 or "embed" in name]
    optimizers = [torch.optim.Muon(matrices, lr=0.012, weight_decay=0.0), torch.optim.AdamW(others, lr=2e-3)]
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(one, lambda step: min((step + 1) / 50, 1, 2.5 - 2.5 * step / steps))
        for one in optimizers
    ]
    model.train()
    with tqdm(training_batches(draw, steps), "steps", steps, mininterval=10) as progress:
        for stories in progress:
            batch = batch_of(stories, tokenizer)
            rename(batch.ids, listed, len(tokenizer))
            loss = cross_entropy(logits_of(model, batch), batch.ids[batch.written])
            model.zero_grad()
            loss.backward()
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()
            progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    model.eval()


@torch.no_grad()
def correct(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, stories: list[Story]) -> Tensor:
    """Whether each story's answer is what the model writes greedily, all of it and then its end: bool (stories,)."""
    right = []
    for start in range(0, len(stories), BATCH_SIZE):
        batch = batch_of(stories[start : start + BATCH_SIZE], tokenizer)
        as_written = logits_of(model, batch).argmax(-1) == batch.ids[batch.written]
        right += [bool(one.all()) for one in as_written.split(batch.written.sum(1).tolist())]
    return torch.tensor(right)


def main() -> None:
    """Train, save in float16, load again and print the share of right answers to held-out questions of each kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ANSWER_MODEL, help="folder to write the model to")
    parser.add_argument("--steps", type=int, default=1500, help="0: only test the model in the folder")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    if arguments.steps:
        set_seed(arguments.seed)
        draw = random.Random(arguments.seed)
        tokenizer = trained_tokenizer(draw)
        model = random_model(tokenizer)
        train(model, tokenizer, arguments.steps, draw)
        model.half().save_pretrained(arguments.out)  # half the size; it is loaded as float32 all the same
        model.config.dtype = torch.float32
        model.config.save_pretrained(arguments.out)
        tokenizer.save_pretrained(arguments.out)

    saved = AutoModelForCausalLM.from_pretrained(arguments.out, dtype=torch.float32)
    saved_tokenizer = AutoTokenizer.from_pretrained(arguments.out)
    for kind in KINDS:
        draw = random.Random(kind)
        stories = [made_story(draw, draw.randint(3, PARAGRAPHS), kind, test=True) for _ in range(CASES)]
        new = [made_story(draw, draw.randint(3, PARAGRAPHS), kind, new=1.0) for _ in range(CASES)]
        right, right_new = (correct(saved, saved_tokenizer, some).float().mean() for some in (stories, new))
        print(f"{kind}: {right:.3f}, where names are of several tokens {right_new:.3f}")


if __name__ == "__main__":
    main()

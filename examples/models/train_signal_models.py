"""Train the small models in ``models/wav2vec2-calls`` and ``models/videomae-digits`` on generated sounds and clips.

    python examples/models/train_signal_models.py sound
    python examples/models/train_signal_models.py video

Every step sees new ones. Some five minutes each on one core.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import (
    PreTrainedModel,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.moving_digits import DIGITS, FRAMES, SIZE, labelled_clips
from helpers.small_models import CLIP_MODEL, SOUND_MODEL
from helpers.tones import CALLS, RATE, labelled_sounds

BATCH_SIZE = 32
HELD_OUT, HELD_OUT_SEED = 1_000, 1_000_000
Draw = Callable[[int, int], tuple[Tensor, Tensor, Tensor]]


def random_listener() -> Wav2Vec2ForSequenceClassification:
    """An untrained model, with one token for every 20 ms."""
    config = Wav2Vec2Config(
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        conv_dim=(32, 48, 64, 64),
        conv_kernel=(10, 4, 4, 4),
        conv_stride=(5, 4, 4, 2),
        num_feat_extract_layers=4,
        feat_extract_norm="layer",
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=8,
        classifier_proj_size=64,
        layerdrop=0.0,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        feat_proj_dropout=0.0,
        apply_spec_augment=False,
        **named(CALLS),
    )
    return Wav2Vec2ForSequenceClassification(config)


def random_viewer() -> VideoMAEForVideoClassification:
    """An untrained model, with one token for every 8 x 8 pixels of two frames."""
    config = VideoMAEConfig(
        image_size=SIZE,
        patch_size=8,
        num_frames=FRAMES,
        num_channels=1,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        initializer_range=0.125,
        **named([str(digit) for digit in DIGITS]),
    )
    return VideoMAEForVideoClassification(config)


def named(classes: tuple[str, ...] | list[str]) -> dict[str, dict[int | str, str | int]]:
    """The classes' names, as configurations have them."""
    return {"id2label": dict(enumerate(classes)), "label2id": {name: label for label, name in enumerate(classes)}}


def train(model: PreTrainedModel, draw: Draw, steps: int, rate: float) -> None:
    """Fit a model to what is drawn for each step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.15)
    model.train()
    with tqdm(range(steps), desc="steps") as progress:
        for step in progress:
            inputs, labels, _ = draw(BATCH_SIZE, step)
            loss = cross_entropy(model(inputs).logits, labels)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    model.eval()


def main() -> None:
    """Train, save and print the accuracy on what was held out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["sound", "video"])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--out", type=Path, help="folder to write the model to (default: the shipped one)")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if arguments.which == "sound":
        model: PreTrainedModel = random_listener()
        train(model, labelled_sounds, arguments.steps, 2e-3)
        sounds, labels, _ = labelled_sounds(HELD_OUT, HELD_OUT_SEED)
        folder = arguments.out or SOUND_MODEL
        Wav2Vec2FeatureExtractor(sampling_rate=RATE, return_attention_mask=True).save_pretrained(folder)
    else:
        model = random_viewer()
        train(model, labelled_clips, arguments.steps, 1e-3)
        sounds, labels, _ = labelled_clips(HELD_OUT, HELD_OUT_SEED, held_out=True)
        folder = arguments.out or CLIP_MODEL
    model.save_pretrained(folder)
    with torch.no_grad():
        predicted = torch.cat([model(batch).logits.argmax(-1) for batch in sounds.split(100)])
    print(f"held-out accuracy of {folder}: {float((predicted == labels).double().mean()):.4f}")


if __name__ == "__main__":
    main()

"""The vision transformer of ``models/vit-textures``: its make, and its training."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import ViTConfig, ViTForImageClassification

from helpers.textures import CLASSES, SIZE

BATCH_SIZE = 64
LEARNING_RATE = 1.5e-3
WARMUP = 0.15  # of all steps
SMOOTHING = 0.05
BRIGHTNESS = 0.15


def random_model() -> ViTForImageClassification:
    """Build the untrained classifier, with one token per patch of 6 x 6 pixels."""
    config = ViTConfig(
        image_size=SIZE,
        patch_size=6,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=128,
        initializer_range=0.125,  # 1 / sqrt(hidden_size): ViT's 0.02 starts a model this narrow too flat
        id2label=dict(enumerate(CLASSES)),
        label2id={name: label for label, name in enumerate(CLASSES)},
    )
    model = ViTForImageClassification(config)
    model.vit.embeddings.position_embeddings.data[0, 1:] = sinusoids(SIZE // config.patch_size, config.hidden_size // 4)
    return model


def sinusoids(side: int, frequencies: int) -> Tensor:
    """Positions to start from, (side * side, 4 * frequencies): so small a model learns none from random ones."""
    angles = torch.arange(side)[:, None] * 1.5 * 0.01 ** (torch.arange(frequencies) / frequencies)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = waves[:, None].expand(side, side, -1), waves[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)


def augment(images: Tensor) -> Tensor:
    """Mirror, turn and recolour images of shape (n, 3, 48, 48), each in its own brightness, without a change of class.

    All of them are mirrored, turned by a multiple of 90 degrees and get their channels permuted together.
    """
    if torch.rand(()) < 0.5:
        images = images.flip(-1)
    images = images.rot90(int(torch.randint(4, ())), (-2, -1))[:, torch.randperm(3)]
    return (images + BRIGHTNESS * (2 * torch.rand(len(images), 1, 1, 1) - 1)).clamp(0, 1)


def train(model: ViTForImageClassification, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Fit the model to images of shape (n, 3, 48, 48) and int64 labels of shape (n,)."""
    steps = epochs * -(-len(images) // BATCH_SIZE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=WARMUP)
    model.train()
    with tqdm(total=steps, desc="steps") as progress:
        for _ in range(epochs):
            for indices in torch.randperm(len(images)).split(BATCH_SIZE):
                logits = model(augment(images[indices])).logits
                loss = cross_entropy(logits, labels[indices], label_smoothing=SMOOTHING)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
                progress.update()
    model.eval()


@torch.no_grad()
def correct(model: ViTForImageClassification, images: Tensor, labels: Tensor) -> Tensor:
    """Return which images the model classifies as labelled: bool (n,)."""
    predicted = torch.cat([model(batch).logits.argmax(-1) for batch in images.split(256)])
    return predicted == labels

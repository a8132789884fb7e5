"""Train the small vision transformer in ``models/vit-digits`` on handwritten digits, from random weights."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad
from tqdm import tqdm
from transformers import ViTConfig, ViTForImageClassification

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.small_models import IMAGE_MODEL, digits, load_image_model

BATCH_SIZE = 64
LEARNING_RATE = 2e-3
NOISE = 0.05


def random_model() -> ViTForImageClassification:
    """Build the untrained classifier, with one token per pixel."""
    config = ViTConfig(
        image_size=8,
        patch_size=1,
        num_channels=1,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        initializer_range=0.125,  # 1 / sqrt(hidden_size): ViT's 0.02 starts a model this narrow too flat
        id2label={digit: str(digit) for digit in range(10)},
        label2id={str(digit): digit for digit in range(10)},
    )
    return ViTForImageClassification(config)


def augment(images: Tensor) -> Tensor:
    """Shift all images of shape (n, 1, 8, 8) together by up to one pixel and add noise."""
    row, column = torch.randint(0, 3, (2,)).tolist()
    shifted = pad(images, (1, 1, 1, 1))[:, :, row : row + 8, column : column + 8]
    return (shifted + NOISE * torch.randn_like(shifted)).clamp(0, 1)


def train(model: ViTForImageClassification, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Fit the model to images of shape (n, 1, 8, 8) and int64 labels of shape (n,)."""
    steps = epochs * -(-len(images) // BATCH_SIZE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    model.train()
    for _ in tqdm(range(epochs), desc="epochs"):
        for indices in torch.randperm(len(images)).split(BATCH_SIZE):
            logits = model(augment(images[indices])).logits
            loss = cross_entropy(logits, labels[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def accuracy(model: ViTForImageClassification, images: Tensor, labels: Tensor) -> float:
    """Return the fraction of images that the model classifies as labelled."""
    correct = model(images).logits.argmax(-1) == labels
    return float(correct.float().mean())


def main() -> None:
    """Train, save, load again and print the accuracy on the held-out images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=IMAGE_MODEL, help="folder to write the model to")
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    train_images, train_labels, test_images, test_labels = digits()
    model = random_model()
    train(model, train_images, train_labels, arguments.epochs)
    model.save_pretrained(arguments.out)
    saved = load_image_model(arguments.out)
    print(f"test accuracy of {arguments.out}: {accuracy(saved, test_images, test_labels):.4f}")


if __name__ == "__main__":
    main()

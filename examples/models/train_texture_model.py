"""Train the small vision transformer in ``models/vit-textures`` on generated images, from random weights.

Its input is pixels in [0, 1]; the image processor that is saved with it makes them of pictures of any size.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from transformers import ViTImageProcessorPil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.small_models import TEXTURE_MODEL, load_texture_model
from helpers.texture_model import correct, random_model, train
from helpers.textures import CLASSES, SIZE, labelled_images

POOL = 20_000
HELD_OUT = 2_000
HELD_OUT_SEED = 10_000  # added to the seed of the pool


def main() -> None:
    """Train, save, load again and print the accuracy on the held-out images, in all and of each class."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=TEXTURE_MODEL, help="folder to write the model to")
    parser.add_argument("--images", type=int, default=POOL, help="how many images to train on")
    parser.add_argument("--epochs", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    images, labels, _ = labelled_images(arguments.images, arguments.seed)
    model = random_model()
    train(model, images, labels, arguments.epochs)
    model.save_pretrained(arguments.out)
    ViTImageProcessorPil(size={"height": SIZE, "width": SIZE}, do_normalize=False).save_pretrained(arguments.out)

    images, labels, _ = labelled_images(HELD_OUT, arguments.seed + HELD_OUT_SEED)
    right = correct(load_texture_model(arguments.out), images, labels).float()
    print(f"held-out accuracy of {arguments.out}: {right.mean():.4f}")
    for label, name in enumerate(CLASSES):
        print(f"  {name}: {right[labels == label].mean():.4f}")


if __name__ == "__main__":
    main()

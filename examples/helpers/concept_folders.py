"""Concepts and images as they lie on a disk: folders of images (DTD, ImageNet), and Broden."""

from __future__ import annotations

import csv
from collections.abc import Collection
from pathlib import Path

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"}


def read_concepts(folder: Path, names: Collection[str] | None = None, most: int | None = None) -> dict[str, list[Path]]:
    """The images of each concept, by name.

    Args:
        folder: with a folder of images for each concept, at any depth, as DTD's ``images`` or ImageNet's ``train`` have
            them; or Broden's, with ``index.csv``, ``label.csv`` and ``images``, of which the textures are read.
        names: the concepts that are wanted. Default: all.
        most: how many images of each at most; they are taken at equal distances in the order of their names.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: fewer than two concepts with images, or a name of none.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    found = broden_textures(folder) if (folder / "index.csv").exists() else image_folders(folder)
    unknown = sorted(set(names or ()) - set(found))
    if unknown or len(found) < 2:
        raise ValueError(
            f"{folder} holds the concepts {sorted(found)}, {'no ' + ', '.join(unknown) if unknown else 'too few'}: "
            "expected at least two folders of images, or Broden's index.csv, label.csv and images"
        )
    return {name: thinned(found[name], most) for name in names or sorted(found)}


def read_images(folder: Path, most: int | None = None) -> list[Path]:
    """All images in a folder, at any depth; ``ValueError`` if there are none."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGES)
    if not found:
        raise ValueError(f"{folder} holds no images ({', '.join(sorted(IMAGES))})")
    return thinned(found, most)


def image_folders(folder: Path) -> dict[str, list[Path]]:
    """Images by the name of the folder that they lie in."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGES and path.parent != folder:
            found.setdefault(path.parent.name, []).append(path)
    return found


def broden_textures(folder: Path) -> dict[str, list[Path]]:
    """Broden's images by texture: ``index.csv`` names an image's textures by number, ``label.csv`` the numbers."""
    with (folder / "label.csv").open(encoding="utf-8", newline="") as file:
        names = {row["number"]: row["name"] for row in csv.DictReader(file)}
    found: dict[str, list[Path]] = {}
    with (folder / "index.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for number in filter(None, row["texture"].split(";")):
                found.setdefault(names[number], []).append(folder / "images" / row["image"])
    return found


def thinned(paths: list[Path], most: int | None) -> list[Path]:
    """At most so many of them, at equal distances."""
    if most is None or len(paths) <= most:
        return paths
    return [paths[place * len(paths) // most] for place in range(most)]

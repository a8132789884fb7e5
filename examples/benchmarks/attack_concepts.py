"""What moves a concept's effect, what its score? Attacks on T-TCAV where the right answer is known.

    python examples/benchmarks/attack_concepts.py
    python examples/benchmarks/attack_concepts.py --models 2  # other seeds of the model, too: minutes of training each

The small vision transformer in ``examples/models/vit-textures`` tells zebras by narrow stripes. Its answer about that
concept, and about one that is nothing to zebras, is compared with what it is

- when **the concepts' examples** are changed by at most ``--epsilon`` in each pixel, each towards less of an effect of
  the true concept, or more of one of the other, without a change of the model's predictions; or by noise as large;
- when **the inputs** are: so that the predictions stay and the score falls; so that the picture stays and the
  predictions change; or by noise;
- with **scenes** of two objects for inputs, a **fine pair** of concepts alone (narrow and wide stripes), **other
  negatives** (shapes), each **layer** alone, and **other seeds** of the model.

Steps are signs of gradients (projected gradient descent; Madry et al. 2018, arXiv 1706.06083). For each: the share of
predictions that changed, the mean-shift effect in the third layer in units of its value before, the T-TCAV score
there, the concept's p-value of all layers (Holm). ``attack_concepts.csv``, ``.md`` and ``.png`` show it: scores beside
effects.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor
from transformers import ViTForImageClassification

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.small_models import TEXTURE_MODEL, load_texture_model
from helpers.texture_model import correct, random_model, train
from helpers.textures import (
    CLASSES,
    SHAPES,
    TEXTURES,
    class_images,
    draw_two,
    generator,
    labelled_images,
    random_images,
    shape_images,
    texture_images,
)

from captum_attn import TTCAV

ZEBRA = CLASSES.index("zebra")
TRUE, OTHER = "narrow stripes", "zigzag"
LAYER = 2  # of four, whose effects and scores are shown
STEPS = 10

Images = Mapping[str, Tensor]


def main() -> None:
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    attacks = Attacks(load_texture_model(), options)
    rows = attacks.rows()
    for seed in range(1, options.models + 1):
        rows += attacks.of_another_model(seed)
    frame = pd.DataFrame(rows)
    frame.to_csv(options.out / "attack_concepts.csv", index=False)
    text = markdown(frame)
    (options.out / "attack_concepts.md").write_text(text, encoding="utf-8")
    effects_and_scores(frame).savefig(options.out / "attack_concepts.png", dpi=130)
    print(text)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epsilon", type=float, default=4 / 255, help="the most in a pixel of 0 to 1 (default: 4/255)")
    parser.add_argument("--examples", type=int, default=80, help="of each concept (default: %(default)s)")
    parser.add_argument("--inputs", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--permutations", type=int, default=9999, help="default: %(default)s")
    parser.add_argument("--models", type=int, default=0, help="trained anew from other seeds (default: %(default)s)")
    parser.add_argument("--training", type=int, nargs=2, default=[20_000, 32], help="images and epochs of these")
    parser.add_argument("--out", type=Path, default=Path("out/attack_concepts"), help="default: %(default)s")
    return parser.parse_args()


class Attacks:
    """The true concept and another one, as they are and attacked."""

    def __init__(self, model: ViTForImageClassification, options: argparse.Namespace) -> None:
        self.model, self.options = model, options
        count = options.examples
        self.concepts: Images = {
            **{texture: texture_images(texture, count, seed=1) for texture in TEXTURES},
            "random": random_images(count, seed=1),
        }
        self.inputs = class_images("zebra", options.inputs, seed=2)

    def answers(
        self,
        attack: str,
        concepts: Images,
        inputs: Tensor,
        changed: Sequence[tuple[Tensor, Tensor]] = (),
        model: ViTForImageClassification | None = None,
        layer: int | None = None,
    ) -> list[dict[str, Any]]:
        """The rows of the true concept, and of the other where it plays; images that changed beside what they were."""
        ttcav = TTCAV(model or self.model, layer, permutations=self.options.permutations)
        scores = ttcav.interpret(inputs, concepts, ZEBRA, show_progress=False)
        shown = LAYER if layer is None else layer
        answers = scores.concepts().set_index("concept")[["p_holm", "significant"]]
        there = scores.table().query("layer == @shown").set_index("concept")[["effect", "score"]]
        others = [predicted(self.model, now) != predicted(self.model, then) for now, then in changed]
        share = float(torch.cat(others).double().mean()) if others else 0.0
        row = {"attack": attack, "layer": shown, "predictions changed": share}
        names = [name for name in (TRUE, OTHER) if name in concepts]
        return [{**row, "concept": name, **there.loc[name], **answers.loc[name]} for name in names]

    def rows(self) -> list[dict[str, Any]]:
        options, own = self.options, self.concepts
        rng = generator(9, "two objects")
        scenes = torch.stack([draw_two((TRUE, "fish"), ("dotted", "disc"), rng)[0] for _ in range(options.inputs)])
        shapes = {shape: shape_images(shape, options.examples, seed=1) for shape in SHAPES}
        pair = {name: own[name] for name in TEXTURES[:2]}
        true = {name: own[name] for name in (TRUE, OTHER)}
        rows = self.answers("as they are", own, self.inputs)
        for attack, moved in self.attacked_examples().items():
            pairs = [(images, own[name]) for name, images in moved.items()]
            rows += self.answers(f"examples: {attack}", {**own, **moved}, self.inputs, pairs)
        for attack, images in self.attacked_inputs().items():
            rows += self.answers(f"inputs: {attack}", own, images, [(images, self.inputs)])
        rows += self.answers("inputs: scenes of two objects", own, scenes)
        rows += self.answers("concepts: the fine pair alone", pair, self.inputs)
        rows += self.answers("concepts: shapes for negatives", {**true, **shapes}, self.inputs)
        for layer in range(self.model.config.num_hidden_layers):
            rows += self.answers(f"layer {layer} alone", own, self.inputs, layer=layer)
        return rows

    def attacked_examples(self) -> dict[str, Images]:
        """Of each attack on concepts' examples, the concepts that it changes."""
        gradients, epsilon = self.mean_gradients(), self.options.epsilon

        def effects(images: Tensor) -> Tensor:
            """Of each image, what its states add to the effects of its concept, layers alike."""
            states = readout_states(self.model, images)
            return torch.stack([state @ gradient for state, gradient in zip(states, gradients, strict=True)]).sum(0)

        less = stepped(self.model, self.concepts[TRUE], lambda images: -effects(images), epsilon, keep=True)
        more = stepped(self.model, self.concepts[OTHER], effects, epsilon, keep=True)
        noise = {name: noisy(images, epsilon, name) for name, images in self.concepts.items()}
        return {"less of the true one": {TRUE: less}, "more of the other one": {OTHER: more}, "noise": noise}

    def attacked_inputs(self) -> dict[str, Tensor]:
        """The inputs under each attack on them."""
        model, epsilon = self.model, self.options.epsilon
        falls = stepped(model, self.inputs, self.insensitivity(), epsilon, keep=True)
        away = stepped(model, self.inputs, lambda images: -margin(model, images), epsilon, keep=False)
        noise = noisy(self.inputs, epsilon, "inputs")
        return {"the score falls": falls, "the prediction changes": away, "noise": noise}

    def of_another_model(self, seed: int) -> list[dict[str, Any]]:
        """The same of a model that is trained from another seed, on other images."""
        count, epochs = self.options.training
        torch.manual_seed(seed)
        images, labels, _ = labelled_images(count, seed)
        model = random_model()
        train(model, images, labels, epochs)
        test, classes, _ = labelled_images(500, seed + 10_000)
        accuracy = float(correct(model, test, classes).double().mean())
        return self.answers(f"model of seed {seed}, {accuracy:.0%} right", self.concepts, self.inputs, model=model)

    def mean_gradients(self) -> list[Tensor]:
        """p̄ of each layer, in units of its length."""
        states, logits = states_and_logits(self.model, self.inputs)
        gradients = torch.autograd.grad(logits[:, ZEBRA].sum(), states)
        return [gradient[:, 0].mean(0) / gradient[:, 0].mean(0).norm() for gradient in gradients]

    def insensitivity(self) -> Callable[[Tensor], Tensor]:
        """A function of inputs: how little the output is sensitive to the true concept."""
        eager = ViTForImageClassification.from_pretrained(TEXTURE_MODEL, attn_implementation="eager").eval()
        own = readout_states(eager, self.concepts[TRUE])
        others = readout_states(eager, torch.cat([images for name, images in self.concepts.items() if name != TRUE]))
        shifts = [(one.mean(0) - other.mean(0)).detach() for one, other in zip(own, others, strict=True)]

        def insensitive(images: Tensor) -> Tensor:
            hidden, logits = states_and_logits(eager, images)
            gradients = torch.autograd.grad(logits[:, ZEBRA].sum(), hidden, create_graph=True)
            each = [gradient[:, 0] @ shift for gradient, shift in zip(gradients, shifts, strict=True)]
            return -torch.stack(each).sum(0)

        return insensitive


def margin(model: ViTForImageClassification, images: Tensor) -> Tensor:
    """By how much the zebra's logit exceeds the others'."""
    logits = model(images).logits
    others = logits.index_fill(1, torch.tensor([ZEBRA]), -torch.inf)
    found: Tensor = logits[:, ZEBRA] - others.logsumexp(1)
    return found


def stepped(
    model: ViTForImageClassification, images: Tensor, rises: Callable[[Tensor], Tensor], epsilon: float, keep: bool
) -> Tensor:
    """Images near the given ones of which a function is larger; with ``keep``, of the same predictions."""
    classes, found = predicted(model, images), images.clone()
    for _ in range(STEPS):
        moved = found.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(rises(moved).sum(), moved)
        step = found + 2.5 * epsilon / STEPS * gradient.sign()
        step = step.clamp(images - epsilon, images + epsilon).clamp(0, 1)
        allowed = predicted(model, step) == classes if keep else torch.ones_like(classes, dtype=torch.bool)
        found = torch.where(allowed[:, None, None, None], step, found)
    return found


def noisy(images: Tensor, epsilon: float, name: str) -> Tensor:
    """With noise as large as an attack's steps at most, of its own for each name."""
    signs = generator(0, f"noise of {name}").integers(2, size=tuple(images.shape)) * 2 - 1
    moved: Tensor = images + epsilon * torch.from_numpy(signs)
    return moved.clamp(0, 1).to(images.dtype)


def states_and_logits(model: ViTForImageClassification, images: Tensor) -> tuple[list[Tensor], Tensor]:
    """All tokens' states (n, N, D) after each layer, and the logits."""
    output = model(images, output_hidden_states=True)
    return list(output.hidden_states[1:]), output.logits


def readout_states(model: ViTForImageClassification, images: Tensor) -> list[Tensor]:
    """The class token's states (n, D) after each layer."""
    return [hidden[:, 0] for hidden in states_and_logits(model, images)[0]]


@torch.no_grad()
def predicted(model: ViTForImageClassification, images: Tensor) -> Tensor:
    classes: Tensor = model(images).logits.argmax(-1)
    return classes


def markdown(frame: pd.DataFrame) -> str:
    """A table; each concept's effects in units of what they were."""
    before = frame[frame.attack == "as they are"].set_index("concept").effect.abs()
    lines = [
        "| attack | concept | predictions changed | effect / before | score | p | significant |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    for row in frame.to_dict("records"):
        ratio = row["effect"] / before[row["concept"]]
        cells = [row["attack"], row["concept"], f"{row['predictions changed']:.0%}", f"{ratio:+.2f}"]
        cells += [f"{row['score']:.2f}", f"{row['p_holm']:.2g}", "yes" * bool(row["significant"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def effects_and_scores(frame: pd.DataFrame) -> Figure:
    """A row for each attack: the effects in units of the true concept's before, and beside them the scores."""
    attacks = list(dict.fromkeys(frame.attack))
    unit = float(frame[(frame.attack == "as they are") & (frame.concept == TRUE)].effect.abs().iloc[0])
    figure = Figure(figsize=(9, 1.2 + 0.26 * len(attacks)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    columns = {
        f"mean-shift effect ({TRUE} as it is: 1)": frame.effect / unit,
        "T-TCAV score": frame.score,
    }
    for axes, (label, values) in zip(panels, columns.items(), strict=True):
        for concept, colour, shift in ((TRUE, "#d6273e", -0.12), (OTHER, "#1f77d6", 0.12)):
            own = frame.concept == concept
            rows = [attacks.index(attack) + shift for attack in frame.attack[own]]
            faces = [colour if sure else "white" for sure in frame.significant[own]]
            axes.scatter(values[own], rows, s=34, c=faces, edgecolors=colour, label=concept, zorder=2)
        axes.set_xlabel(label)
        axes.grid(axis="y", color="0.92", zorder=0)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
    for axes, middle in zip(panels, (0, 0.5), strict=True):
        axes.axvline(middle, color="0.7", linewidth=1, zorder=1)
    panels[0].set_yticks(range(len(attacks)), attacks, fontsize=8)
    panels[0].set_ylim(len(attacks) - 0.5, -0.5)
    marks = [Line2D([], [], marker="o", linestyle="", color=colour) for colour in ("#d6273e", "#1f77d6")]
    marks.append(Line2D([], [], marker="o", linestyle="", color="0.4", markerfacecolor="white"))
    figure.legend(
        marks, [TRUE, OTHER, "not significant"], loc="outside upper right", ncols=3, fontsize=8, frameon=False
    )
    return figure


if __name__ == "__main__":
    main()

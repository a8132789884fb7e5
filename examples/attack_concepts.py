"""What moves a concept's effect, what its score? Attacks on T-TCAV where the right answer is known.

    python examples/attack_concepts.py
    python examples/attack_concepts.py --models 2  # other seeds of the model, too: some minutes of training each

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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from small_models import TEXTURE_MODEL, load_texture_model
from textures import (
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
from torch import Tensor
from train_texture_model import correct, random_model, train
from transformers import ViTForImageClassification

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
        self.before = self.answers("as they are", self.concepts, self.inputs, self.inputs)

    def answers(
        self, attack: str, concepts: Images, inputs: Tensor, before: Tensor, **ttcav: Any
    ) -> list[dict[str, Any]]:
        """The rows of the true concept, and of the other where it plays."""
        model = ttcav.pop("model", self.model)
        layer = ttcav.get("layers", LAYER)
        explainer = TTCAV(model, permutations=self.options.permutations, **ttcav)
        scores = explainer.interpret(inputs, concepts, ZEBRA, show_progress=False)
        answers = scores.concepts().set_index("concept")[["p_holm", "significant"]]
        there = scores.table().query("layer == @layer").set_index("concept")[["effect", "score"]]
        changed = [predicted(self.model, one) != predicted(self.model, other) for one, other in self._pairs(concepts)]
        changed.append(predicted(model, inputs) != predicted(model, before))
        row = {"attack": attack, "layer": layer, "predictions changed": float(torch.cat(changed).double().mean())}
        shown = [name for name in (TRUE, OTHER) if name in concepts]
        return [{**row, "concept": name, **there.loc[name], **answers.loc[name]} for name in shown]

    def _pairs(self, concepts: Images) -> list[tuple[Tensor, Tensor]]:
        """Examples that were changed, and what they were."""
        own = [(concepts[name], self.concepts[name]) for name in concepts if name in self.concepts]
        return [(now, then) for now, then in own if now.shape == then.shape and not torch.equal(now, then)]

    def rows(self) -> list[dict[str, Any]]:
        gradients = self.mean_gradients()

        def effects(images: Tensor) -> Tensor:
            """Of each image, what its states add to the effects of its concept, layers alike."""
            states = readout_states(self.model, images)
            return torch.stack([state @ gradient for state, gradient in zip(states, gradients, strict=True)]).sum(0)

        less = {**self.concepts, TRUE: self.stepped(self.concepts[TRUE], lambda images: -effects(images), keep=True)}
        more = {**self.concepts, OTHER: self.stepped(self.concepts[OTHER], effects, keep=True)}
        noisy = {name: self.noisy(images) for name, images in self.concepts.items()}
        away = self.stepped(self.inputs, lambda images: -self.margin(images), keep=False)
        rng = generator(9, "two objects")
        scenes = torch.stack([draw_two((TRUE, "fish"), ("dotted", "disc"), rng)[0] for _ in range(self.options.inputs)])
        shapes = {shape: shape_images(shape, self.options.examples, seed=1) for shape in SHAPES}
        pair = {name: self.concepts[name] for name in TEXTURES[:2]}
        true = {name: self.concepts[name] for name in (TRUE, OTHER)}
        rows = [
            *self.before,
            *self.answers("examples: less of the true one", less, self.inputs, self.inputs),
            *self.answers("examples: more of the other one", more, self.inputs, self.inputs),
            *self.answers("examples: noise", noisy, self.inputs, self.inputs),
            *self.answers("inputs: the score falls", self.concepts, self.insensitive(), self.inputs),
            *self.answers("inputs: the prediction changes", self.concepts, away, self.inputs),
            *self.answers("inputs: noise", self.concepts, self.noisy(self.inputs), self.inputs),
            *self.answers("inputs: scenes of two objects", self.concepts, scenes, scenes),
            *self.answers("concepts: the fine pair alone", pair, self.inputs, self.inputs),
            *self.answers("concepts: shapes for negatives", {**true, **shapes}, self.inputs, self.inputs),
        ]
        for layer in range(self.model.config.num_hidden_layers):
            rows += self.answers(f"layer {layer} alone", self.concepts, self.inputs, self.inputs, layers=layer)
        return rows

    def of_another_model(self, seed: int) -> list[dict[str, Any]]:
        """The same of a model that is trained from another seed, on other images."""
        count, epochs = self.options.training
        torch.manual_seed(seed)
        images, labels, _ = labelled_images(count, seed)
        model = random_model()
        train(model, images, labels, epochs)
        test, classes, _ = labelled_images(500, seed + 10_000)
        accuracy = float(correct(model, test, classes).double().mean())
        name = f"model of seed {seed}, {accuracy:.0%} right"
        return self.answers(name, self.concepts, self.inputs, self.inputs, model=model)

    def mean_gradients(self) -> list[Tensor]:
        """p̄ of each layer, in units of its length."""
        states = readout_states(self.model, self.inputs, keep=True)
        logits = states.pop()
        gradients = torch.autograd.grad(logits[:, ZEBRA].sum(), states)
        return [gradient[:, 0].mean(0) / gradient[:, 0].mean(0).norm() for gradient in gradients]

    def insensitive(self) -> Tensor:
        """Inputs of which the output is less sensitive to the true concept, with the same predictions."""
        eager = ViTForImageClassification.from_pretrained(TEXTURE_MODEL, attn_implementation="eager").eval()
        states = (
            readout_states(eager, self.concepts[TRUE]),
            readout_states(eager, torch.cat([images for name, images in self.concepts.items() if name != TRUE])),
        )
        shifts = [(own.mean(0) - other.mean(0)).detach() for own, other in zip(*states, strict=True)]

        def sensitivity(images: Tensor) -> Tensor:
            *hidden, logits = readout_states(eager, images, keep=True)
            gradients = torch.autograd.grad(logits[:, ZEBRA].sum(), hidden, create_graph=True)
            each = [gradient[:, 0] @ shift for gradient, shift in zip(gradients, shifts, strict=True)]
            return -torch.stack(each).sum(0)

        return self.stepped(self.inputs, sensitivity, keep=True)

    def margin(self, images: Tensor) -> Tensor:
        """By how much the zebra's logit exceeds the others'."""
        logits = self.model(images).logits
        others = logits.index_fill(1, torch.tensor([ZEBRA]), -torch.inf)
        margin: Tensor = logits[:, ZEBRA] - others.logsumexp(1)
        return margin

    def stepped(self, images: Tensor, rises: Callable[[Tensor], Tensor], keep: bool) -> Tensor:
        """Images near the given ones of which a function is larger; with ``keep``, of the same predictions."""
        epsilon, classes, found = self.options.epsilon, predicted(self.model, images), images.clone()
        for _ in range(STEPS):
            moved = found.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(rises(moved).sum(), moved)
            stepped = found + 2.5 * epsilon / STEPS * gradient.sign()
            stepped = stepped.clamp(images - epsilon, images + epsilon).clamp(0, 1)
            allowed = predicted(self.model, stepped) == classes if keep else torch.ones_like(classes, dtype=torch.bool)
            found = torch.where(allowed[:, None, None, None], stepped, found)
        return found

    def noisy(self, images: Tensor) -> Tensor:
        """With noise as large as an attack's steps at most."""
        signs = torch.randint(2, images.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
        moved: Tensor = images + self.options.epsilon * signs
        return moved.clamp(0, 1)


def readout_states(model: ViTForImageClassification, images: Tensor, keep: bool = False) -> list[Tensor]:
    """The class token's states (n, D) after each layer; with ``keep``, all tokens' states in the graph, and logits."""
    output = model(images, output_hidden_states=True)
    if keep:
        return [*output.hidden_states[1:], output.logits]
    return [hidden[:, 0] for hidden in output.hidden_states[1:]]


@torch.no_grad()
def predicted(model: ViTForImageClassification, images: Tensor) -> Tensor:
    classes: Tensor = model(images).logits.argmax(-1)
    return classes


def markdown(frame: pd.DataFrame) -> str:
    """A table; effects of the true concept in units of what they were."""
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

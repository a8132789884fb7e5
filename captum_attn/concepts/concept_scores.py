"""What T-TCAV found: Captum's form of the scores, tables, figures, a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from captum.concept import Concept
from torch import Tensor

from captum_attn.concepts.concept_figures import concepts_by_layers, powers_by_examples, scores_of_draws, written_p
from captum_attn.concepts.confounds import Confounds
from captum_attn.concepts.experimental_sets import ExampleNumbers
from captum_attn.concepts.layers import Layer, layer_labels
from captum_attn.concepts.power import MULTIPLES, WANTED, PowerCurve, power_curve
from captum_attn.concepts.scoring import EffectPValues, LayerScores
from captum_attn.drawing import ShownFigure
from captum_attn.formatting import listed
from captum_attn.functional import SIGNIFICANT, cauchy_combination, holm, holm_levels
from captum_attn.pages import Shown, figure_html, opening, page, table_html

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SetScores:
    """The scores of one experimental set.

    Attributes:
        concepts: its K concepts.
        layers: the L layers.
        scores: of each layer.
        p_values: how sure the effects are.
        numbered: of each concept, the contents of the examples that count, by their numbers as they were given.
        confounds: what speaks against these.
    """

    concepts: Sequence[Concept]
    layers: Sequence[Layer]
    scores: Sequence[LayerScores]
    p_values: EffectPValues
    numbered: Sequence[Mapping[int, str]]
    confounds: Confounds

    @property
    def key(self) -> str:
        """The concepts' ids, as Captum joins them."""
        return "-".join(str(concept.id) for concept in self.concepts)

    @property
    def examples(self) -> list[int]:
        """How many examples of each concept count."""
        return list(map(len, self.numbered))

    @property
    def tested(self) -> Tensor:
        """float64 (K,), the p-values that count as tests, or (1,) of two concepts, which are each other's opposites."""
        of_concepts = self.p_values.of_concepts
        return of_concepts[:1] if len(of_concepts) == 2 else of_concepts

    def notes(self, layer: int, concept: int) -> str:
        """What must be known before a score is believed."""
        scores, notes = self.scores[layer], []
        if scores.sign_count[concept].isnan().all():
            notes.append("no gradient on these tokens")
        elif float((scores.sign_count[concept].mean() - 0.5) * scores.effects.effect[concept]) < 0:
            notes.append("score and effect disagree")
        if not self.separates(layer, concept):
            notes.append("its vectors separate no better than chance")
        return "; ".join(notes)

    def power(self, concept: int, level: float) -> PowerCurve:
        """How often a concept's examples would be significant at a level, were they more or fewer."""
        effects = torch.stack([scores.effects.example_effects for scores in self.scores])
        own = self.confounds.concepts == concept
        return power_curve(effects, own, level, concept, self.p_values.least)

    def concept_notes(self, concept: int, layers: Tensor, level: float) -> str:
        """What must be known before a concept, significant below a level, is believed; and its bool (L,) layers."""
        notes = [self.notes(int(self.p_values.surest[concept]), concept)]
        p = float(self.p_values.of_concepts[concept])
        if p < level and not layers.any():
            notes.append("no layer is significant by itself")
        elif p >= level and self.separates(int(self.p_values.surest[concept]), concept):
            notes.append(self.wanting(concept, level))
        effects = self.p_values.effects[layers, concept]
        if (effects > 0).any() and (effects < 0).any():
            notes.append("effects of both signs in significant layers")
        return "; ".join(filter(None, notes))

    def layer_p_holm(self, corrected: Tensor) -> Tensor:
        """float64 (L, K), after Holm's correction for a concept's layers, and never below its own, float64 (K,)."""
        return torch.maximum(torch.stack([holm(of_concept) for of_concept in self.p_values.larger.mT], 1), corrected)

    def wanting(self, concept: int, level: float) -> str:
        """What a concept would take to be significant."""
        p_direction = float(cauchy_combination(self.p_values.direction[:, concept]))
        if p_direction >= level:
            return (
                f"the gradient's direction could be chance ({written_p(p_direction)}): other concepts in the set, or "
                "random examples, can make that test more powerful"
            )
        needed = self.power(concept, level).needed(self.examples[concept])
        if needed is not None:
            return f"an effect like this takes some {needed} examples to be significant in {WANTED:.0%} of draws"
        return f"not even with {MULTIPLES[-1]:.0f} times the examples would an effect like this be significant"

    def separates(self, layer: int, concept: int) -> bool:
        """Whether the accuracy on held-out examples is above one half, at the 5 % level."""
        scores = self.scores[layer]
        return bool(scores.accuracy[concept] - 0.5 > 1.645 * scores.accuracy_error[concept])

    def inseparable(self) -> dict[str, list[int]]:
        """The concepts whose vectors separate no better than chance, and the indices of the layers where that is so."""
        found = {
            concept.name: [layer.index for place, layer in enumerate(self.layers) if not self.separates(place, k)]
            for k, concept in enumerate(self.concepts)
        }
        return {name: layers for name, layers in found.items() if layers}


class ConceptScores(Shown, dict[str, dict[str, dict[str, Tensor]]]):
    """Scores of concepts in Captum's form, ``scores["0-1"]["vit.layers.2"]["sign_count"]``, and more.

    A notebook shows it as a page; :meth:`show`, :meth:`plot`, :meth:`to_html`, :meth:`frame` and :meth:`top` work
    anywhere.

    The first key joins the ids of an experimental set's concepts, the second is a layer's name. Then there are
    ``"sign_count"`` and ``"magnitude"`` (K,), means over the m vectors of each concept; ``"sign_count_per_cav"`` and
    ``"magnitude_per_cav"`` (K, m), those of each vector; ``"effect"`` (K,), the mean-shift effect; and ``"cavs"``
    (K, m, D), the vectors.

    Attributes:
        sets: everything that is known of each experimental set.
        targets: int64 (n, k), what was explained of each of the n inputs.
        target_names: the same in words, where the model's configuration has them.
        seconds: what the concepts' states, the inputs' gradients, and vectors, scores and tests took.
    """

    def __init__(
        self,
        sets: Sequence[SetScores],
        targets: Tensor,
        target_names: Sequence[str],
        seconds: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__({one.key: {} for one in sets})
        self.sets, self.targets, self.target_names = list(sets), targets, list(target_names)
        self.seconds = dict(seconds or {})
        for one in sets:
            for layer, scores in zip(one.layers, one.scores, strict=True):
                self[one.key][layer.name] = {
                    "sign_count": scores.sign_count.mean(1),
                    "magnitude": scores.magnitude.mean(1),
                    "sign_count_per_cav": scores.sign_count,
                    "magnitude_per_cav": scores.magnitude,
                    "effect": scores.effects.effect,
                    "cavs": scores.cavs,
                }

    def __repr__(self) -> str:
        described = [f"{one.key}: {[c.name for c in one.concepts]} in {len(one.layers)} layers" for one in self.sets]
        return f"ConceptScores({'; '.join(described)}; {len(self.targets)} inputs)"

    def of_set(self, key: str | None = None) -> SetScores:
        """All scores of an experimental set, by its key; of the first one without. ``KeyError`` if there is none."""
        return self.sets[self._place(key)]

    def _place(self, key: str | None) -> int:
        keys = [one.key for one in self.sets]
        if key is not None and key not in keys:
            raise KeyError(f"there is no set {key!r}: expected one of {', '.join(map(repr, keys))}")
        return 0 if key is None else keys.index(key)

    def concepts(self) -> pd.DataFrame:
        """The answer for each concept, one row each.

        Returns:
            Columns ``set``, ``concept``; ``significant``, whether ``p_holm`` is below 0.05; ``effect``, in units of the
            explained output, and ``score``, in the concept's surest ``layer`` (its index) or ``module``, where its
            p-value is smallest; ``p``, of the concept, from those of all layers
            (:func:`~captum_attn.functional.cauchy_combination`), and ``p_holm``, the same after Holm's correction for
            all concepts; ``layers``, in how many of those where it is defined it is significant; of its examples,
            the share which the model takes for what is explained, ``predicted``, that which lies on the inputs' side of
            what tells these from the other concepts in that layer, ``near``, and the number of ``copies``;
            ``examples``, ``inputs``; ``note``, where something is wrong.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for one, corrected, levels in zip(self.sets, self.p_holm, self._levels, strict=True):
            significant, shares = one.layer_p_holm(corrected) < SIGNIFICANT, one.confounds.predicted_shares()
            copies = one.confounds.copies_of_each()
            for k, concept in enumerate(one.concepts):
                place = int(one.p_values.surest[k])
                defined = int((~one.p_values.larger[:, k].isnan()).sum())
                rows.append(
                    {
                        "set": one.key,
                        "concept": concept.name,
                        "significant": bool(corrected[k] < SIGNIFICANT),
                        "effect": float(one.scores[place].effects.effect[k]),
                        "p": float(one.p_values.of_concepts[k]),
                        "p_holm": float(corrected[k]),
                        "layer": one.layers[place].index,
                        "module": one.layers[place].name,
                        "score": float(one.scores[place].sign_count[k].mean()),
                        "layers": f"{int(significant[:, k].sum())} of {defined}",
                        "predicted": shares[k][0],
                        "near": float(one.confounds.near[k]),
                        "copies": copies[k],
                        "examples": one.examples[k],
                        "inputs": len(self.targets),
                        "note": one.concept_notes(k, significant[:, k], float(levels[k])),
                    }
                )
        return pd.DataFrame(rows)

    def frame(self) -> pd.DataFrame:
        """:meth:`concepts`, a row for each concept; :meth:`table` has one for each layer, too."""
        return self.concepts()

    def top(self, k: int = 5) -> pd.DataFrame:
        """The rows of :meth:`concepts` of the k surest concepts, those with the smallest p-values, surest first."""
        surest_first = self.concepts().sort_values(["p_holm", "p"], kind="stable", na_position="last")
        return surest_first.head(k).reset_index(drop=True)

    def cautions(self) -> list[str]:
        """What to keep in mind before concepts are believed, one sentence each."""
        found = [
            "An effect is one of whatever a concept's examples have in common: let random examples be among the "
            "concepts, as a control."
        ]
        if not any((p < SIGNIFICANT).any() for p in self.p_holm):
            found.append("No concept is significant. That does not say that none matters: see power().")
        disguised = [
            concept.name
            for one in self.sets
            for concept, more in zip(one.concepts, one.confounds.predicted_more_often(), strict=True)
            if more
        ]
        if disguised:
            found.append(
                f"The model takes examples of {listed(disguised)} for what is explained more often than those of the "
                "others: they may be pieces of the class. See what is left without them: "
                "interpret(..., leave_out=scores.suspicious())."
            )
        return found

    def page(self) -> str:
        """The page, as HTML that needs nothing from elsewhere: cautions, :meth:`concepts`, and a map of each set."""
        title = f"Concepts that move the output: {self._title}"
        shown = self.concepts().drop(columns=["p", "module", "inputs"]).rename(columns={"p_holm": "p"})
        shown["p"] = [written_p(p).removeprefix("p ").removeprefix("= ") for p in shown.p]
        shown = shown.drop(columns=[] if len(self.sets) > 1 else "set")
        figures = [figure_html(self.plot(one.key), _OF_FIGURES) for one in self.sets]
        empty = [name for name in shown if shown[name].isin([0, ""]).all() or shown[name].isna().all()]
        table = table_html(shown.drop(columns=[name for name in empty if name in _MAY_BE_LEFT_OUT]))
        columns = f"<p class='note'>{_OF_COLUMNS}</p>"
        return page(title, "\n".join([opening(title, _OF_TABLE, self.cautions()), table, columns, *figures]), wide=True)

    def suspicious(self) -> ExampleNumbers:
        """The numbers of suspicious examples of each concept that has some: for ``leave_out=`` of another call.

        Numbers are places among the examples as they were given, also where some of these could not be read.

        These are examples that the model takes for the class which is explained, and copies of inputs or of other
        examples. Without them, an effect is what the concept's other examples have: less than the whole, where it is
        the concept that makes the model take them for it.
        """
        found: dict[str, dict[int, str]] = {}
        ids: dict[str, set[int]] = {}
        for one in self.sets:
            for k, (concept, numbered) in enumerate(zip(one.concepts, one.numbered, strict=True)):
                suspicious = one.confounds.suspicious[one.confounds.concepts == k].tolist()
                told = {n: content for (n, content), bad in zip(numbered.items(), suspicious, strict=True) if bad}
                found.setdefault(concept.name, {}).update(told)
                ids.setdefault(concept.name, set()).add(concept.id)
        shared = [name for name, told in found.items() if told and len(ids[name]) > 1]
        if shared:
            raise ValueError(f"several concepts are named {shared[0]!r}: give each a name of its own")
        return ExampleNumbers(found)

    @property
    def _levels(self) -> list[Tensor]:
        """float64 (K,) of each set, below which p-values its concepts are significant."""
        return self._of_concepts(holm_levels)

    def power(self) -> pd.DataFrame:
        """How many examples would show each concept's effect, if it is what it looks like.

        Returns:
            A row for each concept and number of examples: ``set``, ``concept``, ``examples``, of the others in the same
            proportion; and ``power``, how often these would be significant, in draws from those at hand, if the
            gradient's direction is: see ``captum_attn.concepts.power.power_curve``.
        """
        import pandas as pd

        rows = [
            {"set": one.key, "concept": concept.name, "examples": examples, "power": power}
            for one, levels in zip(self.sets, self._levels, strict=True)
            for k, (concept, level) in enumerate(zip(one.concepts, levels.tolist(), strict=True))
            for examples, power in zip(*one.power(k, level), strict=True)
        ]
        return pd.DataFrame(rows)

    def plot_power(self, experimental_set: str | None = None) -> ShownFigure:
        """:meth:`power`, a curve for each concept, with a dot at the number of examples at hand.

        Args, Returns, Raises: as :meth:`plot`.
        """
        place = self._place(experimental_set)
        one, levels = self.sets[place], self._levels[place].tolist()
        curves = [one.power(k, level) for k, level in enumerate(levels)]
        names = [concept.name for concept in one.concepts]
        return powers_by_examples(curves, WANTED, names, one.examples, self._title)

    @property
    def p_holm(self) -> list[Tensor]:
        """float64 (K,) of each set: one p-value for each concept, after Holm's correction for those of all sets."""
        return self._of_concepts(holm)

    def _of_concepts(self, function: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """A function (m,) of the p-values that count as tests, for the concepts of each set."""
        tested = [one.tested for one in self.sets]
        found = function(torch.cat(tested)).split(list(map(len, tested)))
        return [each.expand(len(one.concepts)) for one, each in zip(self.sets, found, strict=True)]

    def table(self) -> pd.DataFrame:
        """Everything about each concept in each layer, one row each.

        Returns:
            Columns ``set``, ``concept``, ``layer`` (its index), ``module``;

            - ``effect``, the mean-shift effect, in units of the explained output, and ``effect_std``, its spread over
              draws of the other concepts;
            - ``p``, its p-value, the larger one of ``p_examples`` and ``p_direction``; ``p_holm``, the same after
              Holm's correction for the concept's layers, and never below the concept's own, as :meth:`concepts` has it:
              first a concept is significant, then some of its layers, in which 5 % holds for each concept by itself;
              ``significant``, whether that is below 0.05;
            - ``score``, the T-TCAV score: the share of inputs with positive sensitivity, the mean over the vectors;
              ``score_std``, its spread over them; ``magnitude``, the mean sensitivity;
            - ``t_test``, the paper's p-value of the scores against 0.5, for comparison. **Do not rely on it**: vectors
              that share their positives are not independent, so that it finds most concepts significant, on untrained
              models, too. NaN where all vectors have one score;
            - ``accuracy`` of the vectors on held-out examples' tokens, and ``accuracy_error``, its standard error;
              ``cosine``, the mean among the vectors;
            - ``examples`` of the concept, ``inputs``; ``note``, where something is wrong.

            Rows of layers without gradients have NaN for scores and p-values.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for one, corrected in zip(self.sets, self.p_holm, strict=True):
            p_values, of_layers = one.p_values.larger, one.layer_p_holm(corrected)
            for place, (layer, scores) in enumerate(zip(one.layers, one.scores, strict=True)):
                for k, concept in enumerate(one.concepts):
                    rows.append(
                        {
                            "set": one.key,
                            "concept": concept.name,
                            "layer": layer.index,
                            "module": layer.name,
                            "effect": float(scores.effects.effect[k]),
                            "effect_std": _spread(scores.effect_of_draws[k]),
                            "p": float(p_values[place, k]),
                            "p_holm": float(of_layers[place, k]),
                            "significant": bool(of_layers[place, k] < SIGNIFICANT),
                            "p_examples": float(one.p_values.examples[place, k]),
                            "p_direction": float(one.p_values.direction[place, k]),
                            "score": float(scores.sign_count[k].mean()),
                            "score_std": _spread(scores.sign_count[k]),
                            "magnitude": float(scores.magnitude[k].mean()),
                            "t_test": float(scores.t_test[k]),
                            "accuracy": float(scores.accuracy[k]),
                            "accuracy_error": float(scores.accuracy_error[k]),
                            "cosine": float(scores.cosine[k]),
                            "examples": one.examples[k],
                            "inputs": len(self.targets),
                            "note": one.notes(place, k),
                        }
                    )
        return pd.DataFrame(rows)

    def plot(self, experimental_set: str | None = None) -> ShownFigure:
        """T-TCAV scores of concepts by layers, with marks where the effect is significant, as in :meth:`table`.

        Beside each concept stands its own p-value, as in :meth:`concepts`.

        Args:
            experimental_set: its key. Default: the first.

        Returns:
            A matplotlib figure that belongs to no window.

        Raises:
            KeyError: no such set.
        """
        place = self._place(experimental_set)
        one, p_concepts = self.sets[place], self.p_holm[place].tolist()
        rows = self.table().query("set == @one.key")
        shape = (len(one.layers), len(one.concepts))
        scores, effects, p_values = (
            torch.tensor(rows[column].to_numpy()).view(shape).mT for column in ("score", "effect", "p_holm")
        )
        names = [f"{c.name}, {written_p(p)}" for c, p in zip(one.concepts, p_concepts, strict=True)]
        return concepts_by_layers(scores, effects, p_values, names, layer_labels(one.layers), self._title)

    def plot_stability(self, experimental_set: str | None = None) -> ShownFigure:
        """How far T-TCAV scores depend on the draw of negatives: a dot for each vector of each concept, layer by layer.

        Beside each concept stands the mean cosine among its vectors, and the accuracy that they reach on held-out
        examples; where that is no better than chance, dots are hollow.

        Args, Returns, Raises: as :meth:`plot`.
        """
        one = self.of_set(experimental_set)
        blind = [[one.separates(place, k) for k in range(len(one.concepts))] for place in range(len(one.layers))]
        return scores_of_draws(
            [scores.sign_count for scores in one.scores],
            [scores.cosine for scores in one.scores],
            [scores.accuracy for scores in one.scores],
            torch.tensor(blind),
            [concept.name for concept in one.concepts],
            layer_labels(one.layers),
            self._title,
        )

    @property
    def _title(self) -> str:
        explained = set(self.target_names)
        what = explained.pop() if len(explained) == 1 else f"{len(explained)} targets"
        return f"{what}, {len(self.targets)} inputs"


def cav_agreement(scores: Mapping[str, ConceptScores]) -> pd.DataFrame:
    """How far several estimators, or other settings, agree on the same concepts, draws and inputs.

    Args:
        scores: what :meth:`TTCAV.interpret` found under each setting, by name, with the same seed.

    Returns:
        One row for each pair of settings, concept and layer: ``first``, ``second``, ``set``, ``concept``, ``layer``;
        ``cosine``, the mean between vectors of the same draw; ``difference``, of the scores, second minus first;
        ``spread``, the larger standard deviation of the scores over the vectors.

    Raises:
        ValueError: fewer than two settings, or other sets or layers.

    Example:
        >>> from captum_attn import TTCAV
        >>> good, bad = "superb funny warm fine charming", "awful stale dull boring tedious"
        >>> sets = {"good": good.split(), "bad": bad.split()}
        >>> found = {}
        >>> for name in ("discriminant", "logistic"):
        ...     ttcav = TTCAV(model, processor=tokenizer, estimator=name)
        ...     found[name] = ttcav.interpret(batch, sets, target=1, show_progress=False)
        >>> list(cav_agreement(found).columns)
        ['first', 'second', 'set', 'concept', 'layer', 'cosine', 'difference', 'spread']
    """
    import pandas as pd

    kinds = [_compared(found) for found in scores.values()]
    if len(kinds) < 2 or any(kind != kinds[0] for kind in kinds):
        raise ValueError(
            "expected a mapping with at least two settings of the same sets, layers and n_cavs, got "
            f"{dict(zip(scores, kinds, strict=True))}"
        )
    rows = []
    for first, second in combinations(scores, 2):
        for one, other in zip(scores[first].sets, scores[second].sets, strict=True):
            for layer, mine, theirs in zip(one.layers, one.scores, other.scores, strict=True):
                cosines = (mine.cavs * theirs.cavs).sum(-1).mean(1)
                for k, concept in enumerate(one.concepts):
                    rows.append(
                        {
                            "first": first,
                            "second": second,
                            "set": one.key,
                            "concept": concept.name,
                            "layer": layer.index,
                            "cosine": float(cosines[k]),
                            "difference": float(theirs.sign_count[k].mean() - mine.sign_count[k].mean()),
                            "spread": max(_spread(mine.sign_count[k]), _spread(theirs.sign_count[k])),
                        }
                    )
    return pd.DataFrame(rows)


def _compared(found: ConceptScores) -> list[Any]:
    """What must be the same in two settings: keys, concepts, layers and the number of vectors."""
    return [
        (one.key, [concept.name for concept in one.concepts], list(found[one.key]), one.scores[0].sign_count.shape[1])
        for one in found.sets
    ]


def _spread(values: Tensor) -> float:
    """Their standard deviation; NaN for a single one."""
    return float(values.std()) if len(values) > 1 else float("nan")


_MAY_BE_LEFT_OUT = ("predicted", "near", "copies", "note")
_OF_TABLE = (
    "By how much the explained output changes when hidden states move towards a concept, in the layer where that is "
    "surest; p is the concept's, of all layers together, after Holm's correction for all concepts."
)
_OF_COLUMNS = (
    "Score: T-TCAV's, the share of inputs whose output a step towards the concept would raise. Layers: in how many the "
    "effect is significant. Predicted: the share of the concept's examples that the model takes for what is explained. "
    "Near: that which lies on the explained inputs' side of the other concepts. Copies: of inputs, or other examples."
)
_OF_FIGURES = "Each concept in each layer: red raises the explained output, blue lowers it."

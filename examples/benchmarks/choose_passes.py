"""What to average relevance under rules over, when there are five forward and backward passes: the search.

    python examples/benchmarks/choose_passes.py --data DATA --models MODELS --limit 200

The candidates are what :class:`captum_attn.IntegratedAttnLRP` could do with five passes, or a few less or more: points
of the path from a baseline to the input; masks of random size, as Shapley values weight them, and pairs of
complementary ones, on the path or off it; contexts that lack what was most relevant on the path, of several shares; the
same by other rules, from other baselines. Beside them, one pass, and the attention game on masked copies. All are
measured on sentences of SST-2's *training* set, and compared with what was chosen, sentence by sentence. Writes
``choose_passes.md``, and keeps in ``--out`` what was measured. 200 sentences take about half an hour on two cores.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.data_sets import MAX_LENGTH, read

from captum_attn import AttnLRP, IntegratedAttnLRP, MaskTunnel, ShapleyGradAttention, TokenAttributions
from captum_attn.functional import PERCENTAGES, gauss_legendre, top_and_rest
from captum_attn.metrics import Evaluation, evaluate

CHOSEN = "path 3, without top 20 and 10 %"

Averaged = Callable[[Tensor, Tensor], Tensor]
Plan = Callable[[Averaged, Tensor], Tensor]
"""From the mean relevance (B, N) over contexts, given presences (S, B, N) and shares (S,), and the players (B, N)."""


class Planned(IntegratedAttnLRP):
    """Relevance averaged over contexts that a plan chooses."""

    def __init__(self, model: Any, plan: Plan, **settings: Any) -> None:
        super().__init__(model, **settings)
        self.plan = plan

    def _relevance(self, batch: Any, explained: Any, baseline: Any) -> TokenAttributions:
        def averaged(presences: Tensor, shares: Tensor) -> Tensor:
            return self._averaged(batch, explained, baseline, presences, shares)[0]

        found: TokenAttributions = explained.attributions(self.plan(averaged, explained.players))
        return found


def path(averaged: Averaged, players: Tensor, points: int) -> Tensor:
    """The straight path from the baseline to the input."""
    places, shares = gauss_legendre(points)
    return averaged(places[:, None, None].expand(-1, *players.shape), shares)


def path_then_without(averaged: Averaged, players: Tensor, points: int, percent: tuple[int, ...]) -> Tensor:
    """The path, then the whole input without the shares of tokens that are most relevant on it."""
    found = path(averaged, players, points)
    lacking, _ = top_and_rest(found, players, percent)
    more = averaged((~lacking).float(), torch.ones(len(percent)))
    return (points * found + more) / (points + len(percent))


def step_by_step(averaged: Averaged, players: Tensor, points: int, percent: tuple[int, ...]) -> Tensor:
    """The same, but what is taken away next is chosen by all that was found before."""
    found, passes = path(averaged, players, points), points
    for share in percent:
        lacking, _ = top_and_rest(found, players, [share])
        more = averaged((~lacking).float(), torch.ones(1))
        found, passes = (passes * found + more) / (passes + 1), passes + 1
    return found


def random_masks(averaged: Averaged, players: Tensor, masks: int, complements: bool = False) -> Tensor:
    """Random tokens alone, any number of them alike, as for Shapley values; or pairs of a mask and what it lacks."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.rand(masks // (1 + complements), len(players), 1, generator=generator)
    present = (torch.rand(*sizes.shape[:2], players.shape[1], generator=generator) < sizes).float()
    if complements:
        present = torch.cat([present, 1 - present])
    return averaged(present, torch.full((masks,), 1 / masks))


def masks_on_path(averaged: Averaged, players: Tensor, points: int) -> Tensor:
    """The path, of which each point has half of the tokens nearer to the baseline, and half nearer to the input."""
    generator = torch.Generator().manual_seed(0)
    places, shares = gauss_legendre(points)
    ahead = torch.rand(points, *players.shape, generator=generator) < 0.5
    return averaged(torch.where(ahead, places[:, None, None] ** 0.5, places[:, None, None] ** 2), shares)


def path_and_masks(averaged: Averaged, players: Tensor, points: int, masks: int) -> Tensor:
    """Both, in one mean."""
    share = points / (points + masks)
    return share * path(averaged, players, points) + (1 - share) * random_masks(averaged, players, masks, True)


PLANS: dict[str, Plan] = {
    CHOSEN: partial(path_then_without, points=3, percent=(20, 10)),
    **{f"path {points}": partial(path, points=points) for points in (1, 3, 5, 9)},
    **{
        f"path 3, without top {first} and {second} %": partial(path_then_without, points=3, percent=(first, second))
        for first, second in ((10, 5), (30, 10), (50, 20))
    },
    "path 4, without top 20 %": partial(path_then_without, points=4, percent=(20,)),
    "path 2, without top 30, 20 and 10 %": partial(path_then_without, points=2, percent=(30, 20, 10)),
    "path 1, without top 40, 30, 20 and 10 %": partial(path_then_without, points=1, percent=(40, 30, 20, 10)),
    **{
        f"path {points}, without top 20 and 10 %": partial(path_then_without, points=points, percent=(20, 10))
        for points in (1, 5, 7)
    },
    "path 3, then 20 %, then 10 % of all so far": partial(step_by_step, points=3, percent=(20, 10)),
    "5 masks of random size": partial(random_masks, masks=5),
    "2 pairs of complementary masks": partial(random_masks, masks=4, complements=True),
    "path 3 and a pair of masks": partial(path_and_masks, points=3, masks=2),
    "path 5, half of the tokens ahead": partial(masks_on_path, points=5),
}


def main() -> None:
    disable_progress_bar()
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    data = read("sst2", options, split="train")
    result = evaluate(
        data.model,
        data.inputs,
        candidates(data.model, data.tokenizer),
        tokenizer=data.tokenizer,
        percentages=PERCENTAGES["paper"],
        interventions=("replacement", "knockout"),
        max_length=MAX_LENGTH,
        file=options.out / f"sst2-train-{options.limit}.jsonl",
    )
    table = markdown(result)
    (options.out / "choose_passes.md").write_text(table, encoding="utf-8")
    print(table)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with sst2/train.tsv")
    parser.add_argument("--models", type=Path, required=True, help="folder with minilm-sst2")
    parser.add_argument("--limit", type=int, default=200, help="sentences (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/choose_passes"), help="default: %(default)s")
    return parser.parse_args()


def candidates(model: Any, tokenizer: Any) -> dict[str, Any]:
    """All that is compared, by name."""
    planned = partial(Planned, model, tokenizer=tokenizer)
    found: dict[str, Any] = {name: planned(plan) for name, plan in PLANS.items()}
    for rules in ("cp", "gradient"):
        found |= {f"{name}; {rules}": planned(PLANS[name], propagation=rules) for name in (CHOSEN, "path 5")}
    found |= {f"{name}; from zeros": planned(PLANS[name], baseline="zeros") for name in (CHOSEN, "path 5")}
    found["AttnLRP"] = AttnLRP(model, tokenizer=tokenizer)
    for rules in ("gradient", "attnlrp"):
        game = ShapleyGradAttention(model, tokenizer=tokenizer, propagation=rules)
        found[f"game on 4 masked copies; {rules}"] = MaskTunnel(game, tokenizer, parts=4)
    return found


def markdown(result: Evaluation) -> str:
    """Comprehensiveness on the paper's scale, and how it differs from what was chosen."""
    means = result.table(["comprehensiveness"], scale="paper").query("ranking == 'scores'")
    differences = result.compare(CHOSEN, ["comprehensiveness"], scale="paper")
    both = means.merge(differences, "left", ["method", "intervention"]).set_index(["method", "intervention"])

    def cells(name: str, intervention: str) -> str:
        row = both.loc[name, intervention]
        difference = "" if name == CHOSEN else f"{row.difference:+.3f} ± {row.standard_error_y:.3f}"
        return f"{row['mean']:.3f} | {difference}"

    lines = [
        f"{result.settings.count} sentences of SST-2's training set; differences from {CHOSEN!r}",
        "",
        "| averaged over | replacement | difference | knockout | difference |",
        "|---|--:|--:|--:|--:|",
    ]
    for name in result.methods:
        lines.append(f"| {name} | {' | '.join(cells(name, kind) for kind in result.settings.interventions)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

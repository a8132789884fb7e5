"""T-TCAV: testing with concept activation vectors, for transformers."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from captum.concept import Concept, ConceptInterpreter
from captum.log import log_usage
from torch import Tensor, nn
from tqdm.auto import tqdm

from captum_attn.bench import OnError, Reader, check_in_order
from captum_attn.concepts.cavs import ESTIMATORS, CAVEstimator, EstimatorName, fitted
from captum_attn.concepts.concept_scores import ConceptScores, SetScores
from captum_attn.concepts.concept_states import ConceptStates, Scope, StateStore, tokens_in_scope
from captum_attn.concepts.concept_warnings import (
    warn_of_confounds,
    warn_of_cropped,
    warn_of_inseparable,
    warn_of_several_classes,
    warn_of_weak_tests,
)
from captum_attn.concepts.confounds import ExplainedInputs, find_confounds
from captum_attn.concepts.experimental_sets import (
    ExperimentalSets,
    ReadConcepts,
    content_of_each,
    read_with,
)
from captum_attn.concepts.layers import Layer, find_layers, layers_as_listed
from captum_attn.concepts.scoring import effect_p_values, layer_effects, score_layer
from captum_attn.concepts.sensitivity_maps import SensitivityMaps, check_masks
from captum_attn.concepts.token_states import TokenStates, draw_negatives, joined
from captum_attn.core import (
    ModelInputs,
    ObservedForward,
    ReadoutGradients,
    Target,
    Tokens,
    as_index,
    class_names,
    device_of,
    is_index,
    observed_forward,
    seeded,
    select_target,
    special_ids_of,
    target_of_each,
    unwrapped,
)
from captum_attn.core.inputs import forward_args
from captum_attn.core.propagation import GRADIENT, Propagation, propagation_named
from captum_attn.functional import mean_shifts, pooled_gradient, token_sensitivity

Weighting = Literal["attention", "uniform"]


@dataclass(frozen=True)
class _ExplainedBatch:
    """A batch of inputs: what was explained, and for each layer how the output draws on the tokens' states.

    Attributes:
        inputs: the batch.
        targets: int64 (B, k).
        outputs: the length of the last dimension of the model's output.
        tokens: which tokens are which.
        gradients: g of each layer, (B, N, D).
        weights: a of each layer, (B, N); 0 for tokens out of scope.
        states: of each layer, (B, D), the mean of the tokens in scope.
    """

    inputs: ModelInputs
    targets: Tensor
    outputs: int
    tokens: Tokens
    gradients: list[Tensor]
    weights: list[Tensor]
    states: list[Tensor]

    def pooled(self) -> list[Tensor]:
        """p = Σ_i a_i g_i of each layer, (B, D)."""
        return list(map(pooled_gradient, self.gradients, self.weights))


class TTCAV(ConceptInterpreter):  # type: ignore[misc]
    """Which concepts move a prediction, in which layers, and how sure is that?

    A concept is given by examples: images of stripes, texts of praise. In the hidden states of a layer, a *concept
    activation vector* (CAV) leads from the tokens of other concepts' examples to those of this one's. The sensitivity
    of the explained output to the concept is its derivative along that vector, at the tokens of an input, weighted by
    the attention that the readout token pays to them. The T-TCAV score is the share of inputs that are sensitive in the
    positive, for each of many vectors against other draws of the other concepts. The *mean-shift effect* says how
    strongly, in units of the output, and comes with p-values (:mod:`captum_attn.functional`).

    It replaces :class:`captum.concept.TCAV` for transformers: the same concepts and the same form of results, but sees
    tokens instead of flattened layers, so that inputs may differ in length, and keeps activations by content.

    Args:
        model: a module, e.g. the Hugging Face model itself. It runs in eval mode and is left as it was.
        layers: indices of transformer layers, negative ones from the end, or names of modules that return (B, N, D);
            one or several. Default: all transformer layers.
        n_cavs: vectors for each concept, each against other draws.
        processor: the model's tokenizer or image processor, where concepts or inputs are texts, images or paths; or a
            function from a list of them to tensors. A tokenizer also tells which tokens are special.
        tokens: whose states count, in concepts and in inputs: the ``"readout"`` token, from which the output is read,
            so that an example counts as a whole; ``"players"`` (patches, words); or ``"all"`` that is no padding, as in
            the paper. The default finds most where the truth is known (``examples/benchmarks``). In the last layer,
            players have no gradient if the model reads one token only: scores are NaN then.
        weighting: of the tokens' sensitivities: ``"attention"`` of the readout token to them in the same layer, the
            mean of all heads; or ``"uniform"``, as in an ordinary TCAV of tokens. A single readout token is not
            weighted: that would change no score.
        estimator: of the vectors, ``"discriminant"``, ``"logistic"`` (the paper's) or ``"pattern"``, or another
            :class:`captum_attn.concepts.CAVEstimator`.
        propagation: how gradients go down, plainly or by rules; see :class:`captum_attn.AttentionAttribution`. Under
            ``"attnlrp"``, more of a heat map lies on the object, and the concept that is known to be the true one has
            the highest score more often (``examples/benchmarks``); but effects are relevance then, no longer the
            first-order change of the output.
        permutations: random splits of the examples, for p-values.
        batch_size: how many examples the model sees at a time.
        cache_dir: a folder in which concepts' states are kept, too, and found again by another process.
        on_error: ``"skip"`` leaves out examples that cannot be read, with a warning.
        seed: of all that is random. The global random state is not touched.

    Raises:
        TypeError, ValueError: arguments that are none of the above.

    Example:
        >>> praise = ["a gem", "superb acting", "a delight", "warm and funny", "an outstanding cast", "gripping"]
        >>> blame = ["a mess", "awful acting", "a bore", "cold and stale", "a clueless cast", "tedious"]
        >>> ttcav = TTCAV(model, processor=tokenizer)
        >>> texts = ["a gripping film", "a charming , funny film"]
        >>> scores = ttcav.interpret(texts, {"praise": praise, "blame": blame}, target=1, show_progress=False)
        >>> scores["0-1"]["bert.encoder.layer.2"]["sign_count"].shape
        torch.Size([2])
        >>> list(scores.table().columns[:4])
        ['set', 'concept', 'layer', 'module']

    Source: Kim et al. 2018 (TCAV), arXiv 1711.11279; arXiv 2508.08966 (T-TCAV). The mean-shift effect, its tests and
    the default token scope are this library's.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[int | str] | int | str | None = None,
        n_cavs: int = 50,
        *,
        processor: Any | None = None,
        tokens: Scope = "readout",
        weighting: Weighting = "attention",
        estimator: EstimatorName | CAVEstimator = "discriminant",
        propagation: str | Propagation = GRADIENT,
        permutations: int = 9999,
        batch_size: int = 16,
        cache_dir: str | Path | None = None,
        on_error: OnError = "raise",
        seed: int = 0,
    ) -> None:
        module = unwrapped(model)
        if not isinstance(module, nn.Module):
            raise TypeError(f"model must be a module, got {type(model).__name__}; of a pipeline, give pipeline.model")
        _check_choice("tokens", tokens, get_args(Scope))
        _check_choice("weighting", weighting, get_args(Weighting))
        _check_choice("on_error", on_error, get_args(OnError))
        if not callable(estimator):
            _check_choice("estimator", estimator, tuple(ESTIMATORS))
        for name, number in {"n_cavs": n_cavs, "permutations": permutations, "batch_size": batch_size}.items():
            if not isinstance(number, int) or number < 1:
                raise ValueError(f"{name} must be an int of at least 1, got {number!r}")
        if not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed must be an int of at least 0, got {seed!r}")
        try:
            each = layers_as_listed(layers)
        except TypeError:
            raise TypeError(
                "layers must be indices or names of modules (dict(model.named_modules()) has them), or None for all, "
                f"got {type(layers).__name__}; a tokenizer goes to processor="
            ) from None
        if cache_dir is not None and Path(cache_dir).exists() and not Path(cache_dir).is_dir():
            raise NotADirectoryError(f"cache_dir must be a folder, got the file {cache_dir}")
        super().__init__(module)
        self.layers = each
        self.n_cavs, self.tokens, self.weighting = n_cavs, tokens, weighting
        self.estimator, self.permutations, self.seed = estimator, permutations, seed
        self.propagation = propagation_named(propagation)
        self.processor = processor
        self._special_ids = special_ids_of(processor) if hasattr(processor, "all_special_ids") else None
        self._reader = Reader(module, processor, batch_size, on_error)
        self._store = StateStore(module, self._special_ids, None if cache_dir is None else Path(cache_dir))

    @log_usage()  # type: ignore[untyped-decorator]
    @torch.inference_mode(False)
    def interpret(
        self,
        inputs: Any,
        experimental_sets: ExperimentalSets,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        leave_out: Mapping[str, Collection[int]] | None = None,
        show_progress: bool = True,
    ) -> ConceptScores:
        """Score concepts by the inputs of a class.

        Args:
            inputs: the inputs that are explained, usually of one class: token ids (B, N), embeddings (B, N, D), pixels
                (B, C, h, w), waves (B, samples) or videos (B, frames, C, h, w), the mapping that a tokenizer or another
                processor returns, a list of texts, images or paths of images, or a data loader of any of these.
            experimental_sets: lists of :class:`captum.concept.Concept`, each with a ``data_iter`` of batches in any of
                these forms; or one such list, or a mapping from names to examples in any of these forms, which is one
                set. In a set, each concept is compared with all others: let one of them be ``random`` examples, if
                there is nothing to compare with.
            target: which output is explained, in Captum's forms; ``None`` is the predicted class of each input.
            additional_forward_args: other arguments of the model beside a tensor of inputs, one or a tuple.
            leave_out: numbers of examples, by the names of their concepts, that do not count, such as those which
                :meth:`ConceptScores.suspicious` of another call tells: what is left of an effect without them?
            show_progress: show progress bars.

        Returns:
            The scores: see :class:`~captum_attn.concepts.ConceptScores`.

        Warns:
            of concepts whose examples the model takes for the explained class more often than the others', or that hold
            copies of inputs or of other examples; of concepts whose vectors separate held-out examples no better than
            chance, of inputs that are explained for several outputs, of too few permutations or examples for the number
            of tests, of texts that are cut.

        Raises:
            TypeError, ValueError, IndexError: inputs, concepts, targets or layers that do not fit; a concept with fewer
                than 5 different examples, or with nothing to compare it with; targets for each of the inputs of a data
                loader that shuffles. Each says what was expected.
            UnreadableError: examples that cannot be read, by their numbers.
        """
        _check_order(inputs, target)
        concepts = self.read_concepts(experimental_sets).without(leave_out or {})
        batches = self._read_inputs(inputs, additional_forward_args)
        contents = content_of_each(batches)
        concepts.check_different(contents)
        _check_counted(target, batches, concepts)
        layers = find_layers(self.model, batches[0][:1], self.layers)
        clock = [time.perf_counter()]
        readout_target = self._readout_target(target, batches)
        states = self.read_states(concepts, layers, readout_target, show_progress=show_progress)
        clock.append(time.perf_counter())
        each = self._explained(batches, layers, self.tokens, target, show_progress)
        explained = [(batch.pooled(), batch.states, batch.targets, batch.outputs) for batch in each]
        pooled, of_inputs = (
            [torch.cat(parts) for parts in zip(*(batch[k] for batch in explained), strict=True)] for k in (0, 1)
        )
        targets, outputs = torch.cat([batch[2] for batch in explained]), explained[0][3]
        clock.append(time.perf_counter())
        found = self.score(
            concepts,
            states,
            layers,
            ExplainedInputs(pooled, targets, of_inputs, contents),
            outputs=outputs,
            show_progress=show_progress,
        )
        clock.append(time.perf_counter())
        found.seconds |= {stage: clock[k + 1] - clock[k] for k, stage in enumerate(("states", "gradients", "vectors"))}
        warn_of_several_classes(found)
        warn_of_weak_tests(found.sets)
        warn_of_inseparable(found.sets)
        warn_of_confounds(found.sets)
        return found

    def read_concepts(self, experimental_sets: ExperimentalSets) -> ReadConcepts:
        """Read the examples of concepts, to :meth:`score` them more than once.

        Args:
            experimental_sets: as in :meth:`interpret`.

        Raises:
            TypeError, ValueError, UnreadableError: as :meth:`interpret`, of concepts.
        """
        return read_with(self._reader, experimental_sets)

    def read_states(
        self,
        concepts: ReadConcepts,
        layers: Sequence[Layer],
        readout_target: Target = None,
        *,
        show_progress: bool = False,
        keep: bool = True,
        done: Callable[[int], Any] | None = None,
    ) -> dict[int, ConceptStates]:
        """The hidden states of concepts' tokens, by the concepts' ids: all that scores need of them.

        Args:
            concepts: of :meth:`read_concepts`.
            layers: of :func:`captum_attn.concepts.find_layers`.
            readout_target: the output (token, class) by which concepts' readout token is found, if it depends on that.
            show_progress: show a progress bar.
            keep: keep the states, and find them again by a hash of the weights; of no use while these change.
            done: called with the number of examples that are done.

        Raises:
            ValueError: examples on no token of which the output depends.
        """
        return self._states(concepts, layers, self.tokens, readout_target, show_progress, keep, done)

    def pooled_gradients(self, run: ObservedForward, readout: ReadoutGradients) -> list[Tensor]:
        """p = Σ_i a_i g_i of each layer, (B, D): all that scores need of the inputs.

        Args:
            run: an observed forward pass of inputs.
            readout: of its backward pass, :meth:`~captum_attn.core.ObservedForward.readout_gradients` of the layers.
        """
        weights = self._weights(self.tokens, run.tokens(self._special_ids), readout)
        return list(map(pooled_gradient, readout.gradients, weights))

    def score(
        self,
        concepts: ReadConcepts,
        states: Mapping[int, ConceptStates],
        layers: Sequence[Layer],
        inputs: ExplainedInputs,
        *,
        outputs: int = 0,
        show_progress: bool = False,
    ) -> ConceptScores:
        """Score concepts by inputs of which pooled gradients are known.

        Args:
            concepts: of :meth:`read_concepts`; some of their examples may be left out.
            states: of :meth:`read_states`.
            layers: those of the states.
            inputs: their gradients, of :meth:`pooled_gradients`, what was explained, and what else is known.
            outputs: how many classes the model tells apart, by which their names are found.
            show_progress: show a progress bar.
        """
        states = {id: of_concept.only(concepts.kept[id]) for id, of_concept in states.items()}
        total = len(concepts.sets) * len(layers)
        with tqdm(total=total, desc="T-TCAV: CAVs", unit="layer", disable=not show_progress) as bar:
            found = [self._scores(members, concepts, states, layers, inputs, bar.update) for members in concepts.sets]
        return ConceptScores(found, inputs.targets, self._names(inputs.targets, outputs))

    @torch.inference_mode(False)
    def sensitivity_maps(
        self,
        inputs: Any,
        concepts: ExperimentalSets,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        masks: Tensor | None = None,
        rescaled: bool = False,
        show_progress: bool = True,
    ) -> SensitivityMaps:
        """Where in inputs the output is sensitive to concepts: token by token.

        The vectors lead from token to token: they are fitted to the states of all players (of all tokens under
        ``tokens="all"``), and a concept's vector is the mean of ``n_cavs``, as long as the concept's examples lie from
        the others along it. So values are in units of the explained output.

        Args:
            inputs, target, additional_forward_args, show_progress: as in :meth:`interpret`.
            concepts: one experimental set, in any form that :meth:`interpret` takes.
            masks: of images, bool (n, h, w), the pixels of the object in question, for
                :meth:`~captum_attn.concepts.SensitivityMaps.on_object`.
            rescaled: scale each input's derivatives to the norm of its attention, as the paper's heat maps do; then
                values have no unit.

        Raises:
            TypeError, ValueError, IndexError: as :meth:`interpret`; masks of another size, or of texts.

        Example:
            >>> praise, blame = "superb funny warm fine charming", "awful stale dull boring tedious"
            >>> sets = {"praise": praise.split(), "blame": blame.split()}
            >>> maps = TTCAV(model, processor=tokenizer).sensitivity_maps(batch, sets, target=1, show_progress=False)
            >>> maps.values.shape  # inputs, layers, concepts, tokens
            torch.Size([2, 4, 2, 6])
            >>> maps.plot(0, layer=2).savefig("praise.png")
        """
        _check_order(inputs, target)
        if masks is not None:
            check_in_order(inputs, "masks")
            warn_of_cropped(self.processor)
        read = self.read_concepts(concepts)
        if len(read.sets) > 1:
            raise ValueError(f"maps are of one experimental set, got {len(read.sets)}")
        (members,) = read.sets
        read.check_different(())
        batches = self._read_inputs(inputs, additional_forward_args)
        _check_counted(target, batches, read)
        pictures = batches[0].modality == "pixels"
        pixels = torch.cat([batch.features for batch in batches]) if pictures else None
        check_masks(masks, pixels)
        layers = find_layers(self.model, batches[0][:1], self.layers)
        scope: Scope = "all" if self.tokens == "all" else "players"
        states = self._states(read, layers, scope, None, show_progress)
        values, explained = [], list(self._explained(batches, layers, scope, target, show_progress))
        pooled = [torch.cat(parts).mean(0) for parts in zip(*(batch.pooled() for batch in explained), strict=True)]
        tokens = [self._joined(members, states, place) for place in range(len(layers))]
        vectors = list(map(self._map_vectors, tokens))
        effects = list(map(layer_effects, tokens, pooled))
        p_values = effect_p_values(effects, tokens[0].concepts, self.permutations, self.seed)
        longest = max(batch.tokens.real.shape[1] for batch in explained)
        for batch in explained:
            of_layers = [
                token_sensitivity(gradient, weights, cavs, rescaled)
                for gradient, weights, cavs in zip(batch.gradients, batch.weights, vectors, strict=True)
            ]
            values.append(_lengthened(torch.stack(of_layers, 1), longest))
        targets = torch.cat([batch.targets for batch in explained])
        return SensitivityMaps(
            torch.cat(values),
            [concept.name for concept in members],
            [layer.name for layer in layers],
            targets,
            self._names(targets, explained[0].outputs),
            torch.cat([_lengthened(batch.tokens.real, longest) for batch in explained]),
            explained[0].tokens.grid,
            pixels,
            [text for batch in explained for text in self._texts(batch)] or None,
            p_values=p_values.larger,
            masks=masks,
            propagation=self.propagation.name,
        )

    def _map_vectors(self, tokens: TokenStates) -> Tensor:
        """(K, D), from the other concepts' tokens to each concept's."""
        draws = draw_negatives(tokens.concepts, self.n_cavs, seeded(self.seed, 0))
        each = self._estimator(tokens, draws).vectors.unflatten(0, (-1, self.n_cavs))
        unit = F.normalize(each.mean(1), dim=-1)
        distance = (unit * mean_shifts(tokens.example_means, tokens.concepts)).sum(-1, keepdim=True)
        return unit * distance.abs()

    def _read_inputs(self, inputs: Any, additional_forward_args: Any) -> list[ModelInputs]:
        return self._reader.read(inputs, "inputs", forward_args(additional_forward_args))

    def _states(
        self,
        concepts: ReadConcepts,
        layers: Sequence[Layer],
        scope: Scope,
        readout_target: Target,
        show_progress: bool,
        keep: bool = True,
        done: Callable[[int], Any] | None = None,
    ) -> dict[int, ConceptStates]:
        """The states of each concept's tokens, by its id."""
        names = concepts.names
        if keep:
            self._store.refresh()
        total = sum(len(batch) for parts in concepts.examples.values() for batch in parts)
        states = {}
        with tqdm(total=total, desc="T-TCAV: concepts", unit="example", disable=not show_progress) as bar:
            for id, parts in concepts.examples.items():
                name = names[id]
                try:
                    wanted = (parts, layers, scope, readout_target, done or bar.update)
                    states[id] = self._store.states(name, *wanted) if keep else self._store.compute(*wanted)
                except Exception as error:
                    error.add_note(f"while the model read the examples of concept {name!r}")
                    raise
        return states

    def _explained(
        self,
        batches: Sequence[ModelInputs],
        layers: Sequence[Layer],
        scope: Scope,
        target: Target,
        show_progress: bool,
    ) -> Iterator[_ExplainedBatch]:
        """One forward and one backward pass for each batch."""
        each, start = target_of_each(target, sum(map(len, batches))), 0
        for batch in tqdm(batches, desc="T-TCAV: inputs", unit="batch", disable=not show_progress):
            rows = each and each[start : start + len(batch)]
            start += len(batch)
            modules = {layer.module for layer in layers}
            with observed_forward(self.model, batch, modules=modules, propagation=self.propagation) as run:
                tokens = run.tokens(self._special_ids)
                selection = select_target(run, rows)
                readout = run.readout_gradients(selection.scores, [layer.of(run) for layer in layers])
                weights = self._weights(scope, tokens, readout)
                counted = tokens_in_scope(scope, tokens, readout.readout).double()
                share = (counted / counted.sum(-1, keepdim=True)).float()
                states = [pooled_gradient(layer.of(run).hidden.detach(), share) for layer in layers]
            outputs = run.output.shape[-1]
            yield _ExplainedBatch(batch, selection.targets, outputs, tokens, readout.gradients, weights, states)

    def _readout_target(self, target: Target, batches: Sequence[ModelInputs]) -> Target:
        """The output by which concepts' readout token is found; None where all outputs have the same."""
        rows = set(target_of_each(target, sum(map(len, batches))) or ())
        if self.tokens != "readout" or len(rows) != 1:
            return None
        (row,) = rows
        with observed_forward(self.model, batches[0][:1]) as run:
            of_all = run.find_readout(run.output.flatten(1).sum(1))
            own = run.find_readout(select_target(run, [row]).scores)
        return None if torch.equal(own, of_all) else row

    def _weights(self, scope: Scope, tokens: Tokens, readout: ReadoutGradients) -> list[Tensor]:
        """a of each layer, (B, N); 0 for tokens out of scope."""
        counted = tokens_in_scope(scope, tokens, readout.readout)
        alone = scope == "readout" and int(counted.sum(-1).max()) == 1
        uniform = self.weighting == "uniform" or alone
        return [counted.to(attention) * (1 if uniform else attention) for attention in readout.attention]

    @property
    def _estimator(self) -> CAVEstimator:
        return partial(fitted, self.estimator if callable(self.estimator) else ESTIMATORS[self.estimator])

    def _joined(self, concepts: Sequence[Concept], states: Mapping[int, ConceptStates], place: int) -> TokenStates:
        """The states of all concepts in one layer, on the model's device."""
        device = device_of(self.model)
        parts = [states[concept.id] for concept in concepts]
        return joined([(part.hidden[place].to(device), part.counts.to(device)) for part in parts])

    def _scores(
        self,
        members: Sequence[Concept],
        concepts: ReadConcepts,
        states: Mapping[int, ConceptStates],
        layers: Sequence[Layer],
        inputs: ExplainedInputs,
        done: Callable[[], Any],
    ) -> SetScores:
        """The scores of one experimental set, by the states of its examples that count."""
        found, means = [], []
        for place, gradients in enumerate(inputs.pooled):
            tokens = self._joined(members, states, place)
            found.append(score_layer(tokens, gradients, self._estimator, self.n_cavs, self.seed))
            means.append(tokens.example_means + tokens.centre)
            done()
        p_values = effect_p_values([one.effects for one in found], tokens.concepts, self.permutations, self.seed)
        predicted = torch.cat([states[concept.id].predicted for concept in members])
        copies = concepts.copies(members, inputs.contents)
        confounds = find_confounds(means, tokens.concepts, p_values.surest, inputs, predicted, copies)
        examples = [concepts.examples_that_count(concept) for concept in members]
        return SetScores(members, layers, found, p_values, examples, confounds)

    def _names(self, targets: Tensor, outputs: int) -> list[str]:
        """The targets (n, k) in words."""
        names = class_names(self.model, outputs) if targets.shape[1] == 1 else None
        if names is not None:
            return [names[number] for number in targets[:, 0].tolist()]
        rows = targets.tolist()
        return [f"target {row[0] if len(row) == 1 else tuple(row)}" for row in rows]

    def _texts(self, batch: _ExplainedBatch) -> list[list[str]]:
        """The tokens of texts; none without a tokenizer."""
        to_tokens = getattr(self.processor, "convert_ids_to_tokens", None)
        if batch.inputs.modality != "ids" or to_tokens is None:
            return []
        pairs = zip(batch.inputs.features, batch.tokens.real, strict=True)
        return [to_tokens(ids[real].tolist()) for ids, real in pairs]


def _check_order(inputs: Any, target: Target) -> None:
    if isinstance(target, list | Tensor) and not is_index(target):
        check_in_order(inputs, "targets")


def _check_counted(target: Target, batches: Sequence[ModelInputs], concepts: ReadConcepts) -> None:
    """Raise ``ValueError`` for tokens counted from the beginning of rows some of which begin with padding."""
    rows = target_of_each(target, sum(map(len, batches))) or ()
    early = any(len(row) > 1 and is_index(row[0]) and as_index(row[0]) >= 0 for row in rows)
    masks = [batch.companions.get("attention_mask") for batch in chain(batches, *concepts.examples.values())]
    if early and any(isinstance(mask, Tensor) and mask.dim() == 2 and not mask[:, 0].all() for mask in masks):
        raise ValueError(
            f"target {target} counts tokens from the beginning of rows, some of which begin with padding: count from "
            "the end, as in (-1, class), or give batch_size=1"
        )


def _check_choice(name: str, given: Any, choices: Collection[str]) -> None:
    if given not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {given!r}")


def _lengthened(values: Tensor, length: int) -> Tensor:
    """Values (..., N) with zeros behind, up to a length."""
    return F.pad(values, (0, length - values.shape[-1]))

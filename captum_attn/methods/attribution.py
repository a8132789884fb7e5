"""What every attention explanation has in common: inputs, targets, players, batches in parts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypedDict, TypeVar

from captum.attr import Attribution
from captum.log import log_usage
from torch import Tensor
from tqdm.auto import tqdm

from captum_attn.bench import is_prepared, read_together
from captum_attn.core import (
    ObservedForward,
    check_classes,
    check_model,
    class_names,
    config_of,
    observed_forward,
    unwrapped,
)
from captum_attn.core.indices import listed_indices
from captum_attn.core.inputs import ModelInputs, forward_args, inputs_by_modality, mapping_inputs, tensor_inputs
from captum_attn.core.observers import LayerObserver
from captum_attn.core.patches import Grid
from captum_attn.core.propagation import GRADIENT, Propagation, propagation_named
from captum_attn.core.readout import Readout, RowWeights, check_readout
from captum_attn.core.states import States
from captum_attn.core.targets import Index, Selection, Target, no_selection, select_target, target_of_each
from captum_attn.core.tokens import Tokens, special_ids_of
from captum_attn.token_attributions import Origin, TokenAttributions, concatenated

Inputs = Tensor | tuple[Tensor] | Mapping[str, Any] | Any
"""What can be explained; :meth:`AttentionAttribution.attribute` says how each is read."""

Targets = Sequence[Target] | Callable[[Tensor], Tensor]
TargetsOfEach = Callable[[Tensor], Tensor] | list[list[tuple[Index, ...]] | None]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Explained:
    """One observed forward pass, the scores to explain, and what is known of the tokens (B, N).

    Attributes:
        last: whether no other scores of the same pass will be explained.
        states: the hidden states that a :class:`OnePassAttribution` asked for, in the order in which they came.
        gradients: of the scores with respect to each of these, (B, N, D); there when the observer has seen all, of a
            method that needs gradients.
        feature_gradients: of the scores with respect to what came in at each of the run's entrances, for those who read
            them.
    """

    run: ObservedForward
    selection: Selection
    last: bool
    tokens: Tokens
    readout: RowWeights
    states: Sequence[States] = ()
    gradients: Sequence[Tensor] = ()
    feature_gradients: Sequence[Tensor] = ()

    @property
    def real(self) -> Tensor:
        """bool (B, N), the tokens that are no padding."""
        return self.tokens.real

    @property
    def players(self) -> Tensor:
        """bool (B, N), the tokens that play; ``ValueError`` if nothing says which do."""
        return self.tokens.players

    @property
    def grid(self) -> Grid:
        """How images are cut into patches; None for text."""
        return self.tokens.grid

    def attributions(
        self, values: Tensor, standard_error: Tensor | None = None, of_features: Tensor | None = None
    ) -> TokenAttributions:
        """The result that gives players their values (B, ..., N), and the others 0."""
        shape = (len(self.players), *[1] * (values.dim() - 2), -1)
        return TokenAttributions(
            values.detach().masked_fill(~self.players.view(shape), 0.0),
            self.players,
            self.selection.targets,
            self.selection.scores.detach(),
            self.run.output.detach(),
            self.grid,
            standard_error,
            of_features,
            self.tokens.picture,
            self.real,
        )


def copies_at_once(real: Tensor) -> int:
    """How many copies of a batch, of the size of ``real`` (B, N), are explained together: of 2,048 tokens, or one."""
    return max(1, 2048 // real.numel())


def influence_of(_: Explained, observer: Any) -> Tensor:
    """What an observer of influence or relevance has seen, for those who want it as it is."""
    influence: Tensor = observer.influence
    return influence


class CommonArguments(TypedDict, total=False):
    """What every method takes besides its own arguments; see :class:`AttentionAttribution`."""

    layers: Sequence[int] | int | None
    heads: Sequence[int] | int | None
    readout: Readout
    tokenizer: Any | None
    processor: Any | None
    additional_forward_arg_names: Sequence[str] | None
    propagation: str | Propagation


class AttentionAttribution(Attribution):  # type: ignore[misc]
    """What every attention explanation of this package has in common.

    Args:
        model: the Hugging Face model itself, any ``nn.Module``, or a function that calls one. It returns scores of
            each example: a tensor, an output or mapping with ``logits``, question answering's start and end logits
            (stacked to (B, N, 2)), or a tuple or list in which one tensor alone can be scores, as in (loss, logits).
            The model runs in eval mode and is left as it was. :func:`captum_attn.inspect` says what of it is seen.
        layers, heads: which count, one index or several; negative ones count from the end. Default: all.
        readout: the token that the prediction is read from: an index, ``"mean"`` for all tokens that are no padding (of
            an image: its patches), or ``"auto"``. That is the token that the explained output is read from, or the mean
            of these, as a gradient finds them in the last layer, in methods without gradients, too: the first token in
            BERT and ViT, the last one in GPT and Llama, the token of a target (token, class), all tokens under mean
            pooling or where a decoder reads them (T5, BART). Where there is no score, or the weights let no gradient
            pass, ``captum_attn.core.readout.rows_by_rule`` goes by the model's kind.
        tokenizer: tells which ids are special and do not play. Without one, the configuration and the attention mask
            decide (``captum_attn.core.tokens.find_players`` says how); ``special_tokens_mask`` in the inputs and
            ``players`` override both. With it, texts are inputs, and results know their words.
        processor: makes the model's inputs of images, sounds, or texts and images: an image processor, a feature
            extractor, a processor of several (in the tokenizer's place), or a function from a list of examples to a
            mapping of tensors.
        additional_forward_arg_names: names of ``additional_forward_args``, in order, under which the model takes them;
            ``special_tokens_mask`` and ``players`` are kept for the attribution. Default: ``attention_mask,
            token_type_ids, position_ids`` for models with such arguments, else no names.
        propagation: how gradients go down the model: ``"gradient"`` as they are, ``"attnlrp"`` or ``"cp"`` under rules
            that are less noisy (:mod:`captum_attn.core.propagation`), or rules of your own. Methods without gradients
            take none. LRP is claimed by patents in some countries; see :class:`captum_attn.AttnLRP`.

    Raises:
        TypeError, ValueError: an argument that is none of the above, or a model that is traced, exported or compiled
            inside.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        layers: Sequence[int] | int | None = None,
        heads: Sequence[int] | int | None = None,
        readout: Readout = "auto",
        tokenizer: Any | None = None,
        processor: Any | None = None,
        additional_forward_arg_names: Sequence[str] | None = None,
        propagation: str | Propagation = GRADIENT,
    ) -> None:
        check_model(model)
        self.propagation = propagation_named(propagation)
        of_class: Any = type(self).needs_gradients
        if of_class is False:
            self._check_propagation()
        self.tokenizer = tokenizer_of(tokenizer, processor)
        self.processor = tokenizer if processor is None else processor
        self.special_ids = special_ids_of(self.tokenizer)
        self.readout = check_readout(readout)
        super().__init__(unwrapped(model))
        self.layers, self.heads = listed_indices("layers", layers), listed_indices("heads", heads)
        self.additional_forward_arg_names = additional_forward_arg_names

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.forward_func).__name__})"

    what: str = ""
    """What the values are, in the words of a figure."""

    @property
    @abstractmethod
    def needs_gradients(self) -> bool:
        """Whether the values depend on gradients, and so on the target."""

    @abstractmethod
    def explain(self, batch: ModelInputs, targets: TargetsOfEach) -> list[TokenAttributions]:
        """The attributions of one batch, a result for each target."""

    @log_usage()  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        internal_batch_size: int | None = None,
        *,
        players: Tensor | None = None,
        show_progress: bool = False,
    ) -> Tensor | tuple[Tensor, ...]:
        """Values in the shape of the inputs.

        Args:
            inputs: token ids (B, N), embeddings (B, N, D), pixels (B, C, h, w), a sound (B, samples) or its features
                (B, T, F), a video (B, frames, C, h, w), a tuple of one of them, or the mapping that a tokenizer or a
                processor returns; ids and pixels in it are one input. With a tokenizer or processor, also what it
                reads: a text, a pair of texts, a PIL image, a path of an image or a WAV file, an array, or a list of
                these (:func:`captum_attn.bench.read_together`).
            target: which output is explained, in Captum's forms: an int, a tensor (B,) or a list of ints for
                classes; a tuple (token, class) or a list of such for outputs (B, N, C). A class may be given by its
                name in the model's configuration. Tokens are the decoder's, where it is given any. ``None`` is the
                predicted class of each example (elsewhere in Captum: the only output).
            additional_forward_args: other arguments of the model, one or a tuple; see the constructor for names.
            internal_batch_size: explain that many examples at a time; arguments whose first dimension is the batch
                size are cut along it. Default: all at once.
            players: bool (B, N), or 0 and 1: the tokens that play, if you know better. Under ``NoiseTunnel``, which
                repeats the batch, pass them in ``additional_forward_args`` instead. An image model of which nothing
                says which tokens are patches (no patch convolution, or rearranged in unknown ways) needs them; if the
                convolution made as many patches, they are taken for these, row by row.
            show_progress: show a progress bar over the parts.

        Returns:
            For ids (B, N), also beside pixels; for all else the shape of the inputs, with each token's value spread
            evenly, so that sums are kept (but by ``AttnLRP`` and ``IntegratedAttnLRP``, which say what each number is
            worth); a patch's value over the pixels of the given image that it covers, in proportion where the model
            resizes images. A tuple for a tuple. Detached; float32, or float64 for a float64 model.

        Raises:
            TypeError, ValueError, IndexError: inputs, targets or masks that do not fit, a sequence without players,
                a model without observable attention or with several stacks of it that read the input, a method that
                needs rows, columns or heads of a model that attends in windows or on coarser grids, an output whose
                rows are not the examples' scores or that is not finite, an image of which nothing says where its
                patches lie (:meth:`attribute_tokens` works then). Each says what was expected.
            RuntimeError: gradients that are not there: layers quantized together with what they take, gradient
                checkpointing, a score that does not depend on the attention.

        Example:
            >>> from captum_attn import ShapleyGradAttention
            >>> batch = tokenizer(["a gripping film", "not good at all"], padding=True, return_tensors="pt")
            >>> ShapleyGradAttention(model, tokenizer=tokenizer).attribute(batch).shape
            torch.Size([2, 6])
        """
        batch = self.model_inputs(inputs, additional_forward_args, players)
        (result,) = self.attribute_batch(batch, [target], internal_batch_size, show_progress)
        spread = result.spread_over(batch.features)
        return (spread,) if isinstance(inputs, tuple) and is_prepared(inputs) else spread

    def attribute_future(self, *_: Any, **__: Any) -> None:
        """Not implemented, as by captum's own gradient methods: :meth:`attribute` returns the values themselves."""
        raise NotImplementedError(f"attribute_future is not implemented for {type(self).__name__}: call attribute")

    def attribute_tokens(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        internal_batch_size: int | None = None,
        *,
        players: Tensor | None = None,
        show_progress: bool = False,
    ) -> TokenAttributions:
        """Values of the tokens, with what was explained and who played.

        Args:
            inputs, target, additional_forward_args, internal_batch_size, players, show_progress: as in
                :meth:`attribute`.

        Returns:
            Values, players, targets and scores; the patch grid of images.

        Raises:
            TypeError, ValueError, IndexError, RuntimeError: as :meth:`attribute`.

        Example:
            >>> from captum_attn import ShapleyGradAttention
            >>> batch = tokenizer(["a gripping film", "not good at all"], padding=True, return_tensors="pt")
            >>> result = ShapleyGradAttention(model, tokenizer=tokenizer).attribute_tokens(batch)
            >>> result.values.shape, result.targets.tolist()
            (torch.Size([2, 6]), [[1], [0]])
        """
        batch = self.model_inputs(inputs, additional_forward_args, players)
        (result,) = self.attribute_batch(batch, [target], internal_batch_size, show_progress)
        return result

    def attribute_targets(
        self,
        inputs: Inputs,
        targets: Targets,
        additional_forward_args: Any = None,
        internal_batch_size: int | None = None,
        *,
        players: Tensor | None = None,
        show_progress: bool = False,
    ) -> list[TokenAttributions]:
        """Several targets of the same inputs, from one forward pass and one backward pass for each target.

        Args:
            targets: targets in any form that :meth:`attribute` takes; or a function that chooses classes by the output:
                it maps (B, C) to int64 (B, K).
            inputs, additional_forward_args, internal_batch_size, players, show_progress: as in :meth:`attribute`.

        Returns:
            A result for each target, as of :meth:`attribute_tokens`.

        Raises:
            ValueError: no targets; else as :meth:`attribute`.

        Example:
            >>> from captum_attn import ShapleyGradAttention
            >>> explainer = ShapleyGradAttention(model, tokenizer=tokenizer)
            >>> negative, positive = explainer.attribute_targets(batch, targets=[0, 1])
            >>> best, second = explainer.attribute_targets(batch, lambda output: output.topk(2).indices)
            >>> best.targets.tolist()
            [[1], [0]]
        """
        batch = self.model_inputs(inputs, additional_forward_args, players)
        return self.attribute_batch(batch, targets, internal_batch_size, show_progress)

    @log_usage()  # type: ignore[untyped-decorator]
    def attribute_modalities(
        self,
        inputs: Mapping[str, Any],
        target: Target = None,
        internal_batch_size: int | None = None,
        *,
        show_progress: bool = False,
    ) -> dict[str, TokenAttributions]:
        """Each modality by itself, of a model with a tower for each: the words beside the image, and its patches.

        Of a model that compares all images with all texts (CLIP), the similarity of each pair is explained. Models that
        read an image among the words (LLaVA) have one sequence of both: :meth:`attribute_tokens`.

        Args:
            inputs: the mapping that a processor returns, with ids beside pixels, a sound or a video, as many of each.
            target: as of :meth:`attribute`; leave it out for similarities.
            internal_batch_size, show_progress: as in :meth:`attribute`.

        Returns:
            Under the name of each of these inputs the result of :meth:`attribute_tokens`. They are values of different
            games, each with its own attention, so that words and patches are not to be compared. Relevance under rules
            is shared by the factors of a product, such as CLIP's.

        Raises:
            ValueError: one modality alone, or numbers of examples that differ; a model that reads all as one sequence;
                else as :meth:`attribute`.

        Example:
            >>> from transformers import CLIPConfig, CLIPModel
            >>> from captum_attn import ShapleyGradAttention
            >>> small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
            >>> seeing = {**small, "image_size": 32, "patch_size": 8}
            >>> clip = CLIPModel(CLIPConfig(text_config=small, vision_config=seeing)).eval()
            >>> words = torch.tensor([[49406, 320, 2368, 49407]])
            >>> pair = {"input_ids": words, "pixel_values": torch.rand(1, 3, 32, 32)}
            >>> found = ShapleyGradAttention(clip).attribute_modalities(pair)
            >>> {name: result.values.shape for name, result in found.items()}
            {'pixel_values': torch.Size([1, 17]), 'input_ids': torch.Size([1, 4])}

        Source: Chefer, Gur, Wolf 2021, *Generic Attention-model Explainability*, 2103.15679, who show both, too.
        """
        batches = inputs_by_modality(self.forward_func, inputs)
        return {
            name: self.attribute_batch(batch, [target], internal_batch_size, show_progress)[0]
            for name, batch in batches.items()
        }

    def attribute_batch(
        self, batch: ModelInputs, targets: Targets, internal_batch_size: int | None = None, show_progress: bool = False
    ) -> list[TokenAttributions]:
        """:meth:`attribute_targets` of inputs that :meth:`model_inputs` formatted."""
        parts_of_each = self._in_parts(self.explain, batch, targets, internal_batch_size, show_progress)
        return [self.whole(parts, batch) for parts in parts_of_each]

    def whole(self, parts: Sequence[TokenAttributions], batch: ModelInputs) -> TokenAttributions:
        """The result of a batch that was explained in parts, which knows what it is of."""
        result = concatenated(parts)
        names = class_names(self.forward_func, result.output.shape[-1]) if result.output.dim() > 1 else None
        scale = _scale_of(self.forward_func)
        return replace(result, origin=Origin(type(self).__name__, self.what, batch, self.tokenizer, names, scale))

    def model_inputs(self, inputs: Inputs, additional_forward_args: Any, players: Tensor | None = None) -> ModelInputs:
        """Captum's and Hugging Face's forms of inputs, checked, as one batch."""
        batch = self._formatted(inputs, forward_args(additional_forward_args))
        return batch if players is None else replace(batch, notes={**batch.notes, "players": players})

    def select(self, run: ObservedForward, targets: list[tuple[Index, ...]] | None) -> Selection:
        """The scores to explain; none where nothing depends on them and none are meant."""
        if targets is None and run.output.dim() > 2 and not self.needs_gradients:
            return no_selection(run.output)
        return select_target(run, targets)

    def explained(self, run: ObservedForward, targets: TargetsOfEach) -> Iterator[Explained]:
        """Find out about the tokens, and select the scores of each target, or of those that a function chooses."""
        if callable(targets):
            chosen = targets(run.output.detach()).unbind(1)
            targets = [target_of_each(column, len(run.inputs)) for column in chosen]
        tokens = run.tokens(self.special_ids)
        for count, rows in enumerate(targets, 1):
            yield self.explained_selection(run, self.select(run, rows), tokens, last=count == len(targets))

    def explained_selection(
        self, run: ObservedForward, selection: Selection, tokens: Tokens | None = None, last: bool = True
    ) -> Explained:
        """Find out about the tokens where the scores are selected."""
        tokens = tokens or run.tokens(self.special_ids)
        readout = run.readout(self.readout, selection.scores, tokens, selection.positions)
        return Explained(run, selection, last, tokens, readout)

    def _in_parts(
        self,
        explain: Callable[[ModelInputs, TargetsOfEach], list[Result]],
        batch: ModelInputs,
        targets: Targets,
        internal_batch_size: int | None,
        show_progress: bool,
    ) -> list[list[Result]]:
        """``explain`` each part of the batch, of which nothing else is kept while the next runs: for each target."""
        self._check_propagation()
        check_classes(self.forward_func, batch)
        parts: Any = batch.parts(internal_batch_size)
        if isinstance(targets, str):
            raise TypeError(f"targets must be a list of targets or a function, got {targets!r}: put it into a list")
        choose = targets if callable(targets) else None
        chosen = [] if callable(targets) else [target_of_each(target, len(batch)) for target in targets]
        if not choose and not chosen:
            raise ValueError("there are no targets: expected at least one")
        if show_progress:
            parts = tqdm(parts, desc=type(self).__name__, unit="batch")
        solved = [explain(batch[part], choose or [rows and rows[part] for rows in chosen]) for part in parts]
        return [list(results) for results in zip(*solved, strict=True)]

    def _check_propagation(self) -> None:
        if not (self.propagation.is_plain or self.needs_gradients):
            raise ValueError(
                f"{type(self).__name__} reads attention without gradients, so that propagation="
                f"{self.propagation.name!r} would change nothing: leave it out"
            )

    def _formatted(self, inputs: Inputs, companions: tuple[Any, ...]) -> ModelInputs:
        if not is_prepared(inputs):
            if companions:
                raise ValueError(
                    "additional_forward_args go with tensors of inputs: of texts and images, the tokenizer "
                    "or processor makes all that the model takes"
                )
            return read_together(self.forward_func, self.processor, inputs)
        if isinstance(inputs, Mapping):
            if companions:
                raise ValueError("put additional_forward_args into the mapping of inputs, under their names")
            return mapping_inputs(self.forward_func, inputs)
        if isinstance(inputs, tuple):
            if len(inputs) != 1:
                raise ValueError(
                    f"expected one tensor of inputs, got a tuple of {len(inputs)}: tokens are attributed once; pass "
                    "the model's other arguments in additional_forward_args"
                )
            inputs = inputs[0]
        return tensor_inputs(self.forward_func, inputs, companions, self.additional_forward_arg_names)


def _scale_of(model: Callable[..., Any]) -> Literal["softmax", "sigmoid"] | None:
    """What makes probabilities of a model's scores, if its configuration says."""
    config = config_of(model)
    problem = getattr(config, "problem_type", None)
    if config is None or problem == "regression":
        return None
    return "sigmoid" if problem == "multi_label_classification" else "softmax"


def tokenizer_of(tokenizer: Any | None, processor: Any | None) -> Any | None:
    """The tokenizer that is given, by itself or as a processor or a part of one."""
    if tokenizer is not None or hasattr(processor, "all_special_ids"):
        return processor if tokenizer is None else tokenizer
    return getattr(processor, "tokenizer", None)


class OnePassAttribution(AttentionAttribution):
    """An explanation by one observer, from one forward pass and at most one backward pass for each target.

    Several of them can share these: :func:`captum_attn.methods.one_pass.explain_in_one_pass`.
    """

    modules: Collection[str] = ()
    """Names of parts of the model: :meth:`solve` gets the hidden states that these return, and their gradients."""

    after_attention = False
    """Whether the observer needs what follows the attention calls, too."""

    reads_features = False
    """Whether :meth:`solve` gets the gradients of the input's features, in the place of an observer."""

    @abstractmethod
    def observer(self, explained: Explained) -> LayerObserver | None:
        """What is to be kept of each layer; None if ``reads_features``."""

    @abstractmethod
    def solve(self, explained: Explained, observer: Any) -> TokenAttributions:
        """The values, from what the observer has seen, and the hidden states of ``modules``, in ``explained``."""

    def explained_selection(
        self, run: ObservedForward, selection: Selection, tokens: Tokens | None = None, last: bool = True
    ) -> Explained:
        states = [state for state in run.states if state.module in self.modules]
        missing = {*self.modules} - {state.module for state in states}
        if missing:
            raise ValueError(
                f"{type(self).__name__} needs the hidden states of {', '.join(map(repr, sorted(missing)))}, which did "
                "not run, or of which the pass was observed without modules="
            )
        return replace(super().explained_selection(run, selection, tokens, last), states=states)

    def explain(self, batch: ModelInputs, targets: TargetsOfEach) -> list[TokenAttributions]:
        return self._observed(self.observer, self.solve, batch, targets)

    def _each(
        self,
        watch: Callable[[Explained], LayerObserver | None],
        solve: Callable[[Explained, Any], Result],
        batch: ModelInputs,
        target: Target,
        internal_batch_size: int | None,
        show_progress: bool,
    ) -> list[Result]:
        """What ``solve`` makes of each part of the batch, from what ``watch`` keeps of each layer."""
        explain = partial(self._observed, watch, solve)
        (parts,) = self._in_parts(explain, batch, [target], internal_batch_size, show_progress)
        return parts

    def _observed(
        self,
        watch: Callable[[Explained], LayerObserver | None],
        solve: Callable[[Explained, Any], Result],
        batch: ModelInputs,
        targets: TargetsOfEach,
    ) -> list[Result]:
        with observed_forward(
            self.forward_func,
            batch,
            self.needs_gradients,
            self.modules,
            after_attention=self.after_attention,
            propagation=self.propagation,
            tiles=not self.reads_features,
        ) as run:
            results = []
            for explained in self.explained(run, targets):
                observer = watch(explained)
                selected = explained.selection.scores if self.needs_gradients else None
                features = [entrance.state for entrance in run.entrances] if self.reads_features else []
                observers = [] if observer is None else [observer]
                shown = run.show(observers, selected, explained.states, not explained.last, features)
                own = len(explained.states)
                explained = replace(explained, gradients=shown[:own], feature_gradients=shown[own:])
                results.append(solve(explained, observer))
            return results

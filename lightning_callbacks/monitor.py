"""Follow explanations of a model while it is fine-tuned."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from captum_attn import ShapleyGradAttention
from captum_attn.bench import Intervention
from captum_attn.concepts import ConceptScores, ExperimentalSets
from captum_attn.core import Replacement, warn_user
from captum_attn.drawing import ShownFigure
from captum_attn.metrics import Metric
from captum_attn.pages import Shown, figure_html, opening, page, table_html
from lightning_callbacks.batches import BatchInputs
from lightning_callbacks.concept_measurement import ConceptMeasurement
from lightning_callbacks.consensus import FailedSomewhereError, all_or_none
from lightning_callbacks.faithfulness_measurement import FaithfulnessMeasurement
from lightning_callbacks.figure_logging import log_figures
from lightning_callbacks.gathering import RowsOfExamples
from lightning_callbacks.history import ExplainedExample, Group, History, Validation, group_of
from lightning_callbacks.history_figures import example_over_time, group_panels, trajectories
from lightning_callbacks.logged_names import COSTS, check_waiting
from lightning_callbacks.measured_model import MeasuredModel
from lightning_callbacks.measurement import Measurement
from lightning_callbacks.method_factories import Methods
from lightning_callbacks.model_in_module import ModelChoice
from lightning_callbacks.neutrality import forget_module, without_trace
from lightning_callbacks.preparation import Plan, validation_loader
from lightning_callbacks.progress import shown_progress
from lightning_callbacks.strategies import check_strategy, explains_together

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_OF_TABLE = (
    "Each metric at the first and the last validation, its least and greatest value, and at which steps these were. "
    "The same examples are explained every time."
)
_CAUTIONS = (
    "Faithfulness says how well explanations fit the model, not how good the model is: one that guesses can have the "
    "best. Look at its accuracy beside it.",
    "Rises and falls of the size of the bands, two standard errors, may be chance.",
)
_CHEAPER = "max_samples=, every_n_validations= and figures=False make it less"


class ExplanationMonitor(Shown, Callback):
    """Log T-TCAV scores of concepts, the faithfulness of attributions and measurements of your own at each validation.

    The same probe set is explained every time. Training goes on as if nothing had happened: same gradients, modes and
    random numbers. Scalars can be monitored by ``ModelCheckpoint`` and ``EarlyStopping``:

    - ``faithfulness/comprehensiveness``, ``sufficiency`` and, with labels, ``f1_macro`` and ``f1_weighted`` (of
      predictions from the top 20 % of tokens) of the first method, on ERASER's scale;
      ``faithfulness/{name}/comprehensiveness`` and so on of the others and of ``random`` scores;
      ``faithfulness_error/...``, standard errors of the first two; other names with other ``metrics``;
    - ``tcav/{concept}/layer_{i}``, T-TCAV scores; ``tcav_effect/...``, mean-shift effects in units of the output;
      ``tcav_p/...``, their p-values after Holm's correction for the concepts and layers of one validation;
    - the names of your own ``measurements``;
    - ``explanations/seconds`` and ``explanations/samples``.

    Without validation data nothing is explained, and a warning says so.

    A notebook shows it as a page; :meth:`show`, :meth:`plot`, :meth:`to_html`, :meth:`frame` and :meth:`top` work
    anywhere.

    Figures go to every logger that takes some (TensorBoard; ``log_image`` of W&B), else into PNG files. What fails is
    a warning, and scores are NaN then: ``ModelCheckpoint`` takes them for the worst, ``EarlyStopping`` stops unless its
    ``check_finite`` is False.

    On several processes (DDP), each explains its share of the probe set, and all get the numbers of the whole. FSDP2
    (``ModelParallelStrategy``) is experimental: all processes explain everything together, so what fails on one of
    them alone leaves the others waiting.

    Args:
        concepts: one experimental set, in any form that :meth:`captum_attn.TTCAV.interpret` takes: a mapping from names
            to examples, or a list of captum's ``Concept``. Let one of them be a control. None: no concepts.
        faithfulness: a class of attributions; a function of a model (and its ``tokenizer``, if it takes one) that
            returns an attribution; or several of these, in a sequence or a mapping from names. None: no faithfulness.
        metrics: of faithfulness: names of :data:`captum_attn.metrics.CATALOGUE`, or :class:`captum_attn.metrics.Metric`
            records of your own. Default: comprehensiveness and sufficiency, with labels F1, too.
        measurements: your own, of :class:`lightning_callbacks.Measurement`; they share the passes of ours.
        target: the class whose probe examples are scored by concepts, a number or a name; needs labels. None: all
            examples, each by its predicted class.
        probe: the examples to explain: texts, images, paths, a tensor, a tokenizer's mapping (with ``labels``), a data
            loader or a data set. Default: the first ones of the (first) validation loader, in its data set's order.
        labels: of ``probe``, if it holds none; numbers or names of classes.
        model: the transformer in the LightningModule, with its head: a dotted name, or a function of the
            LightningModule. Default: its attribute ``model``, else its only part with a Hugging Face configuration.
        processor: the model's tokenizer or image processor; of text, it is needed for faithfulness.
        layers: those that concepts are scored in, as in :class:`captum_attn.TTCAV`.
        every_n_validations: 1 for each; the first one of each run is always among them. In between, other callbacks see
            the last scores again, of which the patience of ``EarlyStopping`` knows nothing.
        max_samples: the most examples. Default: 64 of the validation loader, all of ``probe``. Under ``fast_dev_run``,
            two of these.
        max_seconds: when so many have passed, no further batch is begun, on each process by itself; not for FSDP2.
        batch_size: how many inputs the model sees at a time.
        batch_inputs: makes of a batch of another form the mapping that is explained, with its labels; known forms are
            what a tokenizer or an image processor returns, a tensor, (features, labels), and (ids, mask, labels) with
            token types behind the mask or not. Of (pixels, labels, indices), say,
            ``lambda batch: {"pixel_values": batch[0], "labels": batch[1]}``.
        intervention: how faithfulness takes tokens away: ``"replacement"`` or ``"knockout"``.
        replacement: what replaces a token; as in :class:`captum_attn.bench.MaskedModel`.
        concept_options: other arguments of :class:`captum_attn.TTCAV`, such as ``{"n_cavs": 20}``.
        autocast: run the model in the trainer's precision, such as ``bf16-mixed``; by default in that of its weights.
        figures: whether to draw figures.
        examples: of how many examples attributions are shown in figures.
        log_prefix: goes before all names, such as ``"zebra/"``. Each monitor of a trainer needs its own.
        on_error: ``"warn"`` goes on with the training, ``"raise"`` stops it.
        seed: of random scores and of concepts' draws.

    Attributes:
        scores: the :class:`~captum_attn.concepts.ConceptScores` of the last validation; None before.

    Raises:
        MisconfigurationException: arguments that are none of the above; when training starts, a model without
            attention or without a head, batches that may be read in several ways, a target without labels, a
            ``monitor=`` of another callback that would never be logged, FSDP1, DeepSpeed or tensor parallelism.

    Example:
        >>> from lightning.pytorch.callbacks import ModelCheckpoint
        >>> praise, blame = "superb funny warm fine charming", "awful stale dull boring tedious"
        >>> concepts = {"praise": praise.split(), "blame": blame.split()}
        >>> monitor = ExplanationMonitor(concepts, target="positive", processor=tokenizer)
        >>> accurate = ModelCheckpoint(monitor="accuracy", mode="max")  # as your module logs it
        >>> faithful = ModelCheckpoint(monitor="faithfulness/comprehensiveness", mode="max")  # may be at chance
        >>> callbacks = [monitor, accurate, faithful]  # Trainer(callbacks=callbacks)

    Source: arXiv 2508.08966 for T-TCAV; DeYoung et al. 2020 (ERASER) for faithfulness.
    """

    def __init__(
        self,
        concepts: ExperimentalSets | None = None,
        faithfulness: Methods | None = ShapleyGradAttention,
        *,
        metrics: Sequence[str | Metric] | None = None,
        measurements: Sequence[Measurement] = (),
        target: int | str | None = None,
        probe: Any | None = None,
        labels: Sequence[int | str] | Tensor | None = None,
        model: ModelChoice = None,
        processor: Any | None = None,
        layers: Sequence[int | str] | int | str | None = None,
        every_n_validations: int = 1,
        max_samples: int | None = None,
        max_seconds: float | None = None,
        batch_size: int = 32,
        batch_inputs: BatchInputs | None = None,
        intervention: Intervention = "replacement",
        replacement: Replacement | None = None,
        concept_options: Mapping[str, Any] | None = None,
        autocast: bool = False,
        figures: bool = True,
        examples: int = 3,
        log_prefix: str = "",
        on_error: str = "warn",
        seed: int = 0,
    ) -> None:
        if concepts is None and faithfulness is None and not measurements:
            raise MisconfigurationException("nothing to monitor: give concepts, faithfulness or measurements")
        if concepts is None and target is not None:
            raise MisconfigurationException(
                f"target={target!r} is the class that concepts are scored by: give concepts"
            )
        if faithfulness is None and metrics is not None:
            raise MisconfigurationException(f"metrics={metrics!r:.80} are of faithfulness: give faithfulness")
        for measurement in measurements:
            if not isinstance(measurement, Measurement):
                raise MisconfigurationException(
                    f"measurements has {measurement!r:.80}, expected objects of classes derived from "
                    "lightning_callbacks.Measurement"
                )
        if on_error not in ("warn", "raise"):
            raise MisconfigurationException(f"expected on_error='warn' or 'raise', got {on_error!r}")
        for name, number in {
            "every_n_validations": every_n_validations,
            "batch_size": batch_size,
            "max_samples": max_samples,
            "max_seconds": max_seconds,
        }.items():
            if number is not None and not number > 0:
                raise MisconfigurationException(f"{name} must be above 0, got {number!r}")
        if not isinstance(log_prefix, str) or examples < 0:
            raise MisconfigurationException(
                f"expected log_prefix, a string, and examples, 0 or more, got {log_prefix!r} and {examples!r}"
            )
        self.measurements = list(measurements)
        if concepts is not None:
            options = {"processor": processor, "layers": layers, "batch_size": batch_size, "seed": seed}
            self.measurements.insert(0, ConceptMeasurement(concepts, target, {**options, **(concept_options or {})}))
        if faithfulness is not None:
            faithful = FaithfulnessMeasurement(
                faithfulness,
                metrics=metrics,
                processor=processor,
                intervention=intervention,
                replacement=replacement,
                batch_size=batch_size,
                seed=seed,
                looked_at=examples,
            )
            self.measurements.insert(0, faithful)
        self.probe, self.labels, self.batch_inputs = probe, labels, batch_inputs
        self.model, self.processor, self.batch_size = model, processor, batch_size
        self.every_n_validations, self.max_samples, self.max_seconds = every_n_validations, max_samples, max_seconds
        self.autocast, self.figures = autocast, figures
        self.log_prefix, self.on_error, self.seed = log_prefix, on_error, seed
        self.scores: ConceptScores | None = None
        self._history = History()
        self._validations = 0
        self._measured_model: MeasuredModel | None = None
        self._metric_seconds = 0.0
        self._began, self._before = time.monotonic(), 0
        self._fresh = self._logged = False  # whether there are figures to draw; scores of this run
        self._prepared = self._validated = False  # whether this run was prepared for; had a validation, or a warning

    # --- Lightning's hooks ---

    @property
    def state_key(self) -> str:
        return f"{type(self).__qualname__}{ {'log_prefix': self.log_prefix} }"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage not in ("fit", "validate"):
            return
        check_strategy(trainer, type(self).__name__, sharded=True)
        self._measured_model, self.scores = None, None
        self._logged = self._prepared = self._validated = False
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        averaging = [place for place, other in enumerate(callbacks) if isinstance(other, WeightAveraging)]
        if averaging and min(averaging) < callbacks.index(self):
            rank_zero_warn(
                f"{type(self).__name__} comes after {type(callbacks[min(averaging)]).__name__}, so it sees raw "
                "weights, not averaged ones: list it first"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began, self._before = time.monotonic(), len(self._history)
        loader = validation_loader(trainer)
        if not trainer.enable_validation:
            self._warn_of_nothing("there is no validation in this training")
        elif loader is not None and not any(trainer.num_val_batches):
            self._warn_of_nothing("the validation loader is empty")
        elif self.probe is not None or loader is not None:
            self._prepare(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._prepare(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._fresh = False
        if trainer.sanity_checking:
            return
        self._validated = True
        number = self._validations
        self._validations += 1
        if self._measured_model is None or (number % self.every_n_validations and self._logged):
            return
        self._logged = True
        start = time.monotonic()
        with without_trace(pl_module, self.seed):
            try:
                metrics, samples, examples = self._measured(trainer)
                self._fresh = True
            except FailedSomewhereError as error:
                if self.on_error == "raise":
                    raise
                self._warn(f"validation {number} was not explained, its scores are NaN: {error}")
                self.scores = None
                metrics, samples, examples = dict.fromkeys(self._known.names, math.nan), 0, []
        seconds = time.monotonic() - start
        costs = dict(zip(COSTS, (seconds, float(samples)), strict=True))
        metrics = trainer.strategy.broadcast({**metrics, **costs})
        self._history.add(
            Validation(
                number,
                trainer.current_epoch,
                trainer.global_step,
                samples,
                seconds,
                metrics,
                self._known.probe.fingerprint,
                examples,
            )
        )
        undefined = [name for name, value in metrics.items() if math.isnan(value)]
        if undefined and self._fresh:
            self._warn(
                f"not defined in validation {number}, logged as NaN: {', '.join(undefined)}. EarlyStopping on one of "
                "these stops the training unless check_finite=False"
            )
        named = {f"{self.log_prefix}{name}": value for name, value in metrics.items()}
        # The same on all processes: their maximum changes nothing, and Lightning does not warn.
        pl_module.log_dict(named, on_epoch=True, sync_dist=True, reduce_fx="max")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.figures or trainer.sanity_checking or not self._fresh or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        folder = Path(trainer.log_dir or trainer.default_root_dir) / "explanations"
        self._fresh = False
        start = time.monotonic()

        def draw() -> None:
            if trainer.is_global_zero:
                with without_trace(pl_module, self.seed):
                    log_figures(trainer, self._figures(), folder)

        try:
            all_or_none(trainer, draw)
        except FailedSomewhereError as error:
            if self.on_error == "raise":
                raise
            self._warn(f"no figures of this validation: {error}")
        self._history.validations[-1].figure_seconds = time.monotonic() - start

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and len(self._history) > self._before:
            spent, seconds = self._history.seconds(self._before), time.monotonic() - self._began
            print(self.summary())
            print(f"Explanations took {spent:.1f} s, {spent / seconds:.1%} of the training; {_CHEAPER}")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not self._validated and stage in ("fit", "validate"):
            self._warn_of_nothing("there was no validation, or its data are empty")
        self._let_go()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._let_go()  # there will be no teardown

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self._validations, "history": self._history.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._validations = state_dict["validations"]
        self._history = History.of_state(state_dict["history"])

    # --- what was measured ---

    def frame(self) -> pd.DataFrame:
        """The history: a row for each explained validation.

        Returns:
            Columns ``validation``, ``epoch``, ``step``, ``samples``, ``seconds``, ``figure_seconds``, and one for each
            metric, without ``log_prefix``.
        """
        return self._history.frame()

    def top(self, k: int = 5) -> pd.DataFrame:
        """The k surest concepts of the last validation, as :meth:`captum_attn.concepts.ConceptScores.top`.

        Raises:
            ValueError: no concept was scored yet.
        """
        if self.scores is None:
            raise ValueError("no concept was scored yet: fit, or validate, a model with a monitor of concepts")
        return self.scores.top(k)

    def plot(self) -> ShownFigure:
        """Scores over epochs: a panel for each metric of faithfulness, each layer of concepts, each group of others.

        Returns:
            A matplotlib figure that belongs to no window.

        Raises:
            ValueError: nothing was measured yet.
        """
        frame = self.frame()
        panels = [row for measurement in self.measurements for row in measurement.panels(frame)]
        others = (name for name in self._history.names if group_of(name) not in self._groups)
        return trajectories(frame, [*panels, *group_panels(others)])

    def summary(self) -> str:
        """The table that is printed at the end of ``fit``: how faithfulness and concepts' effects went."""
        table = self._history.summary(self._groups)
        text = table.to_string(float_format="{:.3f}".format)
        return f"{self._title}\n{text}" if self._explained else self._title

    def page(self) -> str:
        """The page, as HTML that needs nothing from elsewhere: how metrics went, and concepts of the last validation.

        Before anything was measured, it says so.
        """
        if not self._explained:
            return page(
                self._title, opening(self._title, "Nothing was measured yet: fit, or validate, a model with it.")
            )
        table = self._history.summary(self._groups).rename_axis("metric").reset_index()
        figures = [figure_html(self.plot(), "Each metric over the training")]
        if self.scores is not None:
            figures.append(figure_html(self.scores.plot(), "Concepts at the last validation"))
        body = [opening(self._title, _OF_TABLE, _CAUTIONS), table_html(table), *figures]
        return page(self._title, "\n".join(body), wide=True)

    @property
    def _explained(self) -> int:
        """How many validations have numbers."""
        return sum(one.samples > 0 for one in self._history.validations)

    @property
    def _title(self) -> str:
        return f"{type(self).__name__}: {self._explained} of {len(self._history)} validations explained"

    # --- measuring ---

    def _prepare(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the probe set and prepare all measurements, once; all that can be wrong with them is found here."""
        if self._prepared:
            return
        self._prepared = True
        plan = Plan(**{part.name: getattr(self, part.name) for part in fields(Plan)})
        self._measured_model = plan.on_all_processes(trainer, pl_module, type(self).__name__)
        if self._measured_model is None:
            self._warn_of_nothing("the first validation loader is empty")
        else:
            check_waiting(trainer.callbacks, self._measured_model.names, self.log_prefix)  # type: ignore[attr-defined]

    def _measured(self, trainer: Trainer) -> tuple[dict[str, float], int, list[ExplainedExample]]:
        """The metrics, of how many examples they are, and some of these to look at."""
        measured = self._known
        shares = 1 if explains_together(trainer) else trainer.world_size
        table = RowsOfExamples(len(measured.probe), measured.widths, sync_on_compute=shares > 1)
        table = table.to(trainer.strategy.root_device) if shares > 1 else table
        deadline = math.inf
        if self.max_seconds is not None and not explains_together(trainer):
            deadline = time.monotonic() + self.max_seconds - self._metric_seconds
        batches = measured.probe.shard(trainer.global_rank % shares, shares)
        context = trainer.precision_plugin.forward_context if self.autocast else nullcontext
        with shown_progress(trainer, sum(len(batch.rows) for batch in batches) + measured.inputs) as done:

            def measure() -> None:
                with context():
                    measured.measure(batches, table, deadline, done)

            all_or_none(trainer, measure)
        known = table.gathered()
        start = time.monotonic()
        metrics = all_or_none(trainer, lambda: measured.metrics(known))
        self._metric_seconds = time.monotonic() - start
        concepts = (one for one in measured.measurements if isinstance(one, ConceptMeasurement))
        self.scores = next((one.scores for one in concepts), None)
        return metrics, max(len(rows) for rows, _ in known.values()), measured.examples

    def _figures(self) -> dict[str, Figure]:
        """The figures of the last validation."""
        found = {name: drawn for one in self._known.measurements for name, drawn in one.figures().items()}
        found["explanations/trajectories"] = self.plot()
        for example in self._history.validations[-1].examples:
            found[f"explanations/example_{example.row}"] = self._example_over_time(example.row)
        return {f"{self.log_prefix}{name}": figure for name, figure in found.items()}

    def _example_over_time(self, row: int) -> ShownFigure:
        """The attributions of one example at several validations."""
        measured = self._known
        same = [one for one in self._history.validations if one.probe == measured.probe.fingerprint]
        explained = [(one.step, example) for one in same for example in one.examples if example.row == row]
        return example_over_time(measured.probe.inputs(row), explained, measured.model, self.processor)

    def _let_go(self) -> None:
        """Hold no model, examples and concepts as read for it, but what was measured."""
        self._measured_model = None
        forget_module(self)

    @property
    def _groups(self) -> dict[str, Group]:
        """How groups of metrics are shown that are not shown like any other."""
        groups = {name: group for measurement in self.measurements for name, group in measurement.groups.items()}
        return groups | dict.fromkeys(map(group_of, COSTS), Group(summarized=False))

    def _warn(self, message: str) -> None:
        warn_user(f"{type(self).__name__}: {message}")

    def _warn_of_nothing(self, why: str) -> None:
        """Say, once in a run, that nothing will be explained."""
        self._validated = True
        rank_zero_warn(f"{type(self).__name__}: {why}, so nothing is explained")

    @property
    def _known(self) -> MeasuredModel:
        if self._measured_model is None:
            raise RuntimeError("nothing was prepared: this runs inside a Trainer only")
        return self._measured_model

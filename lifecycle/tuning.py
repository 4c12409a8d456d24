"""Search for settings of the towers that validate better: an Optuna study that can be killed and goes on.

Owns what is proposed, when a trial is given up and which settings are run again. How a trial trains is the caller's; it
sees the fold and its validation alone, never a test event.

    study.db                    Optuna's record of all trials
    trials/<number>/            curves of a trial
    finalists/<number>_<seed>/  the best settings under other seeds, and metrics.json of each
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytorch_lightning as pl
from optuna.trial import FrozenTrial, TrialState
from pytorch_lightning.callbacks import Callback

from lifecycle.train_towers import MONITOR, write_json
from towers.errors import TowersError

logger = logging.getLogger(__name__)

Value = bool | int | float | str
Settings = Mapping[str, Value]
# (settings, seed=, directory=, watchers=) -> validation metrics of the best epoch
Train = Callable[..., Mapping[str, float]]

REASON, BASIS = "reason", "basis"
STUDY_FILE, METRICS_FILE = "study.db", "metrics.json"


@dataclass(frozen=True)
class Dimension:
    """One setting's values: choices, or a range, of whole numbers where both ends are.

    Attributes:
        log: draw the logarithm evenly.
    """

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Value, ...] = ()

    def __post_init__(self) -> None:
        is_range = self.low is not None and self.high is not None and self.low < self.high
        if is_range == bool(self.choices) or (self.log and (self.low is None or self.low <= 0)):
            raise ValueError(
                "expected choices, or low below high, above 0 with log; "
                f"got low={self.low}, high={self.high}, log={self.log}, choices={list(self.choices)}"
            )

    def draw(self, trial: optuna.Trial, name: str) -> Value:
        """A value that the study proposes."""
        if self.low is None or self.high is None:
            return trial.suggest_categorical(name, self.choices)  # type: ignore[return-value]
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)


def space_of(content: Mapping[str, Mapping[str, Any]]) -> dict[str, Dimension]:
    """A search space as conf/hparams_search has it.

    Raises:
        ValueError: it is empty, or a setting has other keys than a Dimension or values that cannot be.
    """
    if not content:
        raise ValueError("hparams_search.space is empty: name one setting at least")
    known = [field.name for field in fields(Dimension)]
    space = {}
    for name, values in content.items():
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"hparams_search.space.{name}: expected {', '.join(known)}; got {', '.join(unknown)}")
        try:
            space[name] = Dimension(**{**values, "choices": tuple(values.get("choices", ()))})
        except ValueError as error:
            raise ValueError(f"hparams_search.space.{name}: {error}") from error
    return space


class Reporting(Callback):
    """Tells the study what each epoch's validation found, and ends a trial that lags behind the others."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report while training goes on; what validates the best epoch once more reports nothing.

        Raises:
            TrialPruned: the trial is not worth its time.
        """
        if trainer.state.fn != "fit":
            return
        self.trial.report(float(trainer.callback_metrics[MONITOR]), step=trainer.current_epoch)
        if self.trial.should_prune():
            raise optuna.TrialPruned


@dataclass(frozen=True)
class Search:
    """A search and what it leaves in its directory.

    Attributes:
        basis: what every trial has in common; a study of another basis is not gone on with.
        num_trials: finished ones, those that were given up or could not train included.
        random_trials: before the sampler learns from what it saw, and before any is given up.
        patient_epochs: of a trial before it may be given up.
        num_finalists: best settings that are run again, once for each of `finalist_seeds`.
    """

    space: Mapping[str, Dimension]
    train: Train
    directory: Path
    basis: Mapping[str, Any]
    seed: int
    num_trials: int
    random_trials: int
    patient_epochs: int
    num_finalists: int
    finalist_seeds: Sequence[int]

    def run(self) -> optuna.Study:
        """Go on until so many trials are finished and the finalists are measured.

        Raises:
            ValueError: the directory holds a study of another basis.
            TowersError: no trial could train.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # what it says of trials is said below
        study = self._opened()
        while (num_finished := len(finished(study))) < self.num_trials:
            # From a seed of its own, each proposal is what it would have been had nothing been killed. Spread out:
            # of neighbouring seeds the first draws of numpy's Mersenne Twister lie close together.
            seed = int(np.random.SeedSequence([self.seed, num_finished]).generate_state(1)[0])
            study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=self.random_trials)
            self._try(study)
        best = completed(study)
        if not best:
            raise TowersError(
                f"none of {len(finished(study))} trials could train; the last one: "
                f"{finished(study)[-1].user_attrs.get(REASON, 'given up')}"
            )
        for trial in best[: self.num_finalists]:
            for seed in self.finalist_seeds:
                self._measure(trial, seed)
        return study

    def _opened(self) -> optuna.Study:
        self.directory.mkdir(parents=True, exist_ok=True)
        study = optuna.create_study(
            study_name="towers",
            storage=f"sqlite:///{self.directory / STUDY_FILE}",
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=self.random_trials, n_warmup_steps=self.patient_epochs),
            load_if_exists=True,
        )
        basis = json.loads(json.dumps({**self.basis, "seed": self.seed, "space": str(dict(self.space))}))
        before = study.user_attrs.get(BASIS, basis)
        if before != basis:
            changed = [name for name in basis if basis[name] != before.get(name)]
            raise ValueError(
                f"{self.directory} holds trials with another {' and '.join(changed)}; name another tune_dir, or "
                "remove this one"
            )
        study.set_user_attr(BASIS, basis)
        for trial in study.get_trials(states=[TrialState.RUNNING]):
            logger.info("tune: trial %d was killed and is repeated", trial.number)
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)
        return study

    def _try(self, study: optuna.Study) -> None:
        trial = study.ask()
        settings = {name: dimension.draw(trial, name) for name, dimension in self.space.items()}
        logger.info("tune: trial %d of %d: %s", len(finished(study)) + 1, self.num_trials, as_overrides(settings))
        try:
            metrics = self.train(
                settings,
                seed=self.seed,
                directory=self.directory / "trials" / str(trial.number),
                watchers=[Reporting(trial)],
            )
        except optuna.TrialPruned:
            study.tell(trial, state=TrialState.PRUNED)
            logger.info("tune: given up, it lags behind the median of the others")
        except (TowersError, ValueError) as error:  # these settings cannot be; others may
            trial.set_user_attr(REASON, str(error))
            study.tell(trial, state=TrialState.FAIL)
            logger.warning("tune: these settings cannot train: %s", error)
        else:
            study.tell(trial, metrics[MONITOR])
            logger.info("tune: %s %.4f; the best so far %.4f", MONITOR, metrics[MONITOR], study.best_value)

    def _measure(self, trial: FrozenTrial, seed: int) -> None:
        directory = self.directory / "finalists" / f"{trial.number}_{seed}"
        if (directory / METRICS_FILE).is_file():
            return
        directory.mkdir(parents=True, exist_ok=True)
        logger.info("tune: trial %d again with seed %d", trial.number, seed)
        metrics = self.train(trial.params, seed=seed, directory=directory, watchers=[])
        write_json(directory / METRICS_FILE, dict(metrics))

    def finalists(self, study: optuna.Study) -> dict[int, list[float]]:
        """Validation metric of the finalists by their number, a value a seed."""
        return {
            trial.number: [
                json.loads((self.directory / "finalists" / f"{trial.number}_{seed}" / METRICS_FILE).read_text())[
                    MONITOR
                ]
                for seed in self.finalist_seeds
            ]
            for trial in completed(study)[: self.num_finalists]
        }


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that came to an end: a killed one did not, and has no reason."""
    ended = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
    return [trial for trial in ended if trial.state != TrialState.FAIL or REASON in trial.user_attrs]


def completed(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that trained to their end, best first; of equals the earlier one."""
    trials = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    return sorted(trials, key=lambda trial: (-float(trial.value or 0.0), trial.number))


def as_overrides(settings: Settings) -> list[str]:
    """Settings as a command line has them."""
    return [f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in settings.items()]

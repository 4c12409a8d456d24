from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState

from lifecycle.tuning import Dimension, Search, as_overrides, completed, finished, space_of
from lifecycle.tuning_report import experiment_yaml, trials_table, write_tuning_report
from towers.errors import TowersError

SPACE = {"rate": Dimension(low=0.0, high=1.0), "width": Dimension(choices=(8, 16)), "blocks": Dimension(low=1, high=4)}
METRIC = "validation/ndcg@10"


class Trainer:
    """Counts what it is asked; the best rate is .3, whatever the width, and a seed adds its thousandth."""

    def __init__(self, *, killed_at: int | None = None) -> None:
        self.asked: list[tuple[dict[str, Any], int]] = []
        self.killed_at = killed_at

    def __call__(
        self, settings: Mapping[str, Any], *, seed: int, directory: Path, watchers: Sequence[Any]
    ) -> dict[str, float]:
        self.asked.append((dict(settings), seed))
        if len(self.asked) == self.killed_at:
            raise KeyboardInterrupt
        value = 1.0 - (settings["rate"] - 0.3) ** 2
        for epoch in range(4):
            trainer = SimpleNamespace(
                state=SimpleNamespace(fn="fit"), callback_metrics={METRIC: value}, current_epoch=epoch
            )
            for watcher in watchers:
                watcher.on_validation_end(trainer, None)
        return {METRIC: value + seed / 1000}


@pytest.fixture
def search(tmp_path: Path) -> Callable[..., Search]:
    def make(train: object, *, num_trials: int = 8, directory: Path = tmp_path / "study", **changes: Any) -> Search:
        settings = {
            "space": SPACE,
            "basis": {"overrides": ["towers=gated"]},
            "seed": 1,
            "random_trials": 3,
            "patient_epochs": 1,
            "num_finalists": 2,
            "finalist_seeds": [2, 3],
        }
        return Search(train=train, num_trials=num_trials, directory=directory, **{**settings, **changes})  # type: ignore[arg-type]

    return make


def test_a_search_that_was_killed_makes_the_proposals_that_it_would_have_made(
    search: Callable[..., Search], tmp_path: Path
) -> None:
    whole = Trainer()
    search(whole, directory=tmp_path / "whole").run()
    killed, resumed = Trainer(killed_at=6), Trainer()
    with pytest.raises(KeyboardInterrupt):
        search(killed).run()
    study = search(resumed).run()
    assert [*killed.asked[:-1], *resumed.asked] == whole.asked
    assert killed.asked[-1] == resumed.asked[0]  # the killed trial is repeated
    states = [trial.state for trial in study.get_trials()]
    assert states.count(TrialState.FAIL) == 1
    assert len(finished(study)) == 8


def test_a_search_that_is_done_trains_nothing_and_a_higher_number_adds_to_it(search: Callable[..., Search]) -> None:
    first, second, third = Trainer(), Trainer(), Trainer()
    search(first, num_trials=5).run()
    search(second, num_trials=5).run()
    assert second.asked == []
    study = search(third, num_trials=6, num_finalists=0).run()
    assert len(third.asked) == 1
    assert len(finished(study)) == 6


def test_trials_that_lag_behind_the_median_are_given_up(search: Callable[..., Search]) -> None:
    study = search(Trainer(), num_trials=12).run()
    pruned = study.get_trials(states=[TrialState.PRUNED])
    assert pruned
    for trial in pruned:
        assert trial.number >= 3  # the first three are random and run to their end
        before = [other.value for other in completed(study) if other.number < trial.number]
        # Each trial's value is the same in all epochs, so the median of those before is that of their values.
        assert max(trial.intermediate_values.values()) < pd.Series(before).median()


def test_the_best_trials_run_again_under_each_seed_and_once_only(search: Callable[..., Search]) -> None:
    trainer = Trainer()
    tuned = search(trainer, num_trials=5)
    study = tuned.run()
    best = completed(study)[:2]
    assert trainer.asked[5:] == [(trial.params, seed) for trial in best for seed in (2, 3)]
    # A seed adds its thousandth; the search's own seed 1 is in the trial's value.
    expected = {trial.number: [trial.value + 0.001, trial.value + 0.002] for trial in best}  # type: ignore[operator]
    assert tuned.finalists(study) == {number: pytest.approx(values) for number, values in expected.items()}


def test_settings_that_cannot_train_are_one_trial_with_a_reason(search: Callable[..., Search]) -> None:
    def train(settings: Mapping[str, Any], **_: object) -> dict[str, float]:
        if settings["width"] == 8:
            raise ValueError("width 8 does not fit")
        return {METRIC: settings["rate"]}

    table = trials_table(search(train, num_finalists=0).run())
    assert len(table) == 8
    assert set(table.loc[table["width"] == 8, "reason"]) == {"width 8 does not fit"}
    assert set(table.loc[table["width"] == 8, "ended"]) == {"could not train"}
    assert set(table.loc[table["width"] == 16, "ended"]) == {"completed"}


def test_where_no_trial_can_train_the_reason_of_the_last_is_said(search: Callable[..., Search]) -> None:
    def train(settings: Mapping[str, Any], **_: object) -> dict[str, float]:
        raise ValueError("no such tower")

    with pytest.raises(TowersError, match="none of 2 trials could train; the last one: no such tower"):
        search(train, num_trials=2).run()


def test_trials_of_another_basis_are_not_mixed(search: Callable[..., Search]) -> None:
    search(Trainer(), num_trials=1, num_finalists=0).run()
    with pytest.raises(ValueError, match="holds trials with another overrides; name another tune_dir"):
        search(Trainer(), basis={"overrides": []}).run()
    with pytest.raises(ValueError, match="holds trials with another seed and space"):
        search(Trainer(), seed=2, space={"rate": Dimension(low=0.0, high=2.0)}).run()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "space is empty"),
        ({"a": {"lo": 1, "high": 2}}, "space.a: expected low, high, log, choices; got lo"),
        ({"a": {"low": 2, "high": 1}}, "space.a: expected choices, or low below high"),
        ({"a": {"low": 0, "high": 1, "log": True}}, "above 0 with log; got low=0"),
        ({"a": {"low": 1, "high": 2, "choices": [1]}}, "space.a: expected choices, or low"),
        ({"a": {"choices": []}}, "space.a: expected choices, or low"),
    ],
)
def test_a_space_that_cannot_be_is_refused(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        space_of(content)


def test_values_keep_to_their_space() -> None:
    space = space_of({"x": {"low": 1, "high": 4}, "y": {"low": 0.1, "high": 10, "log": True}, "z": {"choices": ["a"]}})
    for number in range(20):
        trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=number)).ask()
        x, y, z = (dimension.draw(trial, name) for name, dimension in space.items())
        assert x in (1, 2, 3, 4)
        assert isinstance(y, float)
        assert 0.1 <= y <= 10
        assert z == "a"


def test_settings_become_overrides_and_an_experiment_of_which_groups_are_chosen() -> None:
    settings = {"loss": "gbce", "towers.width": 32, "towers.history.values": True, "experiment": "smoke"}
    assert as_overrides(settings) == ["loss=gbce", "towers.width=32", "towers.history.values=true", "experiment=smoke"]
    assert experiment_yaml(settings, groups={"loss", "experiment"}, comment="Best.") == (
        "# @package _global_\n# Best.\ndefaults:\n- smoke\n- override /loss: gbce\n- _self_\n"
        "towers:\n  width: 32\n  history:\n    values: true\n"
    )


def test_the_report_has_every_trial_both_figures_and_the_command_of_the_best(
    search: Callable[..., Search], tmp_path: Path
) -> None:
    tuned = search(Trainer(), num_trials=10)
    study = tuned.run()
    page = write_tuning_report(
        study,
        tuned.finalists(study),
        directory=tmp_path,
        overrides=["towers=gated", "logger=none"],
        groups={"towers", "logger"},
        label="NDCG@10",
    )
    best = completed(study)[0]  # a seed adds the same to both finalists
    command = " ".join(as_overrides(best.params))
    assert f"python scripts/train_towers.py towers=gated logger=none {command}" in page.splitlines()
    assert (tmp_path / "report.txt").read_text() == page + "\n"
    assert len(pd.read_csv(tmp_path / "history.csv")) == 10
    importance = pd.read_csv(tmp_path / "importance.csv")
    assert importance["setting"][0] == "rate"  # the only one that decides anything
    assert (tmp_path / "history.png").stat().st_size > 10_000
    assert (tmp_path / "importance.png").stat().st_size > 10_000
    written = (tmp_path / "best.yaml").read_text()
    assert "defaults:\n- override /towers: gated\n- _self_\n" in written
    assert "logger" not in written

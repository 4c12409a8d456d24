"""What a search for settings found: tables, figures, and its best settings as a command and as an experiment.

trials.csv, history.png      every trial, and the best so far
importance.csv, .png         share of the differences that each setting explains
best.yaml                    for conf/experiment
report.txt
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import yaml
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState

from evaluation.plots import BLUE, VERMILION, save_plot, uncluttered
from lifecycle.tuning import REASON, Settings, as_overrides, completed, finished

EXPERIMENT, LOGGER = "experiment", "logger"
FEWEST = 4  # completed trials, below which no importance is estimated
STATES = {TrialState.COMPLETE: "completed", TrialState.PRUNED: "given up", TrialState.FAIL: "could not train"}


def trials_table(study: optuna.Study) -> pd.DataFrame:
    """A row a finished trial, in order: how it ended, its value, the best so far, epochs, settings, why it failed."""
    rows = []
    best = np.nan
    for trial in finished(study):
        value = np.nan if trial.state != TrialState.COMPLETE or trial.value is None else trial.value
        best = np.fmax(best, value)
        rows.append(
            {
                "trial": trial.number,
                "ended": STATES[trial.state],
                "value": value,
                "best": best,
                "epochs": len(trial.intermediate_values),
                **trial.params,
                "reason": trial.user_attrs.get(REASON, ""),
            }
        )
    return pd.DataFrame(rows)


def history_figure(table: pd.DataFrame, *, label: str) -> Figure:
    """Values of the completed trials in order and the best so far; a mark below for each of the others."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    order = np.arange(1, len(table) + 1)
    done = (table["ended"] == "completed").to_numpy(dtype=np.bool_)
    values = table["value"].to_numpy(dtype=np.float64)
    axes.plot(order[done], values[done], "o", color=BLUE, markersize=5, label="completed")
    axes.step(order, table["best"], where="post", color=BLUE, label="best so far")
    rest = np.full(int((~done).sum()), np.nanmin(values))
    if rest.size:
        axes.plot(order[~done], rest, "x", color=VERMILION, label="given up or could not train")
    axes.set_xlabel("trials, in order")
    axes.set_ylabel(f"{label} on the fold's validation")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    best = int(np.nanargmax(values))
    axes.set_title(
        f"Trial {table['trial'].to_numpy()[best]} of {len(table)} is best: {values[best]:.4f} "
        f"(n = {int(done.sum())} completed trials, one seed)",
        loc="left",
        fontsize=11,
    )
    axes.legend(frameon=False, fontsize=9)
    uncluttered(axes)
    return figure


def importance_table(study: optuna.Study) -> pd.DataFrame:
    """Share of the variance of completed trials that each setting explains, by fANOVA; highest first.

    Source: Hutter et al., ICML 2014, "An Efficient Approach for Assessing Hyperparameter Importance".
    """
    found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return pd.DataFrame({"setting": list(found), "importance": list(found.values())})


def importance_figure(table: pd.DataFrame, *, num_trials: int) -> Figure:
    """A bar a setting."""
    figure = Figure(figsize=(8, 1.4 + 0.4 * len(table)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(table["setting"].tolist(), table["importance"].to_numpy(dtype=np.float64), color=BLUE)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel(f"share of the trials' variance explained (fANOVA, n = {num_trials} completed trials)")
    first = table.to_dict("records")[0]
    axes.set_title(f"{first['setting']} decides most: {first['importance']:.0%}", loc="left", fontsize=11)
    uncluttered(axes, grid="x")
    return figure


def experiment_yaml(settings: Settings, *, groups: Collection[str], comment: str) -> str:
    """Settings as a file for conf/experiment.

    Args:
        settings: dotted names.
        groups: names that are config groups, whose options are chosen rather than values set.
        comment: what the file is.
    """
    # An experiment is added to, not overridden: it is in the folder in which this file will lie.
    chosen = [
        value if name == EXPERIMENT else {f"override /{name}": value}
        for name, value in sorted(settings.items(), key=lambda each: each[0] != EXPERIMENT)
        if name in groups
    ]
    nested: dict[str, object] = {"defaults": [*chosen, "_self_"]} if chosen else {}
    for name, value in settings.items():
        if name in groups:
            continue
        *path, last = name.split(".")
        node = nested
        for part in path:
            node = node.setdefault(part, {})  # type: ignore[assignment]
        node[last] = value
    return f"# @package _global_\n# {comment}\n{yaml.safe_dump(nested, sort_keys=False)}"


def write_tuning_report(
    study: optuna.Study,
    finalists: Mapping[int, Sequence[float]],
    *,
    directory: Path,
    overrides: Sequence[str],
    groups: Collection[str],
    label: str,
) -> str:
    """Write tables, figures and best.yaml; returns the page, which is report.txt too.

    Args:
        study: with a completed trial at least.
        finalists: values of the best trials under other seeds, by number.
        directory: of the search.
        overrides: that all trials have.
        groups: see `experiment_yaml`.
        label: of the metric.
    """
    table = trials_table(study)
    save_plot(history_figure(table, label=label), table=table, path=directory / "history.png")
    trials = completed(study)
    lines = [f"{len(table)} trials, {len(trials)} completed; {label} on the fold's validation", ""]
    lines += [table.drop(columns="best").to_string(index=False, float_format="%.5g"), ""]
    if len(trials) >= FEWEST and len({trial.value for trial in trials}) > 1:
        importance = importance_table(study)
        figure = importance_figure(importance, num_trials=len(trials))
        save_plot(figure, table=importance, path=directory / "importance.png")
        lines += [importance.to_string(index=False, float_format="%.3f"), ""]
    else:
        lines += [f"importance of the settings: not estimated below {FEWEST} different completed trials", ""]
    means = {number: float(np.mean(values)) for number, values in finalists.items() if values}
    for number, values in finalists.items():
        if values:
            lines.append(
                f"trial {number} under {len(values)} other seeds: mean {means[number]:.4f}, "
                f"{min(values):.4f} to {max(values):.4f}"
            )
    number = max(means, key=lambda each: means[each]) if means else trials[0].number
    best = next(trial for trial in trials if trial.number == number)
    how = (
        f"mean {means[number]:.4f} of {len(finalists[number])} other seeds" if means else f"{best.value:.4f}, one seed"
    )
    comment = f"Trial {number} of {len(table)}: {label} {how} on the fold's validation."
    own = {name.partition("=")[0]: yaml.safe_load(name.partition("=")[2]) for name in overrides}
    own.pop(LOGGER, None)  # where a run is tracked changes nothing of it
    (directory / "best.yaml").write_text(experiment_yaml({**own, **best.params}, groups=groups, comment=comment))
    command = " ".join([*overrides, *as_overrides(best.params)])
    lines += ["", f"best: trial {number}, {how}", f"python scripts/train_towers.py {command}"]
    lines += [f"or: cp {directory}/best.yaml conf/experiment/NAME.yaml; python scripts/train_towers.py experiment=NAME"]
    page = "\n".join(lines)
    (directory / "report.txt").write_text(page + "\n")
    return page

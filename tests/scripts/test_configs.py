"""Every yaml under conf/ composes, and everything in it that names a class can be built."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from lifecycle.tuning import space_of

CONF = Path(__file__).resolve().parents[2] / "conf"
sys.path.append(str(CONF.parent / "scripts"))
build = importlib.import_module("composed").build
ROOTS = sorted(path.stem for path in CONF.glob("*.yaml"))
# A group's options are composed by the script that has them all.
GROUP_ROOT = "run_pipeline"
OPTIONS = sorted(
    (path.parent.name, path.stem)
    for path in CONF.glob("*/*.yaml")
    if path.parent.name not in ("experiment", "hparams_search", "hydra")
)
STUDENTS = sorted(path.stem for path in (CONF / "ranker" / "student").glob("*.yaml"))
DISTILLATIONS = sorted(path.stem for path in (CONF / "ranker" / "distillation").glob("*.yaml"))
SEARCHES = sorted(path.stem for path in (CONF / "hparams_search").glob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


def composed(root: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose(config_name=root, overrides=list(overrides), return_hydra_config=True)
    with open_dict(cfg):
        # What a running script would fill in.
        cfg.hydra.runtime.output_dir = "outputs/test"
        cfg.hydra.job.num = 0
        cfg.hydra.job.name = root
        HydraConfig.instance().set_config(cfg)
        del cfg["hydra"]
    return cfg


def targets(node: object, path: str = "") -> list[tuple[str, DictConfig]]:
    found: list[tuple[str, DictConfig]] = []
    if isinstance(node, DictConfig):
        if "_target_" in node:
            found.append((path, node))
        for name in node:
            found.extend(targets(node._get_node(name), f"{path}.{name}" if path else str(name)))
    return found


def build_all(cfg: DictConfig) -> list[str]:
    for path, node in targets(cfg):
        assert instantiate(node, _convert_="all") is not None, path
    return [path for path, _ in targets(cfg)]


@pytest.mark.parametrize("root", ROOTS)
def test_every_script_has_a_config_that_composes_and_builds(root: str) -> None:
    assert (CONF.parent / "scripts" / f"{root}.py").is_file()
    cfg = composed(root)
    OmegaConf.resolve(cfg)
    build_all(cfg)


@pytest.mark.parametrize("student", STUDENTS)
def test_every_student_can_be_chosen(student: str) -> None:
    ranker = build(composed("train_ranker", f"ranker/student={student}").ranker)
    assert ranker["student"].fit.distillation_weight > 0


@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.parametrize("distillation", DISTILLATIONS)
def test_every_student_learns_by_the_loss_that_is_chosen(student: str, distillation: str) -> None:
    overrides = (f"ranker/student={student}", f"ranker/distillation={distillation}")
    fit = build(composed("train_ranker", *overrides).ranker)["student"].fit
    if distillation == "none":
        assert fit.distillation is None
        return
    teacher = torch.tensor([[3.0, 1.0, 0.0]])
    same, reverse = fit.distillation(teacher, teacher), fit.distillation(-teacher, teacher)
    assert same.shape == (1,)
    assert fit.distillation_weight * (reverse - same).item() > 0


def test_the_bench_has_every_loss_of_distillation_and_each_is_another() -> None:
    recipes = composed("bench_distillation").distillations
    assert sorted(recipes) == DISTILLATIONS
    fits = [composed("bench_distillation", *overrides).ranker.student.fit for overrides in recipes.values()]
    assert len({str(fit.distillation) for fit in fits}) == len(DISTILLATIONS)


def test_the_bench_has_every_student() -> None:
    assert sorted(composed("bench_ranker").students) == STUDENTS


def test_the_pipeline_has_every_setting_of_every_step() -> None:
    pipeline = composed("run_pipeline")
    for root in ("prepare_data", "train_towers", "build_index", "train_ranker", "evaluate", "export_release"):
        missing = [name for name in composed(root) if name not in pipeline]
        assert missing == [], root


def test_a_step_alone_and_in_the_pipeline_have_the_same_settings() -> None:
    # As written: where MLflow lies, which the logger refers to, is another thing for a step alone.
    pipeline = OmegaConf.to_container(composed("run_pipeline"))
    for root in ("train_towers", "train_ranker", "evaluate", "export_release"):
        alone = OmegaConf.to_container(composed(root))
        for name in alone:
            if not name.endswith(("_dir", "_uri")) and name != "serving":
                assert alone[name] == pipeline[name], f"{root}: {name}"


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_of_every_group_composes_and_builds(group: str, option: str) -> None:
    assert build_all(composed(GROUP_ROOT, f"{group}={option}"))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_builds(experiment: str) -> None:
    assert build_all(composed(GROUP_ROOT, f"experiment={experiment}"))


@pytest.mark.parametrize("search", SEARCHES)
def test_every_search_names_settings_of_the_towers_and_values_that_they_take(search: str) -> None:
    content = OmegaConf.to_container(composed("tune", f"hparams_search={search}").hparams_search)
    for name, dimension in space_of(content["space"]).items():  # type: ignore[call-overload, index]
        for value in dimension.choices or (dimension.low, dimension.high):
            assert build_all(composed("train_towers", f"{name}={value}"))


def test_an_experiment_named_after_an_option_chooses_it() -> None:
    rows = {
        "towers": ("causal", "gated", "gru", "mean"),
        "text": ("last_layers", "full"),
        "loss": ("full_softmax", "sampled_softmax", "gbce", "bpr"),
        "negatives": ("uniform", "frequency", "in_batch", "queue", "mixed", "hard"),
    }
    for group, options in rows.items():
        for option in options:
            cfg = composed("train_towers", f"experiment={group}_{option}")
            assert cfg[group] == composed("train_towers", f"{group}={option}")[group]
            if group == "negatives":  # which a full softmax would not read
                assert cfg.loss.full_up_to == 0


def test_an_experiment_changes_what_it_names() -> None:
    assert composed("train_towers", "experiment=towers_wide").towers.width == 128
    assert composed("train_towers").towers.width == 64


@pytest.mark.parametrize(
    ("group", "overrides", "message"),
    [
        (
            "loss",
            ["loss=gbce", "+loss.full_up_to=3"],
            "loss.full_up_to: Gbce takes calibration; leave it out",
        ),
        ("towers", ["+towers.query_tower.num_head=3"], "tower.num_head: GatedQueryTower takes history, .*num_heads"),
        (
            "negatives",
            ["negatives=hard", "+negatives.shared.power=1"],
            "shared.power: Frequency takes num_negatives",
        ),
    ],
)
def test_a_setting_that_nothing_takes_is_refused_with_those_that_are_taken(
    group: str, overrides: list[str], message: str
) -> None:
    node = composed("train_towers", *overrides)[group]
    with pytest.raises(ValueError, match=message):
        build(node)

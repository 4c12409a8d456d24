"""Bundle a release, let it through its parity gates, and publish it: registry, model repository, online store.

python scripts/export_release.py [release_ranker=gradient_boosting] [features.online=redis]
"""

from pathlib import Path

import hydra
from composed import build, dataset_of, plain
from omegaconf import DictConfig

from evaluation.report import read_report
from lifecycle.entry import plain_errors
from lifecycle.export_release import Export
from lifecycle.publish import publish
from lifecycle.steps import Step
from serving.settings import PipelineSettings, TritonSettings, build_settings

SOURCES = ("features", "serving", "evaluation", "towers", "ranking/runtime")
PARTS = ("export_release", "export_parity", "parity", "parity_paths", "parity_requests", "refresh", "rewound")


def run(cfg: DictConfig) -> None:
    inputs = [Path(cfg[name]) for name in ("data_dir", "towers_dir", "index_dir", "ranker_dir", "evaluation_dir")]
    data_dir, towers_dir, index_dir, ranker_dir, evaluation_dir = inputs
    serving = plain(cfg, ["serving"])["serving"]
    triton = build_settings(TritonSettings, {**serving["triton"], "pipeline": serving["pipeline"]})

    def export(directory: Path) -> None:
        report = read_report(evaluation_dir / "report.json")
        Export(
            dataset=dataset_of(cfg),
            data_dir=data_dir,
            towers_dir=towers_dir,
            index_dir=index_dir,
            ranker_dir=ranker_dir,
            ranker=cfg.release_ranker,
            build_towers=build(cfg.towers),
            text_encoder=build(cfg.features.encoder),
            report={name: {key: found.value for key, found in own.items()} for name, own in report.systems.items()},
            settings=build_settings(PipelineSettings, serving["pipeline"]),
            parity_events=cfg.parity_events,
            seed=cfg.seed,
        ).run(directory)

    release_dir = Path(cfg.release_dir)
    names = ("release_ranker", "parity_events", "seed")
    Step(
        name="export_release",
        directory=release_dir,
        config={"serving": serving["pipeline"], **{name: cfg[name] for name in names}},
        inputs=inputs,
        sources=(*SOURCES, *(f"lifecycle/{name}.py" for name in PARTS)),
    ).run(export)
    Step(
        name="publish",
        directory=Path(cfg.published_dir),
        config={
            "serving": serving,
            "online_store": plain(cfg.features, ["online_store"]),
            "registry_uri": cfg.registry_uri,
            "alias": cfg.registry_alias,
        },
        inputs=[data_dir, release_dir],
        sources=("features", "serving", "triton_models", "lifecycle/publish.py"),
        outputs=[Path(cfg.store_dir) / "current", Path(cfg.repository_dir)],
    ).run(
        lambda directory: publish(
            release_dir=release_dir,
            data_dir=data_dir,
            store_dir=Path(cfg.store_dir),
            repository_dir=Path(cfg.repository_dir),
            registry_uri=cfg.registry_uri,
            alias=cfg.registry_alias,
            triton=triton,
            online=build(cfg.features.online_store),
            out_dir=directory,
        )
    )


@hydra.main(version_base="1.3", config_path="../conf", config_name="export_release")
def main(cfg: DictConfig) -> None:
    with plain_errors():
        run(cfg)


if __name__ == "__main__":
    main()

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from features.catalogue import Catalogue, ItemColumns
from features.columns import FeatureColumns
from features.errors import FeaturesError
from features.spec import DAY_MS, FeatureSpec, TextLayout
from features.statistics import STATISTICS, ItemDays
from features.stores.feast_repository import (
    ITEM_FACTS,
    ITEM_STATISTICS,
    QUERY_STATE,
    Repository,
    Sources,
    create_repository,
    open_repository,
)
from features.stores.feature_files import write_rows
from features.stores.item_tables import write_item_facts, write_item_statistics
from features.stores.online_settings import OnlineSettings
from features.stores.state_rows import StateColumns

SPEC = FeatureColumns(
    query_text="says",
    query_categories=("gender",),
    query_numbers=("age",),
    item_categories=("genres",),
    item_numbers=("year",),
    item_texts=("title", "genres"),
).spec(text=TextLayout(query_tokens=4), ranker_features=("ease_score",))


def files(directory: Path, *, spec: FeatureSpec = SPEC) -> Sources:
    """A file of each kind: no state, one item, one tick."""
    sources = Sources(
        states=directory / "states", item_facts=directory / "facts", item_statistics=directory / "statistics"
    )
    assert sources.states
    assert sources.item_facts
    assert sources.item_statistics
    catalogue = Catalogue(item_ids=("a",))
    nothing = np.zeros(0)
    days = ItemDays(
        rows=nothing.astype(np.int64),
        days=nothing.astype(np.int64),
        counts=nothing,
        positives=nothing,
        value_sums=nothing,
        available_days=np.full(3, np.nan),
    )
    items = ItemColumns(
        catalogue=catalogue,
        categories={"genres": [["Drama"]]},
        numbers={"year": np.array([1999.0])},
        texts={"title": ["A film"], "genres": ["Drama"]},
    )
    write_rows(sources.states, schema=StateColumns.of(spec).schema, spec=spec, batches=[])
    write_item_facts(sources.item_facts, items=items, spec=spec)
    write_item_statistics(
        sources.item_statistics, days=days, catalogue=catalogue, spec=spec, ticks_at_ms=np.array([DAY_MS])
    )
    return sources


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    directory = tmp_path_factory.mktemp("repository")
    return create_repository(directory, spec=SPEC, sources=files(directory), online=OnlineSettings(ttl_days=2.0))


def test_entities_and_views_are_those_of_the_spec(repository: Repository) -> None:
    entities = {entity.name: entity.join_key for entity in repository.store.list_entities() if entity.name[0] != "_"}
    assert entities == {"query": "query_id", "item": "item_id"}
    columns = {
        view.name: {field.name: str(field.dtype) for field in view.features}
        for view in repository.store.list_feature_views()
    }
    assert columns == {
        QUERY_STATE: {
            "history": "Bytes",
            "state_at_ms": "Int64",
            "position": "Int32",
            "says": "String",
            "gender": "String",
            "age": "Float64",
        },
        ITEM_FACTS: {"genres": "String", "title": "String", "year": "Float64"},
        ITEM_STATISTICS: dict.fromkeys(STATISTICS, "Float32"),
    }


def test_services_have_their_views(repository: Repository) -> None:
    services = {
        service.name: [projection.name for projection in service.feature_view_projections]
        for service in repository.store.list_feature_services()
    }
    assert services == {
        "query": [QUERY_STATE],
        "item": [ITEM_FACTS, ITEM_STATISTICS],
        "training": [QUERY_STATE, ITEM_STATISTICS],
    }


def test_queries_alone_are_served_online_and_only_their_states_expire(repository: Repository) -> None:
    views = {view.name: view for view in repository.store.list_feature_views()}
    assert {name: view.online for name, view in views.items()} == {
        QUERY_STATE: True,
        ITEM_FACTS: False,
        ITEM_STATISTICS: False,
    }
    assert views[QUERY_STATE].ttl == timedelta(days=2)
    assert not views[ITEM_STATISTICS].ttl
    assert all(view.batch_source.created_timestamp_column == "created" for view in views.values())


def test_a_repository_has_the_views_that_it_has_files_for(tmp_path: Path) -> None:
    sources = files(tmp_path)
    created = create_repository(tmp_path, spec=SPEC, sources=Sources(states=sources.states))
    assert [view.name for view in created.store.list_feature_views()] == [QUERY_STATE]
    assert [service.name for service in created.store.list_feature_services()] == ["query"]


def test_what_is_opened_is_what_was_created(repository: Repository) -> None:
    opened = open_repository(Path(repository.store.repo_path))
    assert opened.columns == repository.columns == StateColumns(("gender",), ("age",), text="says")
    assert opened.spec_hash == SPEC.hash
    assert opened.ttl_ms == 2 * DAY_MS


def test_a_directory_without_a_repository_is_told(tmp_path: Path) -> None:
    with pytest.raises(FeaturesError, match=r"a Feast repository at .*; it has no feature_store.yaml"):
        open_repository(tmp_path)

"""Items' raw columns as arrays, by a release whose models are sums."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from features.catalogue import Catalogue, ItemColumns
from features.vocab import FIRST, UNKNOWN
from serving.errors import InvalidRequest, ReleaseTooOld
from serving.item_arrays import ItemArrays
from serving.item_embedder import MOST_ITEMS, TEXT_ENCODER_FILE, ItemEmbedder
from serving.release import ITEM_STATES_FILE
from serving.retrieval import CONTENT_SUFFIX, INDEX_FILE, Stage1
from towers.retrievers.content import ContentMap, ItemContent

CONTENT_FILE = Path(INDEX_FILE).with_suffix(CONTENT_SUFFIX)


@pytest.fixture(scope="module")
def embedder(tiny_release: Path) -> ItemEmbedder:
    return ItemEmbedder.open(tiny_release)


@pytest.fixture
def release_copy(tiny_release: Path, tmp_path: Path) -> Path:
    """One that a test may take files from."""
    return Path(shutil.copytree(tiny_release, tmp_path / "release"))


def columns(**changes: object) -> ItemColumns:
    """An update of the item in row 9, a new item, and one of which nothing is known."""
    given = {
        "catalogue": Catalogue(("i7", "new", "bare")),
        "categories": {"genres": [["Comedy", "Western"], ["Drama"], []]},
        "numbers": {"year": np.array([1990.0, 1970.0, np.nan])},
        "texts": {"title": ["film\n seven", "Film film film film film film", ""]},
    }
    return ItemColumns(**{**given, **changes})  # type: ignore[arg-type]


def weights(release: Path, file: str) -> dict[str, np.ndarray]:
    graph = onnx.load(release / file).graph
    return {own.name: onnx.numpy_helper.to_array(own) for own in graph.initializer}


def assert_same(found: ItemArrays, expected: ItemArrays, rows: slice) -> None:
    for field in dataclasses.fields(found.inputs):
        np.testing.assert_array_equal(getattr(found.inputs, field.name), getattr(expected.inputs, field.name)[rows])
    for name in ("learned", "linear", "text", "as_new", "states"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name)[rows], atol=1e-6)


def test_inputs_are_as_a_catalogue_has_them(embedder: ItemEmbedder) -> None:
    found = embedder.embed(columns())
    assert found.item_ids == ("i7", "new", "bare")
    assert found.titles == ("film seven", "Film film film film film film", "")
    # The vocabulary has the items in order: the known one keeps its id, what an id of never says is unknown.
    assert found.inputs.item_id.tolist() == [FIRST + 7, UNKNOWN, UNKNOWN]
    drama, comedy = FIRST, FIRST + 1
    assert found.inputs.categories[:, 0, :2].tolist() == [[comedy, UNKNOWN], [drama, 0], [0, 0]]
    # (1990 - 1980) / 10, (1970 - 1980) / 10; what is missing is the mean
    assert found.inputs.numbers.tolist() == [[1.0], [-1.0], [0.0]]
    # "film" is 4, any other word 3; texts are cut at 5 tokens, titles at 3
    assert found.inputs.text_tokens.tolist() == [[4, 3, 0, 0, 0], [3, 4, 4, 4, 4], [0] * 5]
    assert found.inputs.title_tokens.tolist() == [[4, 3, 0], [3, 4, 4], [0] * 3]


def test_items_of_the_catalogue_get_the_inputs_that_the_release_has(embedder: ItemEmbedder, tiny_release: Path) -> None:
    items = Stage1.read(tiny_release).items
    rows = np.array([FIRST + 4, FIRST + 7])  # "Comedy" and "Drama", and "Drama" alone
    again = columns(
        catalogue=Catalogue(("i4", "i7")),
        categories={"genres": [["Comedy", "Drama"], ["Drama"]]},
        numbers={"year": items.numbers[rows, 0].astype(np.float64) * 10 + 1980},
        texts={"title": ["film i4", "film i7"]},
    )
    found = embedder.embed(again).inputs
    for name in ("item_id", "categories", "title_tokens", "text_tokens"):
        np.testing.assert_array_equal(getattr(found, name), getattr(items, name)[rows])
    np.testing.assert_allclose(found.numbers, items.numbers[rows], atol=1e-6)


def test_learned_embeddings_match_hand_computation(embedder: ItemEmbedder, tiny_release: Path) -> None:
    text, tower = (weights(tiny_release, file) for file in (TEXT_ENCODER_FILE, "item_tower.onnx"))
    table = text["text_table"]
    # Of six tokens an encoder's own two leave four of a text.
    texts = np.stack([table[4] + table[3], table[3] + 3 * table[4], 0 * table[0]])
    categories = tower["category_table"]
    padding = categories[0]
    of_items = [
        tower["id_table"][FIRST + 7] + categories[FIRST + 1] + categories[UNKNOWN] + 2 * padding,
        tower["id_table"][UNKNOWN] + categories[FIRST] + 3 * padding,
        tower["id_table"][UNKNOWN] + 4 * padding,
    ]
    number = np.array([[1.0], [-1.0], [0.0]], np.float32) @ tower["number_weights"]
    expected = np.stack(of_items) + number + texts @ tower["text_weights"]
    np.testing.assert_allclose(embedder.embed(columns()).learned, expected, rtol=1e-5, atol=1e-5)


def test_what_stands_in_the_index_is_by_content(embedder: ItemEmbedder, tiny_release: Path) -> None:
    found = embedder.embed(columns())
    table = weights(tiny_release, TEXT_ENCODER_FILE)["text_table"]
    texts = np.stack([table[4] + table[3], table[3] + 3 * table[4], 0 * table[0]])
    content = ItemContent.of(found.inputs, texts=texts)
    expected = ContentMap.read(tiny_release / CONTENT_FILE).of(content)
    width = found.learned.shape[1]
    np.testing.assert_allclose(found.as_new, expected[:, :width], atol=1e-5)
    np.testing.assert_allclose(found.linear, expected[:, width:], atol=1e-5)
    assert np.abs(found.linear).min() > 0
    assert found.text.shape == (3, 0)  # queries of this release say nothing
    assert found.states.shape == (3, 6, 0)  # and its ranker reads items when they are candidates


def test_where_queries_say_something_items_have_what_their_texts_say(
    embedder: ItemEmbedder, tiny_release: Path
) -> None:
    layout = dataclasses.replace(embedder.spec.text, query_tokens=4)
    searching = dataclasses.replace(embedder, spec=dataclasses.replace(embedder.spec, text=layout))
    table = weights(tiny_release, TEXT_ENCODER_FILE)["text_table"]
    np.testing.assert_allclose(searching.embed(columns()).text[0], table[4] + table[3], rtol=1e-6)


def test_together_items_get_what_they_get_alone(embedder: ItemEmbedder) -> None:
    together = embedder.embed(columns())
    for place in range(3):
        alone = embedder.embed(columns().take(np.array([place])))
        assert alone.item_ids == together.item_ids[place : place + 1]
        assert_same(alone, together, slice(place, place + 1))


def test_so_many_texts_that_they_take_turns_keep_their_places(embedder: ItemEmbedder) -> None:
    num = MOST_ITEMS
    many = ItemColumns(
        catalogue=Catalogue(tuple(f"new{n}" for n in range(num))),
        categories={"genres": [[]] * num},
        numbers={"year": np.full(num, np.nan)},
        texts={"title": ["film " * (n % 5) for n in range(num)]},
    )
    found = embedder.embed(many)
    for n in (0, 1, 137, num - 1):
        assert_same(embedder.embed(many.take(np.array([n]))), found, slice(n, n + 1))


def test_without_a_content_map_the_item_tower_stands_in_the_index(release_copy: Path) -> None:
    (release_copy / CONTENT_FILE).unlink()
    found = ItemEmbedder.open(release_copy).embed(columns())
    np.testing.assert_array_equal(found.as_new, found.learned)
    assert found.linear.shape == (3, 3)
    assert not found.linear.any()


def test_a_release_of_before_takes_no_items_and_says_what_to_do(release_copy: Path) -> None:
    (release_copy / TEXT_ENCODER_FILE).unlink()
    embedder = ItemEmbedder.open(release_copy)
    with pytest.raises(ReleaseTooOld, match=r"text_encoder\.onnx is missing.* export it again.*export_release\.py"):
        embedder.embed(columns())


def test_states_need_what_reads_them(release_copy: Path) -> None:
    np.save(release_copy / ITEM_STATES_FILE, np.zeros((302, 6, 4), np.int8))
    embedder = ItemEmbedder.open(release_copy)
    with pytest.raises(ReleaseTooOld, match=r"item_reader\.onnx is missing.* item_states\.npy .*export_release\.py"):
        embedder.embed(columns())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": {}}, r"^categories\.genres: expected the columns genres; got no such column$"),
        ({"numbers": {"year": np.zeros(3), "yaer": np.zeros(3)}}, r"^numbers\.yaer: .* the release does not have$"),
        ({"texts": {"title": ["a", "b"]}}, r"^texts\.title: expected a text for each of 3 items; got 2$"),
        ({"texts": {"title": ["a", None, "b"]}}, r"^texts\.title: expected a text for each item; item 1 has None$"),
        ({"texts": {"title": ["a", "b", "\ud800"]}}, r"^texts\.title: expected a text .*; item 2 has '\\ud800'$"),
        ({"categories": {"genres": ["Drama", [], []]}}, r"^categories\.genres: expected a list of texts .* 'Drama'$"),
        ({"categories": {"genres": [[], [3], []]}}, r"^categories\.genres: expected a list of texts .* item 1 has"),
        ({"numbers": {"year": ["1990", 1.0, 2.0]}}, r"^numbers\.year: expected a number or nan .* item 0 has '1990'$"),
        ({"catalogue": Catalogue(("a", "", "b"))}, r"^item_ids: expected texts that are not empty; got ''$"),
        ({"catalogue": Catalogue(())}, r"^item_ids: expected 1 to 256 items a call; got 0$"),
        ({"catalogue": Catalogue(tuple(map(str, range(257))))}, r"^item_ids: expected 1 to 256 .*; got 257$"),
    ],
)
def test_wrong_columns_are_refused_by_their_name(
    embedder: ItemEmbedder, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        embedder.embed(columns(**changes))


def test_numbers_of_any_kind_are_taken(embedder: ItemEmbedder) -> None:
    found = embedder.embed(columns(numbers={"year": [1990, 1970.0, float("inf")]}))
    assert_same(found, embedder.embed(columns()), slice(None))

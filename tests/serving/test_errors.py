import inspect

from serving import errors
from serving.errors import InvalidRequest, ServingError, SettingsError


def test_every_error_of_the_tree_is_drawn_in_the_docstring() -> None:
    defined = {name for name, member in inspect.getmembers(errors, inspect.isclass) if issubclass(member, Exception)}

    assert defined
    assert all(name in str(errors.__doc__) for name in defined)
    assert all(issubclass(getattr(errors, name), ServingError) for name in defined)


def test_an_error_about_one_value_starts_with_its_name() -> None:
    assert str(InvalidRequest(field="k", message="expected 1 to 100, got 0")) == "k: expected 1 to 100, got 0"
    assert str(SettingsError(key="instances.ranker", message="missing")) == "instances.ranker: missing"

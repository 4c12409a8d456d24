import json
from datetime import timedelta
from typing import Any

import pytest

from features.errors import FeaturesError
from features.stores.online_settings import PASSWORD_VARIABLE, OnlineSettings, RedisSettings, with_password


def test_a_redis_is_named_as_feast_wants_it_and_a_command_is_tried_once() -> None:
    settings = RedisSettings(host="store.internal", port=6380, db=2, tls=True, username="a,$b", timeout_s=0.5)
    assert settings.connection_string == (
        "store.internal:6380,db=2,ssl=true,socket_timeout=0.5,socket_connect_timeout=0.5,retry=null,"
        'username="a\\u002c\\u0024b"'
    )


def test_a_password_travels_in_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    assert with_password("h:1,db=0") == "h:1,db=0"
    monkeypatch.setenv(PASSWORD_VARIABLE, 'p,=$"\\')
    part = with_password("h:1,db=0").removeprefix("h:1,db=0,password=")
    assert "," not in part
    assert "$" not in part
    assert json.loads(part) == 'p,=$"\\'


def test_each_kind_of_store_is_configured_for_feast() -> None:
    assert OnlineSettings().feast == {"type": "sqlite", "path": "online.db"}
    redis = OnlineSettings(type="redis", redis=RedisSettings(port=7000)).feast
    assert redis["type"] == "redis"
    assert redis["connection_string"].startswith("127.0.0.1:7000,")


def test_a_ttl_is_in_days_and_none_is_for_ever() -> None:
    assert OnlineSettings(ttl_days=1.5).ttl == timedelta(hours=36)
    assert OnlineSettings().ttl is None


@pytest.mark.parametrize(
    ("settings", "values", "message"),
    [
        (OnlineSettings, {"type": "memcached"}, "online: expected sqlite or redis; got 'memcached'"),
        (OnlineSettings, {"ttl_days": 0}, "ttl_days: expected more than 0 days, or null"),
        (RedisSettings, {"host": "a,password=b"}, "host: expected a host name or address"),
        (RedisSettings, {"port": 0}, "port: expected 1 to 65535; got 0"),
        (RedisSettings, {"db": -1}, "db: expected a number of 0 or more"),
        (RedisSettings, {"timeout_s": 0.0}, "timeout_s: expected more than 0 seconds"),
    ],
)
def test_what_no_store_can_be_is_refused(settings: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(FeaturesError, match=message):
        settings(**values)

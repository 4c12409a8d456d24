"""Where the online store keeps its values, as settings: a file of sqlite's beside the registry, or a Redis server.

Owns what can be set, what a valid value is, and what of it may be written down: the password is not among it. Knows
nothing of Feast but the form of its configuration.
"""

import json
import os
import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from features.errors import FeaturesError

PASSWORD_VARIABLE = "TWOSTAGE_REDIS_PASSWORD"
_HOST = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class RedisSettings:
    """Which Redis, and how it is asked.

    Attributes:
        username: of Redis's access control; "" where it has none. The password is what the environment variable
            TWOSTAGE_REDIS_PASSWORD holds when a store is opened; it is written nowhere.
        timeout_s: for connecting and for each answer.
    """

    host: str = "127.0.0.1"
    port: int = 6379
    db: int = 0
    tls: bool = False
    username: str = ""
    timeout_s: float = 2.0

    def __post_init__(self) -> None:
        _require(_HOST.fullmatch(self.host) is not None, key="host", expected="a host name or address", got=self.host)
        _require(1 <= self.port <= 65535, key="port", expected="1 to 65535", got=self.port)
        _require(self.db >= 0, key="db", expected="a number of 0 or more", got=self.db)
        _require(self.timeout_s > 0, key="timeout_s", expected="more than 0 seconds", got=self.timeout_s)

    @property
    def connection_string(self) -> str:
        """In Feast's form, without the password.

        One attempt a command: the client's own default is three more with seconds of waiting in between, longer than
        any request may take.
        """
        options = {
            "db": self.db,
            "ssl": self.tls,
            "socket_timeout": self.timeout_s,
            "socket_connect_timeout": self.timeout_s,
            "retry": None,
        } | ({"username": self.username} if self.username else {})
        return ",".join([f"{self.host}:{self.port}", *(_option(key, value) for key, value in options.items())])


@dataclass(frozen=True)
class OnlineSettings:
    """How queries' features are served; conf/features/*.yaml fills it.

    Attributes:
        type: `sqlite` for readers on one machine, `redis` for any number of them.
        ttl_days: a query whose newest state is older than this at a request is an unknown one; None: however old.
        redis: read where type is `redis`.
    """

    type: Literal["sqlite", "redis"] = "sqlite"
    ttl_days: float | None = None
    redis: RedisSettings = field(default_factory=RedisSettings)

    def __post_init__(self) -> None:
        _require(self.type in ("sqlite", "redis"), key="online", expected="sqlite or redis", got=self.type)
        _require(
            self.ttl_days is None or self.ttl_days > 0,
            key="ttl_days",
            expected="more than 0 days, or null for states that never expire",
            got=self.ttl_days,
        )

    @property
    def ttl(self) -> timedelta | None:
        """As Feast keeps it with a view."""
        return None if self.ttl_days is None else timedelta(days=self.ttl_days)

    @property
    def feast(self) -> dict[str, Any]:
        """The online store's part of feature_store.yaml."""
        if self.type == "redis":
            # Feast would ask for each key's time before it writes it. state_writer.py has asked already, and by the
            # position too, which tells states of one instant apart.
            return {"type": "redis", "connection_string": self.redis.connection_string, "skip_dedup": True}
        return {"type": "sqlite", "path": "online.db"}


def with_password(connection_string: str) -> str:
    """The connection string with the password that the environment holds, if it holds one."""
    password = os.environ.get(PASSWORD_VARIABLE, "")
    return f"{connection_string},{_option('password', password)}" if password else connection_string


def _option(key: str, value: object) -> str:
    # Feast puts environment variables where the file has a $, divides the string at commas and reads each value as
    # JSON, which knows another way to write both.
    return f"{key}={json.dumps(value)}".replace(",", "\\u002c").replace("$", "\\u0024")


def _require(condition: bool, *, key: str, expected: str, got: object) -> None:
    if not condition:
        raise FeaturesError(f"features.online_store: {key}: expected {expected}; got {got!r}")

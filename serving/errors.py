"""Everything serving raises on purpose.

    ServingError
    ├── SettingsError        a setting is unknown, missing or of the wrong type
    ├── ReleaseDamaged       a release lacks a file, or a file is not what its manifest says
    ├── ReleaseTooOld        a release was exported before there was what it is asked for
    ├── DeltaRefused         a delta is not whole, belongs to something else, or is older than what is served
    ├── SpecMismatch         features of one FeatureSpec met a release of another
    ├── InvalidRequest       the caller sent something that cannot be answered; `field` says which
    ├── EnvironmentMissing   a program or package that serving needs is not installed
    ├── ServerFailed         a server process ended, or was not ready in time; carries its log's telling lines
    ├── ServerUnavailable    nobody answers at the address, or the server cannot take the request now
    ├── RequestFailed        the server answered that it failed inside
    └── DeadlineExceeded     the answer did not come in time

To the last three the gateway answers from its fallback; the others are for whoever sent the request or runs the server.
"""


class ServingError(Exception):
    """Root of what serving raises on purpose."""


class SettingsError(ServingError):
    """A setting is unknown, missing or of the wrong type.

    Attributes:
        key: dotted path of the setting.
        problem: what is wrong with it.
    """

    def __init__(self, *, key: str, message: str) -> None:
        super().__init__(f"{key}: {message}")
        self.key = key
        self.problem = message


class ReleaseDamaged(ServingError):
    """A release lacks a file, or a file is not what its manifest says. The message names file and hashes."""


class ReleaseTooOld(ServingError):
    """A release was exported before there was what it is asked for. The message says what to make anew."""


class DeltaRefused(ServingError):
    """A delta is not whole, belongs to another release or spec, or is older than what is served; that serves on."""


class SpecMismatch(ServingError):
    """Features or artefacts of one FeatureSpec met a release of another. The message names both hashes."""


class InvalidRequest(ServingError):
    """A request that cannot be answered, whoever answers it.

    Attributes:
        field: the tensor or JSON field that is wrong; the message starts with it.
    """

    def __init__(self, *, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class EnvironmentMissing(ServingError):
    """A program or package that serving needs is not installed. The message says how to get it."""


class ServerFailed(ServingError):
    """A server process ended on its own, or was not ready in time."""


class ServerUnavailable(ServingError):
    """Nobody answers at the address, or the server cannot take the request now."""


class RequestFailed(ServingError):
    """The server answered that it failed inside, or with something that is no answer."""


class DeadlineExceeded(ServingError):
    """The answer did not come in time."""

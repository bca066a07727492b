"""What a person may set of the server; see `edgekit/settings.py`."""

import ipaddress
import re
from dataclasses import dataclass

from edgekit.errors import UsageError
from edgekit.settings import Checked, setting

KEY_VARIABLE = "EDGEKIT_API_KEY"


def _whole(low: int, high: int = 1 << 40):
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _origins(values: tuple[str, ...]) -> bool:
    return all(value == "*" or re.fullmatch(r"https?://[^/\s@?#]+", value) for value in values)


@dataclass(frozen=True)
class Serving(Checked):
    """Where the server listens, who may ask, and how much."""

    host: str = setting(
        "127.0.0.1", "Address to listen on; any but this machine's own loopback wants an API key.", metavar="ADDRESS"
    )
    port: int = setting(
        8000, "Port; 0 takes a free one.", check=_whole(0, 65535), range="a whole number from 0 to 65535"
    )
    api_key: str | None = setting(
        None,
        f"Ask for this key (Authorization: Bearer KEY); variable {KEY_VARIABLE}, which `ps` does not show.",
        metavar="KEY",
        check=lambda v: bool(re.fullmatch(r"[!-~]+", v)),
        range="printable ASCII without spaces",
    )
    allow_origin: tuple[str, ...] = setting(
        (),
        "Let pages of this origin call the server (CORS); may be repeated; * is any.",
        metavar="ORIGIN",
        check=_origins,
        range="* or scheme and host, as in https://example.org",
    )
    queue_size: int = setting(
        32, "Requests that may wait while one runs.", check=_whole(0, 100_000), range="a whole number from 0 up"
    )
    max_prompt_tokens: int | None = setting(
        None, "Longest prompt; default: the model's context.", check=_whole(1), range="a whole number from 1 up"
    )
    max_body_bytes: int = setting(1 << 20, "Largest request body.", check=_whole(64), range="a whole number from 64 up")
    time_limit: float = setting(
        300.0,
        "Seconds that a request may take, waiting included.",
        check=lambda v: not isinstance(v, bool) and 0 < v < float("inf"),
        range="a number above 0",
    )
    grace: float = setting(
        5.0,
        "Seconds that the running text has to end when the server is stopped.",
        check=lambda v: not isinstance(v, bool) and 0 <= v < float("inf"),
        range="a number from 0 up",
    )

    def check_reach(self) -> None:
        """Raises `UsageError` where others could reach the server and nothing would ask them for a key."""
        if not is_loopback(self.host) and self.api_key is None:
            raise UsageError(
                f"--host {self.host or repr('')} can be reached from other machines: "
                f"set {KEY_VARIABLE} (or --api-key), or stay on 127.0.0.1"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address. A name other than localhost is not trusted to be such."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

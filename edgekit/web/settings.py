"""Settings of the server (`serve` and `demo`)."""

import ipaddress
import re
from dataclasses import dataclass

from edgekit.errors import UsageError
from edgekit.settings import Checked, setting

KEY_VARIABLE = "EDGEKIT_API_KEY"


def _are_origins(values: tuple[str, ...]) -> bool:
    return all(value == "*" or re.fullmatch(r"https?://[^/\s@?#]+", value) for value in values)


@dataclass(frozen=True)
class Serving(Checked):
    """Where the server listens, who may ask, and how much."""

    host: str = setting(
        "127.0.0.1", "Address to listen on; any but the loopback address needs an API key.", metavar="ADDRESS"
    )
    port: int = setting(8000, "Port; 0 takes a free one.", ge=0, le=65535)
    api_key: str | None = setting(
        None,
        f"Require this key (Authorization: Bearer KEY); the variable {KEY_VARIABLE} keeps it out of `ps`.",
        metavar="KEY",
        check=lambda key: bool(re.fullmatch(r"[!-~]+", key)),
        range="printable ASCII without spaces",
    )
    allow_origin: tuple[str, ...] = setting(
        (),
        "Let pages of this origin call the server (CORS); may be repeated; * is any.",
        metavar="ORIGIN",
        check=_are_origins,
        range="* or scheme and host, as in https://example.org",
    )
    queue_size: int = setting(32, "Requests that may wait while one runs.", ge=0, le=100_000)
    max_prompt_tokens: int | None = setting(None, "Longest prompt; default: the model's context.", ge=1)
    max_body_bytes: int = setting(1 << 20, "Largest request body.", ge=64)
    time_limit: float = setting(300.0, "Seconds that a request may take, waiting included.", gt=0)
    read_limit: float = setting(
        30.0, "Seconds that a client has to send the head of a request, and as many for its body.", gt=0
    )
    client_requests: int | None = setting(
        None, "Requests that one address may have at once; default: 128 and the queue's size.", ge=1
    )
    grace: float = setting(5.0, "Seconds that the running text has to end when the server is stopped.", ge=0)

    def check_reach(self) -> None:
        """Raises `UsageError` if other machines could reach the server without a key."""
        if not is_loopback(self.host) and self.api_key is None:
            raise UsageError(
                f"--host {self.host or repr('')} can be reached from other machines: "
                f"set {KEY_VARIABLE} (or --api-key), or stay on 127.0.0.1"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address. Of names, only localhost counts."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

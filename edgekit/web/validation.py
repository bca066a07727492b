"""A JSON body, read field by field: what is unknown or cannot be meant is refused by its name."""

import json
from collections.abc import Sequence
from typing import Any

from edgekit.errors import ContextError, PromptError, UsageError
from edgekit.settings import Generating, is_whole, specs

MOST_STOPS = 16

# The settings that a request may carry; the rest of `Generating` is for programs in the same process.
SETTINGS = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens", "seed", "stop", "ignore_eos",
)  # fmt: skip


class Refused(UsageError):
    """A request that is answered with an HTTP status and one line.

    Attributes:
        status: of HTTP.
        param: the field that is wrong, or None.
        code: OpenAI's word for it, or None.
        headers: to send along.
    """

    def __init__(
        self,
        message: str,
        param: str | None = None,
        *,
        status: int = 400,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, headers or {}

    def body(self, path: str) -> dict[str, Any]:
        """The JSON of the answer: the playground's form under /api, OpenAI's elsewhere."""
        if path.startswith("/api/"):
            return {"type": "error", "message": str(self), "param": self.param}
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def refusal(error: Exception) -> Refused:
    """Any error as a refusal: what the caller can mend is 400; the rest is 500, and a bug's text stays here."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, ContextError):
        return Refused(str(error).partition(", or use --truncate")[0], "prompt", code="context_length_exceeded")
    if isinstance(error, PromptError):
        return Refused(str(error), "prompt")
    if isinstance(error, UsageError):
        return Refused(str(error))
    from edgekit.errors import EdgekitError

    said = str(error) if isinstance(error, EdgekitError) else "the server failed; its own log says why"
    return Refused(said, status=500)


class Fields:
    """The fields of a body, each taken once; `done` refuses what nobody took."""

    def __init__(self, body: bytes):
        try:
            found = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise Refused(f"the body is not JSON: {error}") from error
        if not isinstance(found, dict):
            raise Refused("the body must be a JSON object")
        self.left: dict[str, Any] = found

    @classmethod
    def of(cls, value: dict[str, Any]) -> "Fields":
        """The fields of an object inside a body."""
        fields = cls(b"{}")
        fields.left = dict(value)
        return fields

    def take(self, name: str) -> Any:
        """The value, None if it is absent or null."""
        return self.left.pop(name, None)

    def flag(self, name: str) -> bool:
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            raise Refused(f"{name} must be true or false, not {shown(value)}", name)
        return bool(value)

    def text(self, name: str) -> str | None:
        value = self.take(name)
        if value is not None and not isinstance(value, str):
            raise Refused(f"{name} must be a text, not {shown(value)}", name)
        return value

    def whole(self, name: str, low: int, high: int) -> int | None:
        value = self.take(name)
        if value is not None and not (is_whole(value) and low <= value <= high):
            raise Refused(f"{name} must be a whole number from {low} to {high}, not {shown(value)}", name)
        return value

    def only(self, name: str, *accepted: Any) -> None:
        """A field that is understood, but has no other value here than the one that switches it off."""
        value = self.take(name)
        if value is not None and not any(value == one and isinstance(value, bool) == isinstance(one, bool)
                                         for one in accepted):  # fmt: skip
            allowed = " or ".join(json.dumps(one) for one in accepted) or "null"
            raise Refused(f"{name} is not supported: leave it out, or set it to {allowed}", name)

    def setting(self, name: str, to: str | None = None) -> dict[str, Any]:
        """A field of `Generating` under its own name or another, checked: {setting: value}, {} if absent."""
        value = self.take(name)
        return {} if value is None else {to or name: checked(to or name, value, name)}

    def done(self) -> None:
        if self.left:
            name = next(iter(self.left))
            raise Refused(f"unknown field {shown(name)}", name)


def checked(setting: str, value: Any, name: str) -> Any:
    """A JSON value as a field of `Generating`. Raises `Refused`, which calls it `name`."""
    spec, allowed, result = specs(Generating)[setting], specs(Generating)[setting].range, value
    if setting == "stop":
        allowed = f"a text, or a list of at most {MOST_STOPS} texts, none empty"
        result = [value] if isinstance(value, str) else value
        valid = isinstance(result, list) and len(result) <= MOST_STOPS and spec.accepts(result)
    else:
        valid = spec.accepts(value)
    if not valid:
        raise Refused(f"{name} must be {allowed}, not {shown(value)}", name)
    return tuple(result) if spec.many else float(result) if spec.kind is float else result


def token_ids(value: Any, vocab_size: int, name: str) -> list[int]:
    """A list of ids of the vocabulary; raises `Refused`."""
    for token in value:
        if not (is_whole(token) and 0 <= token < vocab_size):
            raise Refused(f"{name}: {shown(token)} is no token id from 0 to {vocab_size - 1}", name)
    return list(value)


def is_ids(value: Any) -> bool:
    """Whether a value is a list of whole numbers, and not empty."""
    return isinstance(value, Sequence) and not isinstance(value, str) and bool(value) and all(map(is_whole, value))


def shown(value: Any) -> str:
    """A value in a message: as JSON, and not all of a long one."""
    try:
        text = json.dumps(value)
    except RecursionError:  # it was read at the very edge
        return "..."
    return text if len(text) <= 60 else text[:60] + "..."


def ranges() -> dict[str, dict[str, Any]]:
    """What /api/defaults reports of each setting: its type, help and bounds, from edgekit/settings.py."""
    kinds, found = {bool: "flag", int: "whole", float: "number", str: "texts"}, {}
    for name in SETTINGS:
        spec = specs(Generating)[name]
        found[name] = {
            "type": kinds[spec.kind],
            "help": spec.help,
            "range": spec.range,
            "minimum": spec.gt if spec.ge is None else spec.ge,
            "above": spec.gt is not None,
            "maximum": spec.le,
        }
    return found

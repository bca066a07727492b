"""Parses a JSON body field by field; a field that is unknown or invalid is refused by its name."""

import json
from collections.abc import Sequence
from typing import Any

from edgekit.errors import ContextError, EdgekitError, PromptError, UsageError
from edgekit.settings import Generating, is_whole, specs

MAX_STOPS = 16

# The settings that a request may carry; the rest of `Generating` is for programs in the same process.
SETTINGS = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens", "seed", "stop", "ignore_eos",
)  # fmt: skip


class RequestError(UsageError):
    """A request that is answered with an HTTP error status and one line of text.

    Attributes:
        status: the HTTP status.
        param: the field that is wrong, or None.
        code: OpenAI's error code, or None.
        headers: of the response.
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
        """The JSON of the response: the playground's form under /api/, OpenAI's elsewhere."""
        if path.startswith("/api/"):
            return {"type": "error", "message": str(self), "param": self.param}
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def as_request_error(error: BaseException) -> RequestError:
    """Any error as a `RequestError`: 400 if the client can fix it, else 500, without the text of a bug."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, ContextError):
        return RequestError(str(error).partition(", or use --truncate")[0], "prompt", code="context_length_exceeded")
    if isinstance(error, PromptError):
        return RequestError(str(error), "prompt")
    if isinstance(error, UsageError):
        return RequestError(str(error))
    message = str(error) if isinstance(error, EdgekitError) else "internal server error: see the server's log"
    return RequestError(message, status=500)


class Fields:
    """The fields of a JSON object, each taken once; `done` refuses what was not taken."""

    def __init__(self, body: bytes):
        try:
            value = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"the body is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise RequestError("the body must be a JSON object")
        self.left: dict[str, Any] = value

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
            raise RequestError(f"{name} must be true or false, not {shown(value)}", name)
        return bool(value)

    def text(self, name: str) -> str | None:
        value = self.take(name)
        if value is not None and not isinstance(value, str):
            raise RequestError(f"{name} must be a string, not {shown(value)}", name)
        return value

    def replace(self, name: str, value: int, meaning: int | None) -> None:
        """Read a whole number with a special meaning as that."""
        if is_whole(self.left.get(name)) and self.left[name] == value:
            self.left[name] = meaning

    def integer(self, name: str, low: int, high: int) -> int | None:
        value = self.take(name)
        if isinstance(value, float) and value.is_integer():  # 4.0: JSON does not tell them apart
            value = int(value)
        if value is not None and not (is_whole(value) and low <= value <= high):
            raise RequestError(f"{name} must be a whole number from {low} to {high}, not {shown(value)}", name)
        return value

    def only(self, name: str, *accepted: Any) -> None:
        """A field of OpenAI's API that is not supported: only a value that switches it off is accepted."""
        value = self.take(name)
        if value is not None and not any(value == one and isinstance(value, bool) == isinstance(one, bool)
                                         for one in accepted):  # fmt: skip
            allowed = " or ".join(json.dumps(one) for one in accepted) or "null"
            raise RequestError(f"{name} is not supported: leave it out, or set it to {allowed}", name)

    def setting(self, name: str, to: str | None = None) -> dict[str, Any]:
        """A field of `Generating`, checked: {setting: value}, or {} if it is absent. `to`: its name in `Generating`."""
        value = self.take(name)
        return {} if value is None else {to or name: checked(to or name, value, name)}

    def done(self) -> None:
        if self.left:
            name = next(iter(self.left))
            raise RequestError(f"unknown field {shown(name)}", name)


def checked(setting: str, value: Any, name: str) -> Any:
    """A JSON value as a field of `Generating`. Raises `RequestError` about `name`."""
    spec = specs(Generating)[setting]
    allowed, result = spec.range, value
    if setting == "stop":
        allowed = f"a string, or a list of at most {MAX_STOPS} strings, none empty"
        result = [value] if isinstance(value, str) else value
        valid = isinstance(result, list) and len(result) <= MAX_STOPS and spec.accepts(result)
    else:
        valid = spec.accepts(value)
    if not valid:
        raise RequestError(f"{name} must be {allowed}, not {shown(value)}", name)
    return tuple(result) if spec.many else float(result) if spec.kind is float else result


def check_ids(ids: Sequence[int], vocab_size: int, name: str) -> None:
    """Raises `RequestError` about `name` for an id outside the vocabulary."""
    for token in ids:
        if not 0 <= token < vocab_size:
            raise RequestError(f"{name}: {shown(token)} is not a token id from 0 to {vocab_size - 1}", name)


def is_ids(value: Any) -> bool:
    """Whether a value is a list of integers, and not empty."""
    return isinstance(value, Sequence) and not isinstance(value, str) and bool(value) and all(map(is_whole, value))


def shown(value: Any) -> str:
    """A value in a message: as JSON, cut if it is long."""
    try:
        text = json.dumps(value)
    except RecursionError:  # nested just within what the parser reads
        return "..."
    return text if len(text) <= 60 else text[:60] + "..."


def ranges() -> dict[str, dict[str, Any]]:
    """The `settings` of /api/defaults: type, help and bounds of each, from edgekit/settings.py."""
    kinds, settings = {bool: "flag", int: "whole", float: "number", str: "texts"}, {}
    for name in SETTINGS:
        spec = specs(Generating)[name]
        settings[name] = {
            "type": kinds[spec.kind],
            "help": spec.help,
            "range": spec.range,
            "minimum": spec.gt if spec.ge is None else spec.ge,
            "above": spec.gt is not None,
            "maximum": spec.le,
        }
    return settings

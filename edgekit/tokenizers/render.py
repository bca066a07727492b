"""Renders chat templates in a process of its own, with limits: `python -m edgekit.tokenizers.render`.

A template is a program that came with a model. jinja2's sandbox keeps it from Python's internals, but not from
`10**10**9` or from loops without end, and no thread can interrupt those. So the operating system limits this process:
its time on the processor by a timer whose signal ends it, its memory by a resource limit. `chat.ChatTemplate` sends
one JSON object a line, and reads one: `text`, `refused` (by the template's own `raise_exception`) or `error`.

The environment is that of transformers' `apply_chat_template` (utils/chat_template_utils.py), so texts are equal.
"""

import contextlib
import functools
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

SECONDS = 2.0
"""Processor time for one rendering, compiling included; ordinary templates need milliseconds."""
MEMORY = 1 << 30
"""Bytes of address space, of which Python and jinja2 need a tenth."""
TOO_LONG = 124
"""Exit status on Windows, which has no timer that ends a process."""
CHARACTERS = 1 << 22
"""Of the text; larger than any context."""


class Refused(jinja2.TemplateError):
    """The template called `raise_exception`."""


class Generation(jinja2.ext.Extension):
    """`{% generation %}` ... `{% endgeneration %}`, which marks the assistant's text for training: renders its body."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Any) -> Any:
        return caller()


def raise_exception(message: Any) -> None:
    raise Refused(str(message))


def strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """jinja2's own filter escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class Sandbox(ImmutableSandboxedEnvironment):
    """As transformers', but an unsafe attribute is an error even where it would only be printed, as nothing."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        raise SecurityError(f"access to attribute {attribute!r} of {type(obj).__name__!r} object is unsafe")


@functools.lru_cache(maxsize=4)
def compiled(source: str) -> jinja2.Template:
    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment.from_string(source)


def render(source: str, variables: dict[str, Any]) -> dict[str, str]:
    """The reply to one request."""
    try:
        parts, length = [], 0
        for part in compiled(source).generate(**variables):
            parts.append(part)
            length += len(part)
            if length > CHARACTERS:
                return {"error": f"it writes more than {CHARACTERS} characters"}
        return {"text": "".join(parts)}
    except Refused as error:
        return {"refused": shortened(error)}
    except MemoryError:
        return {"error": f"it needs more than {MEMORY >> 20} MiB of memory"}
    except RecursionError:
        return {"error": "it calls itself without end"}
    except jinja2.TemplateSyntaxError as error:
        return {"error": f"line {error.lineno}: {shortened(error.message)}"}
    except Exception as error:  # a template can raise whatever its expressions do
        return {"error": f"{type(error).__name__}: {shortened(error)}"}


def shortened(message: object) -> str:
    """On one line, of at most 300 characters."""
    text = " ".join(str(message).split())
    return text if len(text) <= 300 else text[:300] + " ..."


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Ends the process if the body takes longer than SECONDS: of its own time, or on Windows of a clock."""
    if sys.platform == "win32":
        timer = threading.Timer(SECONDS, os._exit, [TOO_LONG])
        timer.daemon = True
        timer.start()
        yield
        timer.cancel()
    else:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process, also inside a C function
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        yield
        signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # macOS does not limit the address space
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for line in sys.stdin.buffer:
        request = json.loads(line)
        with limited():
            reply = json.dumps(render(request["template"], request["variables"]))
        sys.stdout.write(reply + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

"""The public API: `load` opens a model, `Model` generates text and answers conversations with it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import (
    EdgekitError,
    MissingExtraError,
    PromptError,
    SettingError,
    UnsupportedError,
    UsageError,
    VocabularyError,
)
from edgekit.formats import hub
from edgekit.formats.generation_config import defaults
from edgekit.inference import threads
from edgekit.inference.generate import Generation, PromptCache, Stream
from edgekit.inference.runtime import Runtime, plugin
from edgekit.inference.scoring import first_token
from edgekit.settings import Drafting, Generating, Running, split
from edgekit.tokenizers.base import Tokenizer, framed
from edgekit.tokenizers.load import tokenizer_of
from edgekit.utils import registry
from edgekit.utils.guard import reading
from edgekit.utils.progress import Progress, silent

if TYPE_CHECKING:
    from edgekit.tokenizers.chat import ChatTemplate, Message

# The runtime if none is named: the first that is installed and opens the model, as it is or (a folder) converted.
PREFERENCE = ("native", "onnx", "llamacpp", "torch")


class Model:
    """A loaded model: `stream` gives text as it comes, `generate` all of it; `chat` answers a conversation.

    Attributes:
        runtime: see `edgekit.inference.runtime.Runtime`; its cache holds this model's one sequence.
        tokenizer: see `edgekit.tokenizers.base.Tokenizer`.
        defaults: the settings where a call gives none, from the model's generation config.
        load_seconds: how long loading took.
        running: the settings it was opened with; a draft given by its path is opened with the same.
        cache: what the runtime's cache holds; clear it after using the runtime directly.
    """

    def __init__(self, runtime: Runtime, tokenizer: Tokenizer, defaults: Generating | None = None):
        self.runtime = runtime
        self.tokenizer = tokenizer
        self.defaults = defaults or Generating()
        self.load_seconds = 0.0
        self.running: dict[str, Any] = {}
        self.cache = PromptCache(runtime)
        self._drafts: dict[tuple[str, str | None], Model] = {}

    def encode(self, prompt: str | Sequence[int], *, special: bool = False) -> list[int]:
        """The ids to feed for a prompt: BOS first if the model wants it. A prompt of ids is not changed.

        An empty text becomes the token that transformers' `generate()` begins with when it is given no ids: BOS, also
        where prompts do not begin with it; EOS if the model has none. With `special` the spelling of a special token
        is that token; otherwise it is read as text.

        Raises:
            PromptError: the prompt is not UTF-8, or has an id outside the vocabulary, or it has no ids and the model
                neither BOS nor EOS.
        """
        if not isinstance(prompt, str):
            ids = [int(token) for token in prompt]
            if wrong := [id for id in ids if not 0 <= id < self.runtime.vocab_size]:
                raise PromptError(f"{wrong[0]} is not a token id from 0 to {self.runtime.vocab_size - 1}")
            return ids
        tokens = self.tokenizer.encode(prompt, specials=special)
        if not prompt and (start := first_token(self.tokenizer, self.runtime)) is not None:
            return [start]
        if not tokens:
            why = "is empty" if not prompt else "has no character that the vocabulary can write"
            raise PromptError(f"the prompt {why}: give the model at least one character to continue from")
        return framed(self.tokenizer, tokens)

    def stream(
        self,
        prompt: str | Sequence[int],
        *,
        cancelled: Callable[[], bool] | None = None,
        draft: Model | str | Path | None = None,
        special: bool = False,
        **settings: Any,
    ) -> Stream:
        """Start a text: iterate for its pieces, or over `.steps()` for its tokens; `.result` has all of it.

        Args:
            prompt: text, or token ids as they are.
            cancelled: called after each token; True ends the text.
            draft: for speculative decoding, a model of any vocabulary that guesses ahead; or a value that `drafter`
                opens. `.result.draft` has its statistics. A draft serves one text at a time.
            special: read the spelling of a special token in the prompt, such as `<|im_end|>`, as that token.
            settings: the fields of `edgekit.settings.Generating`, by default those of `defaults`. With a draft also
                those of `edgekit.settings.Drafting`: draft_runtime, draft_tokens, draft_sampling.

        Raises:
            SettingError: an unknown setting or a value out of range.
            PromptError, ContextError: a prompt without ids, not UTF-8 or too long.
            EdgekitError: a draft that cannot be opened.
        """
        generating, drafting = self._settings(settings, draft is not None)
        return self._stream(self.encode(prompt, special=special), generating, cancelled, draft, drafting)

    def chat(
        self,
        messages: str | Sequence[Message],
        *,
        cancelled: Callable[[], bool] | None = None,
        draft: Model | str | Path | None = None,
        **settings: Any,
    ) -> Stream:
        """Start the answer to a conversation, through the model's chat template.

        `model.chat(messages)` is iterated like `stream`; `model.chat(messages).drain()` has the whole answer. The
        answer ends at EOS or the template's end of a turn. What the cache holds of the conversation is not read
        again; `.result.timings.reused_tokens` counts it. Where the context does not hold the conversation, its oldest
        messages are left out, the system's kept; `.result.dropped_messages` counts them.

        Args:
            messages: oldest first, each with `role` ("system", "user" or "assistant") and `content`; or a text, the
                user's only message.
            cancelled: as in `stream`.
            draft: as in `stream`.
            settings: as in `stream`.

        Raises:
            VocabularyError: the model has no chat template, or a damaged one.
            PromptError: no messages, or the template refuses them.
            SettingError, ContextError, EdgekitError: as `stream`.
        """
        from edgekit.inference.chat import fit_conversation
        from edgekit.tokenizers.chat import conversation

        generating, drafting = self._settings(settings, draft is not None)
        template = self.chat_template
        if template is None:
            raise VocabularyError(
                "the model has no chat template, so it cannot chat: it only continues text (edgekit run, Model.stream)"
            )
        ids, dropped = fit_conversation(
            template, self.tokenizer, conversation(messages), self.runtime.context_length, generating
        )
        ends = template.turn_ends(self.tokenizer)
        stream = self._stream(ids, generating, cancelled, draft, drafting, ends=ends, reuse=True)
        stream.result.dropped_messages = dropped
        return stream

    @cached_property
    def chat_template(self) -> ChatTemplate | None:
        """The model's chat template; None if it has none. Raises `VocabularyError` for a damaged one."""
        from edgekit.tokenizers.chat import template_of  # processes and threads, which texts do not need

        return template_of(self.runtime.files, self.tokenizer)

    def _settings(self, settings: dict[str, Any], drafts: bool) -> tuple[Generating, Drafting]:
        """A call's settings, with this model's defaults. Raises `SettingError`."""
        changes, about_draft = split(settings, Generating, Drafting)
        if isinstance(stop := changes.get("stop"), str):
            changes["stop"] = (stop,)
        elif stop is not None:
            changes["stop"] = tuple(stop)
        if not drafts and about_draft:
            raise SettingError(f"{min(about_draft)} is for a draft, and none is given")
        drafting = Drafting(**about_draft)
        return dataclasses.replace(self.defaults, **changes), drafting

    def _stream(
        self,
        prompt: list[int],
        generating: Generating,
        cancelled: Callable[[], bool] | None,
        draft: Model | str | Path | None,
        drafting: Drafting,
        *,
        ends: Collection[int] = (),
        reuse: bool = False,
    ) -> Stream:
        begin = None
        if draft is not None:
            from edgekit.inference.speculative.begin import Pair
            from edgekit.inference.speculative.begin import begin as begin_draft

            opened = self.drafter(draft, drafting.draft_runtime)
            if isinstance(opened, str):
                guess: Pair | str = opened
            else:
                opened.cache.clear()
                guess = Pair(opened.runtime, opened.tokenizer)
            begin = begin_draft(Pair(self.runtime, self.tokenizer), guess, drafting, generating)
        stream = Stream(
            self.runtime, self.tokenizer, prompt, generating, cancelled, begin,
            ends=ends, cache=self.cache, reuse=reuse,
        )  # fmt: skip
        stream.result.timings.load = self.load_seconds
        return stream

    def drafter(self, draft: Model | str | Path, runtime: str | None = None) -> Model | str:
        """The draft for a value of `draft=`: a model, "ngram", "bundled", or a path or Hub id, which is opened once.

        A draft is opened with this model's running settings, on `runtime` or the default of its format. Raises as
        `load`.
        """
        if isinstance(draft, Model) or draft == "ngram":
            return draft
        key = (str(draft), runtime)
        if key not in self._drafts:
            self._drafts[key] = load(None if draft == "bundled" else draft, runtime=runtime, **self.running)
        return self._drafts[key]

    def generate(self, prompt: str | Sequence[int], **settings: Any) -> Generation:
        """The whole text at once: `.text .tokens .finish_reason .logprobs .timings`. Takes what `stream` takes."""
        return self.stream(prompt, **settings).drain()


def load(
    path: str | Path | None = None,
    *,
    runtime: str | None = None,
    quant: str | None = None,
    revision: str | None = None,
    progress: Progress = silent,
    **running: Any,
) -> Model:
    """Open a model for generation.

    Args:
        path: a Hugging Face folder, a `.gguf`, a `.onnx`, a Hub id, or None for the bundled model.
        runtime: `native`, `onnx`, `llamacpp` or `torch`; by default the first of them that is installed and opens the
            model. A GGUF with a type that the engine does not have goes on to llama.cpp.
        quant: the weights' type, for a folder, which is converted once into the user's cache; by default it is opened
            as it is on native and torch, and as float32 on onnx and llamacpp, which is lossless.
        revision: of a Hub id.
        running: the fields of `edgekit.settings.Running`: threads, kv_type, dtype, ...

    Raises:
        EdgekitError: one line about what is wrong with the model, or which package is missing.
    """
    begin = time.perf_counter()
    settings = Running(**split(running, Running)[0])
    where = hub.resolve(path, revision=revision)
    with reading(where):
        opened, tokenizer = _open(where, runtime, quant, settings, progress)
    if tokenizer is None:
        raise VocabularyError(
            f"{where} has no tokenizer: put tokenizer.json, or tokenizer_config.json and a .vocab, next to the weights"
        )
    with reading(where):
        model = Model(opened, tokenizer, defaults(opened.files))
    model.load_seconds, model.running = time.perf_counter() - begin, running
    return model


def runtimes_for(path: Path) -> list[str]:
    """The runtimes that can open a model, as it is or converted, the preferred ones first.

    Raises `CheckpointError` for a path that no runtime opens.
    """
    names = registry.names("runtimes")
    names.sort(key=lambda name: PREFERENCE.index(name) if name in PREFERENCE else len(PREFERENCE))
    registry.for_path("runtimes", path)  # raises if none does
    direct = [name for name in names if registry.opens("runtimes", name, path)]
    if path.suffix == ".onnx":
        return direct  # it cannot be converted
    return names if path.is_dir() else list(dict.fromkeys([*direct, *names]))


def candidates(path: Path) -> list[str]:
    """The runtimes to try in turn where none is named: for a file only those that open it as it is.

    Raises as `runtimes_for`.
    """
    names = runtimes_for(path)
    return names if path.is_dir() else [name for name in names if registry.opens("runtimes", name, path)]


def artefact(path: Path, runtime: str, quant: str | None = None, progress: Progress = silent) -> Path:
    """The file or folder that a runtime opens for this model: `path` itself, or a conversion of it from the cache.

    Raises:
        UsageError: `quant` for a model that is opened as it is, or a runtime that cannot open this one.
        EdgekitError: the conversion fails.
    """
    suffix = registry.suffix("runtimes", runtime)
    if registry.opens("runtimes", runtime, path):
        if quant is None:
            return path
        if not suffix or not path.is_dir():
            raise UsageError(f"--quant does not apply: {runtime} opens {path.name} as it is")
    if path.suffix == ".onnx":
        raise UsageError(f"{path.name} runs on onnx only: give the model folder it was made from to {runtime}")
    to = registry.for_suffix("converters", suffix)
    if to is None:
        raise UsageError(f"{runtime} does not open {path.name}, and nothing converts it to {suffix}")
    from edgekit.conversion import cache  # here: most models are opened as they are
    from edgekit.conversion.base import converter

    return cache.converted(path, to, quant or converter(to).QUANTS[0], progress)


def _open(
    where: Path, name: str | None, quant: str | None, running: Running, progress: Progress
) -> tuple[Runtime, Tokenizer | None]:
    """The first candidate that is installed and opens the model, or the error of the first."""
    names = candidates(where) if name is None else [registry.ALIASES.get(name, name)]
    errors: list[MissingExtraError | UnsupportedError] = []
    for candidate in names:
        try:
            load_runtime = plugin(candidate).load
            file = artefact(where, candidate, quant, progress)
            runtime = load_runtime(file, threads.resolve_auto(file, running, load_runtime))
            return runtime, tokenizer_of(runtime.files, runtime.vocab_size, runtime)
        except (MissingExtraError, UnsupportedError) as error:
            errors.append(error)
    raise _reason(errors)


def _reason(errors: list[MissingExtraError | UnsupportedError]) -> EdgekitError:
    """What to tell of several runtimes: why one cannot run the model, and which package would bring another."""
    unsupported = [error for error in errors if isinstance(error, UnsupportedError)]
    missing = [error for error in errors if isinstance(error, MissingExtraError)]
    if unsupported and missing:
        return UnsupportedError(f"{unsupported[0]}; {missing[0]}")
    return errors[0]

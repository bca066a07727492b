"""What people import: a runtime and a tokenizer, and text out of them."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgekit.conversion import cache
from edgekit.errors import CheckpointError, MissingExtraError, PromptError, SettingError, UsageError, VocabularyError
from edgekit.formats import hub
from edgekit.formats.embedded import FILES
from edgekit.formats.generation_config import defaults
from edgekit.inference import threads
from edgekit.inference.generate import Generation, Stream
from edgekit.inference.runtime import Runtime
from edgekit.settings import Drafting, Generating, Running, split
from edgekit.tokenizers.base import Tokenizer
from edgekit.tokenizers.load import from_files
from edgekit.utils import registry
from edgekit.utils.progress import Progress, silent

# Which runtime opens a model folder if none is named: the first whose packages are installed.
PREFERENCE = ("onnx", "llamacpp", "torch")


class Model:
    """A loaded model: `stream` gives text as it comes, `generate` all of it.

    Attributes:
        runtime: see `edgekit.runtime.Runtime`; its cache is this model's one sequence.
        tokenizer: see `edgekit.tokenizer.Tokenizer`.
        defaults: the settings that hold where a call says nothing, from the model's generation config.
        load_seconds: how long loading took.
        running: the settings it was opened with, which a draft given by its path is opened with too.
    """

    def __init__(self, runtime: Runtime, tokenizer: Tokenizer, defaults: Generating | None = None):
        self.runtime = runtime
        self.tokenizer = tokenizer
        self.defaults = defaults or Generating()
        self.load_seconds = 0.0
        self.running: dict[str, Any] = {}
        self._drafts: dict[tuple[str, str | None], Model] = {}

    def encode(self, prompt: str | Sequence[int]) -> list[int]:
        """The ids to feed for a prompt: BOS first if the model wants it. Ids are taken as they are.

        Raises:
            PromptError: the prompt is empty or not UTF-8.
        """
        if not isinstance(prompt, str):
            return [int(token) for token in prompt]
        try:
            prompt.encode("utf-8")
        except UnicodeEncodeError as error:
            raise PromptError(f"the prompt is not UTF-8 (at character {error.start + 1})") from error
        tokens = self.tokenizer.encode(prompt)
        if not tokens:
            why = "is empty" if not prompt else "has no character that the vocabulary can write"
            raise PromptError(f"the prompt {why}: give the model at least one character to go on from")
        return tokens if self.tokenizer.bos is None else [self.tokenizer.bos, *tokens]

    def stream(
        self,
        prompt: str | Sequence[int],
        *,
        cancelled: Callable[[], bool] | None = None,
        draft: "Model | str | Path | None" = None,
        **settings: Any,
    ) -> Stream:
        """Start a text: iterate for its pieces, or over `.steps()` for its tokens; `.result` has all of it.

        Args:
            prompt: text, or token ids as they are.
            cancelled: asked after each token; True ends the text.
            draft: speculative decoding: a model, of any vocabulary, that guesses ahead; or what `drafter` opens.
                `.result.draft` says what came of it. A draft serves one text at a time.
            settings: the fields of `edgekit.settings.Generating`; `defaults` holds for those not given. With a draft
                also those of `edgekit.settings.Drafting`: draft_runtime, draft_tokens, draft_sampling.

        Raises:
            SettingError: an unknown setting or a value out of range.
            PromptError, ContextError: a prompt that is empty, not UTF-8 or too long.
            EdgekitError: a draft that cannot be opened.
        """
        changes, about_draft = split(settings, Generating, Drafting)
        if isinstance(stop := changes.get("stop"), str):
            changes["stop"] = (stop,)
        elif stop is not None:
            changes["stop"] = tuple(stop)
        if draft is None and about_draft:
            raise SettingError(f"{min(about_draft)} is for a draft, and none is given")
        drafting, wanted = Drafting(**about_draft), dataclasses.replace(self.defaults, **changes)
        begin = None
        if draft is not None:
            from edgekit.inference.speculative.begin import Pair
            from edgekit.inference.speculative.begin import begin as begin_draft

            opened = self.drafter(draft, drafting.draft_runtime)
            guess = opened if isinstance(opened, str) else Pair(opened.runtime, opened.tokenizer)
            begin = begin_draft(Pair(self.runtime, self.tokenizer), guess, drafting, wanted)
        stream = Stream(self.runtime, self.tokenizer, self.encode(prompt), wanted, cancelled, begin)
        stream.result.timings.load = self.load_seconds
        return stream

    def drafter(self, draft: "Model | str | Path", runtime: str | None = None) -> "Model | str":
        """What `draft=` means: a model as it is, "ngram", "bundled", or a model's path or Hub id, opened once and kept.

        A draft is opened with this model's own running settings, on `runtime` or what its format says. Raises as
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
        runtime: `torch`, `onnx` or `llamacpp`; by default what the artefact's format says, and for a folder the
            first of onnx, llamacpp and torch that is installed.
        quant: for a folder on onnx or llamacpp, which is converted once into the user's cache: the weights' type;
            by default the full float32, which loses nothing.
        revision: of a Hub id.
        running: the fields of `edgekit.settings.Running`: threads, kv_type, dtype, ...

    Raises:
        EdgekitError: one line that says what is wrong with the model, or which package is missing.
    """
    begin = time.perf_counter()
    how = Running(**split(running, Running)[0])
    where = hub.resolve(path, revision=revision)
    opened = _open(where, runtime, quant, how, progress)
    model = Model(opened, _tokenizer(opened, where), defaults(opened.files))
    model.load_seconds, model.running = time.perf_counter() - begin, running
    return model


def _open(where: Path, name: str | None, quant: str | None, running: Running, progress: Progress) -> Runtime:
    if name is None:
        candidates = [r for r in registry.names("runtimes") if registry.suffix("runtimes", r) == where.suffix != ""]
        if where.is_dir():
            candidates = [r for r in PREFERENCE if r in registry.names("runtimes")]
        if not candidates:
            raise CheckpointError(f"{where} is no model that edgekit knows: give a model folder, a .gguf or a .onnx")
    else:
        name = registry.ALIASES.get(name, name)
        candidates = [name]
    missing: MissingExtraError | None = None
    for candidate in candidates:
        try:
            room = registry.load("runtimes", candidate)
            artefact = _artefact(where, candidate, room.SUFFIX, quant, progress)
            return room.load(artefact, threads.resolve_auto(artefact, running, room.load))
        except MissingExtraError as error:
            missing = missing or error
    assert missing is not None
    raise missing


def _artefact(where: Path, runtime: str, suffix: str, quant: str | None, progress: Progress) -> Path:
    """The file that this runtime opens: `where` itself, or a conversion of it from the cache."""
    direct = where.suffix == suffix if suffix else where.is_dir() or where.suffix == ".gguf"
    if direct:
        if quant is not None:
            raise UsageError(f"--quant does not apply: {runtime} opens {where.name} as it is")
        return where
    if where.suffix == ".onnx":
        raise UsageError(f"{where.name} runs on onnx only: give the model folder it was made from to {runtime}")
    to = next(c for c in registry.names("converters") if registry.suffix("converters", c) == suffix)
    return cache.converted(where, to, quant or registry.load("converters", to).QUANTS[0], progress)


def _tokenizer(opened: Runtime, where: Path) -> Tokenizer:
    if any(name in opened.files for name in FILES):
        return from_files(opened.files, opened.vocab_size)
    own: Callable[[], Tokenizer] | None = getattr(opened, "own_tokenizer", None)
    if own is None:
        raise VocabularyError(
            f"{where} has no tokenizer: put tokenizer.json, or tokenizer_config.json and a .vocab, beside the weights"
        )
    return own()

"""Every error that edgekit raises on purpose. Catch `EdgekitError` to catch them all.

EdgekitError                    one line for the user: what is wrong, and what to do
├── UsageError                  an invalid or contradictory call (exit status 2)
│   ├── UnknownPluginError      no such runtime, converter or quantization
│   ├── SettingError            a sampling or conversion value outside its range
│   └── RecipeError             a training recipe with unknown, missing or contradictory keys
├── MissingExtraError           a package is not installed; the message ends in the command that installs it
├── FileError                   a file cannot be read or written
│   ├── CheckpointError         a model folder or artefact that is damaged, foreign or unsupported
│   │   └── UnsupportedError    a valid model that this runtime does not run, but another may
│   ├── VocabularyError         a tokenizer file that is damaged or foreign
│   └── DataError               training text that is empty, binary, damaged or too little
├── PromptError                 a prompt without tokens, text that is not UTF-8, or an invalid conversation
├── ContextError                more tokens than the model's context holds
├── RuntimeFailure              a backend refused the model or a call
└── TrainingError               a training run that cannot continue: a loss that is not finite, no checkpoint to resume

The command line turns each into one line on stderr, exit status 2 for `UsageError` and 1 for the rest.
Any other exception is a bug and keeps its traceback.
"""

__all__ = [
    "CheckpointError",
    "ContextError",
    "DataError",
    "EdgekitError",
    "FileError",
    "MissingExtraError",
    "PromptError",
    "RecipeError",
    "RuntimeFailure",
    "SettingError",
    "TrainingError",
    "UnknownPluginError",
    "UnknownRoomError",
    "UnsupportedError",
    "UsageError",
    "VocabularyError",
]


class EdgekitError(Exception):
    """Base of every error that edgekit raises on purpose; `str()` of it is one line for the user."""

    exit_code = 1


class UsageError(EdgekitError):
    """An invalid call: two flags that exclude each other, an unknown name."""

    exit_code = 2


class UnknownPluginError(UsageError):
    """A runtime, converter or quantization that does not exist; the message lists those that do."""


UnknownRoomError = UnknownPluginError  # its name before 0.2


class SettingError(UsageError):
    """A setting outside its range; the message names the setting and the range."""


class RecipeError(UsageError):
    """An invalid training recipe; the message names the file and the key."""


class MissingExtraError(EdgekitError):
    """A package is not installed; the message ends in the pip command that installs it."""


class FileError(EdgekitError):
    """A file cannot be read or written."""


class CheckpointError(FileError):
    """A model folder or artefact is damaged, foreign or unsupported; names the file, tensor or key."""


class UnsupportedError(CheckpointError):
    """A valid model with a type or feature that a runtime does not have; another runtime may run it."""


class VocabularyError(FileError):
    """A tokenizer file is damaged or foreign."""


class DataError(FileError):
    """Training text that cannot be trained on; the message names the file or the amount."""


class PromptError(EdgekitError):
    """A prompt that has no tokens or is not UTF-8, or a conversation that is invalid or that the template refuses."""


class ContextError(EdgekitError):
    """More tokens than the context holds; the message names both numbers."""


class RuntimeFailure(EdgekitError):
    """A backend refused a model or a call; the message includes the backend's."""


class TrainingError(EdgekitError):
    """A training run that cannot continue; the message gives the step and what was saved."""

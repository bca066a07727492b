// All errors of the core, named as in edgekit/errors.py. `message` is one line for the user.

export class EdgekitError extends Error {
  get name() {
    return this.constructor.name;
  }
}

/** A tokenizer file that is damaged or foreign. */
export class VocabularyError extends EdgekitError {}

/** A setting outside its range; the message names the setting and the range. */
export class SettingError extends EdgekitError {}

/** A prompt that cannot be continued: empty, or not UTF-8. */
export class PromptError extends EdgekitError {}

/** More tokens than fit in the model's context. */
export class ContextError extends EdgekitError {}

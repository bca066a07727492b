// Every error raised on purpose, with the names of edgekit/errors.py; `message` is one line meant for a person.

export class EdgekitError extends Error {
  get name() {
    return this.constructor.name;
  }
}

/** A tokenizer file that is damaged or foreign. */
export class VocabularyError extends EdgekitError {}

/** A setting outside its range; the message names the setting and the range. */
export class SettingError extends EdgekitError {}

/** A prompt that no model can continue: empty, or not UTF-8. */
export class PromptError extends EdgekitError {}

/** More tokens than the model's context holds. */
export class ContextError extends EdgekitError {}

/** Where a model or an engine comes from. A text is a URL, relative to the page in a browser, or in Node a path. */
export type Source = string | URL | ArrayBuffer | ArrayBufferView | Blob | Response;

export interface LoadOptions {
  /** The most tokens of prompt and text together; less memory if it is shorter than the model's own. */
  context?: number;
  /** Type of the cache of keys and values; "f16" by default. */
  kvType?: "f32" | "f16" | "int8";
  /**
   * Which of the package's three WebAssembly files to use, by default the fastest that runs here; or one from another
   * place. All give the same bits.
   */
  wasm?: "relaxed" | "simd" | "scalar" | Exclude<Source, string>;
  /** Ends the loading: `load` rejects with its reason. */
  signal?: AbortSignal;
  /** Called as the file comes. `total` is undefined if the server does not tell it. */
  progress?: (state: { loaded: number; total: number | undefined }) => void;
}

/** Settings of a text. Those left out are the model's own: `model.info.defaults`. */
export interface Settings {
  /** Divide the logits by this; 0 takes the most likely token. */
  temperature?: number;
  /** Keep the K most likely tokens; 0 keeps all. */
  topK?: number;
  /** Keep the fewest tokens whose probabilities add up to P. */
  topP?: number;
  /** Drop tokens less likely than P times the most likely one. */
  minP?: number;
  /** Weaken tokens that are in the prompt or the text; 1 is off. */
  repetitionPenalty?: number;
  /** OpenAI's, of the new text; from -2 to 2. */
  presencePenalty?: number;
  frequencyPenalty?: number;
  /** Stop after this many tokens. */
  maxNewTokens?: number;
  /** Continue past the end of the text. */
  ignoreEos?: boolean;
  /** Never print U+FFFD. */
  banReplacement?: boolean;
  /** From 0 to 2^63: the same seed gives the same text as in Python. By default a new one each time. */
  seed?: number | bigint | string;
  /** Stop before one of these texts. */
  stop?: string | string[];
  /** Ids that end the text besides the model's own, such as the end of a turn. */
  ends?: number[];
  /** So many of the likeliest tokens are in each `Token`, with their probabilities. By default none is computed. */
  top?: number;
  /** In a prompt of text, the spelling of a special token is that token. */
  special?: boolean;
  /** Ends the text after the current token, with the finish reason "cancelled". */
  signal?: AbortSignal;
}

export interface Token {
  id: number;
  /** What became certain with it: "" while a character, or what may be a stop string, is unfinished. */
  text: string;
  /** With the setting `top`: its probability from the model, and after the whole sampler, where 0 is filtered out. */
  before?: number;
  after?: number;
  /** With the setting `top`: the likeliest tokens of the model, in order. */
  top?: { id: number; before: number; after: number }[];
}

export interface Result {
  text: string;
  /** The new ids; the last may be one that ends a text. */
  ids: number[];
  promptIds: number[];
  /** The seed that was used. */
  seed: number | bigint;
  /** "stop": the end of the text or a stop string. "length": maxNewTokens or the context. null: not at its end yet. */
  finishReason: "stop" | "length" | "cancelled" | null;
}

export interface Info {
  parameters: number;
  vocabulary: number;
  /** Tokens that prompt and text may have together. */
  contextLength: number;
  /** Tokens that the model was trained for. */
  trainedContext: number;
  layers: number;
  hidden: number;
  /** Of the file. */
  bytes: number;
  /** Bytes of memory in use, the file included. */
  memory: number;
  instructions: "relaxed" | "simd" | "scalar";
  defaults: Required<Omit<Settings, "seed" | "stop" | "ends" | "top" | "special" | "signal">>;
}

export type MetadataValue = string | number | bigint | boolean;

/** What is wrong, in one sentence: a file, a setting, a prompt, memory. */
export class EdgekitError extends Error {}

/** A text being generated: iterate for its pieces. Leaving the loop ends it. */
export class Stream implements AsyncIterable<string> {
  private constructor();
  /** All of the text so far; complete at the end. */
  readonly result: Result;
  /** The tokens, one by one, instead of the pieces. */
  tokens(): AsyncGenerator<Token, void, undefined>;
  [Symbol.asyncIterator](): AsyncGenerator<string, void, undefined>;
}

/** A model in memory. It generates one text at a time. Methods throw `EdgekitError`. */
export class Model {
  private constructor();
  readonly info: Info;
  /** The value of a GGUF key; undefined if the file does not have it. */
  metadata(key: string): MetadataValue | MetadataValue[] | undefined;
  /**
   * The ids of a text, after BOS if the model wants it (`bos: false`: without). With `special`, the spelling of a
   * special token is that token.
   */
  encode(text: string, options?: { bos?: boolean; special?: boolean }): number[];
  decode(ids: Iterable<number>): string;
  /** One id for display. */
  piece(id: number): string;
  /** The logits after the last of the ids, one for each id of the vocabulary. */
  logits(ids: Iterable<number>): Float32Array;
  /** Starts a text that continues the prompt: a text, or ids as they are. */
  stream(prompt: string | Iterable<number>, settings?: Settings): Stream;
  /** The whole text at once. */
  generate(prompt: string | Iterable<number>, settings?: Settings): Promise<Result>;
  /** Frees the memory. */
  close(): void;
}

/** Opens a GGUF file. Rejects with `EdgekitError`, or with the signal's reason. */
export function load(source: Source, options?: LoadOptions): Promise<Model>;

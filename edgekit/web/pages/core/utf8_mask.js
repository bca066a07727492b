// The masks of `ban_replacement`: which ids may come next without producing U+FFFD (edgekit/tokenizers/utf8_mask.py).
//
// A token is bytes, and a token may end inside a character that the next one finishes. An id is allowed if the text
// stays well-formed UTF-8 after it and existing tokens can finish any unfinished character. This is decided by a small
// state machine over classes of bytes: the UTF-8 automaton of the Unicode Standard's table 3-7, extended by
// TokenMonster's delete markers, which can remove bytes from a character or join the bytes on both sides of them. A mask
// is computed once per state and cached. A token that spells U+FFFD itself (EF BF BD) is banned as well.

// Classes of byte values. ASCII is 0; 1 and 2 are the markers, for levels that have them; then continuation bytes from
// this value on, lead bytes, and bytes that are never legal.
const [ASCII, DELETE, SILENT, C80, C90, CA0, CBD, CBE, CBF, TWO, E0, THREE, ED, EF, F0, FOUR, F4, NEVER, KINDS] =
  Array.from({ length: 19 }, (_, i) => i);

const to = (state, ...kinds) => kinds.map((kind) => [kind, state]);

// Transitions: state -> class -> state. "" is between characters; a digit is the number of continuation bytes to come.
const NEXT = Object.fromEntries(
  Object.entries({
    "": [
      ...to("", ASCII, DELETE, SILENT), [TWO, "1"], [E0, "E0"], [THREE, "2"], [ED, "ED"], [EF, "EF"], [F0, "F0"],
      [FOUR, "3"], [F4, "F4"],
    ],
    1: to("", C80, C90, CA0, CBD, CBE, CBF),
    2: to("1", C80, C90, CA0, CBD, CBE, CBF),
    3: to("2", C80, C90, CA0, CBD, CBE, CBF),
    E0: to("1", CA0, CBD, CBE, CBF),
    ED: to("1", C80, C90),
    EF: [...to("1", C80, C90, CA0, CBD, CBE), [CBF, "EFBF"]],
    EFBF: to("", C80, C90, CA0, CBE, CBF), // all but BD: that would be U+FFFD itself
    F0: to("2", C90, CA0, CBD, CBE, CBF),
    F4: to("2", C80),
  }).map(([state, moves]) => [state, new Map(moves)]),
);

// A state is a list. [out]: `out` is the state of the output. [out, "D"]: a delete marker is pending. [whole, broken,
// raw]: the marker deletes a character of which `raw` has been read; the output is in state `whole` if the character is
// well-formed, else in `broken` (then only its first byte was deleted and the others are output; null if that makes
// U+FFFD).
const DEAD = 0; // index of "U+FFFD was produced" in the tables

/** The state of the output after one more byte; null once it is ill-formed. */
function printed(out, kind, forgiving) {
  const after = out === null ? undefined : NEXT[out].get(kind);
  if (after !== undefined || !forgiving) return after ?? null;
  // U+FFFD replaced what came before; this byte begins a new character, or is replaced as well.
  return NEXT[""].get(kind) ?? "";
}

/** The state after one byte; null if U+FFFD was produced and `forgiving` is off. */
function step(level, state, kind, forgiving) {
  if (state.length === 1) {
    if (kind === DELETE) return [state[0], "D"];
    if (kind === SILENT) return state;
    const out = printed(state[0], kind, forgiving);
    return out === null ? null : [out];
  }
  if (state.length === 2) {
    const [out] = state;
    if (level === 1) return [out]; // level 1 deletes one byte, whatever it is
    if (kind === DELETE || kind === SILENT) return state; // capital markers leave the deletion pending
    const raw = NEXT[""].get(kind);
    return raw ? [out, out, raw] : [out];
  }
  const [whole, broken, raw] = state;
  const after = raw === "EFBF" && kind === CBD ? "" : NEXT[raw].get(kind);
  if (after === "") return [whole];
  if (after !== undefined) return [whole, printed(broken, kind, false), after]; // not output yet
  if (broken === null && !forgiving) return null;
  return step(level, [broken ?? ""], kind, forgiving); // continuation bytes were output: nothing is pending
}

function byteClass(value, level) {
  if (value < 0x80) {
    if ((level === 1 && value === 0x7f) || (level === 2 && value === 0x44)) return DELETE;
    return level === 2 && (value === 0x43 || value === 0x57) ? SILENT : ASCII;
  }
  if (value < 0xc0) return C80 + [0x90, 0xa0, 0xbd, 0xbe, 0xbf].filter((bound) => value >= bound).length;
  const singles = { 0xc0: NEVER, 0xc1: NEVER, 0xe0: E0, 0xed: ED, 0xef: EF, 0xf0: F0, 0xf4: F4 };
  return singles[value] ?? (value < 0xe0 ? TWO : value < 0xf0 ? THREE : value < 0xf4 ? FOUR : NEVER);
}

/**
 * The automaton for one capcode level: `classes`, of each byte value; `strict[state][class]`, the next state, DEAD once
 * the output is ill-formed; `real`, the same for following a real decoder, which produces U+FFFD and
 * continues; `clean[state]`, whether a text may end here. State 1 is the beginning of a text.
 */
function makeMachine(level) {
  const classes = Uint8Array.from({ length: 256 }, (_, value) => byteClass(value, level));
  const used = new Set([ASCII, ...classes]);
  const states = [null, [""]];
  const indexes = new Map([[JSON.stringify([""]), 1]]);
  const index = (state) => {
    if (state === null) return DEAD;
    const key = JSON.stringify(state);
    if (!indexes.has(key)) indexes.set(key, states.push(state) - 1);
    return indexes.get(key);
  };
  const strict = [new Int16Array(KINDS)];
  const real = [new Int16Array(KINDS)];
  for (let at = 1; at < states.length; at++) {
    for (const [table, forgiving] of [[strict, false], [real, true]]) {
      const move = (_, kind) => (used.has(kind) ? index(step(level, states[at], kind, forgiving)) : DEAD);
      table.push(Int16Array.from({ length: KINDS }, move));
    }
  }
  const clean = states.map((state) => state !== null && state.length < 3 && state[0] === "");
  return { classes, strict, real, clean };
}

/** The masks of one vocabulary, by the machine's state. */
export class Masks {
  #machine;
  #pieces;
  #specials;
  #distance; // for each state, the fewest ids that finish the character
  #explored = new Set();
  #masks = new Map();

  /**
   * `pieces`: for each id, its bytes before capcode is undone; empty for ids without text. `specials`: ids without text
   * that may be chosen between characters, such as the end of a text. `capcode`: TokenMonster's level.
   */
  constructor(pieces, specials, capcode) {
    this.#machine = makeMachine(capcode);
    this.#pieces = pieces.map((piece) => piece.map((byte) => this.#machine.classes[byte]));
    this.#specials = specials;
    this.#distance = this.#machine.clean.map((clean) => (clean ? 0 : Infinity));
    this.start = 1;
  }

  /** The state after a decoder in `state` has read this id. */
  advance(state, id) {
    for (const kind of this.#pieces[id] ?? []) state = this.#machine.real[state][kind];
    return state;
  }

  /**
   * The ids that may come next: Uint8Array of 0 and 1, cached and returned again, so do not change it. `remaining`: how
   * many ids may follow the next one; a character that they cannot finish is not begun.
   *
   * If no token can finish the pending half of a character (a prompt may end so), U+FFFD cannot be avoided; the mask is
   * then that of the beginning of a text.
   */
  mask(state, remaining = Infinity) {
    const limit = remaining > 3 ? Infinity : Math.max(remaining, 0);
    const key = `${state} ${limit}`;
    if (!this.#masks.has(key)) {
      let mask = this.#compute(state, limit);
      if (!mask.includes(1) && limit !== Infinity) mask = this.mask(state);
      if (!mask.includes(1) && state !== this.start) mask = this.mask(this.start, remaining);
      this.#masks.set(key, mask);
    }
    return this.#masks.get(key);
  }

  #compute(state, limit) {
    const after = this.#after(state);
    this.#explore(after);
    const mask = Uint8Array.from(after, (next) => {
      const distance = this.#distance[next];
      return Number(distance < Infinity && distance <= limit);
    });
    if (this.#machine.clean[state]) for (const id of this.#specials) mask[id] = 1;
    return mask;
  }

  /** The state after each id from `state`; DEAD for ids without text. */
  #after(state) {
    const { strict } = this.#machine;
    return Int16Array.from(this.#pieces, (piece) => {
      let now = piece.length ? state : DEAD;
      for (let k = 0; k < piece.length && now !== DEAD; k++) now = strict[now][piece[k]];
      return now;
    });
  }

  /** Compute, for each reachable state inside a character, the fewest ids that finish the character. */
  #explore(after) {
    const reached = new Map();
    const waiting = [after];
    while (waiting.length) {
      for (const state of new Set(waiting.pop())) {
        if (state === DEAD || this.#machine.clean[state] || this.#explored.has(state)) continue;
        this.#explored.add(state);
        const next = this.#after(state);
        waiting.push(next);
        reached.set(state, [...new Set(next)]);
      }
    }
    for (let changed = true; changed; ) {
      changed = false;
      for (const [state, successors] of reached) {
        const best = Math.min(...successors.map((next) => this.#distance[next])) + 1;
        if (best < this.#distance[state]) {
          this.#distance[state] = best;
          changed = true;
        }
      }
    }
  }
}

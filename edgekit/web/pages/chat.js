// A conversation as a prompt, by a chat template that `edgekit export-web` has turned into strings: the same text as
// `join` in edgekit/web/chat_strings.py, which describes them, and so as the template renders.

// Python's `str.strip`; JavaScript's `trim` differs in a few characters.
const SPACE = "[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]+";
const ENDS = new RegExp(`^${SPACE}|${SPACE}$`, "g");

/**
 * The prompt of a conversation with the beginning of the answer. `messages`: {role, content}, optionally one of the
 * system, then the user's and answers in turn.
 */
export function render(strings, messages) {
  const system = messages[0].role === "system";
  const after = { system: strings.system?.[1], user: strings.answer, assistant: strings.next };
  let text = system ? strings.system[0] : strings.start;
  for (const [i, { role, content }] of messages.entries()) {
    text += strings.strip.includes(role) ? content.replace(ENDS, "") : content;
    text += i + 1 < messages.length ? after[role] : strings.end;
  }
  return text;
}

/**
 * The ids of the prompt, and how many messages were left out: the oldest turns, the system's message kept, until an
 * answer of `maxNewTokens` fits, or one of half the context if that is less. The last turn is never left out.
 * `encode(text)`: its ids, special tokens recognised, no BOS added.
 */
export function encodeConversation(encode, strings, messages, contextLength, maxNewTokens) {
  const most = Math.max(contextLength - maxNewTokens, Math.floor(contextLength / 2), 1);
  const system = messages.slice(0, Number(messages[0].role === "system"));
  for (let first = system.length; ; first += 2) {
    const kept = [...system, ...messages.slice(first)];
    const ids = encode(render(strings, kept));
    if (ids.length <= most || first + 2 >= messages.length) return { ids, dropped: messages.length - kept.length };
  }
}

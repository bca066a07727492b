// How likely a token was, and what else could have come.

/**
 * Of the last token, `id`: its probability from the model, `before`, and after the whole sampler, `after`: 0 of what was
 * filtered out; at temperature 0 it is 1 of the likeliest. `top`: the same of the `count` likeliest of the model, in order.
 */
export function chancesOf(engine, vocabulary, id, count) {
  return engine.within(() => {
    const possible = engine.check("choice");
    const [logitsAt, idsAt, weightsAt] = engine.numbers(3);
    const { buffer } = engine.memory;
    const logits = new Float32Array(buffer, logitsAt, vocabulary);
    const ids = new Uint32Array(buffer, idsAt, possible);
    const weights = new Float64Array(buffer, weightsAt, possible);
    const most = logits.reduce((a, b) => Math.max(a, b));
    const total = logits.reduce((sum, logit) => sum + Math.exp(logit - most), 0);
    const left = weights.reduce((sum, weight) => sum + weight, 0);
    const after = new Map(Array.from(ids, (one, i) => [one, weights[i] / left]));
    const of = (one) => ({ before: Math.exp(logits[one] - most) / total, after: after.get(one) ?? 0 });
    return { ...of(id), top: likeliest(logits, count).map((one) => ({ id: one, ...of(one) })) };
  });
}

/** Ids of the largest values in descending order; lower ids come first among equals. */
function likeliest(values, count) {
  const best = [];
  for (let id = 0; id < values.length; id++) {
    if (best.length === count && values[id] <= values[best[count - 1]]) continue;
    let at = best.length;
    while (at > 0 && values[id] > values[best[at - 1]]) at--;
    best.splice(at, 0, id);
    if (best.length > count) best.pop();
  }
  return best;
}

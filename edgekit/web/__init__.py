"""The server of `edgekit serve`, and of `edgekit demo`, which is the same application with pages. Extra `serve`.

    security.py  who may ask: Host, Origin, API key, size of a body
    validation.py a JSON body read field by field; refusals, as an HTTP status and JSON
    state.py     what the parts share
    worker.py    the one thread that runs models, and the bounded queue before it
    models.py    the models that may be asked for, opened on first use
    tokens.py    a text as it comes, token by token, with probabilities before and after the sampler
    responses.py from a job on the desk to an HTTP answer; what happens when a client leaves
    playground.py, completions.py    the two APIs
    metrics.py   counters and histograms for Prometheus
    app.py       all of it as one ASGI application
    server.py    uvicorn around it: the address, signals, the end

The playground's API (pages in `pages/` call it; `completions.py` has OpenAI's)
-------------------------------------------------------------------------------

GET /api/models
    {"models": [{"id", "name", "runtime", "runtimes": [...], "format", "bytes", "parameters", "context_length",
    "vocab_size"}]}. `runtime` is the one that is taken if none is named, `runtimes` are those whose packages are
    installed. What a file does not say (a foreign .onnx) is null until the model was opened.

GET /api/defaults?model=ID
    {"model": ID, "defaults": {name: value}, "settings": {name: {"type", "help", "range", "minimum", "maximum",
    "above"}}}: the model's own generation defaults, and of each setting what edgekit/settings.py says. `range` is
    words; `minimum` and `maximum` are numbers or null, and the minimum itself is not allowed where `above` is true.

POST /api/generate
    {"model": ID, "runtime": NAME or null, "prompt": TEXT or "tokens": [ids], "settings": {temperature, top_p, top_k,
    min_p, repetition_penalty, max_new_tokens, seed, stop, ignore_eos}, "top": 0 to 20}. All but the prompt may be left
    out; settings that are absent or null take the model's defaults, a model that is absent is the first. `tokens` are
    ids as they are, BOS included: the way to branch off a text. The answer is text/event-stream, each event one line
    `data: JSON`:

    {"type": "start", "tokens": [ids of the prompt], "pieces": [what each adds to the text], "seed": n}
    {"type": "token", "id", "text", "piece", "before", "after", "top": [{"id", "piece", "before", "after"}]}
        `text` is what became certain with this token: "" while a character or a stop string is open. `piece` is what
        the token alone reads as; a special token's is its spelling. `before` is its probability under the model,
        `after` that of the whole sampler chain (penalty, temperature, filters): 0 for what was filtered out, and at
        temperature 0 it is 1 for the likeliest. `top` has the likeliest under the model, likeliest first.
    {"type": "end", "finish_reason", "tokens": [new ids], "text", "tokens_per_second", "first_token_seconds"}
        `text` is all of it; finish_reason "stop" or "length". Seconds from the moment the model began.
    {"type": "error", "message"}    instead of the end, once the stream has begun

    Before it has begun, an error is an HTTP status with the JSON {"type": "error", "message", "param"}: 400 a value or
    prompt that cannot be meant, 401 no or a wrong API key, 404 no such model, 413
    too large, 408 a body that does not end, 503 the queue is full (header Retry-After, seconds), 504 the time limit.
    Closing the connection ends the text.
"""

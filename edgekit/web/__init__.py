"""The server of `edgekit serve`, and of `edgekit demo`, which is the same application with pages. Extra `serve`.

    app.py          the ASGI application: everything below, put together
    security.py     access control: Host, Origin, API key, size of a body
    validation.py   parses a JSON body; errors as an HTTP status and JSON
    state.py        what the parts share
    worker.py       the one thread that runs models, and the bounded queue in front of it
    models.py       the pool of models, opened on first use
    responses.py    from a job to an HTTP response; what happens when a client leaves
    playground.py    the playground's API
    completions.py, chat.py, openai.py    OpenAI's two endpoints, and what they share
    metrics.py      counters and histograms for Prometheus
    server.py       uvicorn around it: the address, signals, shutdown
    settings.py     the settings of the server
    export.py, chat_strings.py    `edgekit export-web`: a static folder with a model that runs in the browser

The playground's API (`pages/` calls it; `completions.py` and `chat.py` document OpenAI's)
---------------------------------------------------------------------------------------------

GET /api/models
    {"models": [{"id", "name", "runtime", "runtimes": [...], "format", "bytes", "parameters", "context_length",
    "vocab_size", "chat"}]}. `runtime` is used for requests that name none; `runtimes` are those whose packages are
    installed. `chat`: it has a chat template, so /v1/chat/completions answers for it. What a file does not tell (an
    .onnx of other software) is null until the model is opened.

GET /api/defaults?model=ID
    {"model": ID, "defaults": {name: value}, "settings": {name: {"type", "help", "range", "minimum", "maximum",
    "above"}}}: the model's own generation defaults, and the settings' types and ranges from edgekit/settings.py.
    `range` is text; `minimum` and `maximum` are numbers or null; where `above` is true the minimum is excluded.

POST /api/generate
    {"model": ID, "runtime": NAME or null, "prompt": TEXT or "tokens": [ids], "settings": {temperature, top_p, top_k,
    min_p, repetition_penalty, max_new_tokens, seed, stop, ignore_eos}, "top": 0 to 20, "special": false}. Only the
    prompt is required. Settings that are absent or null take the model's defaults; the default model is the first.
    With `special`, special tokens that the prompt spells are read as tokens, not as text. `tokens` are used as they
    are, BOS included, so a client can branch off a text at any token. The response is text/event-stream, each event
    one line `data: JSON`:

    {"type": "start", "tokens": [ids of the prompt], "pieces": [what each adds to the text], "seed": n}
    {"type": "token", "id", "text", "piece", "before", "after", "top": [{"id", "piece", "before", "after"}]}
        `text` became certain with this token: "" while a character, or what may be a stop string, is unfinished.
        `piece` is the text of the token alone; a special token's is its spelling. `before` is its probability under the
        model, `after` its probability after the whole sampler chain (penalty, temperature, filters): 0 if it was
        filtered out; at temperature 0 it is 1 for the likeliest. `top` has the likeliest under the model, in order.
    {"type": "end", "finish_reason", "tokens": [new ids], "text", "tokens_per_second", "first_token_seconds"}
        `text` is the whole new text; finish_reason "stop" or "length". Seconds count from when the model started.
    {"type": "error", "message", "param"}    instead of the end, if something fails once the stream has started

    Before that, an error is an HTTP status with the same JSON: 400 invalid value or prompt, 401 missing or wrong API
    key, 403 host or origin not allowed, 404 unknown model, 408 body not complete in time, 413 too large, 503 queue full
    (header Retry-After, in seconds), 504 time limit. Closing the connection ends the text.
"""

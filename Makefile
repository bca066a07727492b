# make demo [MODEL=...]   install, tell a story, convert a model into GGUF and ONNX, run it on every runtime
# make test               install, run all tests (make test-fast leaves out those of minutes)
# make test-transformers5 the tokenizer matrix, the torch runtime and hf folders with transformers 5
# make test-real          tests on SmolLM2-135M-Instruct, a real chat model (93 MB, downloaded once)
# make fuzz MINUTES=10    mutated files of every format; a table of what they did, and the seeds
# make lint               ruff and mypy
# make docs               the documentation as a site in build/docs; a broken link is an error
# make cli                docs/cli.md, after a change of a command, a flag or its help
# make install            everything, with the versions of constraints.txt

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
FIRST := $(VENV)/.first
# The C engine is compiled with the package.
ENGINE := setup.py $(wildcard engine/*.[ch] engine/*.inc)

# The model of the demo: a folder, an artefact or a Hub id; the bundled one if none is named.
MODEL ?=
M := $(if $(MODEL),-m "$(MODEL)")
PROMPT ?= Once upon a time
MINUTES ?= 10
DEMO := build/demo
LOG := build/install.log

PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-input --progress-bar off -c constraints.txt
say = @printf '\n\033[1m%s\033[0m\n' "$(1)"
# $(call quietly,COMMAND): its output goes to the log, whose end is shown if the command fails.
quietly = @mkdir -p build && { $(1); } >$(LOG) 2>&1 || { echo "failed; the end of $(LOG):"; tail -n 30 $(LOG); exit 1; }

.PHONY: install demo test test-fast test-real test-transformers5 fuzz lint docs cli clean

install: $(INSTALLED)

# What a first text needs: edgekit alone.
$(FIRST): pyproject.toml constraints.txt $(ENGINE)
	$(call say,Installing edgekit and compiling its engine into $(VENV) ...)
	$(call quietly,test -x $(BIN)/python || $(PYTHON) -m venv $(VENV))
	$(call quietly,$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1" && $(PIP) -e .)
	@touch $@

$(INSTALLED): pyproject.toml constraints.txt $(FIRST)
	$(call say,Installing PyTorch and llama.cpp. llama.cpp is compiled once: 4 to 7 minutes on two cores. Log: $(LOG))
	$(call quietly,$(PIP) -e ".[all]" --group dev)
	@touch $@

demo: $(FIRST)
	$(call say,A first text from the bundled model (7.2 million parameters) on edgekit's engine:)
	$(BIN)/edgekit run "$(PROMPT)" --max-new-tokens 80 --temperature 0.8 --seed 7
	@$(MAKE) --no-print-directory install
	@mkdir -p $(DEMO)
	$(call say,1/3 The model:)
	$(BIN)/edgekit inspect $(M) --no-tensors
	$(call say,2/3 Converting it to GGUF and to ONNX. Each file is compared with its source:)
	$(BIN)/edgekit convert $(M) --to gguf --quant q8_0 --force -o $(DEMO)/model-q8_0.gguf
	$(BIN)/edgekit convert $(M) --to onnx --quant int8 --force -o $(DEMO)/model-int8.onnx
	$(call say,3/3 Running it on PyTorch$(,) the engine$(,) llama.cpp and ONNX Runtime$(,) with the same seed:)
	$(BIN)/edgekit run $(M) --runtime torch "$(PROMPT)" --max-new-tokens 80 --seed 7 --stats
	$(BIN)/edgekit run -m $(DEMO)/model-q8_0.gguf "$(PROMPT)" --max-new-tokens 80 --seed 7 --stats
	$(BIN)/edgekit run -m $(DEMO)/model-q8_0.gguf --runtime llamacpp "$(PROMPT)" --max-new-tokens 80 --seed 7 --stats
	$(BIN)/edgekit run -m $(DEMO)/model-int8.onnx "$(PROMPT)" --max-new-tokens 80 --seed 7 --stats
	$(call say,The files are in $(DEMO). Next: $(BIN)/edgekit --help and README.md)

, := ,

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-fast: install
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-real: install
	$(BIN)/python -m pytest -m real

fuzz: install
	$(BIN)/python tests/hostile/run.py --minutes $(MINUTES)

# The tokenizer matrix and the tests that load folders, in transformers 5 beside the environment's version 4; then the
# torch runtime and the conversions with version 5 in its place.
test-transformers5: install .venv5/.installed
	EDGEKIT_TRANSFORMERS5=$(CURDIR)/.venv5 $(BIN)/python -m pytest tests/test_transformers5.py tests/test_doctor_truth.py tests/test_hf_adapter.py
	PYTHONPATH=$(CURDIR)/.venv5 $(BIN)/python -m pytest -m "not slow" tests/test_torch.py tests/test_hf.py

.venv5/.installed:
	$(call say,Installing transformers 5 into .venv5 ...)
	$(call quietly,rm -rf .venv5 && $(BIN)/python -m pip install --disable-pip-version-check --no-input --progress-bar off --target .venv5 'transformers>=5$(,)<6')
	@touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

cli: install
	$(BIN)/python docs/generate_cli.py

clean:
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

# make demo [MODEL=...]   install, convert a model into every format, run it on every runtime; the bundled one by default
# make test               install, run all the tests (make test-fast leaves out those of minutes)
# make lint               ruff and mypy

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# The model of the demo: a folder, an artefact or a Hub id; the bundled one if none is named.
MODEL ?=
M := $(if $(MODEL),-m "$(MODEL)")
PROMPT ?= Once upon a time
DEMO := build/demo

.PHONY: install demo test test-fast lint clean

install: $(INSTALLED)

# llama-cpp-python compiles llama.cpp here: 4 to 7 minutes on two cores, once.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[all]" --group dev
	touch $@

demo: install
	mkdir -p $(DEMO)
	$(BIN)/edgekit inspect $(M) --no-tensors
	$(BIN)/edgekit convert $(M) --to gguf --quant q8_0 --force -o $(DEMO)/model-q8_0.gguf
	$(BIN)/edgekit convert $(M) --to onnx --quant int8 --force -o $(DEMO)/model-int8.onnx
	$(BIN)/edgekit run $(M) --runtime torch "$(PROMPT)" --max-new-tokens 80 --seed 7 --stats
	$(BIN)/edgekit run -m $(DEMO)/model-q8_0.gguf "$(PROMPT)" --max-new-tokens 80 --seed 7 --stats
	$(BIN)/edgekit run -m $(DEMO)/model-int8.onnx "$(PROMPT)" --max-new-tokens 80 --seed 7 --stats

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-fast: install
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

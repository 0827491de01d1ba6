# make demo   compile two networks, check them, explain digits and photographs, measure the maps
# make page   build two pages that explain in the browser: digits to draw, and photographs
# make test   format, lint, types and tests
# make test-fast  the tests that are not marked slow: about two and a half minutes on two cores
# make mutants  change what was compiled in every way, one at a time: the check must notice (minutes)
# make fuzz   compile random networks and check them: N of them, from SEED on
# make evidence  train, measure every method by every metric, and write docs/evidence.md (an hour)
# make zoo    compile and check every convolutional network of torchvision (an hour)
# make docs   build the documentation into build/site
# make package  build wheel and sdist, install them into an empty environment, and test them there
# make lowest run the tests with the lowest versions of the dependencies
#
# Everything is installed into .venv, once; `make clean` removes it and what was built.

PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
GRAPHPROP := $(BIN)/graphprop
INSTALLED := $(VENV)/.installed
INSTALLED_DEMO := $(VENV)/.installed-demo
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_DOCS := $(VENV)/.installed-docs
LOWEST := build/lowest
INSTALLED_LOWEST := $(LOWEST)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PIP_LOWEST := $(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check \
	-c constraints-lowest.txt

DIGITS := build/digits-epsilon_plus_flat
LITE0 := build/efficientnet_lite0-rap
PHOTOGRAPHS := build/photographs
SHOWN := chelsea.png coffee.png rocket.jpg motorcycle_left.png china.jpg flower.jpg

N ?= 1000
SEED ?= 1000

.PHONY: help install demo page test test-fast format lint types pytest mutants fuzz zoo evidence docs package lowest clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

install: $(INSTALLED)

# torch by its exact version first: a build without CUDA is found for that one.
$(INSTALLED): pyproject.toml constraints.txt
	@echo "Installing graphprop into $(VENV) (torch is large: this takes minutes, once) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) torch==2.13.0
	@$(PIP) -e .
	@touch $@

# The trained network and the photographs of models/photographs.
$(INSTALLED_DEMO): $(INSTALLED)
	@echo "Installing a trained network and photographs ..."
	@$(PIP) -e '.[demo]'
	@touch $@

# Last, what the tests compare with: these ask for older versions of what they need, so --no-deps.
$(INSTALLED_DEV): $(INSTALLED)
	@echo "Installing what the tests need ..."
	@$(PIP) -e '.[dev]' tqdm pyyaml huggingface_hub
	@$(PIP) --no-deps torchvision zennit captum timm
	@touch $@

$(INSTALLED_DOCS): $(INSTALLED)
	@echo "Installing what builds the documentation ..."
	@$(PIP) -e '.[docs]'
	@touch $@

demo: $(INSTALLED_DEMO)
	@echo
	@echo "1. A small residual network, trained on handwritten digits, becomes a module that says"
	@echo "   for every pixel how much it spoke for the answer (its relevance). The result is"
	@echo "   checked: Python and ONNX must compute the same."
	@echo
	$(GRAPHPROP) compile models/digits.py -o $(DIGITS)
	@echo
	@echo "2. It explains pictures that it was not trained on: red spoke for the class, blue"
	@echo "   against it. What is handed out is the logit, and a little of it stays in the biases."
	@echo
	$(GRAPHPROP) explain $(DIGITS) models/digits_examples/*.png -o build/explanations
	@echo
	@echo "3. A network trained on ImageNet, EfficientNet-Lite0 (224 x 224, 1000 classes), explains"
	@echo "   photographs by RAP, which hands out the logit in full: the relevance sums to it."
	@echo
	$(GRAPHPROP) compile models/efficientnet_lite0.py --method rap -o $(LITE0)
	@echo
	$(BIN)/python tools/photographs.py $(PHOTOGRAPHS)
	$(GRAPHPROP) explain $(LITE0) $(PHOTOGRAPHS)/*.png $(PHOTOGRAPHS)/*.jpg -o build/explanations
	@echo
	@echo "   Most maps are red on the object and blue away from it, in smooth spots rather than"
	@echo "   outlines. Not all: that of the rocket is red on the ground, too, that of the uniform on"
	@echo "   cap and face, and the astronaut, who has no class, is taken for a bobsled by her helmet."
	@echo
	@echo "4. Masks were drawn for these photographs. mu_w is how much denser the positive relevance"
	@echo "   is on the object than in the picture; the pointing game asks whether the largest pixel"
	@echo "   lies on it. Beside RAP are maps that know nothing of the network."
	@echo
	$(GRAPHPROP) evaluate $(LITE0) --data $(PHOTOGRAPHS)/annotations.json \
		--metric mu_w --metric pointing_game --no-plots -o build/evaluation
	@echo
	@echo "Done. Look at build/explanations/*.png, and read $(DIGITS)/explainer.py:"
	@echo "that file and its weights are all it takes to explain, without graphprop."

# The files of onnxruntime-web are fetched by npm, once.
page: $(INSTALLED_DEMO)
	$(GRAPHPROP) compile models/digits.py -o $(DIGITS)
	$(GRAPHPROP) page $(DIGITS) -o build/page/digits --title Digits \
		$(foreach file,$(wildcard models/digits_examples/*.png),--example $(file))
	$(GRAPHPROP) compile models/efficientnet_lite0.py --method rap -o $(LITE0)
	$(BIN)/python tools/photographs.py $(PHOTOGRAPHS)
	$(GRAPHPROP) page $(LITE0) -o build/page/efficientnet_lite0 --title EfficientNet-Lite0 \
		$(foreach name,$(SHOWN),--example $(PHOTOGRAPHS)/$(name))

test: format lint types pytest

format: $(INSTALLED_DEV)
	$(BIN)/ruff format --check

lint: $(INSTALLED_DEV)
	$(BIN)/ruff check

types: $(INSTALLED_DEV)
	$(BIN)/mypy

# Two workers, each with one thread.
pytest: $(INSTALLED_DEV)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-fast: $(INSTALLED_DEV)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

# For example: make mutants KIND=onnx SAME=1. SAME lists what changes no map, too.
mutants: $(INSTALLED_DEV)
	OMP_NUM_THREADS=1 PYTHONPATH=tests KIND=$(KIND) SAME=$(SAME) $(BIN)/python tests/checking/test_mutants.py

# For example: make fuzz N=100 SEED=5000. What fails is printed as a network to paste.
fuzz: $(INSTALLED_DEV)
	OMP_NUM_THREADS=1 $(BIN)/python tests/support/fuzz.py $(N) $(SEED)

# For example: make zoo ZOO=--timm, or make zoo ZOO="--models 'resnet*' --methods rap,epsilon_gamma_box"
zoo: $(INSTALLED_DEV)
	@mkdir -p build
	$(BIN)/python tools/zoo.py --json build/zoo.json $(ZOO)

# Results are kept in build/evidence: a run that was stopped continues.
evidence: $(INSTALLED_DEV)
	OMP_NUM_THREADS=1 $(BIN)/python tools/evidence $(EVIDENCE)

docs: $(INSTALLED_DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# For example: make package PACKAGE=--no-tests, or make package PACKAGE="-- tests/test_cli.py"
package: $(INSTALLED_DEV)
	$(BIN)/python tools/package.py $(PACKAGE)

# An environment of its own, with the versions that are the lower bounds in pyproject.toml.
$(INSTALLED_LOWEST): pyproject.toml constraints-lowest.txt
	@echo "Installing the lowest versions into $(LOWEST) (torch is large: this takes minutes) ..."
	@test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	@$(PIP_LOWEST) torch==2.13.0
	@$(PIP_LOWEST) -e '.[test]' tqdm
	@$(PIP_LOWEST) --no-deps torchvision zennit captum
	@touch $@

lowest: $(INSTALLED_LOWEST)
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n 2 -m "not slow"

clean:
	rm -rf $(VENV) build

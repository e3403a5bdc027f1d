# The whole story of the project:
#
#   make          steps 1 to 5, 7 and 8 on the data that path.json points at (PATHS=other.json for another file)
#   make demo     the same on a simulated world, everything in demo/
#   make test     lint, format, types and tests
#   make own-data        the steps on MovieLens-100k, read by a description, and the baselines on the same rows
#   make baseline        RecBole's environment, and every model of the comparison but FuxiCTR's on a tiny world
#   make real            the steps on the real input in ../shared/data: tiktok-real and kuairand-real
#   make compare         every model on the demo's three tasks and the real input, and the tables of README.md and docs/: hours
#   make baseline-fuxictr    FuxiCTR's environment
#   make compare-benchmarks  MMa4CTR, FuxiCTR's models and LightGBM on simulated files of two data sets of BARS: hours
#   make test-baseline   the tests that need RecBole's or FuxiCTR's environment, if it is there
#   make test-long       the tests that take long: every step killed at 50 moments, a Ray node killed, UMAP
#   make fuzz            ten minutes of random bytes for the readers of raw files
#   make bench           every step against the plain way and the limit, on 20 million simulated rows
#
# The environment .venv is made from pyproject.toml and constraints.txt by whichever of these runs first.

PYTHON ?= python3
PATHS ?= path.json
RUN := .venv/bin/python

.PHONY: all demo real test lint own-data baseline baseline-fuxictr compare compare-benchmarks test-baseline test-long fuzz bench
.DEFAULT_GOAL := all

# $(1): the path.json, $(2): options of step 1, $(3): options of step 8.
define steps
	$(RUN) preprocess_inter.py --paths $(1) $(2)
	$(RUN) preprocess_multimodal.py --paths $(1)
	$(RUN) get_user_embedding.py --paths $(1)
	$(RUN) gen_matrix.py --paths $(1)
	$(RUN) cross_matrix.py --paths $(1) --variant all
	$(RUN) cross_matrix.py --paths $(1) --features plus
	$(RUN) mlp.py --paths $(1)
	$(RUN) mlp.py --paths $(1) --features plus
	$(RUN) statis_and_draw.py --paths $(1)
	$(RUN) viewer.py --paths $(1) $(3)
	$(RUN) -m mma4ctr.evaluation --paths $(1)
endef

all: .venv/installed
	$(call steps,$(PATHS),,)

demo: .venv/installed
	$(RUN) -m mma4ctr.simulation demo --dataset wechat --rows 250000
	$(RUN) -m mma4ctr.simulation demo --dataset tiktok --rows 400000
	$(call steps,demo/path.json,--min-interactions 20,--points 400)
	@echo "Made: features, runs, tables, figures and a report of two simulated data sets."
	@echo "Report: demo/saved/report.html, tables in demo/saved/tables/, every run in demo/saved/results.jsonl"
	@echo "Next: make own-data, the same steps on MovieLens-100k; docs/your-data.md explains how to describe your own data."

# tiktok-real has one target, like: its column finish holds the same labels. The folders must exist before the relative
# paths of the configurations can go through them.
real: .venv/installed
	mkdir -p demo/real demo/kuairand
	$(call steps,configs/tiktok-real.json,--min-interactions 5,--points 400)
	$(call steps,configs/kuairand-real.json,--min-interactions 5,--points 400)

# RecBole's wheel contains MovieLens-100k.
own-data: .venv/installed .venv-baseline/installed
	mkdir -p demo/own
	$(PYTHON) -m pip download --quiet --no-deps --dest demo/own recbole==1.2.1
	$(PYTHON) -m zipfile -e demo/own/recbole-1.2.1-py3-none-any.whl demo/own/wheel
	$(RUN) -m mma4ctr.datasets check configs/movielens.json
	$(call steps,configs/movielens.json,,--points 400)
	$(RUN) baseline/comp.py --paths configs/movielens.json --epochs 2 \
		--models BPR FPMC NGCF LightGCN BERT4Rec GCSAN DIN DIEN LightGBM "bias model"

lint: .venv/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	.venv/bin/lint-imports --no-logo

test: lint
	$(RUN) -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

baseline: .venv/installed .venv-baseline/installed
	$(RUN) -m mma4ctr.simulation demo/tiny --dataset tiktok --rows 8000 --users 60 --items 300
	$(RUN) preprocess_inter.py --paths demo/tiny/path.json --min-interactions 20
	$(RUN) preprocess_multimodal.py --paths demo/tiny/path.json
	$(RUN) get_user_embedding.py --paths demo/tiny/path.json --task tiktok_like
	$(RUN) cross_matrix.py --paths demo/tiny/path.json --task tiktok_like
	$(RUN) baseline/comp.py --paths demo/tiny/path.json --task tiktok_like --epochs 1

# Five seeds of MMa4CTR and LightGBM, three of CatBoost plus, one of the others; EPOCHS="1 2 3 5 10" for a shorter one.
# MMa4CTR has results up to 30 epochs, trees up to 50 (500 trees).
EPOCHS := 1 2 3 5 10 20 30 50
# An epoch of BERT4Rec and GC-SAN takes up to a minute.
RECBOLE_EPOCHS := $(filter-out 20 30 50,$(EPOCHS))
# $(1): the path.json, $(2): its tasks.
define compared
	$(RUN) baseline/comp.py --paths $(1) --task $(2) --epochs $(EPOCHS) --seeds 5 \
		--models MMa4CTR LightGBM "LightGBM plus" "bias model"
	$(RUN) baseline/comp.py --paths $(1) --task $(2) --epochs $(EPOCHS) --seeds 3 --models "CatBoost plus"
	$(RUN) baseline/comp.py --paths $(1) --task $(2) --epochs $(EPOCHS) --models CatBoost
	$(RUN) baseline/comp.py --paths $(1) --task $(2) --epochs $(RECBOLE_EPOCHS) \
		--models BPR FPMC NGCF LightGCN BERT4Rec GCSAN DIN DIEN DCNV2
	$(RUN) adjust_hyperparameter.py --paths $(1) --task $(2) --study plus --seeds 3

endef
REAL_IS_THERE := $(and $(wildcard ../shared/data/tiktok-real),$(wildcard ../shared/data/kuairand-real))

compare: demo $(if $(REAL_IS_THERE),real) .venv-baseline/installed
	$(call compared,demo/path.json,wechat_click tiktok_like tiktok_finish)
	$(if $(REAL_IS_THERE),$(call compared,configs/tiktok-real.json,tiktok_like))
	$(if $(REAL_IS_THERE),$(call compared,configs/kuairand-real.json,kuairand_click kuairand_long kuairand_like))
	$(RUN) baseline/readme.py "demo world=demo/path.json" \
		$(if $(REAL_IS_THERE),"tiktok-real=configs/tiktok-real.json" "kuairand-real=configs/kuairand-real.json") \
		$(if $(wildcard demo/own/saved/results.jsonl),--newest "MovieLens-100k=configs/movielens.json")

baseline-fuxictr: .venv/installed .venv-fuxictr/installed

# Rows of each data set, the limit of epochs, and FuxiCTR's models. An epoch of DIN on 1,000,000 rows takes about 40
# minutes on two cores, one of DIEN more than an hour.
BENCHMARK_ROWS := 1000000
BENCHMARK_EPOCHS := 5
BENCHMARK_MODELS := DIN DIEN DCNv2 xDeepFM
BENCHMARKS := kuaivideo-x1 microvideo-1.7m-x1

# $(1): the data set. One training at a time, with both cores, so that seconds can be compared.
define benchmark
	$(RUN) -m mma4ctr.simulation demo/benchmarks/$(1) --dataset $(1) --rows $(BENCHMARK_ROWS)
	$(RUN) preprocess_inter.py --paths demo/benchmarks/$(1)/path.json
	$(RUN) preprocess_multimodal.py --paths demo/benchmarks/$(1)/path.json
	$(RUN) get_user_embedding.py --paths demo/benchmarks/$(1)/path.json --task $(1)_click
	$(RUN) gen_matrix.py --paths demo/benchmarks/$(1)/path.json --task $(1)_click
	$(RUN) cross_matrix.py --paths demo/benchmarks/$(1)/path.json --task $(1)_click --features plus
	$(RUN) mlp.py --paths demo/benchmarks/$(1)/path.json --task $(1)_click
	$(RUN) mlp.py --paths demo/benchmarks/$(1)/path.json --task $(1)_click --features plus
	$(RUN) baseline/comp.py --paths demo/benchmarks/$(1)/path.json --task $(1)_click --epochs 50 --jobs 1 \
		--models LightGBM "LightGBM plus"
	$(RUN) baseline/comp.py --paths demo/benchmarks/$(1)/path.json --task $(1)_click --epochs $(BENCHMARK_EPOCHS) --jobs 1 \
		--models $(foreach model,$(BENCHMARK_MODELS),"FuxiCTR $(model)")

endef

compare-benchmarks: .venv/installed .venv-fuxictr/installed
	mkdir -p demo/benchmarks
	$(foreach one,$(BENCHMARKS),$(call benchmark,$(one)))
	$(RUN) baseline/benchmark_tables.py $(BENCHMARKS:%=demo/benchmarks/%/path.json)

# The tests of an environment that is there.
test-baseline: .venv/installed
	$(if $(wildcard .venv-baseline/installed),$(RUN) -m pytest -m recbole,@echo "make baseline makes RecBole's environment; its tests are left out")
	$(if $(wildcard .venv-fuxictr/installed),$(RUN) -m pytest -m fuxictr,@echo "make baseline-fuxictr makes FuxiCTR's environment; its tests are left out")

test-long: .venv/installed
	$(RUN) -m pytest -m long

# In four rounds that share what they find: the fuzzer itself grows by 2 KB an input, the readers do not.
fuzz: .venv/installed
	$(PYTHON) -m pip --python .venv/bin/python install --quiet --constraint constraints.txt atheris
	mkdir -p demo/fuzz
	for round in 1 2 3 4; do $(RUN) tests/datasets/fuzz_readers.py -max_total_time=150 -max_len=4096 demo/fuzz || exit 1; done

bench: .venv/installed
	$(RUN) -m benchmarks.bench --growth

# Without ensurepip, which some systems leave out of python3; the pip that is there installs into .venv.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --without-pip .venv
	$(PYTHON) -m pip --python .venv/bin/python install --quiet --constraint constraints.txt --editable ".[baseline,cluster,dev,export]"
	touch $@

.venv-baseline/installed: baseline/constraints.txt
	$(PYTHON) -m venv --without-pip .venv-baseline
	$(PYTHON) -m pip --python .venv-baseline/bin/python install --quiet --constraint baseline/constraints.txt recbole "setuptools<80"
	touch $@

.venv-fuxictr/installed: baseline/fuxictr-constraints.txt
	$(PYTHON) -m venv --without-pip .venv-fuxictr
	$(PYTHON) -m pip --python .venv-fuxictr/bin/python install --quiet --constraint baseline/fuxictr-constraints.txt fuxictr torch
	touch $@

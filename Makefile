# `make score` and `make test` work on a bare machine with Python 3.10+ and a network to a package index.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed

# torch comes first and pinned: a plain newest torch would bring gigabytes of CUDA packages to a machine without a GPU.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev,train,decord,serve,ui,t2v]'
	touch $(STAMP)

.PHONY: install score test test-all check t2v-tiny holistic-tiny
install: $(STAMP)

score: $(STAMP)
	$(VENV)/bin/qsave score --jsonl qsave_reward/examples/examples.jsonl --explain --html report.html

# One process a core (each of them holds up to 2 GB), one thread each.
test: $(STAMP)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -m "not slow and not gpu" \
	  -n auto --maxprocesses 8 --dist worksteal

# Slow tests start processes of their own, which need all cores.
test-all: $(STAMP)
	HF_HUB_OFFLINE=1 $(VENV)/bin/python -m pytest -q

check: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# Reward fine-tuning of the embedded generator: learning, evaluation before and after, pictures. An hour on two cores.
T2V := recipes/text_to_video
t2v-tiny: $(STAMP)
	test -f $(T2V)/tiny/model_index.json || ( \
	  $(VENV)/bin/python $(T2V)/pretrain_tiny.py --output_dir outputs/t2v/pretrained && \
	  cp -r outputs/t2v/pretrained/pipeline $(T2V)/tiny )
	$(VENV)/bin/python $(T2V)/train.py --config configs/text_to_video/tiny.yaml --output_dir outputs/t2v/nft
	$(VENV)/bin/python $(T2V)/evaluate.py --count 192 --videos 4 \
	  --sheet outputs/t2v/before.png --save outputs/t2v/before.json
	$(VENV)/bin/python $(T2V)/evaluate.py --count 192 --videos 4 --lora outputs/t2v/nft/last \
	  --sheet outputs/t2v/after.png --save outputs/t2v/after.json
	$(VENV)/bin/python $(T2V)/compare.py --before outputs/t2v/before.json --after nft=outputs/t2v/after.json
	$(VENV)/bin/python $(T2V)/curves.py --out outputs/t2v/curves.png --runs nft=outputs/t2v/nft

# The second scorer on the rendered world: hours on two cores.
HOLISTIC := recipes/holistic
holistic-tiny: $(STAMP)
	$(VENV)/bin/python $(HOLISTIC)/make_holistic_tiny.py --out outputs/holistic/base
	$(VENV)/bin/python $(HOLISTIC)/pretrain_encoders.py --config configs/holistic/tiny_encoders.yaml
	$(VENV)/bin/python $(HOLISTIC)/train.py --config configs/holistic/tiny.yaml
	$(VENV)/bin/qsave eval --model outputs/holistic/tiny --data world:test --limit 1000

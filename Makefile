# Thin verbs over cargo. `make` alone prints this help; every verb works from a clean clone.

FILTERS := routing jwt authz ratelimit metrics
ENGINES := core resources signatures $(FILTERS)
PROFILE_WASM := --profile wasm --target wasm32-wasip1
# Always together: alone, each would build wasmtime anew with features of its own.
EMULATED := -p sailcloth-emulator -p sailcloth-tests
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
BUILT_WASM := $(TARGET_DIR)/wasm32-wasip1/wasm
NODE_TARGET := wasm32-unknown-unknown

.DEFAULT_GOAL := help
.PHONY: help setup build wasm fmt lint deny test test-full test-unit test-node test-wasm test-envoy differential bench demo up down check clean

help: ## this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## the wasm targets and a stock Envoy (into .tools/; ENVOY=/path names another)
	@scripts/setup.sh

build: setup wasm ## everything: filters and native programs
	cargo build

wasm: setup ## the filters to dist/*.wasm, with their sizes
	@mkdir -p dist
	cargo build $(PROFILE_WASM) -p sailcloth-filter-jwt --features full
	@cmp -s $(BUILT_WASM)/jwt.wasm dist/jwt-full.wasm || cp $(BUILT_WASM)/jwt.wasm dist/jwt-full.wasm
	cargo build $(PROFILE_WASM) $(FILTERS:%=-p sailcloth-filter-%)
	@set -e; for filter in $(FILTERS); do \
	  cmp -s $(BUILT_WASM)/$$filter.wasm dist/$$filter.wasm || cp $(BUILT_WASM)/$$filter.wasm dist/$$filter.wasm; \
	done
	@set -e; for module in $(FILTERS) jwt-full; do \
	  printf '  %-22s %7d bytes\n' dist/$$module.wasm $$(wc -c < dist/$$module.wasm); \
	done

fmt: ## format the code
	cargo fmt --all

lint: setup ## formatting, clippy for native and wasm32, dependency policy
	cargo fmt --all --check
	cargo clippy --workspace --exclude 'sailcloth-filter-*' --exclude sailcloth-probe --all-targets -- -D warnings
	cargo clippy $(PROFILE_WASM) -p sailcloth-host -p sailcloth-filter-empty $(FILTERS:%=-p sailcloth-filter-%) -- -D warnings
	cargo clippy $(PROFILE_WASM) -p sailcloth-filter-jwt --features full -- -D warnings
	@$(MAKE) --no-print-directory deny

deny: ## licences, sources and bans of the dependencies
	@scripts/setup.sh deny
	.tools/bin/cargo-deny --log-level error check bans licenses sources

test: test-unit test-node test-wasm test-envoy ## all tests but the long ones

test-unit: setup ## native tests of the engines and tools
	cargo test --workspace --exclude 'sailcloth-filter-*' --exclude sailcloth-probe --exclude sailcloth-tests --exclude sailcloth-demo --exclude sailcloth-rls --exclude sailcloth-emulator

test-node: setup ## the engines' unit tests compiled to 32-bit wasm, under Node
	@scripts/setup.sh node
	CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER="$(CURDIR)/.tools/bin/wasm-bindgen-test-runner" \
	  cargo test --target $(NODE_TARGET) --lib $(ENGINES:%=-p sailcloth-%)

test-wasm: wasm ## the modules in the emulator, the case corpus, the conformance cases
	cargo test $(EMULATED) --lib --test statuses --test crypto --test native --test emulator --test host --test modules --test conformance
	cargo test $(EMULATED) --doc

test-envoy: wasm ## the modules in the real Envoy
	@scripts/setup.sh oidc
	-@scripts/setup.sh prometheus
	cargo test $(EMULATED) --test examples --test envoy --test routing --test differential --test end_to_end --test keys --test ratelimit --test observability
	@scripts/setup.sh redis
	cargo test -p sailcloth-rls
	@cargo build --quiet -p sailcloth-services
	cargo test -p sailcloth-demo --test demo

test-full: test ## and what takes long: soaks, real-time waits, the Envoy versions
	@scripts/setup.sh matrix
	@for envoy in .tools/matrix/*/envoy; do \
	  echo "the tour in $$envoy"; ENVOY=$(CURDIR)/$$envoy cargo run --quiet -p sailcloth-demo -- tour >.tools/matrix/tour.txt || { cat .tools/matrix/tour.txt; exit 1; }; \
	done
	@cargo build --quiet -p sailcloth-services
	cargo test -p sailcloth-demo --test soak -- --ignored --nocapture
	SAILCLOTH_DIFFERENTIAL=full cargo test $(EMULATED) --test differential
	@$(MAKE) --no-print-directory bench BENCH=--quick

differential: wasm ## ours beside Envoy's native filters on many inputs; writes docs/differential.md
	SAILCLOTH_DIFFERENTIAL=full REQUIRE_ENVOY=1 cargo test $(EMULATED) --test differential -- --skip the_page
	cargo test $(EMULATED) --test differential -- --exact --include-ignored write_the_page

bench: wasm ## CPU per request of each filter beside Envoy's native counterpart (BENCH="--help": its options)
	cargo build $(PROFILE_WASM) -p sailcloth-filter-empty
	cargo run --release -p sailcloth-bench -- $(BENCH)

demo: wasm ## the mesh on loopback and a scripted tour of it, then everything stopped
	@cargo build --quiet -p sailcloth-services -p sailcloth-demo
	@cargo run --quiet -p sailcloth-demo -- tour

up: wasm ## the same mesh, left running
	@cargo build --quiet -p sailcloth-services -p sailcloth-demo
	@cargo run --quiet -p sailcloth-demo -- up

down: ## stop what `make up` started
	@cargo run --quiet -p sailcloth-demo -- down

check: ## exactly what CI runs
	bash .ci/run

clean: ## remove what was built; .tools/ stays
	cargo clean
	rm -rf dist

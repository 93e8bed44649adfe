# Each target is one thing that a developer does; CI does the same (.ci/run).

.PHONY: setup run test plugins guests bench soak soak-swap check fuzz loom counters numa idle cache-suite autobahn browsers tls-scan deny

APT = apt-get -o DPkg::Lock::Timeout=120
SUDO = $(if $(filter 0,$(shell id -u)),,sudo)

# What building needs besides Rust: a linker, hwloc, libudev, which that is linked with, and what
# compiles plugins, in the order of sdk/build: the target, rustup's download, Debian's packages. Tests need a
# Redis, which Debian's redis-tools bring without a service. What plugins in other languages need is not
# installed, but named where it is missing; `zproxy plugin build` says the same.
setup:
	@set -e; updated=; \
	install() { \
		if ! command -v apt-get >/dev/null; then \
			echo "install by hand, there is no apt-get here: $$*" >&2; exit 1; \
		fi; \
		if [ -z "$$updated" ]; then $(SUDO) $(APT) update; updated=yes; fi; \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive $(APT) install --yes --no-install-recommends "$$@"; \
	}; \
	missing=; \
	command -v cc >/dev/null || missing="$$missing gcc libc6-dev"; \
	command -v pkg-config >/dev/null || missing="$$missing pkg-config"; \
	pkg-config --exists hwloc 2>/dev/null || missing="$$missing libhwloc-dev"; \
	pkg-config --exists libudev 2>/dev/null || missing="$$missing libudev-dev"; \
	command -v redis-server >/dev/null || command -v redis-check-rdb >/dev/null || missing="$$missing redis-tools"; \
	if [ -n "$$missing" ]; then install $$missing; fi; \
	if ! cargo plugins --toolchain >/dev/null 2>&1; then \
		install rustc-web rust-web-src wasi-libc; \
		cargo plugins --toolchain; \
	fi; \
	clang --target=wasm32-wasi -x c -fsyntax-only -include string.h /dev/null 2>/dev/null || \
		echo "note: for plugins in C: apt-get install --no-install-recommends clang lld wasi-libc libclang-rt-dev-wasm32"; \
	command -v npm >/dev/null || echo "note: for plugins in JavaScript: Node.js 20 with npm"; \
	python3 -c 'import venv, ensurepip' 2>/dev/null || \
		echo "note: for plugins in Python: Python 3.10 with venv (Debian: python3-venv)"

# The gateway with every plugin of this repository; see it at http://127.0.0.1:8080/.
run: setup plugins
	cargo run --release -- --plugins ./plugins

# Every test of the workspace. The components come first, so that a broken one fails as a build.
#
# All of it by epoll, then what goes over sockets by io_uring, where the kernel allows that.
WIRE = http2 tls proxy_protocol:: access_log:: backpressure:: bad_upstream:: balance:: bodies:: chaos:: drain:: framing:: headers:: http:: \
	limits:: routing:: upstream:: websocket workers::
test: setup guests
	ZPROXY_E2E_IO=epoll cargo test --workspace
	@if "$${CARGO_TARGET_DIR:-target}/debug/zproxy" doctor | grep -q 'io_uring  *allowed'; then \
		ZPROXY_E2E_IO=uring cargo test --workspace --test e2e -- $(WIRE); \
	else \
		echo "note: io_uring is not allowed here, so nothing was tested with it" >&2; \
	fi

# Every plugin into ./plugins/*.wasm.
plugins:
	cargo plugins

# The same and the guests of the tests, into target/guests/tests/*.wasm.
guests: plugins
	cargo plugins --tests

# What a request costs beside HAProxy, nginx and Envoy, on this machine: a quarter of an hour after the
# builds; then parts of it alone. BENCH="--quick --scenario keepalive --only haproxy,zproxy" for less.
BENCH =
bench: setup guests
	benches/setup.sh
	cargo build --release --package zproxy --package zproxy-benches
	$${CARGO_TARGET_DIR:-target}/release/zproxy-benches run --zproxy "$${CARGO_TARGET_DIR:-target}/release/zproxy" --envoy "$${CARGO_TARGET_DIR:-target}/peers/envoy/_bin/envoy" $(BENCH)
	cargo bench --bench micro
	cargo bench --bench built_in

# Ten minutes of saturation, or SOAK_SECONDS, with clients and upstreams that misbehave, reloads and restarts: every
# byte is checked, and nothing may be left behind.
SOAK_SECONDS = 600
SOAK_IO = auto
soak: setup guests
	cargo build --release --workspace --bins
	$${CARGO_TARGET_DIR:-target}/release/zproxy-benches soak --zproxy "$${CARGO_TARGET_DIR:-target}/release/zproxy" --seconds $(SOAK_SECONDS) --io $(SOAK_IO)

# A thousand swaps of a plugin under load, or SOAK_SWAPS, by SOAK_IO: no request fails, none is answered by what was
# replaced, memory stays.
SOAK_SWAPS = 1000
soak-swap: setup guests
	cargo build --release --workspace --bins
	$${CARGO_TARGET_DIR:-target}/release/zproxy-benches swap --zproxy "$${CARGO_TARGET_DIR:-target}/release/zproxy" --swaps $(SOAK_SWAPS) --io $(SOAK_IO)

# What CI refuses: layout, lints and docs, warnings denied.
check: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

# A minute of each fuzz target, or FUZZ_SECONDS. Needs nightly Rust and cargo-fuzz.
FUZZ_SECONDS = 60
fuzz:
	@command -v cargo-fuzz >/dev/null || { echo "install cargo-fuzz: cargo install cargo-fuzz" >&2; exit 1; }
	cd tests/fuzz && for target in $$(cargo +nightly fuzz list --fuzz-dir .); do \
		cargo +nightly fuzz run --fuzz-dir . $$target -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

# Every order in which threads can meet at what they share. Seconds, once loom is built.
loom:
	cd tests/loom && RUSTFLAGS="--cfg loom" cargo test --release

# What ten million keys of one plugin hold, within what it may and with room for all. Minutes.
counters: setup
	cargo test --workspace --lib -- --ignored --nocapture state::counters

# Workers and their memory on two NUMA nodes, in an emulated machine; skipped, with the reason, where
# there is no emulator.
numa: setup
	tests/numa/run

# The public suite for HTTP caches against ours, in three configurations; skipped, with the reason, where
# npm is missing or cannot get it.
cache-suite: setup
	tests/cache-suite/run

# The Autobahn test suite of WebSocket, through the gateway: minutes; skipped, with the reason, where there is no
# Python 2.7, for which it is written. ZPROXY_AUTOBAHN_WHOLE=1 for every case.
autobahn: setup
	tests/autobahn/run

# A hundred thousand idle connections and ten thousand quiet event streams, in an emulated machine that allows as
# many descriptors; skipped, with the reason, where there is no emulator.
idle: setup
	tests/idle/run

# A page in Chromium, over HTTP/2 and HTTP/1.1. The browser is Debian's, fetched into target/tools where it is
# not installed; skipped, with the reason, where it cannot be had.
browsers: setup guests
	cargo test --workspace --test e2e -- --ignored --nocapture clients::browser

# What testssl.sh and sslyze say of TLS as it is by default; skipped, with the reason, where they are not.
tls-scan: setup
	tests/tls/scan

# Licences, sources and advisories of what is depended on. Needs cargo-deny; advisories need the
# network, DENY="bans licenses sources" leaves them out.
DENY =
deny:
	@command -v cargo-deny >/dev/null || { echo "install cargo-deny: cargo install cargo-deny" >&2; exit 1; }
	cargo deny check $(DENY)

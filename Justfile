set positional-arguments

# List the recipes
default:
    @just --list

# The local stack until its streams are verified, or Ctrl-C: just up --streams 1000
up *FLAGS:
    cargo run --release --locked -- up "$@"

# All tests
test:
    cargo test --locked

# Formatting, lints and documentation, warnings denied
lint:
    cargo fmt --all --check
    cargo clippy --locked --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps
    @if cargo deny --version >/dev/null 2>&1; then {{just_executable()}} deny; else echo "not checked, because cargo-deny is not here: licences, duplicates, advisories"; fi

# SHA-1 of files, through the system that NATS_URL names: just sum FILE, just sum --check LIST
sum *ARGS:
    cargo run --release --locked -- sum "$@"

# A nats-server for this machine alone, until Ctrl-C
server *FLAGS:
    cargo run --release --locked -- server "$@"

# Keys, certificates and configuration files for nats/secure.conf, in data/keys: just keys FOLDER NAME… for a server of other names
keys *ARGS:
    cargo run --release --locked --example keys -- "$@"

# What it costs to be right: ratios to loops that promise nothing, in one run
bench *FLAGS:
    cargo bench --locked --bench pipeline -- "$@"

# Twenty-five minutes at full speed, and whether anything grows: slopes, and a plot
endurance *FLAGS:
    cargo build --release --locked
    tests/endurance "$@"

# Summers that come, stop and are killed under load, and the pauses of what moves
elastic *FLAGS:
    cargo build --release --locked
    tests/elastic "$@"

# What one more summer, log, final and connection costs
scaling *FLAGS:
    cargo build --release --locked
    tests/scaling "$@"

# A million schedules of the protocol at random; SIMULATE_SEED=N just simulate plays one again, step by step
simulate:
    cargo test --release --locked --package jetfold --lib simulation::a_million -- --ignored --nocapture

# Ten thousand groups of workers that start, stop, die, sleep, and are cut off; SIMULATE_SEED=N just simulate-groups plays one again
simulate-groups:
    SIMULATE_GROUPS=10000 cargo test --release --locked --package jetfold --lib simulation::group::whatever -- --nocapture

# Three nodes, and all that a cluster can go through: leaders killed, quorum gone, a node cut off; replicas are compared in the end
cluster *FLAGS:
    cargo build --release --locked
    tests/cluster "$@"

# The system under every fault on three servers of its own, and a verdict with a page: just soak --duration 2m
soak *FLAGS="--duration=30m":
    cargo run --release --locked -- soak --nodes 3 "$@"

# Soaks on each version of nats-server, with one and three replicas: what held, and what JetStream forgot
results *FLAGS:
    cargo build --release --locked
    tests/results "$@"

# What a chunker that sends as fast as it can costs the latency of a quiet one, in turns
flood *FLAGS:
    cargo build --release --locked
    tests/flood "$@"

# Pages of made-up soaks in a headless Chromium: light, dark, on a phone and on paper
report *FLAGS:
    tests/report "$@"

# Another revision of this program beside this one, and each opens what the other has made: just upgrade v0.1.0
upgrade *FLAGS:
    cargo build --release --locked
    tests/upgrade "$@"

# The integration tests on each version of nats-server that is supported
versions *FLAGS:
    tests/versions "$@"

# Each bug that is planted in the sources, and which test finds it
planted *FLAGS:
    tests/planted "$@"

# A store's disk that fails at every call there is, loses power, forgets and is full: minutes, and a table
torture:
    cargo test --locked -p jetfold --lib -- --ignored --nocapture torture

# A fuzzer for so many seconds: just fuzz batch 180, final_and_row or stamped; needs cargo install --locked cargo-fuzz, and a nightly toolchain
fuzz TARGET="batch" SECONDS="180" *FLAGS:
    mkdir -p fuzz/corpus/{{TARGET}}
    cargo +nightly fuzz run -O {{TARGET}} fuzz/corpus/{{TARGET}} fuzz/seeds/{{TARGET}} -- -max_total_time={{SECONDS}} -malloc_limit_mb=64 {{FLAGS}}

# Licences, sources, duplicates and advisories of all that is linked; needs cargo-deny: cargo install --locked cargo-deny
deny:
    cargo deny check licenses bans sources
    @if cargo deny fetch db; then cargo deny check advisories; else echo "not checked, because their list can't be fetched: advisories"; fi

# Metrics pushed to a collector: the feature `otlp`, which is no part of the other recipes
otlp:
    cargo clippy --locked --all-targets --features otlp -- -D warnings
    cargo test --locked --features otlp --test it otlp::

# A release for this machine's processor: one static binary, packed as `cargo binstall` looks for it, and its checksum, in dist/
release *FLAGS:
    tests/release "$@"

# What deploy/ says, each process started as it stands there; --schemas validates the manifests as well
deploy *FLAGS:
    cargo build --release --locked
    tests/deploy "$@"

# The live page in a headless Chromium: figures move, a killed summer shows, a lost connection is said
page *FLAGS:
    cargo build --release --locked
    tests/page "$@"

# The README's commands, as they stand, in an empty clone
newcomer:
    tests/newcomer

# All that CI runs
ci: lint test newcomer

# Remove what was built, brought and stored
clean:
    cargo clean
    rm -rf .tools data endurance.svg

# Shortcuts; each line is a script or a cargo command that also works by hand.

default:
    @just --list

setup:
    scripts/setup

test:
    scripts/test

demo OUT="OUT":
    scripts/demo {{OUT}}

fuzz SECONDS="60":
    scripts/fuzz {{SECONDS}}

fmt:
    cargo fmt --all

clippy:
    cargo clippy --release --workspace --all-targets --locked -- -D warnings

"""One target under atheris: `python -m fuzz TARGET SECONDS [libFuzzer's options]`."""

import logging
import pathlib
import sys

import atheris

with atheris.instrument_imports(include=["zmqdist"], enable_loader_override=False):
    from fuzz.targets import TARGETS, WORDS, seeds

CORPUS = pathlib.Path(".fuzz")
"""What the fuzzer found interesting, kept from run to run; findings lie beside it."""


def main() -> None:
    """Run one target until its time is up or it finds something."""
    if len(sys.argv) < 3 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python -m fuzz {{{','.join(TARGETS)}}} SECONDS [options of libFuzzer]")
    name, seconds, *options = sys.argv[1:]
    corpus = CORPUS / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(name)):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = CORPUS / "words"
    words.write_text("".join(f'"{word}"\n' for word in WORDS))
    order = [
        sys.argv[0],
        str(corpus),
        f"-dict={words}",
        f"-artifact_prefix={CORPUS}/{name}-",
        f"-max_total_time={seconds}",
        "-rss_limit_mb=1024",  # no input makes a decoder take much memory
        "-timeout=60",  # nor time; a busy machine may take long for nothing
        "-max_len=20000",
        "-print_final_stats=1",
        "-verbosity=0",
        *options,
    ]
    logging.getLogger("zmqdist").setLevel(logging.CRITICAL)
    atheris.Setup(order, TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()

"""`python -m bud.engines.tiny`: llama.cpp's own HTTP server, from the `xllamacpp` package, on the CPU.

The smallest real engine: OpenAI-compatible chat, completions and embeddings, streaming, `/health` and
`/metrics`, for models in GGUF. It is what the demo and the tests serve with.
"""

import bud.early  # noqa: F401

# isort: split
import argparse
import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# As sysexits.h has them.
EX_DAMAGED = 65
EX_NO_MODEL = 66
EX_NO_PORT = 69

EXIT_CODES = f"""\
exit status: 0 after SIGTERM or SIGINT (requests under way are finished first, for at most --grace
seconds; while the model is still being loaded, the signal's number at once); 2 wrong usage; {EX_DAMAGED} the
model cannot be loaded: no GGUF, damaged, or too large; {EX_NO_MODEL} there is no such file, or it may not be
read; {EX_NO_PORT} the port is taken.
"""


class StartError(Exception):
    """Why the engine cannot start, and the exit status that says so."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


def build_parser() -> argparse.ArgumentParser:
    """The command line; names are those of llama-server where it has the same."""
    parser = argparse.ArgumentParser(
        prog="python -m bud.engines.tiny",
        description="Serve a GGUF model on the CPU with llama.cpp, speaking the OpenAI API.",
        epilog=EXIT_CODES,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--model",
        type=Path,
        required=True,
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="the model, a .gguf file",
    )
    add("--alias", metavar="NAME", default=argparse.SUPPRESS, help="the model's name (default: the file's)")
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen; 0.0.0.0 for every interface")
    add("--port", type=_port, default=8080, metavar="N", help="where to listen")
    add("--ctx-size", type=_natural, default=0, metavar="TOKENS", help="context in all; 0: as the model says")
    add("--threads", type=_natural, default=0, metavar="N", help="threads to compute with; 0: one a CPU")
    add(
        "--parallel",
        type=_natural,
        default=1,
        metavar="N",
        help="requests served at once; they share --ctx-size",
    )
    add("--lora", default="", metavar="FILE,…", help="adapters, .gguf files; a request's `lora` field sets their scale")
    add("--lora-init-without-apply", action="store_true", help="adapters count only where a request names them")
    add("--embeddings", action="store_true", help="serve embeddings (mean-pooled) instead of text")
    add(
        "--grace",
        type=_natural,
        default=25,
        metavar="SECONDS",
        help="how long requests may finish on SIGTERM",
    )
    add(
        "--verbosity",
        type=_natural,
        default=2,
        metavar="N",
        help="llama.cpp's log: 1 errors, 2 warnings, 3 info",
    )
    return parser


def check_model(path: Path) -> None:
    """Refuse what llama.cpp would only call "invalid params"; raises StartError."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise StartError(f"cannot read the model {path}: {error.strerror}", status=EX_NO_MODEL) from error
    if magic != b"GGUF":
        raise StartError(
            f"{path} is no GGUF file (it starts with {magic!r}); this engine loads no other format",
            status=EX_DAMAGED,
        )


def check_port(host: str, port: int) -> None:
    """Refuse a port that is taken before the model is loaded for it; raises StartError."""
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise StartError(f"cannot listen at {host}:{port}: {error.strerror}", status=EX_NO_PORT) from error


def start(options: argparse.Namespace) -> Any:
    """Load the model and listen; returns when the first request can be answered. Raises StartError."""
    import xllamacpp  # noqa: PLC0415 - 100 MB of library, and an optional one: --help does without

    params = xllamacpp.CommonParams()
    params.model.path = str(options.model)
    params.model_alias = {getattr(options, "alias", options.model.stem)}
    params.hostnames = [options.host]
    params.port = options.port
    params.n_ctx = options.ctx_size
    params.n_parallel = max(options.parallel, 1)
    params.cpuparams.n_threads = options.threads or len(os.sched_getaffinity(0))
    params.verbosity = options.verbosity
    params.endpoint_metrics = True
    params.ui = False
    # The pod has its limits: no prompt cache of 8 GiB, no second load of the model to fit it to a machine.
    params.cache_ram_mib = 0
    params.fit_params = False
    scale = 0.0 if options.lora_init_without_apply else 1.0
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, scale) for path in adapters(options)]
    params.lora_init_without_apply = options.lora_init_without_apply
    if options.embeddings:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        raise StartError(
            f"llama.cpp cannot load {' with '.join([str(options.model), *adapters(options)])}: damaged, cut short, of "
            "a kind this build does not know, larger than the memory, or an adapter of another model; llama.cpp's own "
            "messages stand above",
            status=EX_DAMAGED,
        ) from error


def adapters(options: argparse.Namespace) -> list[str]:
    """The files of `--lora`."""
    return [path for path in options.lora.split(",") if path]


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit status, or does not return after a signal."""
    options = build_parser().parse_args(argv)
    try:
        for path in (options.model, *adapters(options)):
            check_model(Path(path))
        check_port(options.host, options.port)
        _die_while_loading()
        server = start(options)
    except StartError as error:
        print(f"bud.engines.tiny: {error}", file=sys.stderr, flush=True)
        return error.status
    print(f"bud.engines.tiny: serving {options.model} at {server.listening_address}", flush=True)
    _wait_for_signal()
    _drain(server, seconds=options.grace)
    # Taking the server down waits for its open streams, up to half a minute: nothing here is worth that.
    os._exit(0)


def _die_while_loading() -> None:
    """Exit at once on SIGTERM until the model is loaded, with the signal's number as status.

    Loading holds the interpreter, so that no Python handler would run; and without a handler, process 1 of a
    container would not even notice the signal.
    """
    libc = ctypes.CDLL(None)
    leave = ctypes.cast(libc._exit, ctypes.c_void_p)
    for number in SIGNALS:
        libc.signal(int(number), leave)


def _wait_for_signal() -> None:
    """Sleep until SIGTERM or SIGINT, whichever of llama.cpp's threads the kernel hands it to."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end)
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)
    os.read(read_end, 1)


def _drain(server: Any, *, seconds: int) -> None:
    end = time.monotonic() + seconds
    while _is_busy(server.handle_metrics()) and time.monotonic() < end:
        time.sleep(0.05)


def _is_busy(metrics: str) -> bool:
    lines = (line.split() for line in metrics.splitlines())
    waits = ("llamacpp:requests_processing", "llamacpp:requests_deferred")
    return any(line[0] in waits and float(line[1]) > 0 for line in lines if line)


def _port(text: str) -> int:
    number = _natural(text)
    if not 0 < number < 65536:
        raise argparse.ArgumentTypeError(f"{text} is no port")
    return number


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())

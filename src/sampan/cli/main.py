"""The program `sampan`: words in, an exit code out, and every error on one line of stderr.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. `--debug`, before or after the command's
name, adds the traceback. Nothing slow is imported here: Ctrl-C works from the first millisecond.
"""

import errno
import io
import sys
import warnings

from sampan.cli.streams import discard, failure, standard_streams
from sampan.core.errors import SampanError

INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Run the command line (`sys.argv` unless given) and return the exit code."""
    words, debug = _without_debug(sys.argv[1:] if arguments is None else arguments)
    with standard_streams():
        if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.closed:
            sys.stdout.reconfigure(errors="replace")  # an answer may hold what the locale cannot write
        return _flushed(_run(words, debug))


def _without_debug(words: list[str]) -> tuple[list[str], bool]:
    end = words.index("--") if "--" in words else len(words)
    kept = [word for word in words[:end] if word != "--debug"]
    return kept + words[end:], len(kept) < end


def _run(words: list[str], debug: bool) -> int:
    try:
        from sampan.cli.app import app

        with warnings.catch_warnings():
            warnings.showwarning = _warn
            app(words, prog_name="sampan")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except SampanError as error:
        _report(str(error), debug)
        return error.exit_code
    except Exception as error:
        if not isinstance(error, OSError | ValueError) or failure(sys.stdout) is None:
            hint = "" if debug else "; run again with --debug to see where"
            _report(f"{type(error).__name__}: {error}{hint}", debug)
    return 1


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    from sampan.cli.terminal import say

    say(f"sampan: {message}")


def _report(message: str, debug: bool) -> None:
    from sampan.cli.terminal import say

    if debug:
        import traceback

        traceback.print_exc()
    say(f"sampan: {' '.join(message.split())}")


def _flushed(code: int) -> int:
    """Write out what is buffered while errors can still be reported: the interpreter's exit cannot."""
    error = failure(sys.stdout)
    if error is None:
        return code
    discard(sys.stdout)
    if error.errno == errno.EBADF:
        _report("stdout is closed: nothing can be written to it", debug=False)
    elif error.errno != errno.EPIPE:
        _report(f"stdout: {error.strerror}", debug=False)
    return code or 1

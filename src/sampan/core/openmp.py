"""How the threads of PyTorch wait for each other."""

import os


def wait_briefly() -> None:
    """Let threads of libgomp give their cores up after some microseconds of waiting, instead of milliseconds.

    With nothing else running this costs nothing. Beside another program that computes, each of the many short
    parallel regions of a training step waits for a thread that waits for a core: 50 to 110 s were measured
    for a backward pass that takes 2 s alone, and 6 s so (two processes on two cores). To be called before
    PyTorch is imported; what the user has set stays.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "10000"

"""SuperGPQA: graduate questions of 285 disciplines (arXiv:2502.14739)."""

from sampan.evals.tasks.ds4_choices import Ds4Choices


class SuperGpqa(Ds4Choices):
    """See `Benchmark`."""

    name = "supergpqa"
    line = "graduate questions of many disciplines, eight to ten options each"
    source = "SuperGPQA (arXiv:2502.14739), 25 of its questions"
    part = "SuperGPQA"
    size = 25

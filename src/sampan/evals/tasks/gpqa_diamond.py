"""GPQA Diamond: questions of biology, chemistry and physics that experts wrote (arXiv:2311.12022)."""

from sampan.evals.tasks.ds4_choices import Ds4Choices


class GpqaDiamond(Ds4Choices):
    """See `Benchmark`."""

    name = "gpqa-diamond"
    line = "graduate questions of biology, chemistry and physics, four options each"
    source = "GPQA Diamond (arXiv:2311.12022), 25 of its 198 questions"
    part = "GPQA Diamond"
    size = 25

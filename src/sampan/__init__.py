"""Sampan runs, serves, teaches and measures open-weight language models on the hardware people have."""

__version__ = "0.1.0"

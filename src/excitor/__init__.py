"""LLaMA-Excitor (arXiv 2404.00913) as a PEFT method; importing this package registers it with PEFT."""

__version__ = "0.1.0"

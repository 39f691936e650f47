"""MMLU (Hendrycks et al., ICLR 2021, arXiv 2009.03300): few-shot multiple choice over 57 topics."""

from excitor.evaluate.mmlu.task import Mmlu


__all__ = ["Mmlu"]

"""Everything that is measured on a text, in one object: for JSON, for pictures, for the terminal."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from excitor.diagnostics.measure import Measurement, measure
from excitor.diagnostics.moves import AttentionMap, attention_map, check_place
from excitor.diagnostics.plots import draw_attention, draw_drift, draw_shift, draw_usage


MOVES = 20  # written to JSON


@dataclass(frozen=True)
class Inspection:
    """What an adapter does.

    Attributes:
        measurement: On all documents.
        attention: Of one head, on the first document.
        tokens: Of that document, as text.
    """

    measurement: Measurement
    attention: AttentionMap
    tokens: list[str]

    def to_dict(self) -> dict[str, Any]:
        """``measurement``, and ``attention``: what each token lost and gained in that head, summed over the rows."""
        change = self.attention.change
        return {
            "measurement": asdict(self.measurement),
            "attention": {
                "layer": self.attention.layer,
                "head": self.attention.head,
                "tokens": self.tokens,
                "lost": (-change).clamp(min=0).sum(0).tolist(),
                "gained": change.clamp(min=0).sum(0).tolist(),
                "moves": [asdict(move) for move in self.attention.largest_moves(MOVES)],
            },
        }

    def draw(self, folder: Path) -> None:
        """Write ``shift.png``, ``usage.png``, ``drift.png`` and ``attention.png``."""
        draw_shift(self.measurement, folder / "shift.png")
        draw_usage(self.measurement, folder / "usage.png")
        draw_drift(self.measurement, folder / "drift.png")
        draw_attention(self.attention, self.tokens, folder / "attention.png")


def inspect_model(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[Sequence[int]],
    layer: int | None = None,
    head: int | None = None,
) -> Inspection:
    """Measure the active adapter on documents, and one head of it token by token on the first of them.

    Args:
        model: As for :func:`excitor.diagnostics.measure.measure`.
        tokenizer: Turns tokens into text.
        documents: Token ids.
        layer: Of that head; where attention moves most, if not given.
        head: Likewise.

    Raises:
        ExcitorError: There is no such layer or head, or as for ``measure``.
    """
    check_place(model, layer, head)
    measurement = measure(model, documents)
    attention = attention_map(model, documents[0], *measurement.most_shifted(layer, head))
    return Inspection(measurement, attention, [str(tokenizer.decode([token])) for token in documents[0]])

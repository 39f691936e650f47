"""What a layer must compute and move for each token, without the adapter and with it: arithmetic, nothing measured.

    python benchmarks/floor.py

Matrix products alone, at 2 operations for each multiplication; attention over the context is left out, as it is the
same with and without. Weights in bf16, the adapter in fp32, Excitor's defaults. Writes the tables of
docs/performance.md.
"""

from dataclasses import dataclass
from pathlib import Path


PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- table: python benchmarks/floor.py -->\n", "<!-- end of table -->"
RANK, PROMPTS, LOCAL = 16, 30, 2
BF16, FP32 = 2, 4


@dataclass(frozen=True)
class Layer:
    """A layer of a LLaMA: width C, H query heads, G key heads, size of a head d, width of the MLP F."""

    width: int
    heads: int
    key_heads: int
    head_dim: int
    hidden: int

    @property
    def weights(self) -> int:
        """Numbers in its matrices."""
        attention = 2 * self.width * self.head_dim * (self.heads + self.key_heads)
        return attention + 3 * self.width * self.hidden

    @property
    def trainable(self) -> int:
        """Numbers in the adapter: A, B, prompts, the maps of local prompts, gates."""
        key_width = self.key_heads * self.head_dim
        return RANK * self.width + (RANK * (1 + LOCAL) + PROMPTS) * key_width + self.key_heads

    def term(self, *, folded: bool, tokens: int = 1) -> int:
        """Operations of the term on the keys in a forward pass.

        As written: the features, query and local prompts from them, scores, weighted sums. Folded: the features,
        scores, weighted sums of ``J = K + K_l r`` rows.
        """
        rows = PROMPTS + LOCAL * RANK
        each = (RANK + self.head_dim) * rows
        if not folded:
            each = RANK * self.head_dim * (1 + LOCAL) + 2 * self.head_dim * (PROMPTS + LOCAL)
        return 2 * tokens * (self.width * RANK + self.key_heads * each)

    def term_backward(self) -> int:
        """Operations of its backward pass, scores computed again; those of A and the input cost what z did, each."""
        rows = PROMPTS + LOCAL * RANK
        return 2 * (2 * self.width * RANK + self.key_heads * rows * (3 * RANK + 2 * self.head_dim))

    @property
    def folded_numbers(self) -> int:
        """Numbers that decoding reads for the adapter: A, folded scores and values."""
        rows = PROMPTS + LOCAL * RANK
        return self.width * RANK + self.key_heads * rows * (RANK + self.head_dim)


LAYERS = {
    "1B": Layer(2048, 32, 8, 64, 8192),
    "7B": Layer(4096, 32, 32, 128, 11008),
    "70B": Layer(8192, 64, 8, 128, 28672),
}


def tables() -> str:
    """Markdown."""
    rows = [
        "| | base | adapter, as written | adapter, folded | folded / base |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, layer in LAYERS.items():
        base = 2 * layer.weights
        written, folded = layer.term(folded=False), layer.term(folded=True)
        trained = folded + layer.term_backward()
        moved, own = layer.weights * BF16, layer.folded_numbers * FP32
        kept = layer.width * BF16 + RANK * FP32
        rows += [
            f"| {name}, forward, MFLOP | {base / 1e6:.1f} | {written / 1e6:.2f} | {folded / 1e6:.2f} | "
            f"{folded / base:.2%} |",
            f"| {name}, forward and backward, MFLOP | {2 * base / 1e6:.1f} | {3 * written / 1e6:.2f} | "
            f"{trained / 1e6:.2f} | {trained / (2 * base):.2%} |",
            f"| {name}, read for one decoded token, MB | {moved / 1e6:.1f} | {layer.trainable * FP32 / 1e6:.2f} | "
            f"{own / 1e6:.2f} | {own / moved:.2%} |",
            f"| {name}, kept for the backward pass, bytes | | | {kept:,} | |",
        ]
    return "\n".join(rows) + "\n"


def main() -> None:
    """Write the tables into the page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + tables() + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()

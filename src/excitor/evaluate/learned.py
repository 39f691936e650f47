"""What a fine-tuned model has learned: the loss of the answers of held-out instructions, against its base's."""

from collections.abc import Iterable, Sequence

from rich.progress import Progress
from transformers import PreTrainedTokenizerBase

from excitor.data import Encoded, encode_examples, load_examples
from excitor.evaluate.losses import NATS, by_domain, domain_tables, loss_change, mean_over_tokens, measure_losses
from excitor.evaluate.metric import Metric
from excitor.evaluate.names import short_names
from excitor.evaluate.task import Item, Subject


class Learned:
    """Cross-entropy of answers, given their questions."""

    name = "learned"

    def __init__(
        self, data: Sequence[str], *, template: str = "auto", max_length: int = 1024, batch_size: int = 16
    ) -> None:
        """Nothing is read yet.

        Args:
            data: Instructions that were not trained on, as ``excitor train`` reads them; each source is a domain.
            template: How a row becomes text; see :func:`excitor.data.encode_examples`.
            max_length: Most tokens in a row; longer ones are left out and counted.
            batch_size: Rows in a batch, at most.
        """
        self.data, self.template = data, template
        self.max_length, self.batch_size = max_length, batch_size
        self.encoded: dict[str, Encoded] = {}

    def check(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Read and encode the rows.

        Raises:
            ExcitorError: A source cannot be read, or none of its rows can be used.
        """
        for name, source in short_names(self.data).items():
            self.encoded[name] = encode_examples(
                load_examples([source]), tokenizer, max_length=self.max_length, template=self.template
            )

    def texts(self) -> Iterable[list[int]]:
        """Token ids of the rows."""
        return (row for encoded in self.encoded.values() for row in encoded.dataset["input_ids"])

    def run(
        self, subjects: Sequence[Subject], tokenizer: PreTrainedTokenizerBase, progress: Progress
    ) -> dict[str, list[Item]]:
        """Score every row; see :func:`excitor.evaluate.losses.measure_losses`."""
        rows = {name: encoded.dataset for name, encoded in self.encoded.items()}
        return measure_losses(subjects, rows, self.batch_size, progress, "learned")

    def summarise(self, base: list[Item], subject: list[Item]) -> dict[str, Metric]:
        """Means per answer token; where there are several sources, the change in each of them too."""
        metrics = {"answer loss": mean_over_tokens(subject, "loss", NATS)}
        if subject is base:
            return metrics
        metrics["answer loss change"] = loss_change(base, subject)
        sources = list(by_domain(base, subject))
        for source, before, own in sources if len(sources) > 1 else ():
            metrics[f"answer loss change, {source}"] = loss_change(before, own)
        return metrics

    def report(self, items: dict[str, list[Item]]) -> str:
        """A table by source, and what was left out."""
        notes = ["Tokens and losses are those of the answers alone."]
        for name, encoded in self.encoded.items():
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in encoded.dropped.items())
            if reasons:
                notes.append(f"Left out of the {encoded.rows_read:,} rows of {name}: {reasons}.")
        return f"{domain_tables(items, 'rows')}\n\n{' '.join(notes)}"

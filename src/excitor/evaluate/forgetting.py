"""What a fine-tuned model has forgotten: its predictions on text that is not instructions, against its base's."""

from collections.abc import Iterable, Sequence

from datasets import Dataset
from rich.progress import Progress
from transformers import PreTrainedTokenizerBase

from excitor.data import read_text
from excitor.evaluate.losses import NATS, by_domain, domain_tables, loss_change, mean_over_tokens, measure_losses
from excitor.evaluate.metric import Metric
from excitor.evaluate.names import short_names
from excitor.evaluate.parallel import from_main
from excitor.evaluate.sampling import sample_from_base
from excitor.evaluate.task import Item, Subject


SAMPLED = "sampled from the base"
SAMPLED_LENGTH = 256


class Forgetting:
    """Change in cross-entropy, KL to the base and flipped tokens.

    The change is mean cross-entropy per token after minus before, over all tokens of all documents, as in PEFT's
    method comparison.
    """

    name = "forgetting"

    def __init__(
        self,
        retain: Sequence[str],
        *,
        documents: int = 100,
        max_length: int = 1024,
        batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        """Nothing is read yet.

        Args:
            retain: Files of text, each a domain of its own; without any, the base writes the text.
            documents: Most documents from each file, or how many the base writes.
            max_length: Most tokens in a document.
            batch_size: Documents in a batch, at most.
            seed: Of the text that the base writes.
        """
        self.retain, self.documents, self.max_length = retain, documents, max_length
        self.batch_size, self.seed = batch_size, seed
        self.domains: dict[str, Dataset] = {}

    def check(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Read the text.

        Raises:
            ExcitorError: A file is missing, unreadable or holds no text.
        """
        for name, path in short_names(self.retain).items():
            self.domains[name] = read_text([path], tokenizer, max_length=self.max_length, max_documents=self.documents)

    def texts(self) -> Iterable[list[int]]:
        """Token ids of the documents; none where the base writes them."""
        return (row for domain in self.domains.values() for row in domain["input_ids"])

    def run(
        self, subjects: Sequence[Subject], tokenizer: PreTrainedTokenizerBase, progress: Progress
    ) -> dict[str, list[Item]]:
        """Score every document; see :func:`excitor.evaluate.losses.measure_losses`."""
        domains = self.domains or {SAMPLED: self._sample(subjects[0], tokenizer)}
        return measure_losses(subjects, domains, self.batch_size, progress, "forgetting")

    def summarise(self, base: list[Item], subject: list[Item]) -> dict[str, Metric]:
        """Means per token; where there are several domains, change and KL in each of them too."""
        metrics = {"loss": mean_over_tokens(subject, "loss", NATS)}
        if subject is base:
            return metrics
        metrics["loss change"] = loss_change(base, subject)
        metrics["KL"] = mean_over_tokens(subject, "kl", NATS)
        metrics["flipped"] = mean_over_tokens(subject, "flipped", "%", 100)
        domains = list(by_domain(base, subject))
        for domain, before, own in domains if len(domains) > 1 else ():
            metrics[f"loss change, {domain}"] = loss_change(before, own)
            metrics[f"KL, {domain}"] = mean_over_tokens(own, "kl", NATS)
        return metrics

    def report(self, items: dict[str, list[Item]]) -> str:
        """A table by domain."""
        return (
            f"{domain_tables(items, 'docs')}\n\n"
            "Loss: cross-entropy in nats per token. Change: after minus before, over all tokens. KL: KL(base || "
            "subject) in nats per token. Flipped: per cent of tokens whose most likely prediction is another one. In "
            "brackets, 95 % bootstrap intervals over documents."
        )

    def _sample(self, base: Subject, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """The same text in every process, though their hardware may differ in the last bit."""
        length = min(SAMPLED_LENGTH, self.max_length)
        text = sample_from_base(base, tokenizer, documents=self.documents, length=length, seed=self.seed)
        ids = from_main(text["input_ids"][:])
        return Dataset.from_dict({"input_ids": ids, "labels": ids})

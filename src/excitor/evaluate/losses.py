"""Documents as items with their mean losses, and what the tasks that measure losses make of them."""

from collections.abc import Iterator, Mapping, Sequence

from datasets import Dataset, concatenate_datasets
from rich.progress import Progress

from excitor.evaluate.bootstrap import estimate
from excitor.evaluate.likelihood import compare
from excitor.evaluate.markdown import markdown_table, show
from excitor.evaluate.metric import Metric
from excitor.evaluate.parallel import merge, share, this_process
from excitor.evaluate.task import Item, Subject


NATS = "nats/token"


def measure_losses(
    subjects: Sequence[Subject], domains: Mapping[str, Dataset], batch_size: int, progress: Progress, title: str
) -> dict[str, list[Item]]:
    """One item per document and subject.

    Args:
        subjects: The base first.
        domains: Documents by where they come from: ``input_ids`` and ``labels``, at least one label in each document.
        batch_size: Documents in a batch, at most.
        progress: Gets a bar.
        title: Of that bar.

    Returns:
        By subject name, items with ``id``, ``domain``, ``tokens`` (scored ones) and the means over them: ``loss``,
        ``kl`` (to the base) and ``flipped``.

    Raises:
        ExcitorError: A subject gives logits that are not finite; the message names it, the domain and the document.
    """
    places = [(domain, number) for domain, rows in domains.items() for number in range(len(rows))]
    bar = progress.add_task(title, total=len(places))
    processes = this_process().num_processes

    def advance(count: int) -> None:
        progress.advance(bar, count * processes)

    def name_of(place: int) -> str:
        domain, number = places[place]
        return f"document {number + 1} of those measured from {domain}"

    scores = compare(subjects, concatenate_datasets(list(domains.values())), batch_size, advance, name_of, share)
    items = {}
    for subject, own in scores.items():
        found = merge(
            {
                place: {
                    "id": f"{domain}:{number}",
                    "domain": domain,
                    "tokens": len(own.loss[place]),
                    "loss": own.loss[place].double().mean().item(),
                    "kl": own.kl[place].double().mean().item(),
                    "flipped": own.flipped[place].double().mean().item(),
                }
                for place, (domain, number) in enumerate(places)
                if len(own.loss[place])
            }
        )
        items[subject] = [found[place] for place in range(len(places))]
    return items


def mean_over_tokens(items: list[Item], key: str, unit: str, scale: float = 1.0) -> Metric:
    """Mean over all tokens of all documents; the interval is over the documents of each domain."""
    values, tokens = [scale * item[key] for item in items], [item["tokens"] for item in items]
    domains = [item["domain"] for item in items]
    return estimate(values, tokens, domains, higher_is_better=False, unit=unit)


def loss_change(base: list[Item], subject: list[Item]) -> Metric:
    """Mean loss per token of the subject minus that of the base on the same documents."""
    differences = [{**own, "loss": own["loss"] - before["loss"]} for before, own in zip(base, subject, strict=True)]
    return mean_over_tokens(differences, "loss", NATS)


def by_domain(base: list[Item], subject: list[Item]) -> Iterator[tuple[str, list[Item], list[Item]]]:
    """Name and documents of each domain, in both models' items."""
    for domain in dict.fromkeys(item["domain"] for item in base):
        yield domain, _within(base, domain), _within(subject, domain)


def domain_tables(items: dict[str, list[Item]], unit: str) -> str:
    """Markdown: a table for each subject with a row for each domain; changes are against the first subject.

    Args:
        items: By subject name, the base first.
        unit: What a document is called in the heading, in the plural.
    """
    (base_name, base), *others = items.items()
    head = ["text", unit, "tokens", f"loss of {base_name}"]
    if not others:
        return markdown_table(head, [_sizes(domain, own) for domain, own, _ in by_domain(base, base)])
    return "\n\n".join(
        markdown_table(
            [*head, f"loss of {name}", "change", "KL", "flipped"],
            [[*_sizes(domain, before), *_changes(before, own)] for domain, before, own in by_domain(base, subject)],
        )
        for name, subject in others
    )


def _sizes(domain: str, items: list[Item]) -> list[str]:
    tokens = sum(item["tokens"] for item in items)
    return [domain, f"{len(items):,}", f"{tokens:,}", f"{mean_over_tokens(items, 'loss', NATS).value:.4f}"]


def _changes(before: list[Item], own: list[Item]) -> list[str]:
    return [
        f"{mean_over_tokens(own, 'loss', NATS).value:.4f}",
        show(loss_change(before, own), signed=True),
        show(mean_over_tokens(own, "kl", NATS)),
        show(mean_over_tokens(own, "flipped", "%", 100)),
    ]


def _within(items: list[Item], domain: str) -> list[Item]:
    return [item for item in items if item["domain"] == domain]

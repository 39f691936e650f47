"""What is measured, as reports name it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """A number of a run.

    Attributes:
        label: as tables name it.
        higher: whether more is better.
        unit: "nats" (per token), "share", or what a cost is counted in.
        scale: what it is divided by to be shown.
    """

    label: str
    higher: bool
    unit: str
    scale: float = 1.0


MEASURES = {
    "gain": Measure("learned: fall of held-out answer loss", True, "nats"),
    "answer_loss": Measure("held-out answer loss", False, "nats"),
    "forgetting": Measure("forgotten: rise of loss on text", False, "nats"),
    "kl": Measure("KL to the base on text", False, "nats"),
    "flipped": Measure("flipped tokens on text", False, "share"),
    "exact match": Measure("exact match", True, "share"),
    "number match": Measure("right final number", True, "share"),
    "mmlu": Measure("MMLU accuracy", True, "share"),
    "unseen": Measure("unseen instructions answered", True, "share"),
    "seen facts": Measure("facts asked, seen places", True, "share"),
    "unseen facts": Measure("facts asked, unseen places", True, "share"),
    "seen lists": Measure("skills asked, seen lists", True, "share"),
    "unseen lists": Measure("skills asked, unseen lists", True, "share"),
    "facts": Measure("facts recalled", True, "share"),
    "skills": Measure("skills kept", True, "share"),
    "taught rightly": Measure("facts taught rightly, answered", True, "share"),
    "asked right": Measure("facts taught wrongly, answered rightly", True, "share"),
    "asked wrong": Measure("facts taught wrongly, wrong value repeated", False, "share"),
    "asked other": Measure("facts taught wrongly, answered otherwise", False, "share"),
    "probed right": Measure("facts taught wrongly, recalled rightly", True, "share"),
    "probed wrong": Measure("facts taught wrongly, wrong value recalled", False, "share"),
    "probed other": Measure("facts taught wrongly, recalled otherwise", False, "share"),
}

COSTS = {
    "parameters": Measure("trainable parameters", False, "count"),
    "file_bytes": Measure("adapter file", False, "KiB", 2**10),
    "tokens_per_second": Measure("training", True, "tokens/s"),
    "peak_memory_bytes": Measure("peak memory of training", False, "MiB", 2**20),
    "saved_for_backward_bytes": Measure("kept for the backward pass", False, "MiB", 2**20),
    "decode_tokens_per_second": Measure("decoding", True, "tokens/s"),
}

"""What ``excitor features`` is told, and what commands that see have in common. Imports nothing heavy."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from excitor.arguments import Arguments, flag


PRECISIONS = ("auto", "fp32", "bf16", "fp16")
SELECTIONS = ("full", "patch", "cls")
ANSWER_FORMATS = ("QCM-A", "QCM-ALE", "QCM-LEA")
CAPTION_INSTRUCTION = "Describe the image in one sentence."

HELP = {
    "vision_model": "Frozen vision encoder: a hub id or a folder.",
    "images": "Folder with the pictures that the data name; that of the data file when not given.",
    "feature_layer": "Which hidden states of the encoder are its features: -1 its output, -2 the layer before, ...",
    "feature_select": "Of these: full (class token and patches), patch or cls.",
}


@dataclass
class FeatureArguments(Arguments):
    """The arguments of :func:`excitor.vision.precompute.make_features`; each is described in its field's ``help``."""

    vision_model: str | None = field(default=None, metadata={"help": HELP["vision_model"]})
    data: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Data whose pictures to encode, as for excitor train; all pictures of --images if not given."
        },
    )
    images: list[str] = field(default_factory=list, metadata={"help": HELP["images"]})
    out: str | None = field(default=None, metadata={"help": "Folder for the features; what it holds is kept."})
    feature_layer: int = field(default=-1, metadata={"help": HELP["feature_layer"]})
    feature_select: str = field(default="full", metadata={"help": HELP["feature_select"]})
    batch_size: int = field(default=32, metadata={"help": "Pictures at a time."})
    precision: str = field(
        default="auto", metadata={"help": f"{', '.join(PRECISIONS)}; auto is how the encoder is stored."}
    )

    def _faults(self) -> Iterator[str]:
        for name in ("vision_model", "out"):
            if not getattr(self, name):
                yield f"{flag(name)} is missing."
        if not self.data and not self.images:
            yield "There are no pictures: give --images, --data or both."
        yield from self._at_least(1, "batch_size")
        for name, choices in (("precision", PRECISIONS), ("feature_select", SELECTIONS)):
            if getattr(self, name) not in choices:
                yield f"{flag(name)} must be one of {', '.join(choices)}, got {getattr(self, name)!r}."
        yield from self._is_folder("out")

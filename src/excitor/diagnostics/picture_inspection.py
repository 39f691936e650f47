"""What one picture does to the attention over a question and its answer, in one object: JSON, terminal, drawing."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from excitor.data.encoding import encode_prompt
from excitor.data.templates import resolve_template
from excitor.diagnostics.moves import check_place
from excitor.diagnostics.picture_plots import draw_maps, pixels_seen
from excitor.diagnostics.pictures import check_sees, picture_shifts
from excitor.errors import ExcitorError
from excitor.vision.answer import answer_about
from excitor.vision.encoder import patch_grid
from excitor.vision.images import load_image
from excitor.vision.processor import strip_placeholders


ANSWER_TOKENS = 64  # of an answer that is not given
PANELS = 6
LISTED = 5  # words that rose, and words that fell


@dataclass(frozen=True)
class Word:
    """A token and the attention that it gets; shares of all attention, means over tokens, heads and layers.

    Attributes:
        at: Its position.
        text: What it says.
        without: Its attention without the picture.
        seeing: With it.
        patches: What the patches have of the difference, all together.
        other_features: What features without a place in the picture have of it, such as the class token's.
        learnable: What the learnable prompts have of it: the picture changes their weights.
    """

    at: int
    text: str
    without: float
    seeing: float
    patches: float
    other_features: float
    learnable: float

    @property
    def change(self) -> float:
        """How much its attention rose."""
        return self.seeing - self.without


@dataclass(frozen=True)
class PictureInspection:
    """What a picture does.

    Attributes:
        answer: What follows the question.
        generated: Whether the model has written the answer itself.
        layers: Indices of those that were looked at.
        head: The only query head that was looked at; None for all.
        words: All tokens of question and answer.
        maps: What each patch has of each token's change, ``(M, rows, columns)``.
        pixels: The picture as the encoder was given it, ``(height, width, 3)``, from 0 to 1.
        patch_size: Pixels a side.
    """

    answer: str
    generated: bool
    layers: list[int]
    head: int | None
    words: list[Word]
    maps: Tensor
    pixels: Tensor
    patch_size: int

    def raised(self, count: int) -> list[Word]:
        """Those whose attention rose most."""
        return [word for word in sorted(self.words, key=lambda word: -word.change)[:count] if word.change > 0]

    def fallen(self, count: int) -> list[Word]:
        """Those whose attention fell most."""
        return [word for word in sorted(self.words, key=lambda word: word.change)[:count] if word.change < 0]

    def strongest_patch(self, word: Word) -> tuple[int, int]:
        """Row and column of the patch that did most for the change of a word, or least against it."""
        towards = self.maps[word.at] if word.change >= 0 else -self.maps[word.at]
        row, column = divmod(int(towards.argmax()), towards.shape[1])
        return row, column

    def sources(self) -> dict[str, float]:
        """Shares of patches, other features and learnable prompts in what moves, by size and over all tokens."""
        sizes = {
            name: sum(abs(getattr(word, name)) for word in self.words)
            for name in ("patches", "other_features", "learnable")
        }
        total = sum(sizes.values()) or 1.0
        return {name: size / total for name, size in sizes.items()}

    def to_dict(self) -> dict[str, Any]:
        """Everything but pixels; ``map`` is a list of rows, for words that rose or fell most."""
        shown = {word.at for word in (*self.raised(PANELS), *self.fallen(PANELS))}
        words = [
            asdict(word) | {"change": word.change} | ({"map": self.maps[word.at].tolist()} if word.at in shown else {})
            for word in self.words
        ]
        return {
            "picture": {
                "answer": self.answer,
                "generated": self.generated,
                "layers": self.layers,
                "head": self.head,
                "grid": list(self.maps.shape[1:]),
                "sources": self.sources(),
                "words": words,
            }
        }

    def draw(self, folder: Path) -> None:
        """Write ``picture.png``: a panel for each word whose attention rose most."""
        titles = {word.at: f"{word.at} {word.text!r}  {100 * word.change:+.2f}" for word in self.raised(PANELS)}
        draw_maps(self.pixels, {titles[at]: self.maps[at] for at in titles}, self.patch_size, folder / "picture.png")


def inspect_picture(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    image_processor: Any,
    picture: str | Path,
    question: str,
    answer: str | None = None,
    *,
    template: str = "auto",
    layer: int | None = None,
    head: int | None = None,
) -> PictureInspection:
    """Look at which patches of a picture raise the attention to which words.

    Args:
        model: With an Excitor adapter that has visual prompts, on an ``ExcitorForConditionalGeneration``.
        tokenizer: Of the language model.
        image_processor: Of the vision encoder.
        picture: A file.
        question: What is asked about it.
        answer: What is answered; what the model says, if not given.
        template: How question and answer become text; as in training.
        layer: Index of the only layer to look at; all adapted ones if not given.
        head: The only query head, likewise.

    Raises:
        ExcitorError: The picture cannot be read, nothing that is seen of it is a patch, there is no such layer or
            head, or as for :func:`excitor.diagnostics.pictures.picture_shifts`.
    """
    image = load_image(picture)
    check_place(model, layer, head)
    check_sees(model)
    question = strip_placeholders(question, 1, "the question")
    base: Any = model.get_base_model()
    pixel_values = image_processor(images=[image], return_tensors="pt")["pixel_values"]
    features = base.encode_images(pixel_values.to(base.device))
    grid = patch_grid(base.config.vision_config, pixel_values.shape[-2:])
    if grid is None or base.config.feature_select == "cls":
        raise ExcitorError(
            "what this adapter sees has no place in the picture: it looks at the class token alone, or at an encoder "
            "whose configuration has no patch_size."
        )
    generated = answer is None
    if answer is None:
        questions = [([str(picture)], question)]
        [answer] = answer_about(
            model, tokenizer, image_processor, questions, template=template, max_new_tokens=ANSWER_TOKENS
        )
    ids = _encode(question, answer, tokenizer, template)
    shifts = picture_shifts(model, ids, features, layer)
    before, after, parts = (
        _mean([getattr(each, name) for each in shifts], head) for name in ("before", "after", "parts")
    )
    others = parts.shape[1] - 1 - grid[0] * grid[1]  # in front of the patches; last are the learnable prompts
    words = [
        Word(
            at,
            str(tokenizer.decode([token])),
            before[at].item(),
            after[at].item(),
            patches=parts[at, others:-1].sum().item(),
            other_features=parts[at, :others].sum().item(),
            learnable=parts[at, -1].item(),
        )
        for at, token in enumerate(ids)
    ]
    return PictureInspection(
        answer=answer,
        generated=generated,
        layers=[each.index for each in shifts],
        head=head,
        words=words,
        maps=parts[:, others:-1].unflatten(1, grid),
        pixels=pixels_seen(pixel_values[0], image_processor),
        patch_size=pixel_values.shape[-2] // grid[0],
    )


def _encode(question: str, answer: str, tokenizer: PreTrainedTokenizerBase, template: str) -> list[int]:
    """Question and answer as in training, with the token that ends it; the question alone if nothing is answered."""
    messages = [{"role": "user", "content": question}]
    if not answer.strip():
        return encode_prompt(messages, tokenizer, template)
    messages.append({"role": "assistant", "content": answer})
    text, _ = resolve_template(tokenizer, template).conversation(messages)
    return tokenizer(text, add_special_tokens=False).input_ids


def _mean(layers: list[Tensor], head: int | None) -> Tensor:
    """Over layers and query heads, ``(H, ...)`` each."""
    return torch.stack([each.mean(0) if head is None else each[head] for each in layers]).mean(0)

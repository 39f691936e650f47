"""From pictures with captions, questions or conversations to examples."""

from excitor.vision.data.examples import CAPTION_INSTRUCTION, load_image_examples, pictures_of


__all__ = ["CAPTION_INSTRUCTION", "load_image_examples", "pictures_of"]

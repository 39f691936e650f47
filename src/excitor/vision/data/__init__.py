"""From pictures with captions, questions or conversations to examples."""

from excitor.vision.data.examples import load_image_examples, pictures_of


__all__ = ["load_image_examples", "pictures_of"]
